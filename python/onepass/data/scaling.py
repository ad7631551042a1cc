"""Features of zero mean and unit variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onepass.data.dataset import DataError

__all__ = ["Scaling", "standardize"]

ROWS = 4096  # converted to float64 at a time


@dataclass(frozen=True)
class Scaling:
    """``(x - mean) / std``; mean and std are float64 (features,).

    >>> Scaling(np.array([1.0]), np.array([2.0])).apply(np.array([[5]]), np.float32)
    array([[2.]], dtype=float32)
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def apply(self, x: NDArray[Any], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The scaled rows of ``x`` (N, ...) as a new array (N, features) of ``dtype``.

        DataError for a row so far from those of `standardize` that it overflows.
        """
        flat = x.reshape(len(x), -1)
        out = np.empty(flat.shape, dtype)
        for start in range(0, len(x), ROWS):
            block = flat[start : start + ROWS].astype(np.float64)
            scaled = out[start : start + ROWS]
            with np.errstate(over="ignore"):
                scaled[...] = (block - self.mean) / self.std
            overflown = np.isinf(scaled).any(axis=1)
            if overflown.any():
                row = start + int(overflown.argmax())
                raise DataError(f"x is so far from the training rows in row {row} that scaling it overflows")
        return out


def standardize(x: NDArray[Any]) -> Scaling:
    """The scaling that gives the rows of ``x`` zero mean and unit variance.

    A table (N, features) has one mean and deviation a column, and a constant column becomes 0.
    Images (N, height, width, ...) have one for all pixels, so that a pixel which is nearly always
    blank is not blown up.

    >>> standardize(np.array([[0.0, 7.0], [2.0, 7.0]]))
    Scaling(mean=array([1., 7.]), std=array([1., 1.]))
    """
    axis = 0 if x.ndim == 2 else None
    flat = x.reshape(len(x), -1)
    mean = np.broadcast_to(flat.mean(axis=axis, dtype=np.float64), flat.shape[1:])
    squares = np.zeros(flat.shape[1])
    for start in range(0, len(x), ROWS):
        block = flat[start : start + ROWS].astype(np.float64) - mean
        squares += np.einsum("nf,nf->f", block, block)
    variance = np.broadcast_to(squares.mean() if axis is None else squares, flat.shape[1:]) / len(x)
    std = np.sqrt(variance)
    constant = std <= 1e-7 * np.abs(mean)
    return Scaling(np.array(mean), np.where(constant, 1.0, std))
