"""Convolution and pooling of images (N, C, H, W) in NumPy: views of the windows, summed in float64."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided

from onepass._windows import Pair, out_shape, pair
from onepass.reference._results import Array, give


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
    """See :func:`onepass.kernels.conv2d`.

    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, np.array([[[[1.0, 0.0], [0.0, -1.0]]]])).tolist()
    [[[[-4.0, -4.0], [-4.0, -4.0]]]]
    """
    padded = _pad(x, pair("padding", padding), 0.0)
    y = np.einsum("ncrsij,ocij->nors", _windows(padded, weight.shape[2:], pair("stride", stride)), weight.astype(float))
    if bias is not None:
        y = y + bias.astype(np.float64)[:, None, None]
    return give(np.where(y < 0, 0.0, y) if relu else y, x, out)


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
    """See :func:`onepass.kernels.conv2d_backward`.

    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> dx, dweight, dbias = conv2d_backward(np.ones((1, 1, 2, 2)), x, np.array([[[[1.0, 0.0], [0.0, -1.0]]]]))
    >>> dx[0, 0].tolist()
    [[1.0, 1.0, 0.0], [1.0, 0.0, -1.0], [0.0, -1.0, -1.0]]
    """
    steps, around = pair("stride", stride), pair("padding", padding)
    d = dy.astype(np.float64)
    windows = _windows(_pad(x, around, 0.0), weight.shape[2:], steps)
    slopes = np.zeros_like(_pad(x, around, 0.0))
    for i, j in np.ndindex(weight.shape[2:]):
        at = np.einsum("nors,oc->ncrs", d, weight[:, :, i, j].astype(np.float64))
        _tap(slopes, i, j, steps, dy.shape[2:])[...] += at
    return (
        None if dx is False else give(_inside(slopes, around, x.shape), x, dx, "dx"),
        None if dweight is False else give(np.einsum("ncrsij,nors->ocij", windows, d), x, dweight, "dweight"),
        None if dbias is False else give(d.sum((0, 2, 3)), x, dbias, "dbias"),
    )


def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.max_pool2d`.

    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    """
    kernel, steps, around = _window(kernel_size, stride, padding)
    return give(_windows(_pad(x, around, -np.inf), kernel, steps).max((4, 5)), x, out)


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
    """See :func:`onepass.kernels.max_pool2d_backward`.

    >>> max_pool2d_backward(np.ones((1, 1, 1, 1)), np.array([[[[1.0, 3.0], [3.0, 2.0]]]]), 2).tolist()
    [[[[0.0, 1.0], [0.0, 0.0]]]]
    """
    kernel, steps, around = _window(kernel_size, stride, padding)
    padded = _pad(x, around, -np.inf)
    there = _windows(_pad(np.ones(x.shape), around, 0.0), kernel, steps) != 0
    windows = _windows(padded, kernel, steps)
    numbers = np.where(there, np.where(np.isnan(windows), np.inf, windows), -np.inf)
    largest = there & (numbers == numbers.max((4, 5), keepdims=True)) & ~np.isnan(windows)
    nans = (np.isnan(windows) & there).reshape(*windows.shape[:4], -1)
    first = largest.reshape(*windows.shape[:4], -1).argmax(-1)
    last_nan = nans.shape[-1] - 1 - nans[..., ::-1].argmax(-1)
    place = np.where(nans.any(-1), last_nan, first)
    slopes = np.zeros_like(padded)
    for i, j in np.ndindex(kernel):
        chosen = place == i * kernel[1] + j
        _tap(slopes, i, j, steps, dy.shape[2:])[...] += np.where(chosen, dy.astype(np.float64), 0.0)
    return give(_inside(slopes, around, x.shape), x, out)


def avg_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.avg_pool2d`.

    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2).tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]
    """
    kernel, steps, around = _window(kernel_size, stride, padding)
    return give(_windows(_pad(x, around, 0.0), kernel, steps).mean((4, 5)), x, out)


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
    """See :func:`onepass.kernels.avg_pool2d_backward`.

    >>> avg_pool2d_backward(np.ones((1, 1, 1, 1)), (1, 1, 2, 2), 2).tolist()
    [[[[0.25, 0.25], [0.25, 0.25]]]]
    """
    kernel, steps, around = _window(kernel_size, stride, padding)
    slopes = np.zeros((*input_shape[:2], *(n + 2 * p for n, p in zip(input_shape[2:], around, strict=True))))
    for i, j in np.ndindex(kernel):
        _tap(slopes, i, j, steps, dy.shape[2:])[...] += dy.astype(np.float64) / (kernel[0] * kernel[1])
    return give(_inside(slopes, around, input_shape), dy, out)


def _window(
    kernel_size: Pair, stride: Pair | None, padding: Pair
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    kernel = pair("kernel_size", kernel_size)
    return kernel, kernel if stride is None else pair("stride", stride), pair("padding", padding)


def _pad(x: Array, around: tuple[int, int], value: float) -> Array:
    sides = ((0, 0), (0, 0), (around[0], around[0]), (around[1], around[1]))
    return np.pad(x.astype(np.float64), sides, constant_values=value)


def _inside(padded: Array, around: tuple[int, int], shape: tuple[int, ...]) -> Array:
    return padded[:, :, around[0] : around[0] + shape[2], around[1] : around[1] + shape[3]]


def _windows(padded: Array, kernel: tuple[int, ...], steps: tuple[int, int]) -> Array:
    # a view (N, C, outputs of H, of W, *kernel)
    shape = (*out_shape(padded.shape, kernel, steps, (0, 0)), *kernel)
    n, c, h, w = padded.strides
    return as_strided(padded, shape, (n, c, h * steps[0], w * steps[1], h, w), writeable=False)


def _tap(padded: Array, i: int, j: int, steps: tuple[int, int], outputs: tuple[int, ...]) -> Array:
    # what element (i, j) of every window is, (N, C, outputs of H, of W)
    rows = slice(i, i + (outputs[0] - 1) * steps[0] + 1, steps[0])
    columns = slice(j, j + (outputs[1] - 1) * steps[1] + 1, steps[1])
    return padded[:, :, rows, columns]
