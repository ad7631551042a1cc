"""Which rows an epoch draws, where it is not every row once."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onepass.data.rows import Indices
from onepass.nn.layer import check_integer

__all__ = ["ClassBalanced", "Sampler", "Weighted"]


class Sampler:
    """Draws the rows of an epoch; for `Batches`.

    A sampler keeps no state: what it draws is a function of the generator, which `Batches` makes of seed and epoch.
    One's own defines `draw`, and `state_key` if it has settings.

    Attributes
    ----------
    population : int
        The number of rows it draws from.
    rows : int
        How many it draws an epoch.
    """

    population: int
    rows: int

    def draw(self, generator: np.random.Generator) -> Indices:
        """The numbers (rows,) of the rows of an epoch, in their order."""
        raise NotImplementedError

    def state_key(self) -> dict[str, Any]:
        """What a resumed run has to agree in; strings and numbers."""
        return {"sampler": type(self).__name__, "rows": self.rows}


def _check_count(rows: int | None, population: int) -> int:
    if rows is None:
        return population
    check_integer("rows", rows, 1)
    return rows


class Weighted(Sampler):
    """Row ``i`` is drawn with a probability in proportion to ``weights[i]``.

    Parameters
    ----------
    weights : array (N,) of numbers >= 0
    rows : int, default N
        How many are drawn an epoch.
    replacement : bool, default True
        The same row may come again; False: each row of an epoch is drawn from those that are left (then ``rows`` is at
        most the number of weights that are not 0).

    The distribution is that of PyTorch's ``WeightedRandomSampler``. Without replacement the rows are those of the
    smallest ``e / w``, with ``e`` exponentially distributed: Efraimidis and Spirakis, "Weighted random sampling with a
    reservoir", 2006.

    >>> sampler = Weighted([0.0, 1.0, 3.0], rows=4000)
    >>> counts = np.bincount(sampler.draw(np.random.default_rng(0)))
    >>> counts[0].item(), bool(2.7 < counts[2] / counts[1] < 3.3)
    (0, True)
    """

    def __init__(self, weights: ArrayLike, rows: int | None = None, replacement: bool = True) -> None:
        given: NDArray[np.float64] = np.array(weights, np.float64)
        if given.ndim != 1 or len(given) == 0:
            raise ValueError(f"weights has shape {given.shape}, expected one number a row: (N,)")
        wrong = ~(np.isfinite(given) & (given >= 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"weights holds {given[row]} in row {row}, expected finite numbers >= 0")
        self.population = len(given)
        self.rows = _check_count(rows, self.population)
        self.replacement = replacement
        positive = int(np.count_nonzero(given))
        if positive == 0:
            raise ValueError("weights are all 0: nothing can be drawn")
        if not replacement and self.rows > positive:
            raise ValueError(f"rows is {self.rows}, but only {positive} rows have a weight above 0")
        self._digest = zlib.crc32(given.tobytes())
        with np.errstate(over="ignore"):
            total = given.sum()
        self._weights = given / total if np.isfinite(total) else given / given.max()
        self._cumulative = np.cumsum(self._weights)
        self._candidates = np.flatnonzero(given)
        self._log_weights = np.log(given[self._candidates])

    def draw(self, generator: np.random.Generator) -> Indices:
        if self.replacement:
            places = generator.random(self.rows) * self._cumulative[-1]
            found = np.searchsorted(self._cumulative, places, "right")
            last = np.flatnonzero(self._weights)[-1]
            drawn: Indices = np.minimum(found, last)  # where random() * total was rounded up to the total
            return drawn
        exponential = generator.standard_exponential(self.population)[self._candidates]
        with np.errstate(divide="ignore"):
            keys = np.log(exponential) - self._log_weights  # e / w overflows for the smallest w
        order: Indices = self._candidates[np.argsort(keys, kind="stable")[: self.rows]]
        return order

    def state_key(self) -> dict[str, Any]:
        return {**super().state_key(), "replacement": self.replacement, "weights": self._digest}


class ClassBalanced(Sampler):
    """Every class that occurs in ``labels`` is equally likely, then every row of the class; with replacement.

    Parameters
    ----------
    labels : array (N,) of integers
        Of all rows: the ``y`` of the batches.
    rows : int, default N
        How many are drawn an epoch.

    Rare classes are seen as often as frequent ones, their rows many times. A network trained like this gives
    probabilities for classes that are equally frequent.

    >>> sampler = ClassBalanced([0, 0, 0, 0, 0, 0, 1], rows=4000)
    >>> rows = sampler.draw(np.random.default_rng(0))
    >>> bool(0.45 < (rows == 6).mean() < 0.55)
    True
    """

    def __init__(self, labels: ArrayLike, rows: int | None = None) -> None:
        given = np.asarray(labels)
        if given.ndim != 1 or len(given) == 0:
            raise ValueError(f"labels has shape {given.shape}, expected one class a row: (N,)")
        if given.dtype.kind not in "iub":
            raise TypeError(f"labels is {given.dtype}, expected integers")
        self.population = len(given)
        self.rows = _check_count(rows, self.population)
        self._order = np.argsort(given, kind="stable")
        self._counts = np.unique(given, return_counts=True)[1]
        self._starts = np.cumsum(self._counts) - self._counts
        self._digest = zlib.crc32(given.astype(np.int64).tobytes())

    def draw(self, generator: np.random.Generator) -> Indices:
        classes = generator.integers(len(self._counts), size=self.rows)
        drawn: Indices = self._order[self._starts[classes] + generator.integers(self._counts[classes])]
        return drawn

    def state_key(self) -> dict[str, Any]:
        return {**super().state_key(), "labels": self._digest}
