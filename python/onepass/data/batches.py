"""Mini-batches in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batches"]

Array = NDArray[Any]


class Batches:
    """The rows of ``x`` (N, ...) and ``y`` (N, ...) in batches, shuffled anew each epoch.

    Parameters
    ----------
    x, y : arrays of equal length N >= 1
    batch_size : int
    shuffle : bool, default True
        False: the rows in their order, as views of ``x`` and ``y``.
    seed : int, default 0
        The permutation of an epoch is a function of ``(seed, epoch)`` and nothing else (the
        counter-based Philox generator with that key), so that a resumed run sees the same batches.
    drop_last : bool, default False
        Leave out the last batch of an epoch if it is smaller than the others.

    A shuffled batch is gathered into two buffers, which the next one overwrites.

    >>> batches = Batches(np.arange(5.0), np.arange(5), batch_size=2, seed=1)
    >>> len(batches)
    3
    >>> sorted(row for x, y in batches.epoch(0) for row in y.tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if len(x) != len(y):
            raise ValueError(f"x has {len(x)} rows and y has {len(y)}, expected equally many")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected >= 1")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}, expected 0 <= seed < 2**64")
        if len(x) < (batch_size if drop_last else 1):
            raise ValueError(f"x has {len(x)} rows: not one batch")
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        rows = min(batch_size, len(x)) if shuffle else 0
        self._x = np.empty((rows, *x.shape[1:]), x.dtype)
        self._y = np.empty((rows, *y.shape[1:]), y.dtype)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole, rest = divmod(len(self.x), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """The order of the rows in ``epoch`` (N,)."""
        key = np.array([self.seed, epoch], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(len(self.x))

    def state_key(self) -> dict[str, Any]:
        """What a resumed run has to agree in, so that it sees the same batches."""
        names = ("batch_size", "shuffle", "seed", "drop_last")
        return {"rows": len(self.x), **{name: getattr(self, name) for name in names}}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """The batches ``(x, y)`` of epoch number ``epoch`` from batch ``start`` on, both counted from 0."""
        size, last = self.batch_size, len(self) * self.batch_size
        if not self.shuffle:
            for first in range(start * size, last, size):
                yield self.x[first : first + size], self.y[first : first + size]
            return
        order = self.permutation(epoch)
        x, y = self._x, self._y
        for first in range(start * size, last, size):
            rows = order[first : first + size]
            if len(rows) < len(x):
                x, y = x[: len(rows)], y[: len(rows)]
            # mode="clip" writes straight into out; "raise" would go through a copy
            self.x.take(rows, 0, x, "clip")
            self.y.take(rows, 0, y, "clip")
            yield x, y
