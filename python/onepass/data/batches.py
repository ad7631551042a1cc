"""Mini-batches in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from onepass.data._prefetch import Slot, ahead
from onepass.data._sources import source_of
from onepass.data.rows import Array, Indices, RowSequence
from onepass.data.sampling import Sampler
from onepass.data.transform import BatchRandom, Transform, TransformFunction, apply, describe
from onepass.nn.layer import check_integer

__all__ = ["Batches"]


class Batches:
    """The rows of ``x`` (N, ...) and ``y`` (N, ...) in batches, shuffled anew each epoch.

    Parameters
    ----------
    x, y : arrays, memory maps or sequences of equal length N >= 1
        A sequence has ``__len__`` and ``__getitem__``: ``x[i]`` is row ``i``. Without ``y`` an item of ``x`` is a pair
        ``(x, y)``, as those of torch's map-style datasets. All rows have the shape of the first, and a dtype that
        fits in its.
    batch_size : int
    shuffle : bool, default True
        False: the rows in their order, as views of ``x`` and ``y`` where these are C-contiguous arrays.
    seed : int, default 0
        The permutation of an epoch is a function of ``(seed, epoch)`` and nothing else (the
        counter-based Philox generator with that key), so that a resumed run sees the same batches.
    drop_last : bool, default False
        Leave out the last batch of an epoch if it is smaller than the others.
    sampler : Sampler or None
        Draws the rows of an epoch in place of the permutation: `ClassBalanced`, `Weighted`.
    transform : function (x, y, generator) -> (x, y), or a sequence of them
        Applied to every batch, in this order: see `onepass.data.transforms`. It may write into the arrays that it
        gets, which are never the data's own. The generator is a function of ``(seed, epoch, batch)``.
    prefetch : int, default 0
        So many batches are gathered and transformed ahead, on one thread, while others are used. The batches are the
        same. The thread ends with the epoch's iterator, however that ends; what is raised on it comes up in the loop.

    A gathered batch is in buffers, which the next one overwrites.

    >>> batches = Batches(np.arange(5.0), np.arange(5), batch_size=2, seed=1)
    >>> len(batches)
    3
    >>> sorted(row for x, y in batches.epoch(0) for row in y.tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        x: RowSequence,
        y: RowSequence | None,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        sampler: Sampler | None = None,
        transform: TransformFunction | Sequence[TransformFunction] | None = None,
        prefetch: int = 0,
    ) -> None:
        check_integer("batch_size", batch_size, 1)
        check_integer("seed", seed, 0)
        if seed >= 2**64:
            raise ValueError(f"seed is {seed}, expected 0 <= seed < 2**64")
        check_integer("prefetch", prefetch, 0)
        self._source = source_of(x, y)
        count = len(self._source)
        if sampler is not None:
            if not isinstance(sampler, Sampler):
                raise TypeError(f"sampler is {sampler!r:.60}, expected an object of data.Sampler")
            if not shuffle:
                raise ValueError("shuffle is False beside a sampler, which decides the order")
            if sampler.population != count:
                raise ValueError(f"sampler draws from {sampler.population} rows, but x has {count}")
        self.rows = count if sampler is None else sampler.rows
        """Of an epoch."""
        if self.rows < (batch_size if drop_last else 1):
            raise ValueError(f"x has {self.rows} rows: not one batch")
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.sampler = sampler
        self.transform = transform
        self.prefetch = prefetch
        functions = [] if transform is None else [transform] if callable(transform) else list(transform)
        for index, function in enumerate(functions):
            if not callable(function):
                raise TypeError(f"transform[{index}] is {function!r:.60}, expected a function (x, y, generator)")
        self._transforms = _fresh(functions)
        direct = not functions and not prefetch
        self._views = self._source.views(gather=shuffle) if direct else None
        self._slot: Slot | None = None

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole, rest = divmod(self.rows, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def replace(self, **changes: Any) -> Batches:
        """Batches with other arguments of the constructor, those named in ``changes``.

        >>> len(Batches(np.zeros(8), np.zeros(8), batch_size=2).replace(batch_size=4))
        2
        """
        names = ("x", "y", "batch_size", "shuffle", "seed", "drop_last", "sampler", "transform", "prefetch")
        return Batches(**{**{name: getattr(self, name) for name in names}, **changes})

    def permutation(self, epoch: int) -> Indices:
        """The order of the rows in ``epoch`` (N,), without a sampler."""
        return self._generator(epoch).permutation(len(self._source))

    def order(self, epoch: int) -> Indices:
        """The numbers of the rows of ``epoch``, in the order of its batches."""
        if not self.shuffle:
            return np.arange(self.rows)
        if self.sampler is None:
            return self.permutation(epoch)
        count, name = len(self._source), type(self.sampler).__name__
        drawn = np.asarray(self.sampler.draw(self._generator(epoch)))
        if drawn.shape != (self.rows,) or drawn.dtype.kind not in "iu":
            raise ValueError(f"{name}.draw returned {drawn.dtype} {drawn.shape}, expected integers ({self.rows},)")
        if drawn.min() < 0 or drawn.max() >= count:
            raise ValueError(f"{name}.draw returned {drawn.min()} .. {drawn.max()}, expected numbers 0 .. {count - 1}")
        return drawn.astype(np.int64, copy=False)

    def row(self, epoch: int, place: int) -> int:
        """The number of the row that comes at ``place`` in ``epoch``: what an error message calls it."""
        return int(self.order(epoch)[place])

    def _generator(self, epoch: int) -> np.random.Generator:
        key = np.array([self.seed, epoch], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def state_key(self) -> dict[str, Any]:
        """What a resumed run has to agree in, so that it sees the same batches."""
        names = ("batch_size", "shuffle", "seed", "drop_last")
        return {
            "rows": len(self._source),
            **{name: getattr(self, name) for name in names},
            "sampler": None if self.sampler is None else self.sampler.state_key(),
            "transform": [describe(function) for function in self._transforms] or None,
        }

    def epoch(self, epoch: int, start: int = 0) -> Generator[tuple[Array, Array], None, None]:
        """The batches ``(x, y)`` of epoch number ``epoch`` from batch ``start`` on, both counted from 0."""
        if self._views is not None:
            views = self._gathered_from if self.shuffle else self._slices
            return views(*self._views, epoch, start)
        produce = partial(self._produce, epoch, start)
        if self.prefetch:
            return ahead(produce, [self._new_slot() for _ in range(self.prefetch + 2)])
        if self._slot is None:
            self._slot = self._new_slot()
        return _bare(produce, self._slot)

    def _new_slot(self) -> Slot:
        return Slot(self._source.buffers(min(self.batch_size, self.rows)))

    def _slices(self, x: Array, y: Array, epoch: int, start: int) -> Generator[tuple[Array, Array], None, None]:
        size = self.batch_size
        for first in range(start * size, len(self) * size, size):
            yield x[first : first + size], y[first : first + size]

    def _gathered_from(
        self, all_x: Array, all_y: Array, epoch: int, start: int
    ) -> Generator[tuple[Array, Array], None, None]:
        size, last = self.batch_size, len(self) * self.batch_size
        order = self.order(epoch)
        if self._slot is None:
            self._slot = self._new_slot()
        x, y = self._slot.x, self._slot.y
        for first in range(start * size, last, size):
            rows = order[first : first + size]
            if len(rows) < len(x):
                x, y = x[: len(rows)], y[: len(rows)]
            # mode="clip" writes straight into out; "raise" would go through a copy
            all_x.take(rows, 0, x, "clip")
            all_y.take(rows, 0, y, "clip")
            yield x, y

    def _produce(self, epoch: int, start: int, slots: Iterable[Slot]) -> Iterator[tuple[Slot, Array, Array]]:
        """Each batch in the next of ``slots``."""
        size = self.batch_size
        transforms = _fresh(self._transforms) if self.prefetch else self._transforms  # each epoch has its thread
        order = self.order(epoch) if self.shuffle else None
        random = BatchRandom(self.seed, epoch) if transforms else None
        for batch, slot in zip(range(start, len(self)), slots, strict=False):
            first = batch * size
            last = min(first + size, self.rows)
            x, y = slot.part(last - first)
            self._source.take(np.arange(first, last) if order is None else order[first:last], x, y)
            if random is not None:
                x, y = apply(transforms, x, y, random.of(batch))
            yield slot, x, y


def _fresh(transforms: Sequence[TransformFunction]) -> list[TransformFunction]:
    return [function.fresh() if isinstance(function, Transform) else function for function in transforms]


def _bare(
    produce: Callable[[Iterable[Slot]], Iterator[tuple[Slot, Array, Array]]], slot: Slot
) -> Generator[tuple[Array, Array], None, None]:
    for _, x, y in produce(_again_and_again(slot)):
        yield x, y


def _again_and_again(slot: Slot) -> Iterator[Slot]:
    while True:
        yield slot
