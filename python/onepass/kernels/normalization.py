"""Batch normalization, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from onepass import _core
from onepass._batch_norm import running_weight
from onepass._storage import computed_type
from onepass._types import BatchNormSaved
from onepass.kernels._arguments import Array, array_shape, bfloat16_bits, flag, integer, real, thread_count


def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    relu: bool = False,
    residual: Array | None = None,
    out: Array | None = None,
    *,
    batches: int | None = None,
    population: bool = False,
    mean: Array | None = None,
    invstd: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, BatchNormSaved]:
    """Batch normalization (Ioffe and Szegedy 2015), with an optional residual and ReLU behind it::

        y = relu((x - mean) / sqrt(var + eps) * gamma + beta + residual)

    PyTorch's conventions: ``momentum`` is the weight of the new batch in the running statistics (Keras and ONNX mean
    the weight of the old: pass one minus theirs), the variance that normalizes is biased, the running one unbiased
    (Keras and ONNX: biased, ``population=True``).

    Args:
        x: at least 2 axes, any strides, the channels along ``channel_axis``; float32, float64, float16 or bfloat16.
            Its axes are taken in the order of its memory: images stored channels last are fast however they are
            transposed. Results in float16 and bfloat16 are computed in float32 and rounded to nearest even.
        gamma, beta: (C,), float64 for a float64 x, else float32; None: ones and zeros.
        running_mean, running_var: (C,) like gamma; updated in place when training (if given), used when not.
        training: statistics of the batch, or the running ones.
        momentum: None: the running statistics are the mean over all batches, ``momentum = 1 / (batches + 1)``.
        residual: like x, any strides, added before the ReLU.
        out: like x, any strides; None: a new array with its axes in the order of x's. It may be the residual, and in
            inference x.
        batches: how many batches the running statistics hold already; needed, and looked at, with ``momentum=None``.
        population: ``running_var`` takes the biased variance.
        mean, invstd: where those of ``saved`` go, (C,) float64; None: new arrays.
        dtype: "bfloat16": x and what is like it are its bits in uint16.

    Returns:
        ``(y, saved)``; ``saved`` goes to :func:`batch_norm_backward` and holds ``mean`` and ``invstd``, (C,) float64.

    Raises:
        TypeError: a type that is not supported, or that differs from x's.
        ValueError: shapes that differ, one value a channel when training, arrays that overlap or are read-only.

    8 bytes for each float32 element while a channel fits into cache, 12 otherwise, and 4 for a residual; in 16 bits
    half of that.

    >>> y, saved = batch_norm(np.array([[1.0], [3.0]]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0], [1.0]], [2.0])
    """
    bits = bfloat16_bits(dtype)
    axis = integer("channel_axis", channel_axis)
    training = flag("training", training)
    weight = running_weight(momentum, batches, training)
    y = empty_like(x) if out is None else out
    channels = channel_count(x, axis)
    mean = np.empty(channels) if mean is None else mean
    invstd = np.empty(channels) if invstd is None else invstd
    _core.batch_norm(
        x, gamma, beta, running_mean, running_var, residual,
        training, weight, real("eps", eps), axis, flag("relu", relu), flag("population", population),
        y, mean, invstd, bits, thread_count(threads),
    )  # fmt: skip
    return y, save(mean, invstd, beta, relu, residual, y, training, channel_axis)


def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: BatchNormSaved,
    out: Array | None = None,
    *,
    dgamma: Array | None = None,
    dbeta: Array | None = None,
    dresidual: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, ...]:
    """Gradients of :func:`batch_norm`, from what it was given (x, gamma) and what it saved.

    With ``xhat = (x - mean) invstd`` and dy cut to where the ReLU let something through::

        dbeta = sum(dy)    dgamma = sum(dy xhat)
        dx = gamma invstd (dy - mean(dy) - xhat mean(dy xhat))      (inference: gamma invstd dy)

    Args:
        dy: like x, any strides; fastest with its axes in the order of x's memory.
        out: where dx goes, like x; it may be dy. None: a new array.
        dgamma, dbeta: (C,) like gamma, dresidual: like x; where those go. None: new arrays.
        dtype: as it was given to :func:`batch_norm`.

    Returns:
        ``(dx, dgamma, dbeta)``, and ``dresidual`` if the forward pass had a residual.

    12 bytes for each float32 element while a channel fits into cache, 20 otherwise (two reads of dy and x).

    >>> x = np.array([[1.0], [3.0], [8.0]])
    >>> _, saved = batch_norm(x)
    >>> dx, dgamma, dbeta = batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [1.0])
    """
    bits = bfloat16_bits(dtype)
    results = gradients(x, saved, out, dgamma, dbeta, dresidual)
    _core.batch_norm_backward(
        dy, x, gamma, saved.beta, saved.mean, saved.invstd, saved.y,
        saved.training, saved.channel_axis, saved.relu, *results, bits, thread_count(threads),
    )  # fmt: skip
    return results if results[3] is not None else results[:3]  # type: ignore[return-value]


def channel_count(x: Array, axis: int) -> int:
    shape = array_shape(x, "x")
    if len(shape) < 2:
        raise ValueError(f"x: expected at least 2 axes, got {shape}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"channel_axis: {axis} is out of range for x, {shape}")
    return shape[axis]


def empty_like(x: Array) -> Array:
    # dense, its axes in the order of x's memory
    return np.empty_like(x, subok=False)


def save(
    mean: Array,
    invstd: Array,
    beta: Array | None,
    relu: bool,
    residual: Array | None,
    y: Array,
    training: bool,
    channel_axis: int,
) -> BatchNormSaved:
    y_for_backward = y if relu and residual is not None else None
    return BatchNormSaved(
        mean, invstd, beta if relu else None, relu, residual is not None, y_for_backward, training, channel_axis
    )


def gradients(
    x: Array,
    saved: BatchNormSaved,
    dx: Array | None,
    dgamma: Array | None,
    dbeta: Array | None,
    dresidual: Array | None,
) -> tuple[Array, Array, Array, Array | None]:
    """The arrays given, and new ones where none were."""
    if dgamma is None or dbeta is None:
        channels = channel_count(x, saved.channel_axis)
        kind: Any = computed_type(x)
        dgamma = np.empty(channels, kind) if dgamma is None else dgamma
        dbeta = np.empty(channels, kind) if dbeta is None else dbeta
    dx = empty_like(x) if dx is None else dx
    if not saved.residual:
        dresidual = None
    elif dresidual is None:
        dresidual = empty_like(x)
    return dx, dgamma, dbeta, dresidual
