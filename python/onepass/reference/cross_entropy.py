"""Softmax, log-softmax and softmax cross-entropy, in NumPy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass._checks import check_apart, check_in_place, check_like, check_storage, check_vector, check_writable
from onepass._storage import decode
from onepass.reference._results import Array, Reduction, check_reduction, give, loss_type, own_or_float32


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
    n_classes: int | None = None,
    log_probabilities: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.softmax_cross_entropy`.

    >>> loss, grad = softmax_cross_entropy(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    >>> round(loss, 4), grad.round(3).tolist()
    (0.41, [[-0.06, 0.06], [0.25, -0.25]])
    """
    check_storage("logits", logits, dtype)
    if logits.ndim < 2 or logits.size == 0:
        raise ValueError(f"logits: expected (N, C) or (N, C, d1, ...), not empty, got {logits.shape}")
    check_reduction(reduction)
    columns = logits.shape[1]
    classes = columns if n_classes is None else n_classes
    if not 1 <= classes <= columns:
        raise ValueError(f"n_classes: expected 1 to {columns}, got {n_classes}")
    check_vector("weight", weight, classes, own_or_float32(weight, logits))
    if grad is not None and grad is not False:
        check_like("grad", grad, "logits", logits)
        check_writable("grad", grad)
        check_in_place("grad", grad, "logits", logits)
    if log_probabilities is not None:
        model = np.empty(logits.shape, own_or_float32(log_probabilities, logits))
        check_like("log_probabilities", log_probabilities, "logits", model)
        check_writable("log_probabilities", log_probabilities)
        check_apart("log_probabilities", log_probabilities, "logits", logits)
    x = np.moveaxis(decode(logits, np.float64), 1, -1)[..., :classes]  # (N, d1, ..., C)
    w = np.ones(classes) if weight is None else decode(weight, np.float64)
    if targets.dtype.kind not in "iu" or (targets.ndim == logits.ndim and dtype is not None):
        if targets.dtype != own_or_float32(targets, logits):
            raise TypeError(f"targets: expected {logits.dtype} like logits, got {targets.dtype}")
        if targets.shape != logits.shape:
            raise ValueError(f"targets: expected shape {logits.shape}, got {targets.shape}")
        t = np.moveaxis(decode(targets, np.float64), 1, -1)[..., :classes]
        kept = np.ones(x.shape[:-1], bool)
        mass = float(kept.sum())
    else:
        labels, kept = check_labels(targets, x.shape[:-1], classes, ignore_index)
        t = one_hot(labels, classes)
        mass = float(w[labels][kept].sum())
    t = ((1 - label_smoothing) * t + label_smoothing / classes) * w
    with np.errstate(all="ignore"):
        losses, gradient = losses_and_slopes(x, t, kept, z_loss)
        if reduction == "mean":
            gradient = gradient / mass if mass else gradient * np.nan
            gradient = np.where(kept[..., None], gradient, 0.0)
        if log_probabilities is not None:
            _write(_log_softmax(x, -1), log_probabilities, -np.inf)
    written = None
    if grad is not False:
        written = np.empty(logits.shape, logits.dtype) if grad is None else grad
        _write(gradient, written, 0.0)
    if reduction == "none":
        with np.errstate(all="ignore"):
            return losses.astype(loss_type(logits)), written
    total = float(losses.sum())
    if reduction == "mean":
        return (total / mass if mass else float("nan")), written
    return total, written


def check_labels(targets: Array, shape: tuple[int, ...], classes: int, ignore_index: int) -> tuple[Array, Array]:
    """Labels (0 where they are ignored), and which rows count."""
    if targets.shape != shape:
        raise ValueError(f"targets: expected shape {shape}, got {targets.shape}")
    kept: Array = np.asarray(targets != ignore_index)
    wrong = np.argwhere(kept & ((targets < 0) | (targets >= classes)))
    if wrong.size:
        at = tuple(int(i) for i in wrong[0])
        raise ValueError(
            f"targets{list(at)} is {targets[at]}, expected 0 <= target < {classes} or ignore_index ({ignore_index})"
        )
    return np.where(kept, targets, 0).astype(np.int64), kept


def one_hot(labels: Array, classes: int) -> Array:
    t = np.zeros((*labels.shape, classes))
    np.put_along_axis(t, labels[..., None], 1.0, -1)
    return t


def losses_and_slopes(x: Array, t: Array, kept: Array, z_loss: float) -> tuple[Array, Array]:
    """Of rows x (..., C) with targets t: each row's loss, and the gradient of their sum."""
    largest = x.max(-1, keepdims=True)
    e = np.exp(x - largest)
    # log1p of all but the largest: a confident row's loss does not round to zero
    others = e.copy()
    np.put_along_axis(others, x.argmax(-1, keepdims=True), 0.0, -1)
    log_sum = np.log1p(others.sum(-1, keepdims=True))
    lse = (largest + log_sum)[..., 0]
    p = e / e.sum(-1, keepdims=True)
    terms = np.where(t != 0, t * (log_sum + (largest - x)), 0.0)
    poisoned: Array = np.asarray((np.isnan(x) | np.isposinf(x)).any(-1) | np.isneginf(x).all(-1))
    losses = np.where(poisoned, np.nan, terms.sum(-1) + z_loss * lse**2)
    slope = t.sum(-1, keepdims=True) + 2 * z_loss * lse[..., None]
    # p - 1 of a confident row is minus the sum of the others
    rest = _sum_of_others(p)
    gradient = np.where(t == 0, slope * p, (slope - t) * p - t * rest)
    gradient = np.where(poisoned[..., None], np.nan, gradient)
    return np.where(kept, losses, 0.0), np.where(kept[..., None], gradient, 0.0)


def _write(rows: Array, out: Array, padding: float) -> None:
    # (..., classes) rounded once into (N, C, d1, ...), the columns behind filled
    with np.errstate(all="ignore"):
        wide = np.full((*rows.shape[:-1], out.shape[1]), padding)
        wide[..., : rows.shape[-1]] = rows
        give(np.moveaxis(wide, -1, 1), out, out)


def _sum_of_others(p: Array) -> Array:
    # for each class the sum of all other classes' probabilities, without 1 - p
    total = p.sum(-1, keepdims=True)
    at = p.argmax(-1, keepdims=True)
    small = p.copy()
    np.put_along_axis(small, at, 0.0, -1)
    rest: Array = total - p
    np.put_along_axis(rest, at, small.sum(-1, keepdims=True), -1)
    return rest


def softmax(
    x: Array, axis: int = -1, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.softmax`.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    check_storage("x", x, dtype)
    with np.errstate(all="ignore"):
        wide = decode(x, np.float64)
        e = np.exp(wide - wide.max(axis, keepdims=True))
        return give(e / e.sum(axis, keepdims=True), x, out)


def log_softmax(
    x: Array, axis: int = -1, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.log_softmax`.

    >>> log_softmax(np.array([0.0, 0.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    check_storage("x", x, dtype)
    with np.errstate(all="ignore"):
        return give(_log_softmax(decode(x, np.float64), axis), x, out)


def _log_softmax(wide: Array, axis: int) -> Array:
    shifted = wide - wide.max(axis, keepdims=True)
    e = np.exp(shifted)
    np.put_along_axis(e, wide.argmax(axis, keepdims=True), 0.0, axis)
    result = shifted - np.log1p(e.sum(axis, keepdims=True))
    poisoned = np.isnan(wide).any(axis, keepdims=True) | np.isposinf(wide).any(axis, keepdims=True)
    return np.where(poisoned, np.nan, result)
