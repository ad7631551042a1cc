"""Mini-batches in scikit-learn's order, with a weight a row."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from onepass.data import Batches
from onepass.nn.layer import Array

__all__ = ["RowBatches"]


class RowBatches(Batches):
    """`data.Batches` that are shuffled as scikit-learn's estimators shuffle: each epoch the order of the last one.

    Parameters
    ----------
    x, y, batch_size, shuffle, drop_last : see `data.Batches`
    weight : array (N,) or None
        With it a target is a pair ``(y, weight)``.
    random_state : numpy.random.RandomState
        Asked once an epoch, where ``shuffle``.

    >>> batches = RowBatches(np.arange(4.0), np.arange(4), np.ones(4), 2, False, np.random.RandomState(0))
    >>> [x.tolist() for x, (y, weight) in batches.epoch(0)]
    [[0.0, 1.0], [2.0, 3.0]]
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        weight: Array | None,
        batch_size: int,
        shuffle: bool,
        random_state: np.random.RandomState,
        drop_last: bool = False,
    ) -> None:
        super().__init__(x, y, batch_size, shuffle, drop_last=drop_last)
        self.weight = weight
        self._random_state = random_state
        self._order = np.arange(len(x))

    def permutation(self, epoch: int) -> Array:
        shuffled = np.arange(len(self.x))
        self._random_state.shuffle(shuffled)
        self._order = self._order[shuffled]
        return self._order

    def epoch(self, epoch: int, start: int = 0) -> Generator[tuple[Array, Any], None, None]:
        weight = self.weight
        if weight is None:
            yield from super().epoch(epoch, start)
            return
        first = start * self.batch_size
        for x, y in super().epoch(epoch, start):
            yield x, (y, weight[self._order[first : first + len(x)]])
            first += len(x)
