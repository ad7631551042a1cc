"""The NumPy steps that optim/ registers, and what they share: the oracle of the optimizer updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Step = Callable[..., None]
STEPS: dict[str, Step] = {}


def update_step(name: str) -> Callable[[Step], Step]:
    """Registers the NumPy twin of an update: one step on one tensor, in place, with the kernel's order of operations."""

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
    g = grad * t(-grad_scale if maximize else grad_scale)
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
