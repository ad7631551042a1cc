"""Eigenvalues of the Hessian: extreme ones with residuals, their sum, their density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onepass._extras import require
from onepass.landscape.function import Array, Theta
from onepass.landscape.operators import hessian_operator

__all__ = ["Eigenpairs", "eigenpairs"]

DENSE = 64  # rows up to which all eigenvalues are computed


@dataclass(frozen=True)
class Eigenpairs:
    """``values`` (k,) ascending, ``vectors`` (n, k) orthonormal, ``residuals`` (k,), the norms of H v - value v."""

    values: Array
    vectors: Array
    residuals: Array
    converged: bool = True
    message: str = ""


def eigenpairs(
    f_or_operator: Any, theta: Theta = None, top: int = 1, bottom: int = 1, *, tolerance: float = 1e-8, seed: int = 0
) -> Eigenpairs:
    linalg = require("scipy.sparse.linalg")
    if isinstance(f_or_operator, np.ndarray) or hasattr(f_or_operator, "matvec") or hasattr(f_or_operator, "tocsr"):
        operator = linalg.aslinearoperator(f_or_operator)
    else:
        operator = hessian_operator(f_or_operator, theta, seed=seed)
    n, k = operator.shape[0], top + bottom
    converged, message = True, ""
    if n <= DENSE or k >= n // 2:
        matrix = operator.matmat(np.eye(n))
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        chosen = np.arange(n) if k >= n else np.r_[0:bottom, n - top : n]
        values, vectors = values[chosen], vectors[:, chosen]
    else:
        start = np.random.default_rng(seed).standard_normal(n)
        found = []
        for which, count in (("SA", bottom), ("LA", top)):
            if not count:
                continue
            try:
                found.append(linalg.eigsh(operator, count, which=which, v0=start, tol=tolerance))
            except linalg.ArpackNoConvergence as error:
                found.append((error.eigenvalues, error.eigenvectors))
                converged, message = False, f"{message} {which}: {len(error.eigenvalues)} of {count} converged".strip()
            except linalg.ArpackError:
                if operator.matvec(start).any():
                    raise
                found.append((np.zeros(count), np.eye(n)[:, :count]))
        values, vectors = np.concatenate([v for v, _ in found]), np.concatenate([v for _, v in found], axis=1)
        order = values.argsort()
        values, vectors = values[order], vectors[:, order]
    products = operator.matmat(vectors) if vectors.shape[1] else vectors
    residuals = np.linalg.norm(products - values * vectors, axis=0)
    return Eigenpairs(values, vectors, residuals, converged, message)
