"""Checkpoints of chosen epochs."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onepass import checkpoint
from onepass.callbacks.callback import Callback, Run, better, check_mode, monitored

if TYPE_CHECKING:
    from onepass.history import Record

__all__ = ["Checkpoint"]


class Checkpoint(Callback):
    """Saves model and optimizer with `checkpoint.save` after epochs. (``fit(resume=...)`` saves a run by itself.)

    Parameters
    ----------
    folder : path
        ``{epoch}`` in it becomes the epoch's number; otherwise one checkpoint replaces the other.
    monitor : str or None, default None
        Save only when this entry of the epoch's record is the best so far.
    mode : "auto" (default), "min" or "max"
    every : int, default 1
        Of so many epochs one is looked at.

    >>> Checkpoint("runs/epoch-{epoch}", every=5).folder
    'runs/epoch-{epoch}'
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        monitor: str | None = None,
        mode: Literal["auto", "min", "max"] = "auto",
        every: int = 1,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}, expected >= 1")
        self.folder = str(folder)
        self.monitor = monitor
        self.mode = check_mode(mode, monitor or "")
        self.every = every
        self.best: float | None = None
        self.saved: Path | None = None

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        if record["epoch"] % self.every:
            return
        if self.monitor is not None:
            value = monitored(record, self.monitor, "Checkpoint")
            worst = math.inf if self.mode == "min" else -math.inf
            if not better(value, worst if self.best is None else self.best, self.mode, 0.0):
                return
            self.best = value
        self.saved = Path(self.folder.replace("{epoch}", str(record["epoch"])))
        checkpoint.save(self.saved, trainer.model, trainer.optimizer, {"record": record})

    def state(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state(self, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.best = state["best"]
