"""A learning rate that falls where nothing gets better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from onepass.callbacks.callback import Callback, Run, check_mode, monitored

if TYPE_CHECKING:
    from onepass.history import Record

__all__ = ["ReduceLROnPlateau"]

SMALLEST = 1e-8  # a reduction by no more is not made: torch's eps


class ReduceLROnPlateau(Callback):
    """Multiplies the learning rates with ``factor`` after ``patience`` epochs without a better value, as torch does.

    Parameters
    ----------
    monitor : str, default "validation_loss"
    factor : float, default 0.1
        In (0, 1).
    patience : int, default 10
        Epochs that are waited; the one after them reduces.
    threshold : float, default 1e-4
    threshold_mode : "rel" (default) or "abs"
        A value is better below ``best (1 - threshold)`` or ``best - threshold`` (mode "min").
    cooldown : int, default 0
        Epochs after a reduction that are not counted.
    min_lr : float, default 0.0
    mode : "auto" (default), "min" or "max"

    It is no function of the step; hence it needs a Trainer without a schedule, and refuses one (ValueError).

    >>> ReduceLROnPlateau(factor=0.5, patience=3).factor
    0.5
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        mode: Literal["auto", "min", "max"] = "auto",
    ) -> None:
        if not 0 < factor < 1:
            raise ValueError(f"factor is {factor}, expected a number in (0, 1)")
        for name, value in (
            ("patience", patience),
            ("cooldown", cooldown),
            ("min_lr", min_lr),
            ("threshold", threshold),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}, expected a finite number >= 0")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold_mode is {threshold_mode!r}, expected 'rel' or 'abs'")
        self.monitor = monitor
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.mode = check_mode(mode, monitor)
        self.best: float | None = None
        self._bad = self._cooling = 0

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        if trainer.schedule is not None or any(callable(group["lr"]) for group in trainer.optimizer.param_groups):
            raise ValueError("ReduceLROnPlateau: there is a schedule, which sets the learning rate anew in every step")

    def _better(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return value < (self.best * (1 - self.threshold) if relative else self.best - self.threshold)
        return value > (self.best * (1 + self.threshold) if relative else self.best + self.threshold)

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        value = monitored(record, self.monitor, "ReduceLROnPlateau")
        if self._better(value):
            self.best, self._bad = value, 0
        else:
            self._bad += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad = 0
        if self._bad > self.patience:
            for group in trainer.optimizer.param_groups:
                reduced = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - reduced > SMALLEST:
                    group["lr"] = reduced
            self._cooling, self._bad = self.cooldown, 0

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "bad": self._bad, "cooling": self._cooling}

    def load_state(self, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.best, self._bad, self._cooling = state["best"], state["bad"], state["cooling"]
