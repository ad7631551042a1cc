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
        Asked once an epoch, where ``shuffle``; asking for the order of the same epoch again draws nothing.
    numbers : array (N,) of integers, or None
        What the rows are called in error messages, where they are some of the caller's; None for 0 .. N - 1.

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
        numbers: Array | None = None,
    ) -> None:
        super().__init__(x, y, batch_size, shuffle, drop_last=drop_last)
        self.weight = weight
        self._random_state = random_state
        self._numbers = numbers
        self._order = np.arange(len(x))
        self._drawn: int | None = None  # the epoch whose order it is

    def permutation(self, epoch: int) -> Array:
        if epoch == self._drawn:
            return self._order
        shuffled = np.arange(len(self.x))
        self._random_state.shuffle(shuffled)
        self._order = self._order[shuffled]
        self._drawn = epoch
        return self._order

    def row(self, epoch: int, place: int) -> int:
        row = super().row(epoch, place)
        return row if self._numbers is None else int(self._numbers[row])

    def epoch(self, epoch: int, start: int = 0) -> Generator[tuple[Array, Any], None, None]:
        weight = self.weight
        if weight is None:
            yield from super().epoch(epoch, start)
            return
        first = start * self.batch_size
        for x, y in super().epoch(epoch, start):
            yield x, (y, weight[self._order[first : first + len(x)]])
            first += len(x)
