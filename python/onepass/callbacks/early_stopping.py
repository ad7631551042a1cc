"""The end of a run that no longer gets better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from onepass.callbacks.callback import Callback, Run, better, check_mode, monitored

if TYPE_CHECKING:
    from onepass.history import History, Record
    from onepass.nn.layer import Array

__all__ = ["EarlyStopping"]


class EarlyStopping(Callback):
    """Ends the run ``patience`` epochs after the best one, and restores that one's model.

    Parameters
    ----------
    monitor : str, default "validation_loss"
        A name of the epoch's record.
    patience : int, default 5
        Epochs in a row without a better value.
    min_delta : float, default 0.0
        By how much a value has to be better than the best.
    mode : "auto" (default), "min" or "max"
        "auto": "max" for accuracies and other scores, else "min".
    restore_best : bool, default True
        At the end of fit the model is as in the best epoch; the optimizer is not. Costs a copy of the model's state.

    ``best`` and ``best_epoch`` are None before the first epoch. A NaN is never the best.

    >>> stopping = EarlyStopping("validation_accuracy", patience=3)
    >>> stopping.mode
    'max'
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: Literal["auto", "min", "max"] = "auto",
        restore_best: bool = True,
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}, expected >= 1")
        if not (math.isfinite(min_delta) and min_delta >= 0):
            raise ValueError(f"min_delta is {min_delta}, expected a finite number >= 0")
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.mode = check_mode(mode, monitor)
        self.restore_best = restore_best
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._kept: dict[str, Array] = {}

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        value = monitored(record, self.monitor, "EarlyStopping")
        worst = math.inf if self.mode == "min" else -math.inf
        if better(
            value, worst if self.best is None else self.best, self.mode, 0.0 if self.best is None else self.min_delta
        ):
            self.best, self.best_epoch = value, record["epoch"]
            if self.restore_best:
                for name, array in trainer.model.state().items():
                    np.copyto(self._kept.setdefault(name, np.empty_like(array)), array)
        elif record["epoch"] - (self.best_epoch or 0) >= self.patience:
            trainer.stop()

    def on_fit_end(self, trainer: Run, history: History) -> None:
        if self._kept:
            trainer.model.load_state(self._kept)

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def arrays(self) -> dict[str, Array]:
        return self._kept

    def load_state(self, state: dict[str, Any], arrays: dict[str, Array]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self._kept = dict(arrays)
