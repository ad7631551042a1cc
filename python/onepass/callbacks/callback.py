"""What every callback has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from onepass.history import History, Record
    from onepass.losses import Loss
    from onepass.nn.layer import Array, Layer
    from onepass.optim.optimizer import Optimizer

__all__ = ["Callback", "Run", "better", "check_mode", "monitored"]


class Run(Protocol):
    """What a callback sees of a trainer."""

    model: Layer
    loss: Loss
    optimizer: Optimizer
    schedule: Callable[[int], float] | None
    epoch: int
    """Epochs done, also those of earlier calls of fit."""
    step: int
    """Updates done, likewise."""

    def stop(self) -> None:
        """Ends a running fit after the current epoch."""

    def evaluate(self, x: Any, y: Any = None) -> dict[str, float]:
        """Loss, accuracy and metrics of these rows in inference mode."""


class Callback:
    """Called by `Trainer.fit`; override what is needed. ``trainer.stop()`` ends the run early."""

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        """Before the first of ``epochs`` epochs of ``steps`` steps each."""

    def on_step_end(self, trainer: Run, loss: float) -> None:
        """After an update; ``loss`` is the batch's. Costs nothing unless it is overridden."""

    def on_validation_begin(self, trainer: Run) -> None:
        """Before the validation rows of an epoch are evaluated."""

    def on_validation_end(self, trainer: Run) -> None:
        """After they were; in the callbacks' reversed order, also after an exception."""

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        """After an epoch, validation included; ``record`` is its entry in the history."""

    def on_fit_end(self, trainer: Run, history: History) -> None:
        """After the last epoch, also when an exception ended the run."""

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know, in types of JSON."""
        return {}

    def arrays(self) -> dict[str, Array]:
        """Name -> array: what else it has to know."""
        return {}

    def load_state(self, state: dict[str, Any], arrays: dict[str, Array]) -> None:
        """Goes on from what `state` and `arrays` returned when the run was saved; after on_fit_begin."""


def monitored(record: Record, name: str, owner: str) -> float:
    """``record[name]``, or a ValueError with the names that there are."""
    if name not in record:
        names = ", ".join(record)
        hint = "; give fit validation rows" if name.startswith("validation_") else ""
        raise ValueError(f"{owner}: monitor is {name!r}, but an epoch's record has {names}{hint}")
    return float(record[name])


def better(value: float, best: float, mode: str, min_delta: float) -> bool:
    """Whether ``value`` beats ``best`` by more than ``min_delta``; NaN never does."""
    return value < best - min_delta if mode == "min" else value > best + min_delta


def check_mode(mode: str, monitor: str) -> str:
    """ "min" or "max"; "auto" is by the monitored name: less is better unless it is one of the known scores."""
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"mode is {mode!r}, expected 'auto', 'min' or 'max'")
    scores = ("accuracy", "top", "r2", "auc", "f1", "precision", "recall")
    return mode if mode != "auto" else "max" if monitor.removeprefix("validation_").startswith(scores) else "min"
