"""Gradient checks, Hessian-vector products, Hessians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onepass._extras import require
from onepass.landscape.function import Array, Function, Theta

__all__ = [
    "HessianVectorProduct",
    "hessian",
    "hessian_operator",
    "hessian_vector_product",
]


@dataclass(frozen=True)
class HessianVectorProduct:
    """``value``: H v in theta's structure; ``error``: the estimated norm of its error; ``exact``: not by differences."""

    value: Any
    error: float
    exact: bool


def hessian_vector_product(f: Any, theta: Theta, v: Theta) -> HessianVectorProduct:
    function = Function(f, theta)
    product, error = function.hessian_vector(function.x, function.flatten(v, "v"))
    return HessianVectorProduct(function.unflatten(product), error, function.exact)


def hessian(f: Any, theta: Theta, return_error: bool = False) -> Any:
    function = Function(f, theta)
    n = function.size
    columns, errors = np.empty((n, n)), np.empty(n)
    for index, unit in enumerate(np.eye(n)):
        columns[:, index], errors[index] = function.hessian_vector(function.x, unit)
    symmetric = (columns + columns.T) / 2
    asymmetry = float(np.linalg.norm(columns - columns.T)) / 2
    error = max(float(np.linalg.norm(errors)), asymmetry)
    return (symmetric, error) if return_error else symmetric


def hessian_operator(f: Any, theta: Theta, seed: int = 0) -> Any:
    function = f if isinstance(f, Function) else Function(f, theta)
    x, n = function.x, function.size
    probe = np.random.default_rng(seed).standard_normal(n)
    length = None if function.exact else function.step(x, probe)

    def matvec(v: Array) -> Array:
        v = np.ravel(v).astype(np.float64, copy=False)
        return function.hessian_vector(x, v)[0] if length is None else function.difference(x, v, length)

    operator = require("scipy.sparse.linalg").LinearOperator((n, n), matvec, rmatvec=matvec, dtype=np.float64)
    operator.exact = function.exact
    product, error = function.hessian_vector(x, probe)
    operator.error = (error + float(np.linalg.norm(operator.matvec(probe) - product))) / float(np.linalg.norm(probe))
    operator.function = function
    return operator
