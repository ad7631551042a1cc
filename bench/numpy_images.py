"""Convolution and pooling in NumPy, a tap of the kernel at a time; images are (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.case import Array


def _padded(x: Array, padding: int) -> Array:
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))


def output_side(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def _taps(weight: Array, height: int, width: int, stride: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Row and column of a tap, and the rows and columns of the padded image under it."""
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            yield i, j, slice(i, i + stride * height, stride), slice(j, j + stride * width, stride)


def conv2d(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    """weight (O, C, kh, kw), bias (O,) -> (N, O, H', W')."""
    n, channels, h, w = x.shape
    height, width = (output_side(s, k, stride, padding) for s, k in zip((h, w), weight.shape[2:], strict=True))
    padded = _padded(x, padding)
    y = np.zeros((n, weight.shape[0], height * width), x.dtype)
    for i, j, rows, columns in _taps(weight, height, width, stride):
        y += weight[:, :, i, j] @ padded[:, :, rows, columns].reshape(n, channels, -1)
    y += bias[:, None]
    return y.reshape(n, -1, height, width)


def conv2d_backward(dy: Array, x: Array, weight: Array, stride: int, padding: int) -> tuple[Array, Array, Array]:
    """dx, dweight, dbias."""
    n, channels, h, w = x.shape
    height, width = dy.shape[2:]
    padded = _padded(x, padding)
    dpadded, dweight = np.zeros_like(padded), np.empty_like(weight)
    flat = dy.reshape(n, dy.shape[1], -1)
    for i, j, rows, columns in _taps(weight, height, width, stride):
        under = padded[:, :, rows, columns].reshape(n, channels, -1)
        dweight[:, :, i, j] = (flat @ under.transpose(0, 2, 1)).sum(0)
        dpadded[:, :, rows, columns] += (weight[:, :, i, j].T @ flat).reshape(n, channels, height, width)
    dx = dpadded[:, :, padding : padding + h, padding : padding + w]
    return dx, dweight, dy.sum((0, 2, 3))


def _windows(x: Array) -> Array:
    n, channels, h, w = x.shape
    return x.reshape(n, channels, h // 2, 2, w // 2, 2)


def max_pool2d(x: Array) -> Array:
    """Windows of 2 x 2, side by side."""
    found: Array = _windows(x).max((3, 5))
    return found


def max_pool2d_backward(dy: Array, x: Array, y: Array) -> Array:
    """Every largest element of a window gets its gradient: right where there is one, or where ties do not matter."""
    largest = _windows(x) == y[:, :, :, None, :, None]
    dx: Array = largest * dy[:, :, :, None, :, None]
    return dx.reshape(x.shape)
