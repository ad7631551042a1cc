"""The halves of batch normalization in NumPy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onepass._batch_norm import check_count, check_merged, running_weight, unpack_statistics, unpack_sums
from onepass._types import BatchNormSaved, BatchNormStatistics, BatchNormSums
from onepass.reference._results import Array
from onepass.reference.normalization import (
    batch_norm as batch_norm,
    blend,
    check_vectors,
    check_x,
    gradient_sums,
    gradients,
    moments,
    normalize,
)


def batch_norm_statistics(
    x: Array, channel_axis: int = 1, *, dtype: str | None = None, threads: int | None = None
) -> BatchNormStatistics:
    """See :func:`onepass.kernels.batch_norm_statistics`.

    >>> count, mean, m2 = batch_norm_statistics(np.array([[1.0], [3.0]]))
    >>> count, mean.tolist(), m2.tolist()
    (2, [2.0], [2.0])
    """
    check_x(x, dtype)
    check_vectors(x, channel_axis)
    return moments(x, channel_axis)


def merge_statistics(statistics: Iterable[tuple[int, Array, Array]]) -> BatchNormStatistics:
    """See :func:`onepass.kernels.merge_statistics`.

    >>> parts = [batch_norm_statistics(np.array([[value]])) for value in (1.0, 3.0)]
    >>> count, mean, m2 = merge_statistics(parts)
    >>> count, mean.tolist(), m2.tolist()
    (2, [2.0], [2.0])
    """
    parts = check_merged(statistics)
    count = sum(part.count for part in parts)
    shares = [part.count / max(count, 1) for part in parts]
    mean = np.sum([share * part.mean for share, part in zip(shares, parts, strict=True) if share], axis=0)
    within = [part.m2 + part.count * (part.mean - mean) ** 2 for part in parts if part.count]
    if not count:
        return BatchNormStatistics(0, parts[0].mean.copy(), parts[0].m2.copy())
    return BatchNormStatistics(count, np.asarray(mean), np.asarray(np.sum(within, axis=0)))


def batch_norm_apply(
    x: Array,
    statistics: tuple[int, Array, Array] | tuple[Array, Array],
    gamma: Array | None = None,
    beta: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    relu: bool = False,
    residual: Array | None = None,
    out: Array | None = None,
    *,
    batches: int | None = None,
    population: bool = False,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, BatchNormSaved]:
    """See :func:`onepass.kernels.batch_norm_apply`.

    >>> x = np.array([[1.0], [3.0]])
    >>> y, saved = batch_norm_apply(x, batch_norm_statistics(x))
    >>> y.round(3).tolist()
    [[-1.0], [1.0]]
    """
    check_x(x, dtype)
    check_vectors(x, channel_axis, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    parts, of_batch = unpack_statistics(statistics)
    running = (running_mean, running_var)
    if running_mean is not None or running_var is not None:
        if not of_batch:
            raise ValueError("running_mean, running_var: are not updated with constants; pass (count, mean, m2)")
        blend(running, parts, running_weight(momentum, batches, True), population)
    variance = parts.m2 / parts.count
    return normalize(x, parts.mean.copy(), variance, gamma, beta, eps, channel_axis, relu, residual, out, of_batch)


def batch_norm_backward_sums(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: BatchNormSaved,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> BatchNormSums:
    """See :func:`onepass.kernels.batch_norm_backward_sums`.

    >>> x = np.array([[1.0], [3.0]])
    >>> _, saved = batch_norm(x)
    >>> sum_dy, sum_dyx = batch_norm_backward_sums(np.array([[2.0], [1.0]]), x, None, saved)
    >>> sum_dy.tolist(), sum_dyx.tolist()
    ([3.0], [-1.0])
    """
    check_x(x, dtype)
    return gradient_sums(dy, x, gamma, saved)


def batch_norm_backward_apply(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: BatchNormSaved,
    sums: tuple[Array, Array],
    count: int,
    out: Array | None = None,
    *,
    dgamma: Array | None = None,
    dbeta: Array | None = None,
    dresidual: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, ...]:
    """See :func:`onepass.kernels.batch_norm_backward_apply`.

    >>> x = np.array([[1.0], [3.0]])
    >>> dy = np.array([[2.0], [1.0]])
    >>> _, saved = batch_norm(x)
    >>> sums = batch_norm_backward_sums(dy, x, None, saved)
    >>> dx, dgamma, dbeta = batch_norm_backward_apply(dy, x, None, saved, sums, 2)
    >>> dbeta.tolist()
    [3.0]
    """
    check_x(x, dtype)
    given = unpack_sums(sums)
    return gradients(dy, x, gamma, saved, given, check_count(count), out, dgamma, dbeta, dresidual)
