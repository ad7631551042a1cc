"""Activations other than the rectifier."""

from __future__ import annotations

import math
from typing import Literal

from onepass import kernels
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out

__all__ = ["GELU", "LeakyReLU", "SiLU", "Sigmoid", "Tanh"]


class _Activation(Layer):
    in_place = True
    keeps_shape = True

    def __init__(self) -> None:
        self._saved: Array | None = None  # forward's output where keeps_output, else its input
        self._y, self._dx = Buffer(), Buffer()

    def _value(self, x: Array, out: Array) -> Array:
        raise NotImplementedError

    def _backward(self, dy: Array, saved: Array, out: Array) -> Array:
        raise NotImplementedError

    def forward(self, x: Array, training: bool = True) -> Array:
        y = self._value(x, self._y.get(x.shape, x.dtype))
        self._saved = y if self.keeps_output else x
        return y

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        if out is False:
            return None
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}.backward was called before forward")
        return self._backward(dy, self._saved, self._dx.get(dy.shape, dy.dtype) if out is None else out)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LeakyReLU(_Activation):
    """``y = x`` where x is positive, else ``negative_slope x``: `kernels.leaky_relu`.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.LeakyReLU(0.25).forward(np.array([[-1.0, 2.0]])).tolist()
    [[-0.25, 2.0]]
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        if not math.isfinite(negative_slope):
            raise ValueError(f"negative_slope is {negative_slope}, expected a finite number")
        self.negative_slope = negative_slope

    def _value(self, x: Array, out: Array) -> Array:
        return kernels.leaky_relu(x, self.negative_slope, out)

    def _backward(self, dy: Array, saved: Array, out: Array) -> Array:
        return kernels.leaky_relu_backward(dy, saved, self.negative_slope, out)

    def __repr__(self) -> str:
        return f"LeakyReLU({self.negative_slope})"


class GELU(_Activation):
    """``y = x P(X < x)``, X of the normal distribution: `kernels.gelu`.

    Parameters
    ----------
    approximate : "none" (default) or "tanh"
        "tanh": the approximation of Hendrycks and Gimpel, 2016.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.GELU().forward(np.array([[-1.0, 2.0]])).round(4).tolist()
    [[-0.1587, 1.9545]]
    """

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate is {approximate!r}, expected 'none' or 'tanh'")
        self.approximate: Literal["none", "tanh"] = approximate

    def _value(self, x: Array, out: Array) -> Array:
        return kernels.gelu(x, self.approximate, out)

    def _backward(self, dy: Array, saved: Array, out: Array) -> Array:
        return kernels.gelu_backward(dy, saved, self.approximate, out)

    def __repr__(self) -> str:
        return f"GELU({self.approximate!r})"


class SiLU(_Activation):
    """``y = x sigmoid(x)``, also known as Swish: `kernels.silu`.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.SiLU().forward(np.array([[-1.0, 2.0]])).round(4).tolist()
    [[-0.2689, 1.7616]]
    """

    def _value(self, x: Array, out: Array) -> Array:
        return kernels.silu(x, out)

    def _backward(self, dy: Array, saved: Array, out: Array) -> Array:
        return kernels.silu_backward(dy, saved, out)


class Sigmoid(_Activation):
    """``y = 1 / (1 + exp(-x))``: `kernels.sigmoid`.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.Sigmoid().forward(np.array([[0.0, -2.0]])).round(4).tolist()
    [[0.5, 0.1192]]
    """

    keeps_output = True

    def _value(self, x: Array, out: Array) -> Array:
        return kernels.sigmoid(x, out)

    def _backward(self, dy: Array, saved: Array, out: Array) -> Array:
        return kernels.sigmoid_backward(dy, saved, out)


class Tanh(_Activation):
    """``y = tanh(x)``: `kernels.tanh`.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.Tanh().forward(np.array([[0.0, -2.0]])).round(4).tolist()
    [[0.0, -0.964]]
    """

    keeps_output = True

    def _value(self, x: Array, out: Array) -> Array:
        return kernels.tanh(x, out)

    def _backward(self, dy: Array, saved: Array, out: Array) -> Array:
        return kernels.tanh_backward(dy, saved, out)
