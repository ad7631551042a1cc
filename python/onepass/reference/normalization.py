"""Batch normalization, forward and backward, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from onepass._checks import check_apart, check_contiguous, check_float, check_like, check_vector
from onepass._types import BatchNormSaved
from onepass.reference._results import Array, give


def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    relu: bool = False,
    residual: Array | None = None,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> tuple[Array, BatchNormSaved]:
    """See :func:`onepass.kernels.batch_norm`.

    >>> y, saved = batch_norm(np.array([[1.0], [3.0]]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0], [1.0]], [2.0])
    """
    check_float("x", x)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"x: expected at least 2 axes, not empty, got {x.shape}")
    check_contiguous("x", x)
    for name, vector in (
        ("gamma", gamma),
        ("beta", beta),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        check_vector(name, vector, x.shape[channel_axis], x.dtype)
    if training:
        check_apart("out", out, "x", x)
    axes, wide = _other_axes(x, channel_axis), x.astype(np.float64)
    count = x.size // x.shape[channel_axis]
    if training:
        if count < 2:
            raise ValueError(f"x: expected more than one value a channel when training, got {x.shape}")
        mean, variance = wide.mean(axes), wide.var(axes)
        for running, batch in ((running_mean, mean), (running_var, variance * count / (count - 1))):
            if running is not None:
                running[...] = (1 - momentum) * running.astype(np.float64) + momentum * batch
    else:
        if running_mean is None or running_var is None:
            raise ValueError("running_mean and running_var: are needed when training is false")
        mean, variance = running_mean.astype(np.float64), running_var.astype(np.float64)
    invstd = 1 / np.sqrt(variance + eps)
    shape = _channel_shape(x, channel_axis)
    y = (wide - mean.reshape(shape)) * invstd.reshape(shape)
    y = y * _channels(gamma, 1.0, shape) + _channels(beta, 0.0, shape)
    if residual is not None:
        y = y + residual
    if relu:
        y = np.where(y < 0, 0.0, y)
    result = give(y, x, out)
    return result, BatchNormSaved(
        mean=mean,
        invstd=invstd,
        beta=beta if relu else None,
        relu=relu,
        residual=residual is not None,
        y=result if relu and residual is not None else None,
        training=training,
        channel_axis=channel_axis,
    )


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
    threads: int | None = None,
) -> tuple[Array, ...]:
    """See :func:`onepass.kernels.batch_norm_backward`.

    >>> x = np.array([[1.0], [3.0], [8.0]])
    >>> _, saved = batch_norm(x)
    >>> dx, dgamma, dbeta = batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [1.0])
    """
    check_float("x", x)
    check_like("dy", dy, "x", x)
    axes, shape = _other_axes(x, saved.channel_axis), _channel_shape(x, saved.channel_axis)
    invstd = saved.invstd.reshape(shape)
    xhat = (x.astype(np.float64) - saved.mean.reshape(shape)) * invstd
    scale = _channels(gamma, 1.0, shape)
    d = dy.astype(np.float64)
    if saved.relu:
        y = xhat * scale + _channels(saved.beta, 0.0, shape) if saved.y is None else saved.y
        d = np.where(y > 0, d, 0.0)
    sum_dy, sum_dy_xhat = d.sum(axes), (d * xhat).sum(axes)
    count = x.size // x.shape[saved.channel_axis]
    dx = d
    if saved.training:
        dx = d - sum_dy.reshape(shape) / count - xhat * sum_dy_xhat.reshape(shape) / count
    results = (
        give(scale * invstd * dx, x, out),
        give(sum_dy_xhat, x, dgamma),
        give(sum_dy, x, dbeta),
    )
    return (*results, give(d, x, dresidual)) if saved.residual else results


def _channel_shape(x: Array, axis: int) -> tuple[int, ...]:
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return tuple(shape)


def _other_axes(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis % x.ndim)


def _channels(values: Array | None, default: float, shape: tuple[int, ...]) -> Any:
    return default if values is None else values.astype(np.float64).reshape(shape)
