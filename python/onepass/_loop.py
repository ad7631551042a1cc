"""The batches of an epoch, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onepass._accumulation import Accumulation
from onepass._interrupts import Interrupts
from onepass._run import Progress, Run
from onepass.callbacks import Callback
from onepass.data import Batches
from onepass.history import History, Record
from onepass.nn.buffer import Buffer

if TYPE_CHECKING:
    from onepass.trainer import Trainer

__all__ = ["DivergedError", "Loop"]

Array = NDArray[Any]


class DivergedError(ArithmeticError):
    """The loss of a batch is NaN or infinite; that batch has changed no parameter.

    ``args`` are two texts: what happened, and the remedy.
    """

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def _row_of_nan(array: Array) -> int | None:
    """The first row that holds what is not finite; None where all are."""
    if array.dtype.kind != "f":
        return None
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return None if finite.all() else int(finite.argmin())


class Loop:
    """Forward, backward and steps of `Trainer.fit`."""

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        callbacks: Sequence[Callback],
        accumulate: int,
        micro_batch: int | None,
        run: Run | None,
        interrupts: Interrupts,
    ) -> None:
        self.trainer = trainer
        self.batches = batches
        self.callbacks = callbacks
        self.steps = -(-len(batches) // accumulate)  # of an epoch
        self._watchers: list[Callable[[Trainer, float], None]] = [
            callback.on_step_end for callback in callbacks if type(callback).on_step_end is not Callback.on_step_end
        ]
        self._accumulate = accumulate
        self._micro_batch = micro_batch
        self._run = run
        self._interrupts = interrupts
        self._gradients = trainer.model.gradients()
        self._accumulation = Accumulation(self._gradients)
        self._grad = Buffer()
        self._in_place = not trainer.model.keeps_output  # the loss may write its gradient over the prediction

    def run(self, progress: Progress) -> tuple[Record, float]:
        """The rest of the epoch after ``progress``, and the last step's learning rate."""
        trainer, optimizer, count = self.trainer, self.trainer.optimizer, len(self.batches)
        whole = self._accumulate == 1 and self._micro_batch is None
        accumulation = self._accumulation
        accumulation.clear()
        rate, losses, rows = math.nan, 0.0, 0
        with closing(self.batches.epoch(trainer.epoch, progress.batch)) as batches:
            for batch, (x, y) in enumerate(batches, progress.batch + 1):
                if batch == count:
                    trainer.set_rates()
                    rate = float(optimizer.learning_rates()[0])  # the epoch's last
                if whole:
                    losses, rows = self._piece(x, y, progress, batch), 1
                    trainer.set_rates()
                    progress.skipped += optimizer.step(self._gradients).skipped
                else:
                    pieces = self._micro_batch or len(x)
                    for start in range(0, len(x), pieces):
                        inputs = x[start : start + pieces]
                        losses += self._piece(inputs, y[start : start + pieces], progress, batch, start) * len(inputs)
                        accumulation.add(len(inputs))
                    if batch % self._accumulate and batch < count:
                        continue
                    trainer.set_rates()
                    rows = accumulation.rows
                    progress.skipped += optimizer.step(accumulation.total, rows).skipped
                    accumulation.clear()
                trainer.step += 1
                progress.batch = batch
                for watcher in self._watchers:
                    watcher(trainer, losses / rows)
                losses = 0.0
                if batch < count:  # the epoch's end has more to do
                    if self._run is not None:
                        self._run.step_ended(progress)
                    self.leave_if_interrupted(None, progress)
        trainer.epoch += 1
        return progress.record(trainer.epoch, trainer.step), rate

    def _piece(self, x: Array, y: Array, progress: Progress, batch: int, start: int = 0) -> float:
        """Forward, loss and backward; the gradients are then of the mean over these rows (from ``start`` on)."""
        trainer = self.trainer
        model, loss_function = trainer.model, trainer.loss
        prediction = model.forward(x, True)
        if progress.known:
            right = loss_function.correct(prediction, y)
            progress.known = right is not None
            progress.correct += right or 0
        grad = prediction if self._in_place else self._grad.get(prediction.shape, prediction.dtype)
        loss, gradient = loss_function(prediction, y, grad)
        if not math.isfinite(loss):
            trainer.set_rates()
            bad = self._holding_nan(x, y, batch, start)
            raise DivergedError(
                f"the loss is {loss} in epoch {trainer.epoch + 1}, batch {batch} of "
                f"{len(self.batches)}, at learning rate {trainer.optimizer.learning_rates()[0]:.4g}",
                f"{bad}: repair the data" if bad else "lower the learning rate, warm up, or clip with max_norm",
            )
        assert gradient is not None
        model.backward(gradient, False)
        progress.total += loss * len(x)
        progress.rows += len(x)
        return loss

    def _holding_nan(self, x: Array, y: Any, batch: int, start: int) -> str | None:
        """Where a piece of a batch holds what is not finite, in rows of the data. ``y`` may be a pair (y, weight)."""
        targets = zip(("y", "weight"), y, strict=True) if isinstance(y, tuple) else [("y", y)]
        for name, array in [("x", x), *targets]:
            row = _row_of_nan(array)
            if row is None:
                continue
            if self.batches.transform is not None:
                return f"{name}, transformed, holds NaN or inf"
            place = (batch - 1) * self.batches.batch_size + start + row
            return f"{name} holds NaN or inf in row {self.batches.row(self.trainer.epoch, place)}"
        return None

    def leave_if_interrupted(self, history: History | None, progress: Progress) -> None:
        """Saves the run and raises, if a signal asked for it. ``history`` at an epoch's end, which saved already."""
        if self._interrupts.received is None:
            return
        trainer = self.trainer
        where = f"after step {trainer.step}, batch {progress.batch} of {len(self.batches)} in epoch {trainer.epoch + 1}"
        if history is not None:
            where = (
                f"after step {trainer.step}, batch {len(self.batches)} of {len(self.batches)} in epoch {trainer.epoch}"
            )
        saved = "" if self._run is None else f"; saved in {self._run.save(progress)}"
        self._interrupts.leave(f"stopped {where}{saved}")
