"""Some of the rows of a data set, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from onepass.data.rows import Array, Indices, Rows, RowSequence, rows_of

__all__ = ["Subset"]


class Subset(Rows):
    """The rows ``indices`` (n,) of ``x``, an array, a memory map or a sequence; nothing is copied.

    For parts of what memory cannot hold. Takes the place of ``x`` in `Batches`, `Trainer.fit` and itself.

    >>> x = np.arange(10.0).reshape(5, 2)
    >>> part = Subset(x, [4, 0])
    >>> len(part), part[0], part.shape
    (2, array([8., 9.]), (2, 2))
    """

    def __init__(self, x: RowSequence, indices: ArrayLike) -> None:
        source = rows_of("x", x)
        given = np.asarray(indices)
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise TypeError(f"indices is {given.dtype} {given.shape}, expected integers (n,)")
        if len(given) and not (given.min() >= 0 and given.max() < len(source)):
            bad = given[(given < 0) | (given >= len(source))][0]
            raise IndexError(f"indices holds {bad}, but x has {len(source)} rows")
        super().__init__(len(given), source.shape[1:], source.dtype)
        self._source = source
        self._indices: Indices = given.astype(np.int64)

    def take(self, rows: Indices, out: Array) -> None:
        self._source.take(self._indices[rows], out)

    def __getitem__(self, index: int) -> Any:
        """Row number ``index`` as a new array."""
        out = np.empty((1, *self.shape[1:]), self.dtype)
        self.take(np.array([range(len(self))[index]]), out)
        return out[0]
