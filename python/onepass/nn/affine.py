"""What layers of a weight and a bias have in common."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from onepass.kernels import relu_backward
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out, check_integer

__all__ = ["Affine"]


class Affine(Layer):
    """``weight`` (outputs, inputs, ...), ``bias`` (outputs,) or None, and their gradients.

    Both start uniform in ``+-1 / sqrt(n)``, n the inputs that one output is made of.
    """

    fuses_relu = True

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, ...], bias: bool, seed: int, dtype: DTypeLike
    ) -> None:
        check_integer("inputs", inputs, 1)
        check_integer("outputs", outputs, 1)
        check_integer("seed", seed, 0)
        self.sizes = (inputs, outputs)
        self.weight: Array = np.empty((outputs, inputs, *kernel), dtype)
        self.bias: Array | None = np.empty(outputs, dtype) if bias else None
        self.dweight: Array = np.zeros_like(self.weight)
        self.dbias: Array | None = np.zeros(outputs, dtype) if bias else None
        self._dtype = self.weight.dtype
        self._x: Array | None = None
        self._y, self._dx, self._masked = Buffer(), Buffer(), Buffer()
        self.initialize(np.random.default_rng(seed))

    def initialize(self, rng: np.random.Generator) -> None:
        bound = 1 / math.sqrt(self.weight[0].size)
        for parameter in self.parameters():
            np.copyto(parameter, rng.uniform(-bound, bound, parameter.shape), casting="same_kind")

    def backward_relu(self, dy: Array, y: Array, out: Out, dy_is_ours: bool) -> Array | None:
        return self.backward(relu_backward(dy, y, dy if dy_is_ours else self._masked.get(dy.shape, dy.dtype)), out)

    def parameters(self) -> list[Array]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def gradients(self) -> list[Array]:
        return [self.dweight] if self.dbias is None else [self.dweight, self.dbias]

    def state(self) -> dict[str, Array]:
        return dict(zip(("weight", "bias"), self.parameters(), strict=False))
