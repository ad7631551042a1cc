"""Losses of elements: one pass, value and gradient together, in NumPy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass.reference._results import Array, Reduction, check_reduction, give


def mean_squared_error(
    prediction: Array,
    target: Array,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.mean_squared_error`.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    check_reduction(reduction)
    difference = prediction.astype(np.float64) - target
    scale = 1 / prediction.size if reduction == "mean" else 1.0
    written = None if grad is False else give(2 * scale * difference, prediction, grad)
    squares = np.square(difference)
    if reduction == "none":
        return squares.astype(prediction.dtype), written
    return float(squares.sum() * scale), written
