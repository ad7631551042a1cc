"""Reading the rows of a batch from a file that memory cannot hold."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReadAhead"]

SHARE = 0.5  # of the memory: a file that is smaller stays in the page cache after the first epoch


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


class ReadAhead:
    """Asks the kernel for the rows of a batch all at once, before the first of them is touched.

    A page fault reads one place of the file and waits; the disk could serve many at a time. It also reads what lies
    around (Linux: 128 KiB), of which shuffled rows need little. Measured on 256 rows of 3 KiB that are not in the
    cache: 4.3 ms in place of 56 ms, and a fifth of the memory. Where they are in the cache, asking costs 2 microseconds
    a row: therefore only for maps of files that are larger than half of the memory.
    """

    @classmethod
    def of(cls, array: NDArray[Any]) -> ReadAhead | None:
        """For a C-contiguous ``array`` in a large memory map; None for every other, and for one without elements."""
        if array.size == 0:
            return None
        base: object = array
        while isinstance(base, np.ndarray):
            base = base.base
        if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_WILLNEED") or not array.flags.c_contiguous:
            return None
        memory = _physical_memory()
        return cls(array, base) if memory and len(base) > SHARE * memory else None

    def __init__(self, array: NDArray[Any], mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._start = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
        self._size = array.nbytes // len(array)

    def ask(self, rows: NDArray[np.int64]) -> None:
        first = self._start + rows * self._size
        page = first - first % mmap.PAGESIZE
        advise, need = self._mapping.madvise, mmap.MADV_WILLNEED
        for start, length in zip(page.tolist(), (first + self._size - page).tolist(), strict=True):
            advise(need, start, length)
