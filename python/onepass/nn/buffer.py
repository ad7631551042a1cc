"""The memory a layer computes into."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Buffer"]


class Buffer:
    """An array that is allocated again only when a batch is larger than every one before.

    >>> buffer = Buffer()
    >>> full = buffer.get((32, 10), np.float32)
    >>> buffer.get((32, 10), np.float32) is full
    True
    >>> np.shares_memory(buffer.get((29, 10), np.float32), full)
    True
    """

    __slots__ = ("_dtype", "_shape", "_storage", "_view")

    def __init__(self) -> None:
        self._storage: NDArray[Any] = np.empty(0)
        self._view: NDArray[Any] = self._storage
        self._shape: tuple[int, ...] = ()  # of no view that was asked for
        self._dtype: DTypeLike | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        return Buffer()  # a copied layer computes anew

    def get(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A C-contiguous array of this shape and dtype with any content."""
        if dtype is self._dtype and shape == self._shape:
            return self._view
        size = math.prod(shape)
        if self._storage.size < size or self._storage.dtype != dtype:
            self._storage = np.empty(size, dtype)
        self._view = self._storage[:size].reshape(shape)
        self._shape, self._dtype = shape, dtype
        return self._view
