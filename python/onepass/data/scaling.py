"""Features of zero mean and unit variance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onepass.data.dataset import DataError
from onepass.data.rows import Rows, RowSequence, rows_of

__all__ = ["Scaling", "standardize"]

ROWS, BYTES = 4096, 1 << 26  # converted to float64 at a time, at most


@dataclass(frozen=True)
class Scaling:
    """``(x - mean) / std``; mean and std are float64 (features,).

    >>> Scaling(np.array([1.0]), np.array([2.0])).apply(np.array([[5]]), np.float32)
    array([[2.]], dtype=float32)
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def apply(self, x: RowSequence, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The scaled rows of ``x`` (N, ...) as a new array (N, features) of ``dtype``.

        DataError for a row so far from those of `standardize` that it overflows. What memory cannot hold is scaled by
        `blocks`, or batch by batch with `transforms.Standardize`.
        """
        rows = rows_of("x", x)
        out = np.empty((len(rows), math.prod(rows.shape[1:])), dtype)
        for start, scaled in self.blocks(rows, dtype):
            out[start : start + len(scaled)] = scaled
        return out

    def blocks(self, x: RowSequence | Rows, dtype: DTypeLike = np.float32) -> Iterator[tuple[int, NDArray[Any]]]:
        """The same in pieces of a few thousand rows, each with the number of its first row."""
        for start, block in _blocks(rows_of("x", x)):
            with np.errstate(over="ignore"):
                block -= self.mean
                block /= self.std
                scaled = block.astype(dtype, copy=False)
            overflown = np.isinf(scaled).any(axis=1)
            if overflown.any():
                row = start + int(overflown.argmax())
                raise DataError(f"x is so far from the training rows in row {row} that scaling it overflows")
            yield start, scaled


def _blocks(rows: Rows) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The number of the first row, and some rows (n, features)."""
    view = rows.view(gather=False)
    count = max(1, min(ROWS, len(rows), BYTES // max(1, rows.dtype.itemsize * math.prod(rows.shape[1:]))))
    buffer = np.empty((count, *rows.shape[1:]), rows.dtype) if view is None else None
    for start in range(0, len(rows), count):
        stop = min(start + count, len(rows))
        if buffer is None:
            assert view is not None
            block = view[start:stop]
        else:
            block = buffer[: stop - start]
            rows.take(np.arange(start, stop), block)
        yield start, block.reshape(stop - start, -1).astype(np.float64)


def _check_overflow(name: str, sums: NDArray[np.float64]) -> None:
    finite = np.isfinite(sums)
    if not finite.all():
        where = f" in column {int(finite.argmin())}" if len(sums) > 1 else ""
        raise DataError(f"x holds numbers so large that their {name} overflows{where}; divide them first")


def standardize(x: RowSequence) -> Scaling:
    """The scaling that gives the rows of ``x`` zero mean and unit variance.

    A table (N, features) has one mean and deviation a column, and a constant column becomes 0.
    Images (N, height, width, ...) have one for all pixels, so that a pixel which is nearly always
    blank is not blown up. ``x`` is read twice, a few thousand rows at a time; it may be a memory map or
    a sequence of rows. DataError where it holds NaN or inf, naming the row, or numbers whose squares overflow.

    >>> standardize(np.array([[0.0, 7.0], [2.0, 7.0]]))
    Scaling(mean=array([1., 7.]), std=array([1., 1.]))
    """
    rows = rows_of("x", x)
    one_each = len(rows.shape) == 2
    features = math.prod(rows.shape[1:])
    total = np.zeros(features if one_each else 1)
    for start, block in _blocks(rows):
        with np.errstate(over="ignore", invalid="ignore"):
            added = block.sum(axis=0) if one_each else block.sum()
        if not np.isfinite(added).all():
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                raise DataError(f"x holds NaN or inf in row {start + int(finite.argmin())}")
        with np.errstate(over="ignore", invalid="ignore"):
            total += added
    _check_overflow("sum", total)
    mean = np.broadcast_to(total / (len(rows) * (1 if one_each else features)), (features,))
    squares = np.zeros(features)
    for _, block in _blocks(rows):
        with np.errstate(over="ignore", invalid="ignore"):
            block -= mean
            squares += np.einsum("nf,nf->f", block, block)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = squares if one_each else squares.mean(keepdims=True)
    _check_overflow("sum of squares", squares)
    variance = np.broadcast_to(squares, (features,)) / len(rows)
    std = np.sqrt(variance)
    constant = std <= 1e-7 * np.abs(mean)
    return Scaling(np.array(mean), np.where(constant, 1.0, std))
