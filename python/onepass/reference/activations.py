"""Activations, forward and backward, alone and with a bias, in NumPy."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from onepass._checks import check_like, check_storage, check_vector
from onepass._storage import decode
from onepass.reference._results import Array, give, own_or_float32

Activation = Literal["relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]
Approximate = Literal["none", "tanh"]

_FAR = 1e3  # beyond it every activation is its limit in float64
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def relu(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.relu`.

    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return _forward("relu", x, out, dtype)


def relu_backward(
    dy: Array, y: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.relu_backward`.

    >>> relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 5.0]
    """
    return _backward(dy, "y", y, out, dtype, lambda d, y: np.where(y <= 0, 0.0, d))


def leaky_relu(
    x: Array,
    negative_slope: float = 0.01,
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.leaky_relu`.

    >>> leaky_relu(np.array([-1.0, 2.0]), 0.25).tolist()
    [-0.25, 2.0]
    """
    return _forward("leaky_relu", x, out, dtype, negative_slope)


def leaky_relu_backward(
    dy: Array,
    x: Array,
    negative_slope: float = 0.01,
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.leaky_relu_backward`.

    >>> leaky_relu_backward(np.array([4.0, 4.0]), np.array([-1.0, 2.0]), 0.25).tolist()
    [1.0, 4.0]
    """
    return _backward(dy, "x", x, out, dtype, lambda d, x: d * _slope("leaky_relu", x, negative_slope))


def gelu(
    x: Array,
    approximate: Approximate = "none",
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.gelu`.

    >>> gelu(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.1587, 1.9545]
    """
    return _forward(_gelu(approximate), x, out, dtype)


def gelu_backward(
    dy: Array,
    x: Array,
    approximate: Approximate = "none",
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.gelu_backward`.

    >>> gelu_backward(np.array([1.0, 1.0]), np.array([-1.0, 2.0])).round(4).tolist()
    [-0.0833, 1.0852]
    """
    name = _gelu(approximate)
    return _backward(dy, "x", x, out, dtype, lambda d, x: d * _slope(name, x))


def silu(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.silu`.

    >>> silu(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.2689, 1.7616]
    """
    return _forward("silu", x, out, dtype)


def silu_backward(
    dy: Array, x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.silu_backward`.

    >>> silu_backward(np.array([1.0, 1.0]), np.array([-1.0, 2.0])).round(4).tolist()
    [0.0723, 1.0908]
    """
    return _backward(dy, "x", x, out, dtype, lambda d, x: d * _slope("silu", x))


def sigmoid(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.sigmoid`.

    >>> sigmoid(np.array([0.0, -2.0])).round(4).tolist()
    [0.5, 0.1192]
    """
    return _forward("sigmoid", x, out, dtype)


def sigmoid_backward(
    dy: Array, y: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.sigmoid_backward`.

    >>> sigmoid_backward(np.array([1.0, 8.0]), np.array([0.5, 0.25])).tolist()
    [0.25, 1.5]
    """
    return _backward(dy, "y", y, out, dtype, lambda d, y: d * (y * (1 - y)))


def tanh(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.tanh`.

    >>> tanh(np.array([0.0, -2.0])).round(4).tolist()
    [0.0, -0.964]
    """
    return _forward("tanh", x, out, dtype)


def tanh_backward(
    dy: Array, y: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.tanh_backward`.

    >>> tanh_backward(np.array([1.0, 4.0]), np.array([0.0, 0.5])).tolist()
    [1.0, 3.0]
    """
    return _backward(dy, "y", y, out, dtype, lambda d, y: d * ((1 - y) * (1 + y)))


def bias_activation(
    x: Array,
    bias: Array,
    activation: Activation = "relu",
    out: Array | None = None,
    *,
    channel_axis: int = -1,
    negative_slope: float = 0.01,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.bias_activation`.

    >>> bias_activation(np.array([[-1.0, 2.0]]), np.array([0.5, 0.5])).tolist()
    [[0.0, 2.5]]
    """
    h = _biased(x, bias, activation, channel_axis, dtype)
    with np.errstate(all="ignore"):
        y = _value(activation, h, negative_slope)
    return give(y, x, out)


def bias_activation_backward(
    dy: Array,
    x: Array,
    bias: Array,
    activation: Activation = "relu",
    dx: Array | None = None,
    dbias: Array | None = None,
    *,
    channel_axis: int = -1,
    negative_slope: float = 0.01,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, Array]:
    """See :func:`onepass.kernels.bias_activation_backward`.

    >>> dx, dbias = bias_activation_backward(np.ones((2, 2)), np.array([[-1.0, 2.0], [1.0, 2.0]]), np.zeros(2))
    >>> dx.tolist(), dbias.tolist()
    ([[0.0, 1.0], [1.0, 1.0]], [1.0, 2.0])
    """
    h = _biased(x, bias, activation, channel_axis, dtype)
    check_like("dy", dy, "x", x)
    with np.errstate(all="ignore"):
        d = decode(dy, np.float64)
        d = np.where(h <= 0, 0.0, d) if activation == "relu" else d * _slope(activation, h, negative_slope)
        sums = np.moveaxis(d, channel_axis, -1).sum(axis=tuple(range(x.ndim - 1)))
    return give(d, dy, dx), give(sums, bias, dbias)


def _forward(activation: str, x: Array, out: Array | None, dtype: str | None, negative_slope: float = 0.0) -> Array:
    check_storage("x", x, dtype)
    with np.errstate(all="ignore"):
        y = _value(activation, decode(x, np.float64), negative_slope)
    return give(y, x, out)


def _backward(dy: Array, saved_name: str, saved: Array, out: Array | None, dtype: str | None, function: Any) -> Array:
    check_storage("dy", dy, dtype)
    check_like(saved_name, saved, "dy", dy)
    with np.errstate(all="ignore"):
        dx = function(decode(dy, np.float64), decode(saved, np.float64))
    return give(dx, dy, out)


def _biased(x: Array, bias: Array, activation: Any, axis: int, dtype: str | None) -> Array:
    """x + bias in float64."""
    if activation not in ("relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"):
        raise ValueError(f"activation: unknown, got {activation!r}")
    check_storage("x", x, dtype)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"channel_axis: {axis} is out of range for shape {x.shape}")
    check_vector("bias", bias, x.shape[axis], own_or_float32(bias, x))
    with np.errstate(all="ignore"):
        along: Array = np.moveaxis(decode(x, np.float64), axis, -1) + decode(bias, np.float64)
        moved: Array = np.moveaxis(along, -1, axis)
    return moved


def _gelu(approximate: Any) -> str:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
    return "gelu" if approximate == "none" else "gelu_tanh"


def _logistic(v: Array) -> Array:
    e = np.exp(-np.abs(v))
    return np.where(v < 0, e / (1 + e), 1 / (1 + e))


def _value(activation: str, x: Array, negative_slope: float = 0.0) -> Array:
    near = np.clip(x, -_FAR, None)  # where x is far below zero the result is a zero with its sign
    values: dict[str, Any] = {
        "relu": lambda: np.where(x < 0, 0.0, x),
        "leaky_relu": lambda: np.where(x > 0, x, x * np.float64(negative_slope)),
        "gelu": lambda: near * _erfc(-near / math.sqrt(2)) / 2,
        "gelu_tanh": lambda: near * _logistic(_cubic(near)),
        "silu": lambda: near * _logistic(near),
        "sigmoid": lambda: _logistic(x),
        "tanh": lambda: np.tanh(x),
    }
    y: Array = values[activation]()
    return y


def _slope(activation: str, x: Array, negative_slope: float = 0.0) -> Array:
    near = np.clip(x, -_FAR, _FAR)

    def gated(v: Array, dv: Array) -> Array:
        s, rest = _logistic(v), _logistic(-v)
        product: Array = s * (1 + near * dv * rest)
        return product

    slopes: dict[str, Any] = {
        "leaky_relu": lambda: np.where(x > 0, 1.0, np.float64(negative_slope)),
        "gelu": lambda: _erfc(-near / math.sqrt(2)) / 2 + near * np.exp(-near * near / 2) / math.sqrt(2 * math.pi),
        "gelu_tanh": lambda: gated(_cubic(near), math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * near * near)),
        "silu": lambda: gated(near, np.ones_like(near)),
        "sigmoid": lambda: _logistic(x) * _logistic(-x),
        "tanh": lambda: 4 * _logistic(2 * x) * _logistic(-2 * x),
    }
    slope: Array = slopes[activation]()
    return slope


def _cubic(x: Array) -> Array:
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x)
