"""The NumPy steps that optim/ registers, and what they share: the oracle of the optimizer updates."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._storage import in_memory_order
from onepass._types import Update

Step = Callable[..., None]
STEPS: dict[str, Step] = {}
_MORE_BYTES: dict[str, int] = {}

POSITIVE = frozenset({"state_sum", "square_avg", "exp_avg_sq", "max_exp_avg_sq", "acc_delta", "exp_inf", "step_size"})
"""Names of states that are never negative."""


def update_step(name: str, more_bytes: int = 0) -> Callable[[Step], Step]:
    """Registers the NumPy twin of an update: a step on one tensor, in place, in the kernel's order of operations.

    A step that takes ``between_passes`` calls it when the states are done and will be read again: they are rounded to
    what they are stored in.

    more_bytes: moved for a float32 parameter beside param and states, once forth and back, and the gradient.
    """

    def register(function: Step) -> Step:
        STEPS[name] = function
        _MORE_BYTES[name] = more_bytes
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


_PART, _RUN, _LANES = 1 << 15, 256, 16


def tensor_sums(param: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> tuple[float, float]:
    """Sums over a tensor of first^2 and second^2, in double and in the kernels' order: sixteen lanes in
    a run, runs in a part, parts."""
    a, b = (in_memory_order(values, param).astype(np.float64) for values in (first, second))
    products = np.zeros((2, -(-a.size // _PART) * _PART))
    products[:, : a.size] = a * a, b * b
    lanes = np.zeros((2, products.shape[1] // _RUN, _LANES))
    groups = products.reshape(2, -1, _RUN // _LANES, _LANES)
    for group in range(_RUN // _LANES):
        lanes = lanes + groups[:, :, group]
    while lanes.shape[2] > 1:
        half = lanes.shape[2] // 2
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    runs = lanes.reshape(2, -1, _PART // _RUN)
    parts = np.zeros(runs.shape[:2])
    for run in range(_PART // _RUN):
        parts = parts + runs[:, :, run]
    total = np.zeros(2)
    for part in range(parts.shape[1]):
        total = total + parts[:, part]
    return float(total[0]), float(total[1])


def larger(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """The larger one, without what is subnormal: the sum flushes it, which a selection may or may not."""
    result: NDArray[Any] = np.where(a > b, a, b) + a.dtype.type(0)
    return result


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
    hyper = {k: v for k, v in keywords.items() if k not in ("step", "between_passes")}
    bytes_moved = 4 * (3 + 2 * len(states)) + _MORE_BYTES[name]
    return Update(name, states, hyper, bytes_moved, tuple([state in POSITIVE for state in states]))
