"""What `Batches` gathers rows of ``x`` and ``y`` from."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from onepass.data.rows import Array, Indices, Rows, RowSequence, as_row, check_sequence, put, rows_of

__all__ = ["Pairs", "Separate", "Source", "source_of"]


class Source(Protocol):
    def __len__(self) -> int: ...

    def buffers(self, rows: int) -> tuple[Array, Array]:
        """For so many rows of x and y."""

    def take(self, rows: Indices, x: Array, y: Array) -> None:
        """Writes the rows of these numbers."""

    def views(self, gather: bool) -> tuple[Array, Array] | None:
        """All rows as arrays, where there are such; with ``gather`` only if their `numpy.take` is as good as `take`."""


class Separate:
    """``x`` and ``y`` of their own."""

    def __init__(self, x: Rows, y: Rows) -> None:
        if len(x) != len(y):
            raise ValueError(f"x has {len(x)} rows and y has {len(y)}, expected equally many")
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def buffers(self, rows: int) -> tuple[Array, Array]:
        x, y = self.x, self.y
        return np.empty((rows, *x.shape[1:]), x.dtype), np.empty((rows, *y.shape[1:]), y.dtype)

    def take(self, rows: Indices, x: Array, y: Array) -> None:
        self.x.take(rows, x)
        self.y.take(rows, y)

    def views(self, gather: bool) -> tuple[Array, Array] | None:
        x, y = self.x.view(gather), self.y.view(gather)
        return None if x is None or y is None else (x, y)


class Pairs:
    """A sequence whose item ``i`` is the pair ``(x, y)`` of row ``i``."""

    def __init__(self, sequence: RowSequence) -> None:
        check_sequence("x", sequence)
        if isinstance(sequence, (np.ndarray, Rows)):
            raise TypeError("y is None, expected the targets; only a sequence of pairs (x, y) goes without")
        if len(sequence) == 0:
            raise ValueError("x has 0 rows: not one batch")
        self._sequence = sequence
        x, y = self._item(0)
        self._x, self._y = as_row("x[0][0]", x), as_row("x[0][1]", y)

    def _item(self, row: int) -> tuple[Any, Any]:
        item = self._sequence[row]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(f"x[{row}] is a {type(item).__name__}, expected a pair (x, y), as there is no y")
        return item[0], item[1]

    def __len__(self) -> int:
        return len(self._sequence)

    def buffers(self, rows: int) -> tuple[Array, Array]:
        x, y = self._x, self._y
        return np.empty((rows, *x.shape), x.dtype), np.empty((rows, *y.shape), y.dtype)

    def take(self, rows: Indices, x: Array, y: Array) -> None:
        for place, row in enumerate(rows.tolist()):
            item = self._item(row)
            put(f"x[{row}][0]", item[0], "x[0][0]", x, place)
            put(f"x[{row}][1]", item[1], "x[0][1]", y, place)

    def views(self, gather: bool) -> None:
        return None


def source_of(x: RowSequence, y: RowSequence | None) -> Source:
    """Of arrays and sequences ``x`` and ``y``; of a sequence of pairs if ``y`` is None."""
    return Pairs(x) if y is None else Separate(rows_of("x", x), rows_of("y", y))
