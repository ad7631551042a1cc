"""Convolution and pooling of images (N, C, H, W) in NumPy: views of the windows, summed in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onepass._checks import (
    check_apart,
    check_contiguous,
    check_filled,
    check_float,
    check_like,
    check_vector,
    check_writable,
)
from onepass._windows import Pair, check_window, out_shape, pair, window
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
    steps, around = pair("stride", stride), pair("padding", padding)
    _check_convolution(x, weight, steps, around)
    check_vector("bias", bias, len(weight), x.dtype)
    _check_out(out, _outputs(x, weight.shape[2:], steps, around, weight.shape[:1]), x=x, weight=weight, bias=bias)
    windows = _windows(_pad(x, around, 0.0), weight.shape[2:], steps)
    y = np.einsum("ncrsij,ocij->nors", windows, weight.astype(np.float64))
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
    _check_convolution(x, weight, steps, around)
    _check_outputs("dy", dy, _outputs(x, weight.shape[2:], steps, around, weight.shape[:1]))
    inputs: dict[str, Array | Literal[False] | None] = {"dy": dy, "x": x, "weight": weight}
    _check_gradient("dx", dx, "x", x, inputs)
    _check_gradient("dweight", dweight, "weight", weight, {**inputs, "dx": dx})
    _check_gradient("dbias", dbias, "weight's outputs", weight[:, 0, 0, 0], {**inputs, "dx": dx, "dweight": dweight})
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
    kernel, steps, around = window(kernel_size, stride, padding)
    _check_pooling("x", x, kernel, steps, around)
    _check_out(out, _outputs(x, kernel, steps, around), x=x)
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
    kernel, steps, around = window(kernel_size, stride, padding)
    _check_pooling("x", x, kernel, steps, around)
    _check_outputs("dy", dy, _outputs(x, kernel, steps, around))
    _check_out(out, x, "x", dy=dy, x=x)
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
    kernel, steps, around = window(kernel_size, stride, padding)
    _check_pooling("x", x, kernel, steps, around)
    _check_out(out, _outputs(x, kernel, steps, around), x=x)
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
    kernel, steps, around = window(kernel_size, stride, padding)
    check_float("dy", dy)
    dx = np.empty(input_shape, dy.dtype) if out is None else out
    _check_pooling("out", dx, kernel, steps, around)
    if dx.shape != tuple(input_shape):
        raise ValueError(f"out: expected input_shape {tuple(input_shape)}, got {dx.shape}")
    _check_outputs("dy", dy, _outputs(dx, kernel, steps, around))
    _check_out(out, dx, dy=dy)
    slopes = np.zeros((*input_shape[:2], *(n + 2 * p for n, p in zip(input_shape[2:], around, strict=True))))
    for i, j in np.ndindex(kernel):
        _tap(slopes, i, j, steps, dy.shape[2:])[...] += dy.astype(np.float64) / (kernel[0] * kernel[1])
    return give(_inside(slopes, around, input_shape), dy, out)


def _check_images(name: str, x: Array) -> None:
    check_float(name, x)
    if x.ndim != 4:
        raise ValueError(f"{name}: expected shape (images, channels, height, width), got {x.shape}")
    check_filled(name, x)
    check_contiguous(name, x)


def _check_convolution(x: Array, weight: Array, steps: tuple[int, int], around: tuple[int, int]) -> None:
    check_float("weight", weight)
    if weight.ndim != 4:
        raise ValueError(f"weight: expected shape (outputs, channels, kernel height, kernel width), got {weight.shape}")
    check_filled("weight", weight)
    check_contiguous("weight", weight)
    _check_images("x", x)
    if x.dtype != weight.dtype:
        raise TypeError(f"x: expected {weight.dtype} like weight, got {x.dtype}; convert it first")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x: expected {weight.shape[1]} channels (axis 1) like weight, got {x.shape}")
    check_window(x.shape, weight.shape[2:], steps, around)


def _check_pooling(
    name: str, x: Array, kernel: tuple[int, int], steps: tuple[int, int], around: tuple[int, int]
) -> None:
    _check_images(name, x)
    check_window(x.shape, kernel, steps, around, pooling=True)


def _outputs(
    x: Array, kernel: tuple[int, ...], steps: tuple[int, int], around: tuple[int, int], channels: tuple[int, ...] = ()
) -> Array:
    # what the outputs are held against: their shape and type
    return np.empty(out_shape(x.shape, kernel, steps, around, channels), x.dtype)


def _check_outputs(name: str, a: Array, model: Array, model_name: str = "the windows' outputs") -> None:
    check_like(name, a, model_name, model)
    check_contiguous(name, a)


def _check_out(
    out: Array | None, model: Array, model_name: str = "the windows' outputs", **inputs: Array | None
) -> None:
    if out is not None:
        _check_written("out", out, model, model_name, inputs)


def _check_gradient(
    name: str,
    given: Array | bool | None,
    model_name: str,
    model: Array,
    others: Mapping[str, Array | Literal[False] | None],
) -> None:
    if given is True:
        raise TypeError(f"{name}: expected an array, None (a new array) or False (not computed), got True")
    if given is not None and given is not False:
        _check_written(name, given, model, model_name, others)


def _check_written(
    name: str, a: Array, model: Array, model_name: str, others: Mapping[str, Array | Literal[False] | None]
) -> None:
    _check_outputs(name, a, model, model_name)
    check_writable(name, a)
    for other_name, other in others.items():
        check_apart(name, a, other_name, None if other is False else other)


def _pad(x: Array, around: tuple[int, int], value: float) -> Array:
    sides = ((0, 0), (0, 0), (around[0], around[0]), (around[1], around[1]))
    return np.pad(x.astype(np.float64), sides, constant_values=value)


def _inside(padded: Array, around: tuple[int, int], shape: tuple[int, ...]) -> Array:
    return padded[:, :, around[0] : around[0] + shape[2], around[1] : around[1] + shape[3]]


def _windows(padded: Array, kernel: tuple[int, ...], steps: tuple[int, int]) -> Array:
    # a view (N, C, outputs of H, of W, *kernel)
    return sliding_window_view(padded, kernel, (2, 3))[:, :, :: steps[0], :: steps[1]]


def _tap(padded: Array, i: int, j: int, steps: tuple[int, int], outputs: tuple[int, ...]) -> Array:
    # what element (i, j) of every window is, (N, C, outputs of H, of W)
    rows = slice(i, i + (outputs[0] - 1) * steps[0] + 1, steps[0])
    columns = slice(j, j + (outputs[1] - 1) * steps[1] + 1, steps[1])
    return padded[:, :, rows, columns]
