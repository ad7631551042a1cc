"""Batches that are made on a thread while those before them are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from queue import SimpleQueue

from onepass.data.rows import Array
from onepass.nn.buffer import Buffer

__all__ = ["Slot", "ahead"]


class Slot:
    """The memory of one batch: rows are gathered into ``x`` and ``y``."""

    def __init__(self, buffers: tuple[Array, Array]) -> None:
        self.x, self.y = buffers
        self._kept = Buffer(), Buffer()
        self._gathered = buffers

    def part(self, rows: int) -> tuple[Array, Array]:
        """Room for so many rows."""
        self._gathered = (self.x, self.y) if rows == len(self.x) else (self.x[:rows], self.y[:rows])
        return self._gathered

    def keep(self, x: Array, y: Array) -> tuple[Array, Array]:
        """The batch in memory of this slot: what a transform returned may be overwritten by the next batch."""
        return self._own(x, 0), self._own(y, 1)

    def _own(self, array: Array, which: int) -> Array:
        if array is self._gathered[which]:
            return array
        kept = self._kept[which].get(array.shape, array.dtype)
        kept[...] = array
        return kept


Batch = tuple[Slot, Array, Array]


def ahead(
    produce: Callable[[Iterable[Slot]], Iterator[Batch]], slots: Sequence[Slot]
) -> Generator[tuple[Array, Array], None, None]:
    """The batches of ``produce(slots)``, made on a thread; two slots are in use, the others hold what is ready.

    An exception there is raised here, with its traceback. The thread has ended when this generator has.
    """
    free: SimpleQueue[Slot] = SimpleQueue()
    ready: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
    stop = threading.Event()

    def freed() -> Iterator[Slot]:
        while True:
            slot = free.get()
            if stop.is_set():
                return
            yield slot

    def work() -> None:
        try:
            for slot, x, y in produce(freed()):
                ready.put((slot, *slot.keep(x, y)))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    for slot in slots:
        free.put(slot)
    thread = threading.Thread(target=work, name="onepass-prefetch", daemon=True)
    thread.start()
    try:
        while (batch := ready.get()) is not None:
            if isinstance(batch, BaseException):
                try:
                    raise batch
                finally:
                    del batch  # which holds this frame
            slot, x, y = batch
            yield x, y
            free.put(slot)
    finally:
        stop.set()
        free.put(slots[0])  # for the thread to see it
        thread.join()
