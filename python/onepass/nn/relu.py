"""The rectifier."""

from __future__ import annotations

from onepass.kernels import relu, relu_backward
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out

__all__ = ["ReLU"]


class ReLU(Layer):
    """``y = max(x, 0)``, for any shape; the gradient at 0 is 0.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.ReLU().forward(np.array([[-1.0, 2.0]])).tolist()
    [[0.0, 2.0]]
    """

    keeps_output = True
    in_place = True
    keeps_shape = True

    def __init__(self) -> None:
        self.output: Array | None = None  # of the last forward; set by Sequential where it ran with the layer before
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: Array, training: bool = True) -> Array:
        self.output = y = relu(x, self._y.get(x.shape, x.dtype))
        return y

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        if out is False:
            return None
        if self.output is None:
            raise RuntimeError("ReLU.backward was called before forward")
        return relu_backward(dy, self.output, self._dx.get(dy.shape, dy.dtype) if out is None else out)

    def __repr__(self) -> str:
        return "ReLU()"
