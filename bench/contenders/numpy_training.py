"""NumPy: forward and backward by hand, and the Adam of a NumPy user's twelve lines; in float64 it is the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.case import Array, Contender, Result
from bench.contenders.first_steps import first_steps

LossAndGradients = Callable[[list[Array], Array, Array], tuple[float, list[Array]]]
"""Parameters, x, y -> loss and gradients, in the precision of the data."""


def adam(params: Sequence[Array]) -> Callable[[Sequence[Array]], None]:
    """gradients -> None: steps of Adam with the usual defaults."""
    first = [np.zeros_like(param) for param in params]
    second = [np.zeros_like(param) for param in params]
    step = 0

    def update(gradients: Sequence[Array]) -> None:
        nonlocal step
        step += 1
        for p, g, m, v in zip(params, gradients, first, second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= 1e-3 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    return update


def _steps(function: LossAndGradients, params: list[Array], x: Array, y: Array) -> tuple[Callable[[], None], Result]:
    update = adam(params)
    kept: list[Any] = [None, None]

    def run() -> None:
        kept[:] = function(params, x, y)
        update(kept[1])

    return run, first_steps(run, lambda: kept[0], lambda: kept[1])


def contender(function: LossAndGradients, params: list[Array], x: Array, y: Array) -> Contender:
    run, result = _steps(function, params, x, y)
    return Contender(run, lambda: result)


def expected(function: LossAndGradients, params: list[Array], x: Array, y: Array) -> Result:
    """Of the same steps in float64."""
    return _steps(function, [param.astype(np.float64) for param in params], x.astype(np.float64), y)[1]
