"""Linear layers, with BLAS inside the one team of threads."""

from __future__ import annotations

from typing import Literal

import numpy as np

from onepass import _blas, _core
from onepass.kernels._arguments import Array, array_shape, flag, gradient_buffer, thread_count


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    relu: bool = False,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """``relu(x @ weight.T + bias)``: x (N, K), weight (O, K), bias (O,) -> (N, O).

    The product is SciPy's BLAS, called single-threaded by each thread of the package's own team, so that two pools of
    threads never fight; bias and ReLU are applied while the tile is in cache.

    Raises:
        ImportError: SciPy is not installed.

    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5])).tolist()
    [[11.5]]
    """
    _blas.connect()
    if out is None:
        out = np.empty((*array_shape(x, "x")[:1], *array_shape(weight, "weight")[:1]), x.dtype)
    _core.linear(x, weight, bias, flag("relu", relu), out, thread_count(threads))
    return out


def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    dx: Array | Literal[False] | None = None,
    dweight: Array | Literal[False] | None = None,
    dbias: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """``dx = dy @ weight``, ``dweight = dy.T @ x``, ``dbias = dy.sum(0)``, in one parallel region.

    Args:
        dx, dweight, dbias: None: a new array; an array: written there; False: not computed, returned as None.

    >>> dx, dweight, dbias = linear_backward(np.ones((2, 1)), np.eye(2), np.array([[3.0, 4.0]]))
    >>> dx.tolist(), dweight.tolist(), dbias.tolist()
    ([[3.0, 4.0], [3.0, 4.0]], [[1.0, 1.0]], [2.0])
    """
    _blas.connect()
    dx = gradient_buffer("dx", dx, x, "x")
    dweight = gradient_buffer("dweight", dweight, weight, "weight")
    db = (
        np.empty(weight.shape[:1], weight.dtype) if dbias is None else gradient_buffer("dbias", dbias, weight, "weight")
    )
    _core.linear_backward(dy, x, weight, dx, dweight, db, thread_count(threads))
    return dx, dweight, db
