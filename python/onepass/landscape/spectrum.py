"""The extreme eigenvalues of a Hessian, with their vectors and residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onepass._extras import require
from onepass.landscape.function import Array, Theta, check_count, norm
from onepass.landscape.lanczos import lanczos, ritz
from onepass.landscape.operators import hessian_operator

__all__ = ["Eigenpairs", "as_operator", "dense", "eigenpairs", "products"]

DENSE = 64  # rows up to which all eigenvalues are computed
RESCUE = 2048  # rows up to which they are computed if ARPACK finds too few


@dataclass(frozen=True)
class Eigenpairs:
    """What `eigenpairs` found, k pairs of an operator (n, n).

    Attributes
    ----------
    values : array (k,)
        Ascending: first those of the bottom, then those of the top.
    vectors : array (n, k)
        Orthonormal columns.
    residuals : array (k,)
        The norms of ``H v - value v``. A symmetric H has an eigenvalue within that distance of ``value``.
    errors : array (k,)
        The residual and the estimated error of the product that it was computed with: the same said honestly.
    converged : bool
        False if ARPACK gave up on some; ``message`` then says on how many, and the residuals how good they are.
    """

    values: Array
    vectors: Array = field(repr=False)
    residuals: Array
    errors: Array
    converged: bool = True
    message: str = ""


def eigenpairs(
    f_or_operator: Any,
    theta: Theta = None,
    top: int = 1,
    bottom: int = 1,
    *,
    tolerance: float = 1e-8,
    restarts: int = 100,
    seed: int = 0,
) -> Eigenpairs:
    """The ``top`` largest and ``bottom`` smallest eigenvalues of the Hessian at ``theta``, or of an operator.

    Up to 64 parameters, or where a quarter of all pairs is asked for, by a dense matrix and LAPACK: n products. Else by
    SciPy's ``eigsh`` (ARPACK, implicitly restarted Lanczos; Lehoucq, Sorensen and Yang 1998), once for each end: some
    dozens of products an end as a rule, of 2 gradients each. The pairs are then improved and checked with the
    best products there are (Rayleigh and Ritz; 4 gradients a pair).

    Parameters
    ----------
    f_or_operator
        A function, as in `hessian_vector_product`; or a symmetric matrix, dense or sparse, or a LinearOperator, such as
        `hessian_operator` and `gauss_newton_operator` return: then without theta.
    theta : array (n,) or list of arrays
    top, bottom : int, default 1
        How many from each end; together at most n pairs are returned.
    tolerance : float, default 1e-8
        Of ARPACK, relative to the larger eigenvalues of the operator; raised to what the products' error allows.
    restarts : int, default 100
        ARPACK gives up after so many at either end. Up to 2048 parameters all pairs are computed then, with LAPACK;
        else it tries again with a tolerance of 1e-4, the best of one Lanczos run are taken if that fails too, and
        ``converged`` is False.
    seed : int, default 0
        Of the vector that ARPACK starts with. An eigenvector orthogonal to it would be missed.

    >>> import numpy as np
    >>> from onepass import landscape
    >>> def saddle(theta):
    ...     return float(theta[0] ** 2 - theta[1] ** 2), np.array([2 * theta[0], -2 * theta[1]])
    >>> pairs = landscape.eigenpairs(saddle, np.zeros(2))
    >>> pairs.values.round(6).tolist(), bool(pairs.errors.max() < 1e-8)
    ([-2.0, 2.0], True)
    >>> landscape.eigenpairs(np.diag(np.arange(100.0)), top=2, bottom=0).values.round(6).tolist()
    [98.0, 99.0]
    """
    check_count("top", top, 0)
    check_count("bottom", bottom, 0)
    check_count("restarts", restarts, 1)
    if top + bottom == 0:
        raise ValueError("top and bottom are both 0, expected at least one eigenvalue to look for")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}, expected a number in [0, 1)")
    operator = as_operator(f_or_operator, theta, seed)
    n, k = operator.shape[0], top + bottom
    if n <= DENSE or 4 * k >= n:
        return _dense_pairs(operator, top, bottom)
    start = np.random.default_rng(seed).standard_normal(n)
    start /= np.linalg.norm(start)
    image = operator.matvec(start)
    if not np.isfinite(image).all():
        raise FloatingPointError("the operator times a random vector is not finite")
    size = norm(image)
    if size == 0.0:  # ARPACK would stop
        return _rayleigh_ritz(operator, np.eye(n, k), [])
    tolerance = min(max(tolerance, 2 * getattr(operator, "error", 0.0) / size), 0.01)
    vectors: list[Array] = []
    failures: list[str] = []
    for sign, count, end in ((1.0, top, "largest"), (-1.0, bottom, "smallest")):
        if count:
            values, found = _arpack(operator, sign, size, count, start, tolerance, restarts)
            if found.shape[1] < count:
                if n <= RESCUE:
                    return _dense_pairs(operator, top, bottom)
                failures.append(f"{found.shape[1]} of the {count} {end} eigenvalues converged in {restarts} restarts")
                values, found = _arpack(operator, sign, size, count, start, max(math.sqrt(tolerance), 1e-4), restarts)
                if found.shape[1] < count:
                    values, found = _one_run(operator, sign, count, start)
            size = max(size, float(np.abs(values).max()))
            vectors.append(found)
    return _rayleigh_ritz(operator, np.concatenate(vectors, axis=1), failures)


def as_operator(f_or_operator: Any, theta: Theta, seed: int) -> Any:
    """A LinearOperator: of a function at theta, or of what is one or a matrix."""
    check_count("seed", seed, 0)
    is_matrix = isinstance(f_or_operator, np.ndarray) or hasattr(f_or_operator, "tocsr")
    if not is_matrix and not hasattr(f_or_operator, "matvec"):
        return hessian_operator(f_or_operator, theta, seed=seed)
    if theta is not None:
        raise ValueError("theta is given beside an operator; pass the operator alone, or a function and theta")
    shape = f_or_operator.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"the operator has shape {shape}, expected a square one")
    if f_or_operator.dtype is not None and np.dtype(f_or_operator.dtype).kind == "c":
        raise TypeError(f"the operator is {f_or_operator.dtype}, expected real numbers")
    if is_matrix and not np.isfinite(abs(f_or_operator).max()):
        raise ValueError("the matrix holds NaN or inf")
    if is_matrix and abs(f_or_operator - f_or_operator.T).max() > 1e-8 * abs(f_or_operator).max():
        raise ValueError("the matrix is not symmetric; pass (A + A.T) / 2")
    return require("scipy.sparse.linalg").aslinearoperator(f_or_operator)


def products(operator: Any, vectors: Array) -> tuple[Array, Array]:
    """The operator times the columns of ``vectors`` (n, k), as good as can be, and the errors' estimated norms (k,)."""
    if hasattr(operator, "products"):
        found: tuple[Array, Array] = operator.products(vectors)
        return found
    return operator.matmat(vectors), getattr(operator, "error", 0.0) * np.linalg.norm(vectors, axis=0)


def dense(operator: Any) -> tuple[Array, float]:
    """The operator's matrix (n, n), as its products are, and the estimated Frobenius norm of its error."""
    matrix, errors = products(operator, np.eye(operator.shape[0]))
    return matrix, norm(errors)


def _dense_pairs(operator: Any, top: int, bottom: int) -> Eigenpairs:
    n = operator.shape[0]
    matrix, error = dense(operator)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    chosen = np.arange(n) if top + bottom >= n else np.r_[0:bottom, n - top : n]
    values, vectors = values[chosen], vectors[:, chosen]
    residuals = _norms(matrix @ vectors - values * vectors)
    return Eigenpairs(values, vectors, residuals, residuals + error)


def _arpack(
    operator: Any, sign: float, size: float, count: int, start: Array, tolerance: float, restarts: int
) -> tuple[Array, Array]:
    """The converged ones of the largest (sign 1) or smallest (-1) pairs: values, and vectors (n, at most count).

    Of sign * H / size + 1: ARPACK's tolerance is relative to an eigenvalue, and those near 0 would never reach it.
    """
    linalg = require("scipy.sparse.linalg")

    def shifted(v: Array) -> Array:
        v = v.ravel()
        image: Array = operator.matvec(v) * (sign / size) + v
        return image

    n = start.size
    steps = min(n, max(2 * count + 1, 32))
    if n <= RESCUE:  # not many more products than the dense matrix would take
        restarts = min(restarts, 1 + n // (steps - count))
    moved = linalg.LinearOperator((n, n), shifted, dtype=np.float64)
    try:
        values, vectors = linalg.eigsh(moved, count, which="LA", v0=start, ncv=steps, tol=tolerance, maxiter=restarts)
    except linalg.ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    except linalg.ArpackError:  # a breakdown
        values, vectors = np.empty(0), np.empty((n, 0))
    return (values - 1.0) * (sign * size), vectors


def _one_run(operator: Any, sign: float, count: int, start: Array) -> tuple[Array, Array]:
    """The best values and vectors (n, count) of a Krylov space, converged or not."""
    diagonal, beside, basis = lanczos(operator.matvec, start, 4 * count + 60)
    values, small = ritz(diagonal, beside)
    chosen = slice(-count, None) if sign > 0 else slice(count)
    return values[chosen], basis.T @ small[:, chosen]


def _rayleigh_ritz(operator: Any, vectors: Array, failures: list[str]) -> Eigenpairs:
    """The best pairs in the space of ``vectors``, by the best products: its values' errors are of second order."""
    vectors = np.linalg.qr(vectors)[0]
    images, errors = products(operator, vectors)
    small = vectors.T @ images
    values, turn = np.linalg.eigh((small + small.T) / 2)
    vectors, images = vectors @ turn, images @ turn
    residuals = _norms(images - values * vectors)
    return Eigenpairs(values, vectors, residuals, residuals + norm(errors), not failures, "; ".join(failures))


def _norms(columns: Array) -> Array:
    return np.array([norm(column) for column in columns.T])
