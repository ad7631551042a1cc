"""Softmax, log-softmax and softmax cross-entropy, in NumPy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass._checks import check_float, check_in_place, check_like, check_vector, check_writable
from onepass.reference._results import Array, Reduction, check_reduction, give


def softmax_cross_entropy(
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.softmax_cross_entropy`.

    >>> loss, grad = softmax_cross_entropy(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    >>> round(loss, 4), grad.round(3).tolist()
    (0.41, [[-0.06, 0.06], [0.25, -0.25]])
    """
    check_float("logits", logits)
    if logits.ndim < 2 or logits.size == 0:
        raise ValueError(f"logits: expected (N, C) or (N, C, d1, ...), not empty, got {logits.shape}")
    check_reduction(reduction)
    classes = logits.shape[1]
    check_vector("weight", weight, classes, logits.dtype)
    if isinstance(grad, np.ndarray):
        check_like("grad", grad, "logits", logits)
        check_writable("grad", grad)
        check_in_place("grad", grad, "logits", logits)
    x = np.moveaxis(logits, 1, -1).astype(np.float64)  # (N, d1, ..., C)
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    if targets.dtype.kind == "f":
        if targets.dtype != logits.dtype:
            raise TypeError(f"targets: expected {logits.dtype} like logits, got {targets.dtype}")
        if targets.shape != logits.shape:
            raise ValueError(f"targets: expected shape {logits.shape}, got {targets.shape}")
        t = np.moveaxis(targets, 1, -1).astype(np.float64)
        kept = np.ones(x.shape[:-1], bool)
        mass = float(kept.sum())
    else:
        if targets.shape != x.shape[:-1]:
            raise ValueError(f"targets: expected shape {x.shape[:-1]}, got {targets.shape}")
        kept = targets != ignore_index
        wrong = np.argwhere(kept & ((targets < 0) | (targets >= classes)))
        if wrong.size:
            at = tuple(int(i) for i in wrong[0])
            raise ValueError(
                f"targets{list(at)} is {targets[at]}, expected 0 <= target < {classes} or ignore_index ({ignore_index})"
            )
        labels = np.where(kept, targets, 0).astype(np.int64)
        t = np.eye(classes)[labels]
        mass = float(w[labels][kept].sum())
    t = ((1 - label_smoothing) * t + label_smoothing / classes) * w
    with np.errstate(all="ignore"):
        largest = x.max(-1, keepdims=True)
        e = np.exp(x - largest)
        # log1p of all but the largest: a confident row's loss does not round to zero
        others = e.copy()
        np.put_along_axis(others, x.argmax(-1, keepdims=True), 0.0, -1)
        log_sum = np.log1p(others.sum(-1, keepdims=True))
        lse = (largest + log_sum)[..., 0]
        p = e / e.sum(-1, keepdims=True)
        terms = np.where(t != 0, t * (log_sum + (largest - x)), 0.0)
        terms = np.where(np.isnan(x).any(-1, keepdims=True), np.nan, terms)
        losses = terms.sum(-1) + z_loss * lse**2
        slope = t.sum(-1, keepdims=True) + 2 * z_loss * lse[..., None]
        # p - 1 of a confident row is minus the sum of the others
        rest = _sum_of_others(p)
        gradient = np.where(t == 0, slope * p, (slope - t) * p - t * rest)
        losses = np.where(kept, losses, 0.0)
        gradient = np.where(kept[..., None], gradient, 0.0)
        if reduction == "mean":
            gradient = gradient / mass if mass else gradient * np.nan
            gradient = np.where(kept[..., None], gradient, 0.0)
    written = None
    if grad is not False:
        written = np.empty(logits.shape, logits.dtype) if grad is None else grad
        with np.errstate(over="ignore", under="ignore"):
            written[...] = np.moveaxis(gradient, -1, 1)
    if reduction == "none":
        return losses.astype(logits.dtype), written
    total = float(losses.sum())
    if reduction == "mean":
        return (total / mass if mass else float("nan")), written
    return total, written


def _sum_of_others(p: Array) -> Array:
    # for each class the sum of all other classes' probabilities, without 1 - p
    total = p.sum(-1, keepdims=True)
    at = p.argmax(-1, keepdims=True)
    small = p.copy()
    np.put_along_axis(small, at, 0.0, -1)
    rest: Array = total - p
    np.put_along_axis(rest, at, small.sum(-1, keepdims=True), -1)
    return rest


def softmax(x: Array, axis: int = -1, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.softmax`.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    check_float("x", x)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        e = np.exp(wide - wide.max(axis, keepdims=True))
        return give(e / e.sum(axis, keepdims=True), x, out)


def log_softmax(x: Array, axis: int = -1, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.log_softmax`.

    >>> log_softmax(np.array([0.0, 0.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    check_float("x", x)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        shifted = wide - wide.max(axis, keepdims=True)
        e = np.exp(shifted)
        np.put_along_axis(e, wide.argmax(axis, keepdims=True), 0.0, axis)
        log_sum = np.log1p(e.sum(axis, keepdims=True))
        result = shifted - log_sum
        result = np.where(
            np.isnan(wide).any(axis, keepdims=True) | np.isposinf(wide).any(axis, keepdims=True), np.nan, result
        )
        return give(result, x, out)
