"""Schedules that fill a run, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onepass.cli.output import UsageError

if TYPE_CHECKING:
    from onepass.schedules import Schedule

__all__ = ["SCHEDULES", "schedule"]

SCHEDULES = (
    "constant", "step", "exponential", "linear", "polynomial", "inverse-sqrt", "cosine", "cosine-restarts", "cyclic",
    "one-cycle",
)  # fmt: skip


def schedule(name: str, lr: float, epochs: int, steps: int, warmup: float) -> Schedule:
    """Of ``epochs`` epochs of ``steps`` steps, after ``warmup`` epochs of linear warm-up."""
    from onepass import schedules

    total = steps * epochs
    first = round(steps * warmup)
    if first >= total:
        raise UsageError(f"argument --warmup: {warmup:g} epochs, expected less than {epochs}")
    rest = total - first
    third = -(-rest // 3)
    made = {
        "constant": lambda: schedules.constant(lr),
        "step": lambda: schedules.step_decay(lr, every=third),
        "exponential": lambda: schedules.exponential(lr, 0.01 ** (1 / rest)),
        "linear": lambda: schedules.polynomial(lr, rest, power=1.0),
        "polynomial": lambda: schedules.polynomial(lr, rest, power=2.0),
        "inverse-sqrt": lambda: schedules.inverse_sqrt(lr, steps),
        "cosine": lambda: schedules.cosine(lr, rest),
        "cosine-restarts": lambda: schedules.cosine_warm_restarts(lr, third),
        "cyclic": lambda: schedules.cyclic(lr / 10, lr, max(third // 2, 1)),
        "one-cycle": lambda: schedules.one_cycle(lr, rest),
    }[name]()
    return schedules.join([schedules.linear_warmup(lr, first), made], [first]) if first else made
