"""Convolution and pooling of images (N, C, H, W), float32 or float64, in C order.

``kernel_size``, ``stride`` and ``padding`` are a number for both axes, or a pair (of H, of W). Along each axis there
are ``(size + 2 padding - kernel_size) // stride + 1`` outputs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from onepass import _blas, _core
from onepass._windows import Pair, out_shape, pair, window
from onepass.kernels._arguments import Array, array_shape, flag, gradient_buffer, thread_count


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    relu: bool = False,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """Cross-correlation, as in every framework: ``y[n, o, r, s]`` is the sum over c, i, j of
    ``weight[o, c, i, j] x[n, c, r stride + i - padding, s stride + j - padding]``, plus ``bias[o]``.

    x (N, C, H, W), weight (O, C, h, w), bias (O,) -> (N, O, outputs of H, of W). Outside the image x is zero. ``relu``
    is applied while the tile is in cache.

    The columns that meet the weights (Chellapilla, Puri and Simard 2006) are made for a few rows of an image at a time,
    about 512 KiB, so that they stay in a core's cache until BLAS has used them up; BLAS is called as by `linear`.

    Raises:
        ImportError: SciPy is not installed.

    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.array([[[[1.0, 0.0], [0.0, -1.0]]]])).tolist()
    [[[[-4.0, -4.0], [-4.0, -4.0]]]]
    """
    _blas.connect()
    steps, around = pair("stride", stride), pair("padding", padding)
    kernel = _kernel(weight)
    if out is None:
        out = np.empty(out_shape(array_shape(x, "x"), kernel, steps, around, weight.shape[:1]), x.dtype)
    _core.conv2d(x, weight, bias, kernel, steps, around, flag("relu", relu), out, thread_count(threads))
    return out


def conv2d_backward(
    dy: Array,
    x: Array,
    weight: Array,
    stride: Pair = 1,
    padding: Pair = 0,
    dx: Array | Literal[False] | None = None,
    dweight: Array | Literal[False] | None = None,
    dbias: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of `conv2d` with respect to x, weight and bias, in one parallel region.

    Gradients of weight and bias are summed over blocks of images, as many as 32 and as few as 4, added in order.

    Args:
        dx, dweight, dbias: None: a new array; an array: written there; False: not computed, returned as None.

    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> dx, dweight, dbias = conv2d_backward(np.ones((1, 1, 2, 2)), x, np.array([[[[1.0, 0.0], [0.0, -1.0]]]]))
    >>> dx[0, 0].tolist()
    [[1.0, 1.0, 0.0], [1.0, 0.0, -1.0], [0.0, -1.0, -1.0]]
    >>> dweight[0, 0].tolist(), dbias.tolist()
    ([[8.0, 12.0], [20.0, 24.0]], [4.0])
    """
    _blas.connect()
    dx = gradient_buffer("dx", dx, x, "x")
    dweight = gradient_buffer("dweight", dweight, weight, "weight")
    db = np.empty(weight.shape[:1], weight.dtype) if dbias is None else gradient_buffer("dbias", dbias, x, "x")
    kernel = _kernel(weight)
    steps, around = pair("stride", stride), pair("padding", padding)
    _core.conv2d_backward(dy, x, weight, kernel, steps, around, dx, dweight, db, thread_count(threads))
    return dx, dweight, db


def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """The largest element of each window; NaN if it holds one. ``stride`` None: the kernel size.

    The padding, at most half of the kernel, never counts. 4 bytes an element of x and 4 of y.

    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """
    kernel, steps, around = window(kernel_size, stride, padding)
    if out is None:
        out = np.empty(out_shape(array_shape(x, "x"), kernel, steps, around), x.dtype)
    _core.max_pool2d(x, kernel, steps, around, out, thread_count(threads))
    return out


def max_pool2d_backward(
    dy: Array,
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """dy goes to where each window's first largest element is (the last NaN, if it holds one), as in PyTorch.

    The places are found in x again, which costs less than to store them.

    >>> max_pool2d_backward(np.ones((1, 1, 1, 1)), np.array([[[[1.0, 3.0], [3.0, 2.0]]]]), 2).tolist()
    [[[[0.0, 1.0], [0.0, 0.0]]]]
    """
    kernel, steps, around = window(kernel_size, stride, padding)
    dx = np.empty(array_shape(x, "x"), x.dtype) if out is None else out
    _core.max_pool2d_backward(dy, x, kernel, steps, around, dx, thread_count(threads))
    return dx


def avg_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """The mean of each window, whose padding counts as zeros (PyTorch's default). ``stride`` None: the kernel size.

    The padding is at most half of the kernel. 4 bytes an element of x and 4 of y.

    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2).tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]
    """
    kernel, steps, around = window(kernel_size, stride, padding)
    if out is None:
        out = np.empty(out_shape(array_shape(x, "x"), kernel, steps, around), x.dtype)
    _core.avg_pool2d(x, kernel, steps, around, out, thread_count(threads))
    return out


def avg_pool2d_backward(
    dy: Array,
    input_shape: tuple[int, ...],
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """dy, divided by the window's size, at every element of each window of x, whose shape is ``input_shape``.

    >>> avg_pool2d_backward(np.ones((1, 1, 1, 1)), (1, 1, 2, 2), 2).tolist()
    [[[[0.25, 0.25], [0.25, 0.25]]]]
    """
    kernel, steps, around = window(kernel_size, stride, padding)
    array_shape(dy, "dy")
    dx = np.empty(input_shape, dy.dtype) if out is None else out
    if out is not None and array_shape(out, "out") != tuple(input_shape):
        raise ValueError(f"out: expected input_shape {tuple(input_shape)}, got {out.shape}")
    _core.avg_pool2d_backward(dy, kernel, steps, around, dx, thread_count(threads))
    return dx


def _kernel(weight: Array) -> tuple[int, ...]:
    shape = array_shape(weight, "weight")
    return shape[2:] if len(shape) == 4 else (1, 1)  # other shapes are refused further down
