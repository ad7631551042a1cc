"""Rows that can be gathered by their numbers: of arrays, memory maps, and sequences of any kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onepass.data._read_ahead import ReadAhead

__all__ = ["Array", "Indices", "RowSequence", "Rows", "check_sequence", "rows_of"]

Array = NDArray[Any]
Indices = NDArray[np.int64]


class RowSequence(Protocol):
    """What rows may come from: ``x[i]`` is row ``i``, an array or what `numpy.asarray` makes one of."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Rows:
    """Rows of one shape and ``dtype``; ``shape`` (N, ...) is that of an array of them."""

    def __init__(self, count: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._count = count
        self.shape = (count, *shape)
        self.dtype = dtype

    def __len__(self) -> int:
        return self._count

    def take(self, rows: Indices, out: Array) -> None:
        """Writes the rows of these numbers (n,), all in 0 .. len - 1, to ``out`` (n, ...), which is C-contiguous."""
        raise NotImplementedError

    def view(self, gather: bool) -> Array | None:
        """All rows in one array, without a copy; with ``gather`` only if its `numpy.take` is as good as `take`."""
        return None


class ArrayRows(Rows):
    """Rows that lie one after another in memory, or in a file that is mapped there."""

    def __init__(self, array: Array) -> None:
        super().__init__(len(array), array.shape[1:], array.dtype)
        self._array = array
        self._read_ahead = ReadAhead.of(array)

    def take(self, rows: Indices, out: Array) -> None:
        if self._read_ahead is not None:
            self._read_ahead.ask(rows)
        # mode="clip" writes straight into out; "raise" would go through a copy
        self._array.take(rows, 0, out, "clip")

    def view(self, gather: bool) -> Array | None:
        return None if gather and self._read_ahead is not None else self._array


class UnalignedRows(Rows):
    """The same where elements begin at any byte, as in an archive: `numpy.take` would copy the whole array first."""

    def __init__(self, array: Array) -> None:
        super().__init__(len(array), array.shape[1:], array.dtype)
        size = array.dtype.itemsize * math.prod(self.shape[1:])
        self._bytes = ArrayRows(array.reshape(-1).view(np.uint8).reshape(len(array), size))

    def take(self, rows: Indices, out: Array) -> None:
        self._bytes.take(rows, out.reshape(-1).view(np.uint8).reshape(len(rows), -1))


class StridedRows(Rows):
    """An array with gaps or another order of its axes: likewise."""

    def __init__(self, array: Array) -> None:
        super().__init__(len(array), array.shape[1:], array.dtype)
        self._array = array

    def take(self, rows: Indices, out: Array) -> None:
        np.copyto(out, self._array[rows])


class SequenceRows(Rows):
    """Rows that are asked for one by one."""

    def __init__(self, name: str, sequence: RowSequence) -> None:
        first = as_row(f"{name}[0]", sequence[0])
        super().__init__(len(sequence), first.shape, first.dtype)
        self._name = name
        self._sequence = sequence

    def take(self, rows: Indices, out: Array) -> None:
        for place, row in enumerate(rows.tolist()):
            put(f"{self._name}[{row}]", self._sequence[row], f"{self._name}[0]", out, place)


def as_row(name: str, value: Any) -> Array:
    """``value`` as an array of numbers."""
    try:
        row = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} is ragged, expected a number or an array of them") from None
    if row.dtype.kind in "OSUmM":
        raise TypeError(f"{name} is a {type(value).__name__} of dtype {row.dtype}, expected numbers")
    return row


def put(name: str, value: Any, first: str, out: Array, place: int) -> None:
    """Writes the row ``value`` to ``out[place]``, if its shape is that of ``first`` and its dtype fits."""
    row = as_row(name, value)
    if row.shape != out.shape[1:]:
        raise ValueError(f"{name} has shape {row.shape}, expected {out.shape[1:]} as {first}")
    if row.dtype != out.dtype and not np.can_cast(row.dtype, out.dtype, "safe"):
        raise TypeError(f"{name} is {row.dtype}, expected {out.dtype} as {first}")
    out[place] = row


def check_sequence(name: str, value: object) -> None:
    """TypeError unless ``value[i]`` may be a row; ValueError where there are none."""
    kind = type(value).__name__
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            raise ValueError(f"{name} has no rows, its shape is ()")
        if value.dtype.kind in "OSUmM":
            raise TypeError(f"{name} has dtype {value.dtype}, expected numbers")
        return
    if hasattr(value, "iloc"):
        raise TypeError(f"{name} is a {kind}, whose [i] is no row; give {name}.to_numpy()")
    sequence = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if not sequence or isinstance(value, (Mapping, str, bytes, type)):
        raise TypeError(f"{name} is a {kind}, expected an array, or a sequence with __len__ and __getitem__")


def rows_of(name: str, value: RowSequence | Rows) -> Rows:
    """The rows of an array or a sequence; ``name`` is what errors call it."""
    if isinstance(value, Rows):
        return value
    check_sequence(name, value)
    if not isinstance(value, np.ndarray):
        if len(value) == 0:
            raise ValueError(f"{name} has 0 rows: not one batch")
        return SequenceRows(name, value)
    array = np.asarray(value)  # without memmap's own __getitem__, which costs microseconds
    if not array.flags.c_contiguous:
        return StridedRows(array)
    return ArrayRows(array) if array.flags.aligned else UnalignedRows(array)
