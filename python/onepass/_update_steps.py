"""The NumPy steps that optim/ registers, and what they share: the oracle of the optimizer updates."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
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
    *,
    maximize: bool = False,
    grad_scale: float = 1.0,
    max_value: float = math.inf,
) -> NDArray[Any]:
    """grad / grad_scale, clipped to [-max_value, max_value], + weight_decay param."""
    t = param.dtype.type
    limit = t(max_value) * t(1)  # zero where it is subnormal
    g = clamp(grad * t((-1.0 if maximize else 1.0) / grad_scale), -limit, limit)
    return g + t(weight_decay) * param if t(weight_decay) != 0 else g


def decayed(
    param: NDArray[Any], grad: NDArray[Any], lr: float, weight_decay: float, decoupled: bool, **common: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The gradient, and what the weight decay keeps of the parameter: all of it, unless the decay is decoupled."""
    keep = param.dtype.type(1 - lr * weight_decay if decoupled else 1)
    return gradient(param, grad, 0.0 if decoupled else weight_decay, **common), param * keep


def moments(g: NDArray[Any], exp_avg: NDArray[Any], exp_avg_sq: NDArray[Any], beta1: float, beta2: float) -> None:
    """Adam's moving averages of the gradient and of its square."""
    t = g.dtype.type
    exp_avg[...] = t(beta1) * exp_avg + t(1 - beta1) * g
    exp_avg_sq[...] = t(beta2) * exp_avg_sq + t(1 - beta2) * (g * g)


def denominator(x: NDArray[Any], eps: float, eps_inside: bool) -> NDArray[Any]:
    """sqrt(x) + eps, or sqrt(x + eps)."""
    t = x.dtype.type
    result: NDArray[Any] = np.sqrt(x + t(eps)) if eps_inside else np.sqrt(x) + t(eps)
    return result


def sign(x: NDArray[Any]) -> NDArray[Any]:
    """-1, 0 or 1; NaN stays NaN."""
    t = x.dtype.type
    result: NDArray[Any] = np.where(x < 0, t(-1), np.where(x > 0, t(1), x))
    return result


def clamp(x: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    low, high = x.dtype.type(low), x.dtype.type(high)
    x = np.where(x < low, low, x)
    return np.where(x > high, high, x)


# ---- the constants of a step: doubles, in the operations of kernels/scalar.hpp


def power(base: float, exponent: int) -> float:
    """base**exponent by repeated squaring."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def accurate_power(base: float, exponent: int) -> float:
    """base**exponent for abs(base) <= 1, rounded once: repeated squaring of sums of two doubles."""
    result, factor = (1.0, 0.0), (base, 0.0)
    while exponent > 0:
        if exponent & 1:
            result = _multiply(result, factor)
        factor = _multiply(factor, factor)
        exponent >>= 1
    return result[0]


def _multiply(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    c, d = 134217729.0 * a[0], 134217729.0 * b[0]
    a1, b1 = c - (c - a[0]), d - (d - b[0])
    a2, b2 = a[0] - a1, b[0] - b1
    product = a[0] * b[0]
    rounded_off = (((a1 * b1 - product) + a1 * b2) + a2 * b1) + a2 * b2
    rest = rounded_off + (a[0] * b[1] + a[1] * b[0])
    high = product + rest
    return high, rest - (high - product)


def divide(a: float, b: float) -> float:
    """a / b, with an infinity or NaN for b = 0."""
    with np.errstate(all="ignore"):
        return float(np.float64(a) / np.float64(b))


_LOG2E = 1.44269504088896340736
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723212e-6
_SQRT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")


def exponential(x: float) -> float:
    """exp(x); zero below -708 and infinity above 709."""
    if not x >= -708.0:
        return x if math.isnan(x) else 0.0
    if x > 709.0:
        return math.inf
    n = int(x * _LOG2E + (-0.5 if x < 0.0 else 0.5))
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = 0.0
    for k in range(14, 1, -1):
        p = (p + 1.0) * (r / k)
    p = (p * r + r) + 1.0
    return math.ldexp(p, n)


def logarithm(x: float) -> float:
    """log(x); NaN for what is negative, zero or subnormal."""
    if not x >= sys.float_info.min:
        return math.nan
    if x == math.inf:
        return x
    m, e = math.frexp(x)
    if m < _SQRT_HALF:
        m, e = 2.0 * m, e - 1
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    tail = 0.0
    for k in range(11, 0, -1):
        tail = (tail + 1.0 / (2 * k + 1)) * z
    low = e * _LN2_LOW - s * (f - 2.0 * tail)
    return e * _LN2_HIGH + (low + f)


def real_power(base: float, exponent: float) -> float:
    """base**exponent for a real exponent and base > 0."""
    return exponential(exponent * logarithm(base))


def describe_step(name: str) -> Update:
    """The registry's entry of an update, read off its step's signature."""
    parameters = list(inspect.signature(STEPS[name]).parameters.values())
    states = tuple(p.name for p in parameters[2:] if p.kind is p.POSITIONAL_OR_KEYWORD)
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    hyper = {k: v for k, v in keywords.items() if k != "step"}
    return Update(name, states, hyper, 4 * (3 + 2 * len(states)))
