"""The halves of batch normalization, for a batch that lies in several places (synchronized batch normalization).

Every place takes the statistics of what it has, all merge them in the same order, and each applies the result::

    mine = batch_norm_statistics(x)
    total = merge_statistics(all_gather(mine))
    y, saved = batch_norm_apply(x, total, gamma, beta, running_mean, running_var)

and on the way back, where sums are simply added up::

    mine = batch_norm_backward_sums(dy, x, gamma, saved)
    sums = [sum(parts) for parts in zip(*all_gather(mine))]
    dx, dgamma, dbeta = batch_norm_backward_apply(dy, x, gamma, saved, sums, total.count)

How numbers travel between places is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onepass import _core
from onepass._batch_norm import (
    check_count,
    check_merged,
    running_weight,
    unpack_statistics,
    unpack_sums,
)
from onepass._types import BatchNormSaved, BatchNormStatistics, BatchNormSums
from onepass.kernels._arguments import Array, bfloat16_bits, flag, integer, real, thread_count
from onepass.kernels.normalization import batch_norm as batch_norm, channel_count, empty_like, gradients, save


def batch_norm_statistics(
    x: Array, channel_axis: int = 1, *, dtype: str | None = None, threads: int | None = None
) -> BatchNormStatistics:
    """Count, mean and sum of squared deviations from the mean of each channel, as :func:`batch_norm` finds them.

    Args:
        x, channel_axis, dtype: as for :func:`batch_norm`; one value a channel is enough.

    Returns:
        ``(count, mean, m2)``: an integer and two arrays (C,) float64. ``m2 / count`` is the biased variance.

    4 bytes for each float32 element. Centered before it is squared: a mean of 1e4 with a variance of 1 loses nothing.

    >>> count, mean, m2 = batch_norm_statistics(np.array([[1.0], [3.0]]))
    >>> count, mean.tolist(), m2.tolist()
    (2, [2.0], [2.0])
    """
    bits = bfloat16_bits(dtype)
    axis = integer("channel_axis", channel_axis)
    channels = channel_count(x, axis)
    mean, m2 = np.empty(channels), np.empty(channels)
    _core.batch_norm_statistics(x, axis, mean, m2, bits, thread_count(threads))
    return BatchNormStatistics(x.size // channels, mean, m2)


def merge_statistics(statistics: Iterable[tuple[int, Array, Array]]) -> BatchNormStatistics:
    """Statistics of a batch from those of its parts, merged in the order given (Chan, Golub and LeVeque 1983)::

        count = count_a + count_b    delta = mean_b - mean_a
        mean = mean_a + delta count_b / count    m2 = m2_a + m2_b + delta^2 count_a count_b / count

    Args:
        statistics: ``(count, mean, m2)`` of each part, from :func:`batch_norm_statistics`; a part without values has
            count 0.

    Every place that merges the same parts in the same order gets the same bits.

    >>> parts = [batch_norm_statistics(np.array([[value]])) for value in (1.0, 3.0)]
    >>> count, mean, m2 = merge_statistics(parts)
    >>> count, mean.tolist(), m2.tolist()
    (2, [2.0], [2.0])
    """
    first, *others = check_merged(statistics)
    count, mean, m2 = first.count, first.mean.copy(), first.m2.copy()
    for other in others:
        if other.count == 0:
            continue
        if count == 0:
            count, mean, m2 = other.count, other.mean.copy(), other.m2.copy()
            continue
        share = other.count / (count + other.count)
        delta = other.mean - mean
        mean += delta * share
        m2 += other.m2 + delta * delta * (count * share)
        count += other.count
    return BatchNormStatistics(count, mean, m2)


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
    """:func:`batch_norm` with given statistics in place of the batch's own.

    Args:
        statistics: ``(count, mean, m2)``, from :func:`batch_norm_statistics` or :func:`merge_statistics`: of a batch
            that x is part of, whose gradient flows through them. Or ``(mean, var)``: constants. (C,) float64.
        running_mean, running_var: updated with ``(count, mean, m2)``; not taken beside constants.
        out: it may also be x.

    The others are those of :func:`batch_norm`. With the statistics of x itself the results have the bits of
    ``batch_norm(x, ..., training=True)``.

    Returns:
        ``(y, saved)``; for the way back see :func:`batch_norm_backward_sums` and :func:`batch_norm_backward_apply`
        (:func:`batch_norm_backward` takes x for the whole batch).

    8 bytes for each float32 element, and 4 for a residual.

    >>> x = np.array([[1.0], [3.0]])
    >>> y, saved = batch_norm_apply(x, batch_norm_statistics(x))
    >>> y.round(3).tolist()
    [[-1.0], [1.0]]
    """
    bits = bfloat16_bits(dtype)
    axis = integer("channel_axis", channel_axis)
    channels = channel_count(x, axis)
    (count, mean, m2), of_batch = unpack_statistics(statistics)
    if not of_batch and not (running_mean is None and running_var is None):
        raise ValueError("running_mean, running_var: are not updated with constants; pass (count, mean, m2)")
    updates = running_mean is not None or running_var is not None
    weight = running_weight(momentum, batches, updates)
    y = empty_like(x) if out is None else out
    mean, invstd = mean.copy(), np.empty(channels)
    _core.batch_norm_apply(
        x, gamma, beta, running_mean, running_var, residual, count, mean, m2,
        weight, real("eps", eps), axis, flag("relu", relu), flag("population", population),
        y, invstd, bits, thread_count(threads),
    )  # fmt: skip
    return y, save(mean, invstd, beta, relu, residual, y, of_batch, channel_axis)


def batch_norm_backward_sums(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: BatchNormSaved,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> BatchNormSums:
    """The sums for each channel that :func:`batch_norm_backward` needs, over this part of the batch.

    Args:
        dy, x, gamma, saved, dtype: as for :func:`batch_norm_backward`.

    Returns:
        ``(sum_dy, sum_dyx)``, (C,) float64: sums of dy and of dy (x - mean), dy cut to where the ReLU let something
        through. Those of the parts of a batch are added up.

    8 bytes for each float32 element.

    >>> x = np.array([[1.0], [3.0]])
    >>> _, saved = batch_norm(x)
    >>> sum_dy, sum_dyx = batch_norm_backward_sums(np.array([[2.0], [1.0]]), x, None, saved)
    >>> sum_dy.tolist(), sum_dyx.tolist()
    ([3.0], [-1.0])
    """
    bits = bfloat16_bits(dtype)
    channels = channel_count(x, saved.channel_axis)
    sum_dy, sum_dyx = np.empty(channels), np.empty(channels)
    _core.batch_norm_backward_sums(
        dy, x, gamma, saved.beta, saved.mean, saved.invstd, saved.y,
        saved.training, saved.channel_axis, saved.relu, sum_dy, sum_dyx, bits, thread_count(threads),
    )  # fmt: skip
    return BatchNormSums(sum_dy, sum_dyx)


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
    """:func:`batch_norm_backward` with given sums: those of all parts of the batch.

    Args:
        sums: ``(sum_dy, sum_dyx)``, (C,) float64, from :func:`batch_norm_backward_sums`, added up over the parts.
        count: values of a channel in all parts: the count of the merged statistics.

    The others are those of :func:`batch_norm_backward`, and so are the bits with the sums and the count of x itself.

    Returns:
        ``(dx, dgamma, dbeta)``, and ``dresidual`` if the forward pass had a residual; dgamma and dbeta follow from the
        sums, so they are those of the whole batch in every place.

    12 bytes for each float32 element.

    >>> x = np.array([[1.0], [3.0]])
    >>> dy = np.array([[2.0], [1.0]])
    >>> _, saved = batch_norm(x)
    >>> sums = batch_norm_backward_sums(dy, x, None, saved)
    >>> dx, dgamma, dbeta = batch_norm_backward_apply(dy, x, None, saved, sums, 2)
    >>> dbeta.tolist()
    [3.0]
    """
    bits = bfloat16_bits(dtype)
    results = gradients(x, saved, out, dgamma, dbeta, dresidual)
    sum_dy, sum_dyx = unpack_sums(sums)
    _core.batch_norm_backward_apply(
        dy, x, gamma, saved.beta, saved.mean, saved.invstd, saved.y, saved.training, saved.channel_axis, saved.relu,
        check_count(count), sum_dy, sum_dyx, *results, bits, thread_count(threads),
    )  # fmt: skip
    return results if results[3] is not None else results[:3]  # type: ignore[return-value]
