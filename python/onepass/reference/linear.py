"""Linear layers, with BLAS inside the one team of threads, in NumPy."""

from __future__ import annotations

from typing import Literal

import numpy as np

from onepass.reference._results import Array, give


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    relu: bool = False,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.linear`.

    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5])).tolist()
    [[11.5]]
    """
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    if bias is not None:
        y = y + bias
    if relu:
        y = np.where(y < 0, 0.0, y)
    return give(y, x, out)


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
    """See :func:`onepass.kernels.linear_backward`.

    >>> dx, dweight, dbias = linear_backward(np.ones((2, 1)), np.eye(2), np.array([[3.0, 4.0]]))
    >>> dx.tolist(), dweight.tolist(), dbias.tolist()
    ([[3.0, 4.0], [3.0, 4.0]], [[1.0, 1.0]], [2.0])
    """
    d = dy.astype(np.float64)
    return (
        None if dx is False else give(d @ weight.astype(np.float64), x, dx),
        None if dweight is False else give(d.T @ x.astype(np.float64), x, dweight),
        None if dbias is False else give(d.sum(0), x, dbias),
    )
