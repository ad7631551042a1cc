"""Learning-rate schedules: pure functions of the step.

Each factory returns a function ``step -> learning rate`` that keeps no state, so that a resumed run
goes on exactly where it stopped: only the step count has to be remembered. The first update of a
run is step 0. `Trainer` calls the schedule once before every update; an optimizer takes one as the
``lr`` of its groups.

>>> from onepass import schedules
>>> rate = schedules.join([schedules.linear_warmup(0.1, 5), schedules.cosine(0.1, 95)], [5])
>>> [round(rate(step), 4) for step in (0, 4, 5, 52, 99, 100)]
[0.02, 0.1, 0.1, 0.0508, 0.0, 0.0]
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

__all__ = ["Schedule", "constant", "cosine", "exponential", "join", "linear_warmup", "step_decay"]

Schedule = Callable[[int], float]


def _check_rate(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, expected a finite number >= 0")


def _check_factor(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}, expected 0 < {name} <= 1")


def _check_steps(name: str, value: int) -> None:
    if value < 1 or value != int(value):
        raise ValueError(f"{name} is {value}, expected an integer >= 1")


def constant(lr: float) -> Schedule:
    """The same rate at every step: ``lr``.

    >>> constant(0.1)(1000)
    0.1
    """
    _check_rate("lr", lr)
    return lambda step: lr


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """A staircase: ``lr * factor ** (step // every)``.

    >>> rate = step_decay(1.0, every=10, factor=0.5)
    >>> rate(9), rate(10), rate(25)
    (1.0, 0.5, 0.25)
    """
    _check_rate("lr", lr)
    _check_steps("every", every)
    _check_factor("factor", factor)
    return lambda step: lr * factor ** (step // every)


def exponential(lr: float, factor: float) -> Schedule:
    """A geometric decay: ``lr * factor ** step``.

    >>> exponential(1.0, 0.5)(3)
    0.125
    """
    _check_rate("lr", lr)
    _check_factor("factor", factor)
    return lambda step: lr * factor**step


def cosine(lr: float, steps: int, minimum: float = 0.0) -> Schedule:
    """Half a cosine from ``lr`` down to ``minimum`` over ``steps`` steps, ``minimum`` from then on.

    ``minimum + (lr - minimum) * (1 + cos(pi * min(step, steps) / steps)) / 2``
    (Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
    without restarts).

    >>> rate = cosine(1.0, steps=100)
    >>> rate(0), round(rate(50), 12), rate(100), rate(200)
    (1.0, 0.5, 0.0, 0.0)
    """
    _check_rate("lr", lr)
    _check_rate("minimum", minimum)
    _check_steps("steps", steps)
    half = (lr - minimum) / 2

    def rate(step: int) -> float:
        return minimum + half * (1 + math.cos(math.pi * min(step, steps) / steps))

    return rate


def linear_warmup(lr: float, steps: int, start: float = 0.0) -> Schedule:
    """A straight line up to ``lr``, which update number ``steps`` is the first to use.

    ``start + (lr - start) * min(step + 1, steps) / steps``

    The ``+ 1`` makes the first update count; Optax's ``linear_schedule`` spends it at ``start``.

    >>> rate = linear_warmup(1.0, steps=4)
    >>> [rate(step) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    _check_rate("lr", lr)
    _check_rate("start", start)
    _check_steps("steps", steps)

    def rate(step: int) -> float:
        if step + 1 >= steps:
            return lr
        return start + (lr - start) * (step + 1) / steps

    return rate


def join(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another: ``schedules[i]`` begins at ``boundaries[i - 1]``.

    Every part counts its own steps from 0: ``schedules[i](step - boundaries[i - 1])``.
    ``boundaries`` (rising, >= 0) has one entry fewer than ``schedules``.

    >>> rate = join([constant(1.0), step_decay(0.5, every=2, factor=0.5)], [3])
    >>> [rate(step) for step in range(7)]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    parts, starts = tuple(schedules), tuple(boundaries)
    if not parts:
        raise ValueError("schedules is empty, expected at least one schedule")
    if len(starts) != len(parts) - 1:
        raise ValueError(f"boundaries has {len(starts)} entries, expected {len(parts) - 1}: one fewer than schedules")
    if any(b < a for a, b in zip((0, *starts), starts, strict=False)):
        raise ValueError(f"boundaries is {list(starts)}, expected rising steps >= 0")

    def rate(step: int) -> float:
        part = bisect_right(starts, step)
        return parts[part](step - starts[part - 1] if part else step)

    return rate
