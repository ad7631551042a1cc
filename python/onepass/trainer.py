"""The training loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from numbers import Real
from os import PathLike
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onepass._interrupts import Interrupts
from onepass._loop import DivergedError, Loop
from onepass._run import Progress, Run
from onepass.callbacks import Callback, ProgressBar
from onepass.data import Batches, RowSequence
from onepass.data.rows import check_sequence, rows_of
from onepass.history import History, Record
from onepass.losses import Loss
from onepass.nn import Layer
from onepass.nn.layer import check_integer
from onepass.optim import Optimizer
from onepass.schedules import Rate, constant

__all__ = ["DivergedError", "Trainer"]

Array = NDArray[Any]


@runtime_checkable
class Metric(Protocol):
    """What `Trainer` asks of a metric."""

    name: str

    def reset(self) -> None: ...

    def update(self, prediction: Array, target: Array) -> None: ...

    def value(self) -> float: ...


def _check_kind(name: str, value: object, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        hint = f"; make one with {value.__name__}(...)" if isinstance(value, type) and issubclass(value, kind) else ""
        raise TypeError(f"{name} is {value!r:.60}, expected {expected}{hint}")


def _check_parameters(model: Layer, optimizer: Optimizer) -> None:
    """An optimizer of other arrays would train them, and the model not at all."""
    own = model.parameters()
    given = [array for group in optimizer.param_groups for array in group["params"]]
    same = len(own) == len(given) and all(
        a.shape == b.shape and a.ctypes.data == b.ctypes.data for a, b in zip(own, given, strict=True)
    )
    if not same:
        raise ValueError(
            f"optimizer has {len(given)} arrays that are not the {len(own)} of model.parameters(), in their order; "
            f"make it with optim.{type(optimizer).__name__}(model.parameters())"
        )


def _check_rows(names: tuple[str, str], x: RowSequence, y: RowSequence) -> None:
    for name, rows in zip(names, (x, y), strict=True):
        check_sequence(name, rows)
    if len(x) != len(y):
        raise ValueError(f"{names[0]} has {len(x)} rows and {names[1]} has {len(y)}, expected equally many")


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
    metrics : sequence of objects with ``name``, ``reset()``, ``update(prediction, target)`` and ``value()``
        Computed by `evaluate` and for the validation rows of `fit`: see `onepass.metrics`.

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
        schedule: Rate | float | None = None,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        metrics: Sequence[Metric] = (),
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
        _check_parameters(model, optimizer)
        if isinstance(metrics, Metric):
            raise TypeError("metrics is a metric, expected a sequence of them: [metric]")
        self.metrics = list(metrics)
        for index, metric in enumerate(self.metrics):
            if not isinstance(metric, Metric):
                raise TypeError(
                    f"metrics[{index}] is {metric!r:.60}, expected an object with name, reset, update and value"
                )
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.schedule: Rate | None = schedule
        self.callbacks = list(callbacks)
        self.seed = seed
        self.epoch = 0
        self.step = 0
        self._stopped = False
        rates = optimizer.learning_rates()
        self._momentum: Rate | None = getattr(schedule, "momentum", None)
        if self._momentum is not None and not {"betas", "momentum"} & optimizer.param_groups[0].keys():
            raise ValueError("schedule has a momentum, but the optimizer has neither momentum nor betas")
        self._ratios = [rate / rates[0] if rates[0] else 1.0 for rate in rates]

    def fit(
        self,
        x: RowSequence | Batches,
        y: RowSequence | None = None,
        epochs: int = 1,
        batch_size: int = 32,
        validation: tuple[RowSequence, RowSequence] | Batches | None = None,
        verbose: bool = False,
        drop_last: bool = False,
        *,
        resume: str | PathLike[str] | None = None,
        save_every: int | None = None,
        keep: int = 2,
        accumulate: int = 1,
        micro_batch: int | None = None,
    ) -> History:
        """Trains for ``epochs`` more epochs and returns their history.

        ``x`` (N, ...) of the model's dtype and ``y`` (N, ...), arrays, memory maps or sequences of rows, are shuffled
        anew each epoch; without ``y``, ``x`` is a sequence of pairs, or `data.Batches` with what they can do, whose
        own ``batch_size`` and ``drop_last`` count: those given here are ignored then.
        ``validation=(x, y)``, or Batches, is evaluated after each epoch.
        ``verbose`` adds a `ProgressBar`. ``drop_last`` leaves out an epoch's last batch if it is smaller than the
        others (batch normalization cannot train on a batch of one row).

        ``accumulate`` batches make one step, of the mean gradient over their rows; what is left at an epoch's end makes
        one too. ``micro_batch``: a batch goes through the model in pieces of so many rows, which bounds the memory.
        Batch normalization sees the pieces; a loss with weights or ignored rows is averaged over each piece on its own.

        ``resume=FOLDER`` makes the run survive: it is saved there, and if the folder holds a run already, goes on from
        its newest good checkpoint, which may be in the middle of an epoch, to the same bits as without the break. Then
        ``epochs`` is the number of epochs of the whole run, and the history returned is the whole run's. The run is
        saved every ``save_every`` steps; None: at the end of an epoch, at most every five seconds; and always at the
        end. ``keep`` checkpoints stay. Needs safetensors.

        Ctrl-C ends the run after the batch at hand: KeyboardInterrupt, whose text says where, and where it was saved.
        With ``resume`` SIGTERM does too (SystemExit). A second Ctrl-C interrupts at once.

        DivergedError, naming epoch, batch and learning rate, when a loss is not finite; it says so if the data hold NaN
        or inf. CheckpointError where ``resume`` holds another run or no good checkpoint; OSError where it cannot be
        written: the last good checkpoint is still there.
        """
        check_integer("epochs", epochs, 1)
        check_integer("batch_size", batch_size, 1)
        check_integer("accumulate", accumulate, 1)
        check_integer("keep", keep, 1)
        for name, value in (("micro_batch", micro_batch), ("save_every", save_every)):
            if value is not None:
                check_integer(name, value, 1)
        if save_every is not None and resume is None:
            raise ValueError("save_every is given without resume, the folder to save in")
        batches = self._batches(x, y, batch_size, drop_last)
        if validation is not None and not isinstance(validation, Batches):
            if not isinstance(validation, (tuple, list)) or len(validation) != 2:
                raise TypeError(f"validation is a {type(validation).__name__}, expected a pair of arrays (x, y)")
            _check_rows(("validation[0]", "validation[1]"), *validation)
        held_out = (validation, None) if isinstance(validation, Batches) else validation
        callbacks = [*self.callbacks, ProgressBar()] if verbose else self.callbacks
        agreed = {**batches.state_key(), "accumulate": accumulate, "micro_batch": micro_batch}
        run = None if resume is None else Run(resume, keep, save_every, self, self.callbacks, agreed)
        with ExitStack() as stack:
            history, progress = History(), Progress()
            if run is not None:
                stack.enter_context(run.locked())
                history, progress = run.load() or (history, progress)
            interrupts = stack.enter_context(Interrupts(terminated=run is not None))
            last = self.epoch + epochs if run is None else epochs
            loop = Loop(self, batches, callbacks, accumulate, micro_batch, run, interrupts)
            self._stopped = run is not None and run.stopped
            try:
                for callback in callbacks:
                    callback.on_fit_begin(self, max(last - self.epoch, 0), loop.steps)
                if run is not None:
                    run.load_callbacks()
                while self.epoch < last and not self._stopped:
                    history.append(self._epoch(loop, progress, held_out))
                    for callback in callbacks:
                        callback.on_epoch_end(self, history[-1])
                    progress = Progress()
                    if run is not None:
                        run.stopped = self._stopped
                        run.epoch_ended(history, last=self.epoch >= last or self._stopped)
                    loop.leave_if_interrupted(history, progress)
            finally:
                for callback in callbacks:
                    callback.on_fit_end(self, history)
        return history

    def _batches(
        self,
        x: RowSequence | Batches,
        y: RowSequence | None,
        batch_size: int,
        drop_last: bool = False,
        shuffle: bool = True,
    ) -> Batches:
        if isinstance(x, Batches):
            if y is not None:
                raise ValueError("y is given beside Batches, which hold the targets already; expected None")
            return x
        if y is not None:
            _check_rows(("x", "y"), x, y)
        return Batches(x, y, batch_size, shuffle, self.seed, drop_last)

    def _epoch(
        self, loop: Loop, progress: Progress, validation: tuple[RowSequence | Batches, RowSequence | None] | None
    ) -> Record:
        started = perf_counter() - progress.seconds
        record, rate = loop.run(progress)
        if validation is not None:
            for callback in loop.callbacks:
                callback.on_validation_begin(self)
            try:
                for name, value in self.evaluate(*validation).items():
                    record[f"validation_{name}"] = value
            finally:
                for callback in reversed(loop.callbacks):
                    callback.on_validation_end(self)
        record["learning_rate"] = rate
        record["seconds"] = perf_counter() - started
        return record

    def set_rates(self) -> None:
        """Writes what the schedule says for the coming step into the optimizer's groups."""
        schedule = self.schedule
        if schedule is None:
            return
        rate = schedule(self.step)
        momentum = None if self._momentum is None else self._momentum(self.step)
        for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = rate * ratio
            if momentum is not None:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum

    def stop(self) -> None:
        """Ends a running `fit` after the current epoch; for callbacks."""
        self._stopped = True

    def evaluate(
        self, x: RowSequence | Batches, y: RowSequence | None = None, batch_size: int = 1024
    ) -> dict[str, float]:
        """``{"loss": ..., "accuracy": ...}`` in inference mode; accuracy for classification only; then the metrics.

        ``x`` (N, ...) and ``y`` (N, ...) as in `fit`, or a `data.Batches` and None: epoch 0 of them, transforms
        included, and without the rows that its ``drop_last`` leaves out; ``batch_size`` is then ignored. The loss is
        the mean of the batches' losses, each weighted with its number of rows.
        """
        check_integer("batch_size", batch_size, 1)
        total, rows, correct = 0.0, 0, 0
        known: int | None = 0
        for metric in self.metrics:
            metric.reset()
        with closing(self._batches(x, y, batch_size, shuffle=False).epoch(0)) as batches:
            for inputs, targets in batches:
                prediction = self.model.forward(inputs, False)
                known = self.loss.correct(prediction, targets)
                correct += known or 0
                total += self.loss(prediction, targets, False)[0] * len(inputs)
                rows += len(inputs)
                for metric in self.metrics:
                    metric.update(prediction, targets)
        result = {"loss": total / rows}
        if known is not None:
            result["accuracy"] = correct / rows
        return {**result, **{metric.name: metric.value() for metric in self.metrics}}

    def predict(self, x: RowSequence | Batches, batch_size: int = 1024) -> Array:
        """The model's output for every row, in inference mode, as a new array (N, ...).

        ``x`` as in `fit`, or `data.Batches` with ``shuffle=False``, transforms included, in batches of their own
        ``batch_size``; ValueError where their ``drop_last`` would leave rows out. For a classifier
        ``predict(x).argmax(axis=1)`` are the labels.
        """
        check_integer("batch_size", batch_size, 1)
        forward = self.model.forward
        if isinstance(x, Batches):
            if x.shuffle:
                raise ValueError("x are Batches that shuffle: what is predicted would be in another order")
            if x.drop_last and (lost := x.rows % x.batch_size):
                raise ValueError(
                    f"x are Batches with drop_last, which leave out {lost} of {x.rows} rows; "
                    "give x.replace(drop_last=False)"
                )
            with closing(x.epoch(0)) as batches:
                return np.concatenate([forward(inputs, False).copy() for inputs, _ in batches])
        starts = range(0, max(len(x), 1), batch_size)
        rows = rows_of("x", x)
        if (view := rows.view(gather=False)) is not None:
            return np.concatenate([forward(view[start : start + batch_size], False).copy() for start in starts])
        buffer = np.empty((min(batch_size, len(rows)), *rows.shape[1:]), rows.dtype)
        found = []
        for start in starts:
            inputs = buffer[: len(rows) - start]
            rows.take(np.arange(start, start + len(inputs)), inputs)
            found.append(forward(inputs, False).copy())
        return np.concatenate(found)
