"""Activations, forward and backward, alone and with a bias.

Every array of a call has one shape and one type, float32, float64, float16 or bfloat16 (of ml_dtypes, or its bits in
uint16 if ``dtype="bfloat16"``), and any strides; float16 and bfloat16 are computed in float32 and rounded once. ``out``
may be the first argument; otherwise it shares no memory with any. Bytes moved are those of float32 elements, half as
many for the 16-bit types. Results stay within 5 eps of the exact ones (2^-23 for float32; relative to the sum of the
terms' magnitudes where a derivative changes its sign); where more is lost the docstring says so. Infinities have their
limits, NaN stays NaN.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass import _core
from onepass.kernels._arguments import (
    Array,
    array_shape,
    bfloat16_bits,
    integer,
    new_in_order,
    real,
    thread_count,
)

Activation = Literal["relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]
Approximate = Literal["none", "tanh"]

_CODES = {"relu": 0, "leaky_relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4, "sigmoid": 5, "tanh": 6}


def relu(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """``max(x, 0)``. 8 bytes an element.

    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return _forward("relu", x, out, dtype, threads)


def relu_backward(
    dy: Array, y: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """0 where y, the ReLU's output, is 0, else dy, also where y is NaN. 12 bytes an element.

    >>> relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 5.0]
    """
    return _backward("relu", dy, "y", y, out, dtype, threads)


def leaky_relu(
    x: Array,
    negative_slope: float = 0.01,
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """``x`` where x is positive, else ``negative_slope x`` (Maas, Hannun and Ng 2013). 8 bytes an element.

    >>> leaky_relu(np.array([-1.0, 2.0]), 0.25).tolist()
    [-0.25, 2.0]
    """
    return _forward("leaky_relu", x, out, dtype, threads, _slope(negative_slope))


def leaky_relu_backward(
    dy: Array,
    x: Array,
    negative_slope: float = 0.01,
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """dy where x, the input, is positive, else ``negative_slope dy``. 12 bytes an element.

    >>> leaky_relu_backward(np.array([4.0, 4.0]), np.array([-1.0, 2.0]), 0.25).tolist()
    [1.0, 4.0]
    """
    return _backward("leaky_relu", dy, "x", x, out, dtype, threads, _slope(negative_slope))


def gelu(
    x: Array,
    approximate: Approximate = "none",
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """``x P(X < x)``, X of the normal distribution (Hendrycks and Gimpel 2016). 8 bytes an element.

    approximate="tanh": ``x / 2 (1 + tanh(v / 2))`` with ``v = sqrt(8 / pi) (x + 0.044715 x^3)``; for negative x it is
    as small as exp(v), and within 4 + 2 abs(v) eps: v is rounded to x's type.

    >>> gelu(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.1587, 1.9545]
    """
    return _forward(_gelu(approximate), x, out, dtype, threads)


def gelu_backward(
    dy: Array,
    x: Array,
    approximate: Approximate = "none",
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """dy times the derivative at x, the input. 12 bytes an element.

    >>> gelu_backward(np.array([1.0, 1.0]), np.array([-1.0, 2.0])).round(4).tolist()
    [-0.0833, 1.0852]
    """
    return _backward(_gelu(approximate), dy, "x", x, out, dtype, threads)


def silu(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """``x sigmoid(x)`` (Hendrycks and Gimpel 2016; Swish of Ramachandran et al. 2017). 8 bytes an element.

    >>> silu(np.array([-1.0, 2.0])).round(4).tolist()
    [-0.2689, 1.7616]
    """
    return _forward("silu", x, out, dtype, threads)


def silu_backward(
    dy: Array, x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """``dy s (1 + x (1 - s))``, s the sigmoid of x, the input. 12 bytes an element.

    >>> silu_backward(np.array([1.0, 1.0]), np.array([-1.0, 2.0])).round(4).tolist()
    [0.0723, 1.0908]
    """
    return _backward("silu", dy, "x", x, out, dtype, threads)


def sigmoid(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """``1 / (1 + exp(-x))``. 8 bytes an element.

    >>> sigmoid(np.array([0.0, -2.0])).round(4).tolist()
    [0.5, 0.1192]
    """
    return _forward("sigmoid", x, out, dtype, threads)


def sigmoid_backward(
    dy: Array, y: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """``dy y (1 - y)``, y the sigmoid's output: no exponential is computed again. 12 bytes an element.

    >>> sigmoid_backward(np.array([1.0, 8.0]), np.array([0.5, 0.25])).tolist()
    [0.25, 1.5]
    """
    return _backward("sigmoid", dy, "y", y, out, dtype, threads)


def tanh(x: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None) -> Array:
    """``tanh(x)``. 8 bytes an element.

    >>> tanh(np.array([0.0, -2.0])).round(4).tolist()
    [0.0, -0.964]
    """
    return _forward("tanh", x, out, dtype, threads)


def tanh_backward(
    dy: Array, y: Array, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """``dy (1 - y^2)``, y the output of tanh: no exponential is computed again. 12 bytes an element.

    >>> tanh_backward(np.array([1.0, 4.0]), np.array([0.0, 0.5])).tolist()
    [1.0, 3.0]
    """
    return _backward("tanh", dy, "y", y, out, dtype, threads)


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
    """``f(x + bias)``, one number of bias for each channel of x, along channel_axis. 8 bytes an element.

    Args:
        x: any shape of one axis or more.
        bias: (C,), C-contiguous, of x's type, or float32 beside 16 bits.
        activation: "relu", "leaky_relu" (with negative_slope), "gelu", "gelu_tanh", "silu", "sigmoid" or "tanh".

    ``x + bias`` is rounded to x's type, or to float32 for the 16-bit types.

    >>> bias_activation(np.array([[-1.0, 2.0]]), np.array([0.5, 0.5])).tolist()
    [[0.0, 2.5]]
    """
    result = new_in_order(x, "x") if out is None else out
    code, slope, bits = _code(activation), _slope(negative_slope), bfloat16_bits(dtype)
    axis = integer("channel_axis", channel_axis)
    _core.bias_activate(code, slope, x, bias, axis, result, bits, thread_count(threads))
    return result


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
    """``dx = dy f'(x + bias)`` and dbias, its sum over all axes but channel_axis, from one read.

    The arguments are those of :func:`bias_activation`. dx is like dy, which it may be, and dbias like bias; None: new
    arrays. 12 bytes an element. Sums are made of 64 in x's type (float32 for 16 bits), these in double.

    >>> dx, dbias = bias_activation_backward(np.ones((2, 2)), np.array([[-1.0, 2.0], [1.0, 2.0]]), np.zeros(2))
    >>> dx.tolist(), dbias.tolist()
    ([[0.0, 1.0], [1.0, 1.0]], [1.0, 2.0])
    """
    dx = new_in_order(dy, "dy") if dx is None else dx
    if dbias is None:
        dbias = np.empty(array_shape(bias, "bias"), bias.dtype)
    code, slope, bits = _code(activation), _slope(negative_slope), bfloat16_bits(dtype)
    axis = integer("channel_axis", channel_axis)
    _core.bias_activate_backward(code, slope, dy, x, bias, axis, dx, dbias, bits, thread_count(threads))
    return dx, dbias


def _forward(
    activation: Activation,
    x: Array,
    out: Array | None,
    dtype: str | None,
    threads: int | None,
    slope: float = 0.0,
) -> Array:
    result = new_in_order(x, "x") if out is None else out
    bits = bfloat16_bits(dtype)
    _core.activate(_CODES[activation], slope, x, result, bits, thread_count(threads))
    return result


def _backward(
    activation: Activation,
    dy: Array,
    saved_name: str,
    saved: Array,
    out: Array | None,
    dtype: str | None,
    threads: int | None,
    slope: float = 0.0,
) -> Array:
    result = new_in_order(dy, "dy") if out is None else out
    code, bits = _CODES[activation], bfloat16_bits(dtype)
    _core.activate_backward(code, slope, dy, saved_name, saved, result, bits, thread_count(threads))
    return result


def _slope(negative_slope: Any) -> float:
    return real("negative_slope", negative_slope)


def _gelu(approximate: Any) -> Activation:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate: expected 'none' or 'tanh', got {approximate!r}")
    return "gelu" if approximate == "none" else "gelu_tanh"


def _code(activation: Any) -> int:
    try:
        return _CODES[activation]
    except (KeyError, TypeError):
        raise ValueError(f"activation: expected one of {', '.join(map(repr, _CODES))}, got {activation!r}") from None
