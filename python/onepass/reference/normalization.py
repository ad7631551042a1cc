"""Batch normalization, forward and backward, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from onepass._batch_norm import running_weight
from onepass._checks import check_apart, check_filled, check_like, check_statistics, check_storage, check_vector
from onepass._storage import computed_type, decode
from onepass._types import BatchNormSaved, BatchNormStatistics, BatchNormSums
from onepass.reference._results import Array, give, keep


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
    """See :func:`onepass.kernels.batch_norm`.

    >>> y, saved = batch_norm(np.array([[1.0], [3.0]]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0], [1.0]], [2.0])
    """
    check_x(x, dtype)
    running = (running_mean, running_var)
    check_vectors(x, channel_axis, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    check_statistics(x.shape[channel_axis], mean=mean, invstd=invstd)
    weight = running_weight(momentum, batches, training)
    if training:
        check_apart("out", out, "x", x)
        statistics = moments(x, channel_axis)
        if statistics.count < 2:
            raise ValueError(f"x: expected more than one value a channel when training, got {x.shape}")
        center, variance = statistics.mean, statistics.m2 / statistics.count
        blend(running, statistics, weight, population)
    else:
        if running_mean is None or running_var is None:
            raise ValueError("running_mean and running_var: are needed when training is false")
        center, variance = running_mean.astype(np.float64), running_var.astype(np.float64)
    y, saved = normalize(x, center, variance, gamma, beta, eps, channel_axis, relu, residual, out, training)
    return y, saved._replace(mean=keep(saved.mean, mean), invstd=keep(saved.invstd, invstd))


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
    """See :func:`onepass.kernels.batch_norm_backward`.

    >>> x = np.array([[1.0], [3.0], [8.0]])
    >>> _, saved = batch_norm(x)
    >>> dx, dgamma, dbeta = batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [1.0])
    """
    check_x(x, dtype)
    sums = gradient_sums(dy, x, gamma, saved)
    count = x.size // x.shape[saved.channel_axis]
    return gradients(dy, x, gamma, saved, sums, count, out, dgamma, dbeta, dresidual)


# ---- the parts, which normalization_parts.py makes functions of


def moments(x: Array, channel_axis: int) -> BatchNormStatistics:
    axes, wide = other_axes(x, channel_axis), decode(x, np.float64)
    count = x.size // x.shape[channel_axis]
    return BatchNormStatistics(count, wide.mean(axes), wide.var(axes) * count)


def blend(
    running: tuple[Array | None, Array | None], statistics: BatchNormStatistics, weight: float, population: bool
) -> None:
    freedom = statistics.count if population else max(statistics.count - 1, 1)
    for average, batch in zip(running, (statistics.mean, statistics.m2 / freedom), strict=True):
        if average is not None:
            average[...] = (1 - weight) * average.astype(np.float64) + weight * batch


def normalize(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None,
    beta: Array | None,
    eps: float,
    channel_axis: int,
    relu: bool,
    residual: Array | None,
    out: Array | None,
    training: bool,
) -> tuple[Array, BatchNormSaved]:
    invstd = 1 / np.sqrt(variance + eps)
    shape = channel_shape(x, channel_axis)
    y = (decode(x, np.float64) - mean.reshape(shape)) * invstd.reshape(shape)
    y = y * channels(gamma, 1.0, shape) + channels(beta, 0.0, shape)
    if residual is not None:
        check_like("residual", residual, "x", x)
        y = y + decode(residual, np.float64)
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


def passed_gradient(dy: Array, x: Array, gamma: Array | None, saved: BatchNormSaved) -> tuple[Array, Array]:
    """dy as the ReLU let it through, and x - mean."""
    check_like("dy", dy, "x", x)
    shape = channel_shape(x, saved.channel_axis)
    centered = decode(x, np.float64) - saved.mean.reshape(shape)
    d = decode(dy, np.float64)
    if saved.relu:
        scale = channels(gamma, 1.0, shape) * saved.invstd.reshape(shape)
        y = centered * scale + channels(saved.beta, 0.0, shape)
        d = np.where((y if saved.y is None else decode(saved.y, np.float64)) > 0, d, 0.0)
    return d, centered


def gradient_sums(dy: Array, x: Array, gamma: Array | None, saved: BatchNormSaved) -> BatchNormSums:
    d, centered = passed_gradient(dy, x, gamma, saved)
    axes = other_axes(x, saved.channel_axis)
    return BatchNormSums(d.sum(axes), (d * centered).sum(axes))


def gradients(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: BatchNormSaved,
    sums: tuple[Array, Array],
    count: int,
    out: Array | None,
    dgamma: Array | None,
    dbeta: Array | None,
    dresidual: Array | None,
) -> tuple[Array, ...]:
    d, centered = passed_gradient(dy, x, gamma, saved)
    shape = channel_shape(x, saved.channel_axis)
    sum_dy, sum_dyx = (a.reshape(shape) for a in sums)
    invstd = saved.invstd.reshape(shape)
    dx = d
    if saved.training:
        dx = d - sum_dy / count - centered * (invstd * invstd * sum_dyx / count)
    vector = np.empty(0, computed_type(x))
    results = (
        give(channels(gamma, 1.0, shape) * invstd * dx, x, out),
        give(sums[1] * saved.invstd, vector, dgamma, "dgamma"),
        give(sums[0], vector, dbeta, "dbeta"),
    )
    return (*results, give(d, x, dresidual, "dresidual")) if saved.residual else results


# ---- arguments and results


def check_x(x: Array, dtype: str | None) -> None:
    check_storage("x", x, dtype)
    if x.ndim < 2:
        raise ValueError(f"x: expected at least 2 axes, got {x.shape}")
    check_filled("x", x)


def check_vectors(x: Array, channel_axis: int, **vectors: Array | None) -> None:
    if not -x.ndim <= channel_axis < x.ndim:
        raise ValueError(f"channel_axis: {channel_axis} is out of range for x, {x.shape}")
    for name, vector in vectors.items():
        check_vector(name, vector, x.shape[channel_axis], np.dtype(computed_type(x)))


def channel_shape(x: Array, axis: int) -> tuple[int, ...]:
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return tuple(shape)


def other_axes(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis % x.ndim)


def channels(values: Array | None, default: float, shape: tuple[int, ...]) -> Any:
    return default if values is None else values.astype(np.float64).reshape(shape)
