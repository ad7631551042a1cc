"""What to choose before a long run: the learning rate and the batch size. The trainer is left as it was, to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._extras import require
from onepass._loop import DivergedError
from onepass.callbacks import Callback, Run
from onepass.data import Batches, RowSequence, Sampler
from onepass.nn.layer import check_integer
from onepass.schedules import Schedule
from onepass.trainer import Trainer

__all__ = ["BatchSizeResult", "LRFindResult", "find_batch_size", "lr_find"]

ROWS = 4096  # of a run of find_batch_size, and at least 16 batches


@contextmanager
def _restored(trainer: Trainer) -> Iterator[None]:
    """Model, optimizer and counters are afterwards as they were before."""
    model = {name: array.copy() for name, array in trainer.model.state().items()}
    state = trainer.optimizer.state_dict()
    kept = {
        i: {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in s.items()} for i, s in state["state"].items()
    }
    groups = [dict(group) for group in trainer.optimizer.param_groups]
    others = trainer.epoch, trainer.step, trainer.schedule, trainer.callbacks
    trainer.callbacks = []
    try:
        yield
    finally:
        trainer.model.load_state(model)
        trainer.optimizer.load_state_dict({**state, "state": kept})
        for group, before in zip(trainer.optimizer.param_groups, groups, strict=True):
            group.update(before)
        trainer.epoch, trainer.step, trainer.schedule, trainer.callbacks = others


@dataclass(frozen=True)
class LRFindResult:
    """``learning_rates`` and the ``losses`` of their batches; ``smoothed``, what the suggestion is read from."""

    learning_rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Loss against learning rate, the suggestion marked: matplotlib's Figure, and a PNG if there is a ``path``."""
        figure = require("matplotlib.figure").Figure(figsize=(6, 3.8), layout="constrained")
        axes = figure.add_subplot(
            xlabel="learning rate", ylabel="loss of a batch", xscale="log", title="Learning-rate range test"
        )
        axes.plot(self.learning_rates, self.losses, color="C0", alpha=0.35, label="batch")
        axes.plot(self.learning_rates, self.smoothed, color="C0", label="smoothed")
        axes.axvline(self.suggestion, color="C1", linestyle="--", label=f"suggestion {self.suggestion:.2g}")
        low = min(loss for loss in (*self.smoothed, *self.losses) if math.isfinite(loss))
        high = max(self.smoothed[0], low)
        axes.set_ylim(low - 0.1 * (high - low) - 1e-9, high + 0.4 * (high - low) + 1e-9)
        axes.grid(alpha=0.3)
        axes.legend()
        if path is not None:
            figure.savefig(path, dpi=150, format="png")
        return figure


class _Watch(Callback):
    """Keeps the losses and ends the test where they are far above the lowest."""

    def __init__(self, smoothing: float, limit: float) -> None:
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self._smoothing, self._limit, self._average = smoothing, limit, 0.0

    def on_step_end(self, trainer: Run, loss: float) -> None:
        self._average = self._smoothing * self._average + (1 - self._smoothing) * loss
        self.losses.append(loss)
        self.smoothed.append(self._average / (1 - self._smoothing ** len(self.losses)))  # unbiased, as Adam's averages
        if len(self.losses) > 10 and self.smoothed[-1] > self._limit * min(self.smoothed):
            raise _EnoughError


class _EnoughError(Exception):
    pass


def lr_find(
    trainer: Trainer,
    x: RowSequence | Batches,
    y: RowSequence | None = None,
    batch_size: int = 32,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
) -> LRFindResult:
    """The learning-rate range test: one batch a step while the rate grows from ``start`` to ``end``.

    ``x``, ``y`` and ``batch_size`` as in `Trainer.fit`: arrays, sequences, or `data.Batches`.

    It grows by the same factor each step, until the smoothed loss is four times the lowest one or no longer finite:
    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017; as in fastai. The suggestion is the rate where
    the smoothed loss falls most steeply against the logarithm of the rate. Groups keep their ratios. The trainer is
    left as it was; its own schedule and callbacks take no part. A loss that never falls (a rate too large from the
    start, or targets without a relation to x) is a ValueError.

    >>> from onepass import losses, nn, optim
    >>> x = np.random.default_rng(0).normal(size=(256, 8)).astype(np.float32)
    >>> y = (x[:, 0] > 0).astype(np.int64)
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters()))
    >>> 1e-4 < lr_find(trainer, x, y).suggestion < 1
    True
    """
    check_integer("steps", steps, 20)
    check_integer("batch_size", batch_size, 1)
    if not 0 < start < end < math.inf:
        raise ValueError(f"start and end are {start} and {end}, expected 0 < start < end")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}, expected a number in [0, 1)")
    watch = _Watch(smoothing, 4.0)
    first = trainer.step
    last_of_one = not isinstance(x, Batches) and len(x) % batch_size == 1
    batches = x if isinstance(x, Batches) else Batches(x, y, batch_size, seed=trainer.seed, drop_last=last_of_one)
    with _restored(trainer):
        trainer.callbacks = [watch, _StopAfter(steps)]
        trainer.schedule = Schedule(lambda step: start * (end / start) ** ((step - first) / (steps - 1)), "lr_find")
        with suppress(_EnoughError, DivergedError):
            trainer.fit(batches, epochs=-(-steps // len(batches)))
    rates = [start * (end / start) ** (step / (steps - 1)) for step in range(len(watch.losses))]
    lowest = int(np.argmin(watch.smoothed)) if watch.smoothed else 0
    if lowest < 3:
        raise ValueError(
            f"the loss never falls between learning rates {start:g} and {end:g}; begin with a smaller start"
        )
    slopes = np.gradient(watch.smoothed[: lowest + 1], np.log(rates[: lowest + 1]))
    return LRFindResult(rates, watch.losses, watch.smoothed, rates[int(np.argmin(slopes))])


class _StopAfter(Callback):
    def __init__(self, steps: int) -> None:
        self._left = steps

    def on_step_end(self, trainer: Run, loss: float) -> None:
        self._left -= 1
        if self._left == 0:
            raise _EnoughError


@dataclass(frozen=True)
class BatchSizeResult:
    """``rows_per_second`` of training for each of ``batch_sizes``, and the smallest nearly as fast as the best."""

    batch_sizes: list[int]
    rows_per_second: list[float]
    suggestion: int

    def table(self) -> str:
        lines = [f"{'batch size':>10}  {'rows/s':>10}"]
        pairs = zip(self.batch_sizes, self.rows_per_second, strict=True)
        lines += [f"{size:10d}  {rate:10.0f}{'  <' if size == self.suggestion else ''}" for size, rate in pairs]
        return "\n".join(lines)


class _Some(Sampler):
    """Any ``rows`` of ``population``, for what only takes time."""

    def __init__(self, population: int, rows: int) -> None:
        self.population, self.rows = population, rows

    def draw(self, generator: np.random.Generator) -> NDArray[np.int64]:
        return generator.integers(self.population, size=self.rows)


def find_batch_size(
    trainer: Trainer,
    x: RowSequence | Batches,
    y: RowSequence | None = None,
    smallest: int = 8,
    largest: int = 4096,
    share: float = 0.9,
    rounds: int = 5,
) -> BatchSizeResult:
    """How many rows a second training takes at powers of two from ``smallest`` to ``largest`` (or the number of rows).

    The suggestion is the smallest batch size that reaches ``share`` of the best: beyond it steps only get rarer. What a
    batch size does to the result is another question, which no time answers. For each size the median of ``rounds``
    runs of at least ten milliseconds; on a busy machine the figures wander. The trainer is left as it was. Of
    `data.Batches` the transforms and the prefetching count too; of large data some rows are drawn.

    >>> from onepass import losses, nn, optim
    >>> x, y = np.ones((64, 8), np.float32), np.zeros(64, np.int64)
    >>> model = nn.Sequential(nn.Linear(8, 2))
    >>> trainer = Trainer(model, losses.CrossEntropy(), optim.SGD(model.parameters(), lr=0.0))
    >>> find_batch_size(trainer, x, y, largest=32, rounds=1).batch_sizes
    [8, 16, 32]
    """
    for name, value in (("smallest", smallest), ("rounds", rounds)):
        check_integer(name, value, 1)
    check_integer("largest", largest, smallest)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a number in (0, 1]")
    batches = x if isinstance(x, Batches) else Batches(x, y, 1, seed=trainer.seed)
    count = batches.rows if batches.sampler is None else batches.sampler.population
    sizes = [smallest << shift for shift in range(64) if smallest << shift <= min(largest, count)]
    if not sizes:
        raise ValueError(f"x has {count} rows, fewer than smallest, {smallest}")
    rates = []
    with _restored(trainer):
        for size in sizes:
            rows = min(count // size, max(ROWS // size, 16)) * size
            some = batches.replace(batch_size=size, shuffle=True, sampler=_Some(count, rows))
            times: list[float] = []
            while len(times) < rounds + 1:  # the first one warms up
                started, epochs = perf_counter(), 0
                while perf_counter() - started < 0.01 or epochs == 0:
                    trainer.fit(some)
                    epochs += 1
                times.append((perf_counter() - started) / epochs)
            rates.append(rows / float(np.median(times[1:])))
    best = max(rates)
    return BatchSizeResult(sizes, rates, next(s for s, rate in zip(sizes, rates, strict=True) if rate >= share * best))
