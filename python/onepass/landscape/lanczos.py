"""The Lanczos process with full reorthogonalization."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onepass.landscape.differences import EPS
from onepass.landscape.function import Array, norm

__all__ = ["lanczos", "ritz"]


def lanczos(product: Callable[[Array], Array], start: Array, steps: int) -> tuple[Array, Array, Array]:
    """Diagonal (m,), off-diagonal (m - 1,) and basis (m, n) of the symmetric operator on the Krylov space of ``start``.

    m is ``steps``, or less where the space is invariant. Lanczos (1950); every vector is made orthogonal to all before
    it, twice (Parlett, "The Symmetric Eigenvalue Problem", 1980).
    """
    n = start.size
    steps = min(steps, n)
    basis = np.empty((steps, n))
    diagonal, beside = np.empty(steps), np.empty(steps)
    basis[0] = start / norm(start)
    size = 0.0
    for k in range(steps):
        w = product(basis[k])
        diagonal[k] = basis[k] @ w
        size = max(size, norm(w))
        for _ in range(2):
            w = w - basis[: k + 1].T @ (basis[: k + 1] @ w)
        beside[k] = norm(w)
        if beside[k] <= 10 * EPS * np.sqrt(n) * size or k + 1 == steps:
            return diagonal[: k + 1], beside[:k], basis[: k + 1]
        basis[k + 1] = w / beside[k]
    raise AssertionError("unreachable")


def ritz(diagonal: Array, beside: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors (in columns) of the tridiagonal matrix."""
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, -1) + np.diag(beside, 1))
    return values, vectors
