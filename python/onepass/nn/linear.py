"""The fully connected layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from onepass.kernels import linear, linear_backward
from onepass.nn.affine import Affine
from onepass.nn.layer import Array, Out

__all__ = ["Linear"]


class Linear(Affine):
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

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool = True,
        seed: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(inputs, outputs, (), bias, seed, dtype)
        self._outputs = outputs

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

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        outputs, inputs = self.weight.shape
        if input_shape != (inputs,):
            raise ValueError(f"{self!r} takes rows of shape ({inputs},), not {input_shape}")
        return (outputs,)

    def __repr__(self) -> str:
        outputs, inputs = self.weight.shape
        return f"Linear({inputs}, {outputs}{'' if self.bias is not None else ', bias=False'})"
