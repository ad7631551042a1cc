"""Schedules: pure functions of the step, of the learning rate (or of anything else that changes over a run).

Each factory returns a :class:`Schedule`, a function ``step -> value`` that keeps no state, so that a resumed run goes
on exactly where it stopped: only the step count has to be remembered. The first update of a run is step 0. `Trainer`
calls the schedule once before every update; an optimizer takes one as the ``lr`` of its groups; any other function of
the step serves as well.

>>> from onepass import schedules
>>> rate = schedules.join([schedules.linear_warmup(0.1, 5), schedules.cosine(0.1, 95)], [5])
>>> [round(rate(step), 4) for step in (0, 4, 5, 52, 99, 100)]
[0.02, 0.1, 0.1, 0.0508, 0.0, 0.0]
>>> rate
join([linear_warmup(0.1, 5), cosine(0.1, 95)], [5])
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from numbers import Real
from os import PathLike
from textwrap import wrap
from typing import Any, Literal, ParamSpec, TypeAlias

from onepass._extras import require

__all__ = [
    "Rate",
    "Schedule",
    "constant",
    "constant_warmup",
    "cosine",
    "cosine_warm_restarts",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear_warmup",
    "multi_step",
    "one_cycle",
    "polynomial",
    "scale",
    "step_decay",
    "transformer",
]

Rate: TypeAlias = Callable[[int], float]
P = ParamSpec("P")


class Schedule:
    """A function of the step with a name and a picture.

    Attributes:
        name: how it was made; a resumed run must have the same.
        momentum: for one-cycle, the schedule of the momentum beside it; else None.

    >>> rate = step_decay(1.0, every=10)
    >>> rate, rate(10), rate.momentum
    (step_decay(1.0, every=10), 0.1, None)
    """

    def __init__(self, rate: Rate, name: str, momentum: Schedule | None = None) -> None:
        self._rate = rate
        self.name = name
        self.momentum = momentum

    def __call__(self, step: int) -> float:
        return self._rate(step)

    def __repr__(self) -> str:
        return self.name

    def plot(self, steps: int, path: str | PathLike[str] | None = None) -> Any:
        """A picture of the first ``steps`` steps, with the momentum where there is one.

        matplotlib's Figure, and a PNG if there is a ``path``. Needs matplotlib.
        """
        _check_steps("steps", steps)
        curves = [("learning rate", self, "C2")] + ([("momentum", self.momentum, "C0")] if self.momentum else [])
        figure = require("matplotlib.figure").Figure(figsize=(5.2 * len(curves), 3.6), layout="constrained")
        shown = range(0, steps, max(steps // 4000, 1))
        for axes, (label, curve, color) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
            axes.plot(shown, [curve(step) for step in shown], color=color, clip_on=False, zorder=3)
            axes.set(xlabel="step", ylabel=label, xlim=(0, max(steps - 1, 1)))
            axes.grid(alpha=0.3)
            if label == "learning rate":
                axes.set_ylim(bottom=0)
        figure.suptitle("\n".join(wrap(self.name, 60 * len(curves), max_lines=3)), fontsize="medium")
        if path is not None:
            figure.savefig(path, dpi=150, format="png")
        return figure


def _text(value: object) -> str:
    """Of an argument in a schedule's name; a plain function has none."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return "<function>" if callable(value) and not isinstance(value, Schedule) else repr(value)


def _named(factory: Callable[P, Rate]) -> Callable[P, Schedule]:
    """The factory of a Schedule that is called as it was made."""

    @wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Schedule:
        given = [*map(_text, args), *(f"{name}={_text(value)}" for name, value in kwargs.items())]
        return Schedule(factory(*args, **kwargs), f"{factory.__name__}({', '.join(given)})")

    return make


def _check_integer(name: str, value: int, minimum: int) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r:.60}, expected an integer")
    if value < minimum or value != int(value):
        raise ValueError(f"{name} is {value}, expected an integer >= {minimum}")


def _check_rate(name: str, value: float) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r:.60}, expected a number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}, expected a finite number >= 0")


def _check_factor(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}, expected 0 < {name} <= 1")


def _rising(name: str, value: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} is {value!r:.60}, expected a sequence of steps: [{value!r:.60}]")
    steps = tuple(value)
    if any(b < a for a, b in zip((0, *steps), steps, strict=False)):
        raise ValueError(f"{name} is {list(steps)}, expected rising steps >= 0")
    return steps


def _check_steps(name: str, value: int) -> None:
    _check_integer(name, value, 1)


@_named
def constant(lr: float) -> Rate:
    """The same rate at every step: ``lr``.

    >>> constant(0.1)(1000)
    0.1
    """
    _check_rate("lr", lr)
    return lambda step: lr


@_named
def step_decay(lr: float, every: int, factor: float = 0.1) -> Rate:
    """A staircase: ``lr * factor ** (step // every)``.

    >>> rate = step_decay(1.0, every=10, factor=0.5)
    >>> rate(9), rate(10), rate(25)
    (1.0, 0.5, 0.25)
    """
    _check_rate("lr", lr)
    _check_steps("every", every)
    _check_factor("factor", factor)
    return lambda step: lr * factor ** (step // every)


@_named
def exponential(lr: float, factor: float) -> Rate:
    """A geometric decay: ``lr * factor ** step``.

    >>> exponential(1.0, 0.5)(3)
    0.125
    """
    _check_rate("lr", lr)
    _check_factor("factor", factor)
    return lambda step: lr * factor**step


@_named
def cosine(lr: float, steps: int, minimum: float = 0.0) -> Rate:
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


@_named
def linear_warmup(lr: float, steps: int, start: float = 0.0) -> Rate:
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


@_named
def multi_step(lr: float, milestones: Sequence[int], factor: float = 0.1) -> Rate:
    """A staircase with steps where one likes: ``lr * factor ** (how many milestones are <= step)``.

    >>> rate = multi_step(1.0, [30, 80], factor=0.5)
    >>> rate(29), rate(30), rate(80)
    (1.0, 0.5, 0.25)
    """
    _check_rate("lr", lr)
    _check_factor("factor", factor)
    steps = _rising("milestones", milestones)
    return lambda step: lr * factor ** bisect_right(steps, step)


@_named
def polynomial(lr: float, steps: int, power: float = 1.0, minimum: float = 0.0) -> Rate:
    """``minimum + (lr - minimum) * (1 - min(step, steps) / steps) ** power``; a straight line for power 1.

    >>> rate = polynomial(1.0, steps=10, power=2.0)
    >>> rate(0), rate(5), rate(10), rate(11)
    (1.0, 0.25, 0.0, 0.0)
    """
    _check_rate("lr", lr)
    _check_rate("minimum", minimum)
    _check_steps("steps", steps)
    if not (math.isfinite(power) and power > 0):
        raise ValueError(f"power is {power}, expected a finite number > 0")
    return lambda step: minimum + (lr - minimum) * (1 - min(step, steps) / steps) ** power


@_named
def inverse_sqrt(lr: float, steps: int) -> Rate:
    """``lr`` for ``steps`` steps, then ``lr * sqrt(steps / step)`` (Raffel et al., "T5", 2020).

    >>> rate = inverse_sqrt(1.0, steps=100)
    >>> rate(0), rate(100), rate(400)
    (1.0, 1.0, 0.5)
    """
    _check_rate("lr", lr)
    _check_steps("steps", steps)
    return lambda step: lr * math.sqrt(steps / max(step, steps))


@_named
def cosine_warm_restarts(lr: float, steps: int, multiple: int = 1, minimum: float = 0.0) -> Rate:
    """`cosine` again and again; each cycle is ``multiple`` times as long as the one before, the first ``steps`` long.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017: T_0 is ``steps``, T_mult
    ``multiple``.

    >>> rate = cosine_warm_restarts(1.0, steps=10, multiple=2)
    >>> rate(0), round(rate(5), 12), rate(10), round(rate(20), 12), rate(30)
    (1.0, 0.5, 1.0, 0.5, 1.0)
    """
    _check_rate("lr", lr)
    _check_rate("minimum", minimum)
    _check_steps("steps", steps)
    _check_steps("multiple", multiple)

    def rate(step: int) -> float:
        length = steps
        if multiple == 1:
            step %= steps
        else:
            while step >= length:
                step -= length
                length *= multiple
        return minimum + (lr - minimum) * (1 + math.cos(math.pi * step / length)) / 2

    return rate


@_named
def cyclic(
    minimum: float,
    lr: float,
    steps_up: int,
    steps_down: int | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    gamma: float = 1.0,
) -> Rate:
    """Straight up from ``minimum`` to ``lr`` in ``steps_up`` steps, down in ``steps_down`` (as many), and again.

    Smith, "Cyclical Learning Rates for Training Neural Networks", 2017. "triangular2" halves the height with every
    cycle, "exp_range" multiplies it with ``gamma ** step``.

    >>> rate = cyclic(0.0, 1.0, steps_up=4)
    >>> [rate(step) for step in (0, 2, 4, 6, 8, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    """
    _check_rate("minimum", minimum)
    _check_rate("lr", lr)
    _check_steps("steps_up", steps_up)
    down = steps_up if steps_down is None else steps_down
    _check_steps("steps_down", down)
    if mode not in ("triangular", "triangular2", "exp_range"):
        raise ValueError(f"mode is {mode!r}, expected 'triangular', 'triangular2' or 'exp_range'")
    _check_factor("gamma", gamma)

    def rate(step: int) -> float:
        cycle, place = divmod(step, steps_up + down)
        height = place / steps_up if place <= steps_up else (steps_up + down - place) / down
        if mode == "triangular2":
            height = math.ldexp(height, -cycle)
        elif mode == "exp_range":
            height *= gamma**step
        return minimum + (lr - minimum) * height

    return rate


def one_cycle(
    lr: float,
    steps: int,
    pct_start: float = 0.3,
    anneal: Literal["cosine", "linear"] = "cosine",
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Up from ``lr / div_factor`` to ``lr``, and down to ``lr / div_factor / final_div_factor`` in the end.

    Up takes the share ``pct_start`` of ``steps``. ``.momentum`` goes the other way, from ``max_momentum`` to
    ``base_momentum`` and back.

    Smith and Topin, "Super-Convergence", 2018, with the defaults of torch's OneCycleLR. ``three_phase``: first down to
    ``lr / div_factor`` in as many steps as up, then on. After the last step the value stays. `Trainer` drives
    ``momentum``, or the first of ``betas``, with ``.momentum``.

    >>> rate = one_cycle(1.0, steps=101, pct_start=0.5)
    >>> [round(value, 6) for value in (rate(0), rate(100), rate.momentum(0), rate.momentum(50))]
    [0.04, 4e-06, 0.95, 0.850024]
    """
    _check_rate("lr", lr)
    _check_integer("steps", steps, 2)
    if not 0 < pct_start < 1:
        raise ValueError(f"pct_start is {pct_start}, expected a number in (0, 1)")
    if anneal not in ("cosine", "linear"):
        raise ValueError(f"anneal is {anneal!r}, expected 'cosine' or 'linear'")
    for name, value in (("base_momentum", base_momentum), ("max_momentum", max_momentum)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}, expected a number in [0, 1)")
    for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}, expected a finite number > 0")
    first = lr / div_factor
    ends = [pct_start * steps - 1, 2 * pct_start * steps - 2] if three_phase else [pct_start * steps - 1]
    ends.append(steps - 1.0)
    rates = [first, lr, first, first / final_div_factor] if three_phase else [first, lr, first / final_div_factor]
    momenta = [max_momentum, base_momentum, max_momentum, max_momentum][: len(rates)]

    def along(values: Sequence[float]) -> Rate:
        def value(step: int) -> float:
            begin = 0.0
            for phase, end in enumerate(ends):
                if step <= end or phase == len(ends) - 1:
                    share = min((step - begin) / (end - begin), 1.0) if end > begin else 1.0
                    a, b = values[phase], values[phase + 1]
                    return b + (a - b) * ((1 + math.cos(math.pi * share)) / 2 if anneal == "cosine" else 1 - share)
                begin = end
            raise AssertionError

        return value

    options = (lr, steps, pct_start, anneal, base_momentum, max_momentum, div_factor, final_div_factor, three_phase)
    name = f"one_cycle({', '.join(map(repr, options))})"
    return Schedule(along(rates), name, Schedule(along(momenta), f"{name}.momentum"))


@_named
def constant_warmup(lr: float, steps: int, factor: float = 1 / 3) -> Rate:
    """``factor * lr`` for ``steps`` steps, then ``lr``.

    >>> rate = constant_warmup(1.0, steps=4, factor=0.1)
    >>> rate(3), rate(4)
    (0.1, 1.0)
    """
    _check_rate("lr", lr)
    _check_steps("steps", steps)
    _check_factor("factor", factor)
    return lambda step: lr * factor if step < steps else lr


@_named
def transformer(d_model: int, warmup: int, factor: float = 1.0) -> Rate:
    """``factor * d_model ** -0.5 * min(n ** -0.5, n * warmup ** -1.5)`` with n = step + 1.

    Vaswani et al., "Attention Is All You Need", 2017.

    >>> rate = transformer(d_model=256, warmup=100)
    >>> round(rate(99), 6), round(rate(399), 6)
    (0.00625, 0.003125)
    """
    _check_steps("d_model", d_model)
    _check_steps("warmup", warmup)
    _check_rate("factor", factor)
    return lambda step: factor * d_model**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup**-1.5)


@_named
def scale(schedule: Rate, factor: float | Rate) -> Rate:
    """``schedule`` times a number or another schedule.

    >>> scale(cosine(1.0, 100), 0.1)(50) == 0.1 * cosine(1.0, 100)(50)
    True
    >>> scale(constant(1.0), lambda step: 1 / (1 + step))(3)
    0.25
    """
    if not callable(schedule):
        raise TypeError(f"schedule is {schedule!r:.60}, expected a function of the step")
    if callable(factor):
        return lambda step: schedule(step) * factor(step)
    _check_rate("factor", factor)
    return lambda step: schedule(step) * factor


@_named
def join(schedules: Sequence[Rate], boundaries: Sequence[int]) -> Rate:
    """One schedule after another: ``schedules[i]`` begins at ``boundaries[i - 1]``.

    Every part counts its own steps from 0: ``schedules[i](step - boundaries[i - 1])``.
    ``boundaries`` (rising, >= 0) has one entry fewer than ``schedules``.

    >>> rate = join([constant(1.0), step_decay(0.5, every=2, factor=0.5)], [3])
    >>> [rate(step) for step in range(7)]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    parts, starts = tuple(schedules), _rising("boundaries", boundaries)
    if not parts:
        raise ValueError("schedules is empty, expected at least one schedule")
    if len(starts) != len(parts) - 1:
        raise ValueError(f"boundaries has {len(starts)} entries, expected {len(parts) - 1}: one fewer than schedules")

    def rate(step: int) -> float:
        part = bisect_right(starts, step)
        return parts[part](step - starts[part - 1] if part else step)

    return rate
