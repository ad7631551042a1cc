"""Rows of numbers from rows of any shape."""

from __future__ import annotations

import math

from onepass.nn.layer import Array, Layer, Out

__all__ = ["Flatten"]


class Flatten(Layer):
    """(N, d1, d2, ...) -> (N, d1 d2 ...), C order; a view wherever there is one.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.Flatten().forward(np.ones((2, 3, 4))).shape
    (2, 12)
    """

    keeps_output = True  # its output is its input's memory, which the layer before may keep
    in_place = True

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None

    def forward(self, x: Array, training: bool = True) -> Array:
        self._shape = x.shape
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        if self._shape is None:
            raise RuntimeError("Flatten.backward was called before forward")
        if out is False:
            return None
        dx = dy.reshape(self._shape)
        if out is None or out is dy:
            return dx
        out[...] = dx
        return out

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (math.prod(input_shape),)

    def __repr__(self) -> str:
        return "Flatten()"
