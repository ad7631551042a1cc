"""Windows of images, reduced to one number each."""

from __future__ import annotations

from onepass._windows import Pair, out_shape, window
from onepass.kernels import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out

__all__ = ["AvgPool2d", "MaxPool2d"]


def check_window(kernel_size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    for name, value, least in (("kernel_size", kernel_size, 1), ("stride", stride, 1), ("padding", padding, 0)):
        if min(value) < least:
            raise ValueError(f"{name} is {value}, expected integers >= {least}")


def output_shape(
    layer: Layer,
    input_shape: tuple[int, ...],
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    channels: tuple[int, int] | None = None,
) -> tuple[int, ...]:
    """What becomes of images (C, H, W); ``channels``: before and after, where the layer fixes them."""
    before = input_shape[0] if channels is None and input_shape else (channels or (0,))[0]
    if len(input_shape) != 3 or input_shape[0] != before:
        raise ValueError(f"{layer!r} takes images of shape ({before if channels else 'C'}, H, W), not {input_shape}")
    shape = out_shape((1, *input_shape), kernel_size, stride, padding, channels[1:] if channels else ())[1:]
    if 0 in shape:
        raise ValueError(f"{layer!r}: images of shape {input_shape} are smaller than its window")
    return shape


def short(value: tuple[int, int]) -> str:
    """A pair as its one number, where both are the same."""
    return str(value[0] if value[0] == value[1] else value)


class _Pool2d(Layer):
    keeps_channels = True

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0) -> None:
        self.kernel_size, self.stride, self.padding = window(kernel_size, stride, padding)
        check_window(self.kernel_size, self.stride, self.padding)
        if any(2 * around > kernel for around, kernel in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"padding is {self.padding}, expected at most half of kernel_size, {self.kernel_size}")
        self._x: Array | None = None
        self._y, self._dx = Buffer(), Buffer()

    @property
    def _window(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        return self.kernel_size, self.stride, self.padding

    def _pool(self, x: Array, out: Array) -> Array:
        raise NotImplementedError

    def _backward(self, dy: Array, x: Array, out: Array) -> Array:
        raise NotImplementedError

    def forward(self, x: Array, training: bool = True) -> Array:
        self._x = x
        return self._pool(x, self._y.get(out_shape(x.shape, *self._window), x.dtype))

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        if out is False:
            return None
        x = self._x
        if x is None:
            raise RuntimeError(f"{type(self).__name__}.backward was called before forward")
        return self._backward(dy, x, self._dx.get(x.shape, x.dtype) if out is None else out)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return output_shape(self, input_shape, *self._window)

    def __repr__(self) -> str:
        stride = "" if self.stride == self.kernel_size else f", stride={short(self.stride)}"
        padding = "" if self.padding == (0, 0) else f", padding={short(self.padding)}"
        return f"{type(self).__name__}({short(self.kernel_size)}{stride}{padding})"


class MaxPool2d(_Pool2d):
    """The largest element of each window: `kernels.max_pool2d`. x (N, C, H, W) -> (N, C, H', W').

    Parameters
    ----------
    kernel_size : int or pair
        Of H and W.
    stride : int or pair or None, default None
        None: the kernel size.
    padding : int or pair, default 0
        On both sides, at most half of the kernel; it never counts.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.MaxPool2d(2).forward(np.arange(16.0).reshape(1, 1, 4, 4)).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """

    def _pool(self, x: Array, out: Array) -> Array:
        return max_pool2d(x, *self._window, out)

    def _backward(self, dy: Array, x: Array, out: Array) -> Array:
        return max_pool2d_backward(dy, x, *self._window, out)


class AvgPool2d(_Pool2d):
    """The mean of each window: `kernels.avg_pool2d`. x (N, C, H, W) -> (N, C, H', W').

    Parameters
    ----------
    kernel_size : int or pair
        Of H and W; that of the image for a mean over it all.
    stride : int or pair or None, default None
        None: the kernel size.
    padding : int or pair, default 0
        On both sides, at most half of the kernel; it counts as zeros, as in PyTorch (Keras: it does not count).

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.AvgPool2d(2).forward(np.arange(16.0).reshape(1, 1, 4, 4)).tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]
    """

    def _pool(self, x: Array, out: Array) -> Array:
        return avg_pool2d(x, *self._window, out)

    def _backward(self, dy: Array, x: Array, out: Array) -> Array:
        return avg_pool2d_backward(dy, x.shape, *self._window, out)
