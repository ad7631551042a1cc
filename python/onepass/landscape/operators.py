"""The Hessian of a function: products with vectors, a matrix, a linear operator; and the Gauss-Newton matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onepass._extras import require
from onepass.landscape.function import Array, Function, Theta, check_count, norm

__all__ = [
    "HessianVectorProduct",
    "as_function",
    "gauss_newton_operator",
    "hessian",
    "hessian_operator",
    "hessian_vector_product",
]

LARGEST = 8192  # rows of a dense Hessian: 512 MiB


@dataclass(frozen=True)
class HessianVectorProduct:
    """What `hessian_vector_product` found.

    Attributes
    ----------
    value : array or list of arrays
        H v in theta's structure.
    error : float
        The estimated Euclidean norm of ``value``'s error; for exact products rounding alone.
    exact : bool
        True where ``f.hessian_vector`` computed it, False for differences of the gradient.
    """

    value: Any
    error: float
    exact: bool


def as_function(f: Any, theta: Theta = None) -> Function:
    """``f`` itself if it is a `Function` already."""
    return f if isinstance(f, Function) else Function(f, theta)


def hessian_vector_product(f: Any, theta: Theta, v: Theta) -> HessianVectorProduct:
    """The Hessian of the loss at ``theta`` times ``v``.

    By ``f.hessian_vector(theta, v)`` where there is one. Else by central differences of the gradient with steps s and
    2s along v, ``(4 D(s) - D(2s)) / 3``, where ``D(s) = (g(theta + s u) - g(theta - s u)) / 2s * |v|`` and u = v / |v|
    (Richardson 1911; Nocedal and Wright, "Numerical Optimization", 2006, section 8.1). s is ``eps^(1/3) max(1,
    |theta|)``, unless the two disagree by more than 1e-7, as they do for noisy gradients, sharp bends, kinks: then
    steps up to 262144 times longer and shorter are tried and the best is taken.

    Parameters
    ----------
    f : callable
        ``f(theta) -> (loss, gradient)``, both float64.
    theta, v : array (n,) float64, or lists of float64 arrays
        ``v`` in theta's structure or flat; its length does not matter.

    5 gradients as a rule, at most 53; 1 product where f has them.

    Raises
    ------
    TypeError, ValueError
        What is not float64, not finite or not of theta's shape, arguments or results of f.
    FloatingPointError
        The loss or the gradient is not finite at theta or beside it.

    >>> import numpy as np
    >>> from onepass import landscape
    >>> def saddle(theta):  # x^2 - y^2
    ...     x, y = theta
    ...     return x**2 - y**2, np.array([2 * x, -2 * y])
    >>> product = landscape.hessian_vector_product(saddle, np.zeros(2), np.array([1.0, 1.0]))
    >>> product.value.round(6).tolist(), product.error < 1e-8, product.exact
    ([2.0, -2.0], True, False)
    """
    function = as_function(f, theta)
    product, error = function.hessian_vector(function.x, function.flatten(v, "v"))
    return HessianVectorProduct(function.unflatten(product), error, function.exact)


def hessian(f: Any, theta: Theta = None, return_error: bool = False) -> Any:
    """The dense symmetric Hessian (n, n) float64 at ``theta``, parameters in the order of the flattened arrays.

    n products with unit vectors, of 4 gradients each if f has no ``hessian_vector``; (H + H') / 2 of them.

    Parameters
    ----------
    f, theta
        As in `hessian_vector_product`. n is at most 8192; beyond, ValueError.
    return_error : bool, default False
        Returns (H, error): the estimated Frobenius norm of H's error, the larger of the products' errors together and
        of the asymmetry before it was removed. No eigenvalue is off by more (Weyl 1912), if the estimate is right.

    >>> import numpy as np
    >>> from onepass import landscape
    >>> def f(theta):  # w1^2 w2, of two arrays
    ...     w1, w2 = theta
    ...     return float(w1[0] ** 2 * w2[0]), [2 * w1 * w2, w1**2]
    >>> H, error = landscape.hessian(f, [np.array([3.0]), np.array([5.0])], return_error=True)
    >>> H.round(6).tolist(), error < 1e-7
    ([[10.0, 6.0], [6.0, 0.0]], True)
    """
    function = as_function(f, theta)
    n = function.size
    if n > LARGEST:
        raise ValueError(f"theta has {n} parameters, expected at most {LARGEST} for a dense Hessian; take eigenpairs")
    columns, errors = function.hessian_vectors(function.x, np.eye(n))
    error = max(norm(errors), norm((columns - columns.T).ravel()))
    symmetric = (columns + columns.T) / 2
    return (symmetric, error) if return_error else symmetric


def hessian_operator(f: Any, theta: Theta = None, *, seed: int = 0) -> Any:
    """The Hessian at ``theta`` as a ``scipy.sparse.linalg.LinearOperator`` (n, n) float64, for SciPy's solvers.

    Without ``f.hessian_vector`` the step of the differences is found once, and a product then costs 2 gradients; 2 more
    where a kink, as of a ReLU, makes a shorter step necessary. Needs SciPy.

    Parameters
    ----------
    f, theta
        As in `hessian_vector_product`.
    seed : int, default 0
        Of the random vector that step and error are found with, and then with its image.

    Besides SciPy's attributes the operator has ``error``, the estimated norm of the error of a product with a vector of
    norm 1; ``exact``; and ``function``, whose ``gradient_count`` says what was spent.

    >>> import numpy as np
    >>> from scipy.sparse.linalg import cg
    >>> from onepass import landscape
    >>> def bowl(theta):
    ...     return float(theta @ theta + theta[0] ** 4), 2 * theta + np.array([4 * theta[0] ** 3, 0.0])
    >>> H = landscape.hessian_operator(bowl, np.array([1.0, 1.0]))
    >>> newton, failed = cg(H, -bowl(np.array([1.0, 1.0]))[1])
    >>> newton.round(4).tolist(), failed
    ([-0.4286, -1.0], 0)
    """
    check_count("seed", seed, 0)
    function = as_function(f, theta)
    x = function.x
    probe = _unit_normal(np.random.default_rng(seed), function.size)
    image, error = function.hessian_vector(x, probe)
    length, noise = (0.0, 0.0) if function.exact else function.step(x, probe)

    def product(v: Array) -> Array:
        return function.hessian_vector(x, v)[0] if function.exact else function.central(x, v, length, noise)

    errors = [error + norm(product(probe) - image)]
    if image.any():  # closer to the eigenvectors of large eigenvalues, along which kinks are nearer
        probe = image / norm(image)
        image, error = function.hessian_vector(x, probe)
        if not function.exact:
            length = min(length, function.step(x, probe)[0])
        errors.append(error + norm(product(probe) - image))
    operator = _operator(function, product, max(errors), function.exact)
    operator.products = lambda vectors: function.hessian_vectors(x, vectors)
    return operator


def gauss_newton_operator(f: Any, theta: Theta = None, *, seed: int = 0) -> Any:
    """The Gauss-Newton matrix ``J' H_L J`` at ``theta`` as a ``scipy.sparse.linalg.LinearOperator`` (n, n) float64.

    J is the derivative of the model's predictions by theta, H_L the Hessian of the loss by the predictions: what is
    left of the loss' Hessian when the predictions are taken as linear in theta (Schraudolph, "Fast curvature
    matrix-vector products", 2002). Positive semidefinite for a convex loss. Needs SciPy and a function that has
    ``gauss_newton_vector(theta, v)``, as those of `from_model` and `from_torch` have; else TypeError.

    ``error`` of the operator is estimated from two products with random vectors of norm 1 and one with their sum;
    ``seed`` draws them.

    >>> import numpy as np
    >>> from onepass import landscape, losses, nn
    >>> x, y = np.arange(6.0).reshape(3, 2), np.ones((3, 1))
    >>> f = landscape.from_model(nn.Linear(2, 1, dtype=np.float64), losses.MeanSquaredError(), x, y)
    >>> G = landscape.gauss_newton_operator(f, f.theta)
    >>> J = np.c_[x, np.ones(3)]  # by the two weights and the bias; the Hessian of the loss is 2/3
    >>> bool(np.allclose(G @ np.eye(3), 2 / 3 * J.T @ J))
    True
    """
    check_count("seed", seed, 0)
    function = as_function(f, theta)
    x, rng = function.x, np.random.default_rng(seed)
    u, v = _unit_normal(rng, function.size), _unit_normal(rng, function.size)

    def product(w: Array) -> Array:
        return function.gauss_newton_vector(x, w)

    # the errors of three products do not cancel: a linear map would leave nothing
    error = float(np.linalg.norm(product(u + v) - product(u) - product(v)))
    return _operator(function, product, error, False)


def _operator(function: Function, product: Callable[[Array], Array], error: float, exact: bool) -> Any:
    def matvec(v: Any) -> Array:
        v = np.ravel(v)
        if v.dtype.kind == "c":
            raise TypeError(f"v is {v.dtype}, expected real numbers")
        return product(v.astype(np.float64, copy=False))

    shape = (function.size, function.size)
    operator = require("scipy.sparse.linalg").LinearOperator(shape, matvec, rmatvec=matvec, dtype=np.float64)
    operator.error, operator.exact, operator.function = error, exact, function
    return operator


def _unit_normal(rng: np.random.Generator, n: int) -> Array:
    v = rng.standard_normal(n)
    unit: Array = v / np.linalg.norm(v)
    return unit
