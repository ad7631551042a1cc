"""Convolution of images."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from onepass._windows import Pair, out_shape, pair
from onepass.kernels import conv2d, conv2d_backward
from onepass.nn.affine import Affine
from onepass.nn.layer import Array, Out
from onepass.nn.pooling import check_window, output_shape, short

__all__ = ["Conv2d"]


class Conv2d(Affine):
    """Cross-correlation of images: `kernels.conv2d`. x (N, inputs, H, W) -> (N, outputs, H', W').

    Parameters
    ----------
    inputs, outputs : int
        Number of channels before and after.
    kernel_size : int or pair
        Of H and W.
    stride : int or pair, default 1
    padding : int or pair, "same" or "valid", default 0
        Zeros on both sides; "same" keeps H and W (stride 1 and odd kernels only), "valid" is 0.
    bias : bool, default True
    seed : int, default 0
        Of the initial parameters; `Sequential` draws them again from its own seed.
    dtype : float32 (default) or float64

    Along each axis there are ``(size + 2 padding - kernel_size) // stride + 1`` outputs. ``weight`` is (outputs,
    inputs, height, width) as in PyTorch; Keras' is ``weight.transpose(2, 3, 1, 0)``. Weight and bias start uniform in
    ``+-1 / sqrt(inputs * height * width)``, as PyTorch's.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.Conv2d(1, 8, 3, padding="same").forward(np.ones((5, 1, 28, 28), dtype=np.float32)).shape
    (5, 8, 28, 28)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | Literal["same", "valid"] = 0,
        bias: bool = True,
        seed: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.kernel_size, self.stride = pair("kernel_size", kernel_size), pair("stride", stride)
        self.padding = self._padding(padding)
        check_window(self.kernel_size, self.stride, self.padding)
        super().__init__(inputs, outputs, self.kernel_size, bias, seed, dtype)
        self._outputs = (outputs,)

    def _padding(self, padding: Pair | str) -> tuple[int, int]:
        if not isinstance(padding, str):
            return pair("padding", padding)
        if padding == "valid":
            return 0, 0
        if padding != "same":
            raise ValueError(f"padding is {padding!r:.60}, expected integers, 'same' or 'valid'")
        height, width = self.kernel_size
        if self.stride != (1, 1) or not height % 2 or not width % 2:
            raise ValueError(
                f"padding is 'same' with kernel_size {self.kernel_size} and stride {self.stride}, expected odd kernels "
                "and stride 1; give numbers"
            )
        return height // 2, width // 2

    def forward(self, x: Array, training: bool = True) -> Array:
        return self._forward(x, False)

    def forward_relu(self, x: Array, training: bool) -> Array:
        return self._forward(x, True)

    def _forward(self, x: Array, relu: bool) -> Array:
        shape = out_shape(x.shape, self.kernel_size, self.stride, self.padding, self._outputs)
        y = self._y.get(shape, self._dtype)
        conv2d(x, self.weight, self.bias, self.stride, self.padding, relu, y)
        self._x = x
        return y

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        x = self._x
        if x is None:
            raise RuntimeError("Conv2d.backward was called before forward")
        if out is None:
            out = self._dx.get(x.shape, self._dtype)
        dbias: Out = False if self.dbias is None else self.dbias
        return conv2d_backward(dy, x, self.weight, self.stride, self.padding, out, self.dweight, dbias)[0]

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return output_shape(self, input_shape, self.kernel_size, self.stride, self.padding, self.sizes)

    def __repr__(self) -> str:
        assert self.sizes is not None
        options = {"stride": (self.stride, (1, 1)), "padding": (self.padding, (0, 0))}
        said = [f", {name}={short(value)}" for name, (value, default) in options.items() if value != default]
        bias = "" if self.bias is not None else ", bias=False"
        return f"Conv2d({self.sizes[0]}, {self.sizes[1]}, {short(self.kernel_size)}{''.join(said)}{bias})"
