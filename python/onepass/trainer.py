"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.callbacks import Callback, ProgressBar
from onepass.data import Batches
from onepass.history import History, Record
from onepass.losses import Loss
from onepass.nn import Layer
from onepass.nn.buffer import Buffer
from onepass.nn.layer import check_integer
from onepass.optim import Optimizer
from onepass.schedules import Schedule, constant

__all__ = ["DivergedError", "Trainer"]

Array = NDArray[Any]


class DivergedError(ArithmeticError):
    """The loss of a batch is NaN or infinite; that batch has changed no parameter.

    ``args`` are two texts: what happened, and the remedy.
    """

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def _check_kind(name: str, value: object, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        hint = f"; make one with {value.__name__}(...)" if isinstance(value, type) and issubclass(value, kind) else ""
        raise TypeError(f"{name} is {value!r:.60}, expected {expected}{hint}")


def _check_rows(names: tuple[str, str], x: object, y: object) -> None:
    for name, array in zip(names, (x, y), strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is a {type(array).__name__}, expected a NumPy array; make one with numpy.asarray")
        if array.ndim == 0:
            raise ValueError(f"{name} has no rows, its shape is ()")
    assert isinstance(x, np.ndarray)
    assert isinstance(y, np.ndarray)
    if len(x) != len(y):
        raise ValueError(f"{names[0]} has {len(x)} rows and {names[1]} has {len(y)}, expected equally many")


def _holding_nan(name: str, array: Array) -> str | None:
    """Where ``array`` holds what is not finite."""
    if array.dtype.kind != "f":
        return None
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return None if finite.all() else f"{name} holds NaN or inf in row {int(finite.argmin())}"


class Trainer:
    """Trains ``model`` with ``optimizer`` on ``loss``.

    Parameters
    ----------
    model : nn.Layer
    loss : losses.Loss
    optimizer : optim.Optimizer
        Of ``model.parameters()``, in this order, in one group or several.
    schedule : function step -> learning rate, a number, or None
        Called before every update; a number is `schedules.constant`. The first group gets its value;
        the others keep the ratio to the first that they had when the trainer was made. It replaces
        schedules that the optimizer has as its ``lr``. None leaves rates and such schedules alone.
    callbacks : sequence of callbacks.Callback
    seed : int, default 0
        Of the shuffling.

    ``epoch`` and ``step`` count what is done over all calls of `fit`, and decide the shuffling and
    the learning rate; set them to go on with a saved run.

    >>> import numpy as np
    >>> from onepass import losses, nn, optim
    >>> from onepass.trainer import Trainer
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(64, 1)
    >>> y = (x[:, 0] > 0).astype(np.int64)
    >>> model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.05))
    >>> history = trainer.fit(x, y, epochs=20, batch_size=16)
    >>> history[-1]["accuracy"] > 0.9, trainer.step
    (True, 80)
    """

    def __init__(
        self,
        model: Layer,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule | float | None = None,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
    ) -> None:
        _check_kind("model", model, Layer, "an object of nn.Layer")
        _check_kind("loss", loss, Loss, "an object of losses.Loss")
        _check_kind("optimizer", optimizer, Optimizer, "an object of optim.Optimizer")
        if isinstance(schedule, Real):
            schedule = constant(float(schedule))
        elif schedule is not None and not callable(schedule):
            raise TypeError(f"schedule is {schedule!r:.60}, expected a function step -> rate, a number, or None")
        if isinstance(callbacks, Callback):
            raise TypeError("callbacks is a callback, expected a sequence of them: [callback]")
        for index, callback in enumerate(callbacks):
            _check_kind(f"callbacks[{index}]", callback, Callback, "an object of callbacks.Callback")
        check_integer("seed", seed, 0)
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.schedule: Schedule | None = schedule
        self.callbacks = list(callbacks)
        self.seed = seed
        self.epoch = 0
        self.step = 0
        self._stopped = False
        self._grad = Buffer()
        rates = optimizer.learning_rates()
        self._ratios = [rate / rates[0] if rates[0] else 1.0 for rate in rates]

    def fit(
        self,
        x: Array,
        y: Array,
        epochs: int = 1,
        batch_size: int = 32,
        validation: tuple[Array, Array] | None = None,
        verbose: bool = False,
        drop_last: bool = False,
    ) -> History:
        """Trains for ``epochs`` more epochs and returns their history.

        ``x`` (N, ...) of the model's dtype and ``y`` (N, ...) are shuffled anew each epoch.
        ``validation=(x, y)`` is evaluated after each epoch. ``verbose`` adds a `ProgressBar`.
        ``drop_last`` leaves out an epoch's last batch if it is smaller than the others (batch
        normalization cannot train on a batch of one row).
        DivergedError, naming epoch, batch and learning rate, when a loss is not finite; it says so
        if the data hold NaN or inf.
        """
        check_integer("epochs", epochs, 1)
        check_integer("batch_size", batch_size, 1)
        _check_rows(("x", "y"), x, y)
        if validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) != 2:
                raise TypeError(f"validation is a {type(validation).__name__}, expected a pair of arrays (x, y)")
            _check_rows(("validation[0]", "validation[1]"), *validation)
        batches = Batches(x, y, batch_size, seed=self.seed, drop_last=drop_last)
        callbacks = [*self.callbacks, ProgressBar()] if verbose else self.callbacks
        watchers = [
            callback.on_step_end for callback in callbacks if type(callback).on_step_end is not Callback.on_step_end
        ]
        history = History()
        self._stopped = False
        try:
            for callback in callbacks:
                callback.on_fit_begin(self, epochs, len(batches))
            for _ in range(epochs):
                started = perf_counter()
                record, rate = self._train_epoch(batches, watchers)
                if validation is not None:
                    for name, value in self.evaluate(*validation).items():
                        record[f"validation_{name}"] = value
                record["learning_rate"] = rate
                record["seconds"] = perf_counter() - started
                history.append(record)
                for callback in callbacks:
                    callback.on_epoch_end(self, record)
                if self._stopped:
                    break
        finally:
            for callback in callbacks:
                callback.on_fit_end(self, history)
        return history

    def _train_epoch(
        self, batches: Batches, watchers: Sequence[Callable[[Trainer, float], None]]
    ) -> tuple[Record, float]:
        model, loss_function, optimizer = self.model, self.loss, self.optimizer
        schedule, gradients = self.schedule, model.gradients()
        in_place = not model.keeps_output  # the loss may write its gradient over the prediction
        total, rows, correct, skipped, rate = 0.0, 0, 0, 0, math.nan
        known: int | None = 0
        for batch, (x, y) in enumerate(batches.epoch(self.epoch)):
            if schedule is not None:
                self._set_learning_rate(schedule(self.step))
            if batch == len(batches) - 1:
                rate = float(optimizer.learning_rates()[0])  # the epoch's last
            prediction = model.forward(x, True)
            if known is not None:
                known = loss_function.correct(prediction, y)
                correct += known or 0
            grad = prediction if in_place else self._grad.get(prediction.shape, prediction.dtype)
            loss, gradient = loss_function(prediction, y, grad)
            if not math.isfinite(loss):
                bad = _holding_nan("x", batches.x) or _holding_nan("y", batches.y)
                raise DivergedError(
                    f"the loss is {loss} in epoch {self.epoch + 1}, batch {batch + 1} of "
                    f"{len(batches)}, at learning rate {optimizer.learning_rates()[0]:.4g}",
                    f"{bad}: repair the data" if bad else "lower the learning rate, warm up, or clip with max_norm",
                )
            assert gradient is not None
            model.backward(gradient, False)
            skipped += optimizer.step(gradients).skipped
            self.step += 1
            total += loss * len(x)
            rows += len(x)
            for watcher in watchers:
                watcher(self, loss)
        self.epoch += 1
        record: Record = {"epoch": self.epoch, "step": self.step, "loss": total / rows}
        if known is not None:
            record["accuracy"] = correct / rows
        record["skipped"] = skipped
        return record, rate

    def _set_learning_rate(self, rate: float) -> None:
        for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio

    def stop(self) -> None:
        """Ends a running `fit` after the current epoch; for callbacks."""
        self._stopped = True

    def evaluate(self, x: Array, y: Array, batch_size: int = 1024) -> dict[str, float]:
        """``{"loss": ..., "accuracy": ...}`` in inference mode; accuracy for classification only.

        The loss is the mean of the batches' losses, each weighted with its number of rows.
        """
        _check_rows(("x", "y"), x, y)
        total, correct = 0.0, 0
        known: int | None = 0
        for rows, targets in Batches(x, y, batch_size, shuffle=False).epoch(0):
            prediction = self.model.forward(rows, False)
            known = self.loss.correct(prediction, targets)
            correct += known or 0
            total += self.loss(prediction, targets, False)[0] * len(rows)
        result = {"loss": total / len(x)}
        if known is not None:
            result["accuracy"] = correct / len(x)
        return result

    def predict(self, x: Array, batch_size: int = 1024) -> Array:
        """The model's output for every row, in inference mode, as a new array (N, ...).

        For a classifier ``predict(x).argmax(axis=1)`` are the labels.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected >= 1")
        return np.concatenate(
            [
                self.model.forward(x[start : start + batch_size], False).copy()
                for start in range(0, max(len(x), 1), batch_size)
            ]
        )
