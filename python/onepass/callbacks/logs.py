"""Records of a run outside of its history."""

from __future__ import annotations

import csv
import os
import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onepass._extras import require
from onepass.callbacks.callback import Callback, Run

if TYPE_CHECKING:
    from onepass.history import History, Record

__all__ = ["CSVLogger", "LearningRateMonitor", "TensorBoard"]


class CSVLogger(Callback):
    """One line an epoch in ``path``: the epoch's record, written through at once.

    A resumed run goes on in the file; lines of epochs that are trained again are replaced. A disk that is full is a
    warning, not the end of the run.

    >>> CSVLogger("history.csv").path.name
    'history.csv'
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._columns: list[str] = []
        self._failed = False

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        self._columns, self._failed = [], False

    def _kept(self, epoch: int) -> list[dict[str, str]]:
        """What is in the file of epochs before ``epoch``."""
        if epoch == 1 or not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return [
                row for row in csv.DictReader(file) if row.get("epoch", "").isdecimal() and int(row["epoch"]) < epoch
            ]

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        if self._failed:
            return
        try:
            if self._columns != list(record):
                self._columns = list(record)
                kept = self._kept(record["epoch"])
                with open(self.path, "w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, self._columns, extrasaction="ignore", restval="")
                    writer.writeheader()
                    writer.writerows(kept)
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(record)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._failed = True
            message = f"{self.path} cannot be written: {error.strerror}; the run goes on without it"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


class LearningRateMonitor(Callback):
    """``rates``: the learning rates of all groups, ``[step, rate, rate, ...]`` a step.

    The history has the first group's last rate of each epoch in any case.

    >>> LearningRateMonitor().rates
    []
    """

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_step_end(self, trainer: Run, loss: float) -> None:
        self.rates.append([trainer.step, *(float(group["lr"]) for group in _groups(trainer))])

    def state(self) -> dict[str, Any]:
        return {"rates": self.rates}

    def load_state(self, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.rates = [list(row) for row in state["rates"]]


def _groups(trainer: Run) -> list[dict[str, Any]]:
    rates = trainer.optimizer.learning_rates()
    return [{**group, "lr": rate} for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True)]


class TensorBoard(Callback):
    """The epochs' records and the steps' losses as curves for TensorBoard, by tensorboardX.

    Parameters
    ----------
    folder : path
    every : int, default 10
        Of so many steps the loss of one is written.

    >>> TensorBoard("runs/tensorboard").every
    10
    """

    def __init__(self, folder: str | PathLike[str], every: int = 10) -> None:
        if every < 1:
            raise ValueError(f"every is {every}, expected >= 1")
        self.folder = Path(folder)
        self.every = every
        self._writer: Any = None

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        writer = require("tensorboardX", "tensorboard").SummaryWriter
        # what a killed run wrote after its last checkpoint is hidden
        self._writer = writer(str(self.folder), purge_step=trainer.step + 1, write_to_disk=True)

    def on_step_end(self, trainer: Run, loss: float) -> None:
        if trainer.step % self.every == 0:
            self._writer.add_scalar("step/loss", loss, trainer.step)

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        for name, value in record.items():
            if name not in ("epoch", "step"):
                part = "validation" if name.startswith("validation_") else "training"
                self._writer.add_scalar(f"{part}/{name.removeprefix('validation_')}", value, record["step"])
        self._writer.flush()

    def on_fit_end(self, trainer: Run, history: History) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
