"""The NumPy steps that optim/ registers, and what they share: the oracle of the optimizer updates."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from onepass._types import Update

Step = Callable[..., None]
STEPS: dict[str, Step] = {}


def update_step(name: str) -> Callable[[Step], Step]:
    """Registers the NumPy twin of an update: a step on one tensor, in place, in the kernel's order of operations."""

    def register(function: Step) -> Step:
        STEPS[name] = function
        return function

    return register


def gradient(
    param: NDArray[Any],
    grad: NDArray[Any],
    weight_decay: float,
    maximize: bool,
    grad_scale: float,
) -> NDArray[Any]:
    t = param.dtype.type
    g: NDArray[Any] = grad * t(-grad_scale if maximize else grad_scale)
    return g + t(weight_decay) * param if t(weight_decay) != 0 else g


def power(base: float, exponent: int) -> float:
    """base**exponent by repeated squaring, as in rules.hpp: the same bits on every platform."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def describe_step(name: str) -> Update:
    """The registry's entry of an update, read off its step's signature."""
    parameters = list(inspect.signature(STEPS[name]).parameters.values())
    states = tuple(p.name for p in parameters[2:] if p.kind is p.POSITIONAL_OR_KEYWORD)
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    hyper = {k: v for k, v in keywords.items() if k not in ("step", "maximize", "grad_scale")}
    return Update(name, states, hyper, 4 * (3 + 2 * len(states)))
