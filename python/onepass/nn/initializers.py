"""Initial values of weights: functions of a generator and a shape, seeded by whoever makes the generator.

``fan_in`` and ``fan_out`` of a weight (outputs, inputs, ...) are ``inputs * ...`` and ``outputs * ...``, as in PyTorch.

>>> from onepass import nn
>>> rng = np.random.default_rng(0)
>>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
>>> apply(model, rng, weight=kaiming_normal(), bias=constant(0.0))
>>> model.state()["0.bias"].max()
np.float32(0.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onepass.nn.layer import Layer

__all__ = [
    "Initializer",
    "apply",
    "constant",
    "kaiming_normal",
    "kaiming_uniform",
    "orthogonal",
    "truncated_normal",
    "xavier_normal",
    "xavier_uniform",
]

Array = NDArray[Any]
Initializer: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], Array]
_FACTORIES = {name for name in __all__ if name.islower() and name != "apply"}


def apply(
    model: Layer, rng: np.random.Generator, weight: Initializer | None = None, bias: Initializer | None = None
) -> None:
    """Draws every array of the model's state that is named ``weight``, and ``bias``, in order; others stay.

    The row of an `nn.Embedding`'s ``padding_idx`` stays zero.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is {rng!r:.60}, expected a generator: numpy.random.default_rng(seed)")
    for name, function in (("weight", weight), ("bias", bias)):
        if function is not None and getattr(function, "__name__", None) in _FACTORIES:
            raise TypeError(f"{name} is the factory {function.__name__}, expected what it makes: {function.__name__}()")
    for name, array in model.state().items():
        kind = name.rpartition(".")[2]
        initializer = weight if kind == "weight" else bias if kind == "bias" else None
        if initializer is not None:
            np.copyto(array, initializer(rng, array.shape), casting="same_kind")
    model.initialized()


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        raise ValueError(f"shape is {shape}, expected (outputs, inputs, ...): a vector has no fans")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def _kaiming(shape: tuple[int, ...], mode: str, negative_slope: float) -> float:
    fan_in, fan_out = _fans(shape)
    return math.sqrt(2 / (1 + negative_slope**2) / (fan_in if mode == "fan_in" else fan_out))


def _check_mode(mode: str) -> None:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is {mode!r}, expected 'fan_in' or 'fan_out'")


def kaiming_normal(mode: Literal["fan_in", "fan_out"] = "fan_in", negative_slope: float = 0.0) -> Initializer:
    """Normal with variance ``2 / ((1 + negative_slope^2) fan)``: He et al., "Delving Deep into Rectifiers", 2015.

    >>> kaiming_normal()(np.random.default_rng(0), (100, 50)).std().round(2)
    np.float64(0.2)
    """
    _check_mode(mode)
    return lambda rng, shape: rng.normal(0.0, _kaiming(shape, mode, negative_slope), shape)


def kaiming_uniform(mode: Literal["fan_in", "fan_out"] = "fan_in", negative_slope: float = 0.0) -> Initializer:
    """Uniform with the variance of `kaiming_normal`.

    >>> abs(kaiming_uniform()(np.random.default_rng(0), (100, 6))).max() <= 1
    np.True_
    """
    _check_mode(mode)

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        bound = math.sqrt(3) * _kaiming(shape, mode, negative_slope)
        return rng.uniform(-bound, bound, shape)

    return draw


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal with variance ``2 gain^2 / (fan_in + fan_out)``: Glorot and Bengio, 2010.

    >>> xavier_normal()(np.random.default_rng(0), (100, 100)).std().round(2)
    np.float64(0.1)
    """
    return lambda rng, shape: rng.normal(0.0, gain * math.sqrt(2 / sum(_fans(shape))), shape)


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform with the variance of `xavier_normal`.

    >>> abs(xavier_uniform()(np.random.default_rng(0), (3, 3))).max() <= 1
    np.True_
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        bound = gain * math.sqrt(6 / sum(_fans(shape)))
        return rng.uniform(-bound, bound, shape)

    return draw


def orthogonal(gain: float = 1.0) -> Initializer:
    """Rows, or columns, whichever are fewer, orthonormal times gain: Saxe, McClelland and Ganguli, 2014.

    >>> w = orthogonal()(np.random.default_rng(0), (3, 5))
    >>> bool(np.allclose(w @ w.T, np.eye(3)))
    True
    """

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        _fans(shape)
        rows, columns = shape[0], math.prod(shape[1:])
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.sign(np.diag(r))  # uniform over all of them
        return gain * (q if rows >= columns else q.T).reshape(shape)

    return draw


def truncated_normal(mean: float = 0.0, std: float = 1.0, low: float = -2.0, high: float = 2.0) -> Initializer:
    """Normal, drawn again where it is not in ``[low, high]`` (absolute values, as in PyTorch).

    >>> abs(truncated_normal(std=3.0)(np.random.default_rng(0), (100,))).max() <= 2
    np.True_
    """
    if not (std > 0 and low < high and mean + 8 * std > low and mean - 8 * std < high):
        raise ValueError(f"mean {mean}, std {std}: next to nothing lies in [{low}, {high}]")

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        values = np.asarray(rng.normal(mean, std, shape))
        while (outside := (values < low) | (values > high)).any():
            values[outside] = rng.normal(mean, std, int(outside.sum()))
        return values

    return draw


def constant(value: float) -> Initializer:
    """The same number everywhere; ``constant(0.0)`` for a bias.

    >>> constant(0.5)(np.random.default_rng(0), (2,)).tolist()
    [0.5, 0.5]
    """
    return lambda rng, shape: np.full(shape, value)
