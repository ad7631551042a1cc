"""The fully connected layer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from onepass.kernels import linear, linear_backward, relu_backward
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out, check_integer

__all__ = ["Linear"]


class Linear(Layer):
    """``y = x @ weight.T + bias``: x (N, inputs), weight (outputs, inputs), y (N, outputs).

    Parameters
    ----------
    inputs, outputs : int
        Number of features before and after.
    bias : bool, default True
    seed : int, default 0
        Of the initial parameters; `Sequential` draws them again from its own seed.
    dtype : float32 (default) or float64

    Weight and bias start uniform in ``+-1 / sqrt(inputs)``, as PyTorch's (He et al., 2015, with
    ``a = sqrt(5)``).

    >>> import numpy as np
    >>> from onepass import nn
    >>> layer = nn.Linear(3, 2)
    >>> layer.forward(np.ones((5, 3), dtype=np.float32)).shape
    (5, 2)
    """

    fuses_relu = True

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        seed: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_integer("inputs", inputs, 1)
        check_integer("outputs", outputs, 1)
        check_integer("seed", seed, 0)
        self.sizes = (inputs, outputs)
        self.weight: Array = np.empty((outputs, inputs), dtype)
        self.bias: Array | None = np.empty(outputs, dtype) if bias else None
        self.dweight: Array = np.zeros_like(self.weight)
        self.dbias: Array | None = np.zeros(outputs, dtype) if bias else None
        self._outputs = outputs
        self._dtype = self.weight.dtype
        self._x: Array | None = None
        self._y, self._dx, self._masked = Buffer(), Buffer(), Buffer()
        self.initialize(np.random.default_rng(seed))

    def initialize(self, rng: np.random.Generator) -> None:
        bound = 1 / math.sqrt(self.weight.shape[1])
        for parameter in self.parameters():
            np.copyto(parameter, rng.uniform(-bound, bound, parameter.shape), casting="same_kind")

    def forward(self, x: Array, training: bool = True) -> Array:
        self._x = x
        y = self._y.get((x.shape[0], self._outputs), self._dtype)
        return linear(x, self.weight, self.bias, out=y)

    def forward_relu(self, x: Array, training: bool) -> Array:
        self._x = x
        return linear(x, self.weight, self.bias, True, self._y.get((x.shape[0], self._outputs), self._dtype))

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        x = self._x
        if x is None:
            raise RuntimeError("Linear.backward was called before forward")
        if out is None:
            out = self._dx.get(x.shape, self._dtype)
        dbias: Out = False if self.dbias is None else self.dbias
        return linear_backward(dy, x, self.weight, out, self.dweight, dbias)[0]

    def backward_relu(self, dy: Array, y: Array, out: Out, dy_is_ours: bool) -> Array | None:
        return self.backward(relu_backward(dy, y, dy if dy_is_ours else self._masked.get(dy.shape, dy.dtype)), out)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        outputs, inputs = self.weight.shape
        if input_shape != (inputs,):
            raise ValueError(f"{self!r} takes rows of shape ({inputs},), not {input_shape}")
        return (outputs,)

    def parameters(self) -> list[Array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def gradients(self) -> list[Array]:
        return [self.dweight] if self.dbias is None else [self.dweight, self.dbias]

    def state(self) -> dict[str, Array]:
        return dict(zip(("weight", "bias"), self.parameters(), strict=False))

    def __repr__(self) -> str:
        outputs, inputs = self.weight.shape
        return f"Linear({inputs}, {outputs}{'' if self.bias is not None else ', bias=False'})"
