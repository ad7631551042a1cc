"""Losses of elements, and negative log likelihood, in NumPy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass._checks import check_array, check_filled, check_like, check_storage, check_vector
from onepass._storage import decode
from onepass.reference._results import Array, Reduction, check_reduction, give, loss_type, own_or_float32
from onepass.reference.cross_entropy import check_labels


def mean_squared_error(
    prediction: Array,
    target: Array,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.mean_squared_error`.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    difference = _difference(prediction, target, dtype)
    return _reduce(np.square(difference), 2 * difference, prediction, reduction, grad)


def huber_loss(
    prediction: Array,
    target: Array,
    delta: float = 1.0,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.huber_loss`.

    >>> huber_loss(np.array([0.5, 3.0]), np.zeros(2), reduction="sum")
    (2.625, array([0.5, 1. ]))
    """
    if not 0 < delta < np.inf:
        raise ValueError(f"delta: expected a finite number > 0, got {delta}")
    d = _difference(prediction, target, dtype)
    size = np.abs(d)
    loss = np.where(size < delta, d * d / 2, delta * (size - delta / 2))
    return _reduce(loss, np.where(size < delta, d, delta * np.sign(d)), prediction, reduction, grad)


def smooth_l1_loss(
    prediction: Array,
    target: Array,
    beta: float = 1.0,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.smooth_l1_loss`.

    >>> smooth_l1_loss(np.array([0.5, 3.0]), np.zeros(2), beta=0.0, reduction="sum")
    (3.5, array([1., 1.]))
    """
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta: expected a finite number >= 0, got {beta}")
    d = _difference(prediction, target, dtype)
    size, divisor = np.abs(d), beta or 1.0
    loss = np.where(size < beta, d * d / (2 * divisor), size - beta / 2)
    return _reduce(loss, np.where(size < beta, d / divisor, np.sign(d)), prediction, reduction, grad)


def binary_cross_entropy_with_logits(
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    pos_weight: Array | None = None,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.binary_cross_entropy_with_logits`.

    >>> loss, grad = binary_cross_entropy_with_logits(np.array([0.0, 2.0]), np.array([0, 1]))
    >>> round(loss, 4), grad.round(4).tolist()
    (0.41, [0.25, -0.0596])
    """
    check_storage("logits", logits, dtype)
    check_filled("logits", logits)
    check_array("targets", targets)
    if targets.dtype.kind in "iu" and (dtype is None or targets.dtype != np.uint16):
        if targets.shape != logits.shape:
            raise ValueError(f"targets: expected shape {logits.shape} like logits, got {targets.shape}")
        wrong = np.argwhere((targets != 0) & (targets != 1))
        if wrong.size:
            at = tuple(int(i) for i in wrong[0])
            raise ValueError(f"targets{list(at)} is {targets[at]}, expected 0 or 1")
        t = targets.astype(np.float64)
    else:
        t = _beside("targets", targets, logits)
    x = decode(logits, np.float64)
    zero = (1 - t) * _weights("weight", weight, logits)
    one = t * _weights("weight", weight, logits) * _weights("pos_weight", pos_weight, logits)
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(x))
        tail = e / (1 + e)
        loss = zero * (np.maximum(x, 0) + np.log1p(e)) + one * (np.maximum(-x, 0) + np.log1p(e))
        gradient = zero * np.where(x < 0, tail, 1 / (1 + e)) - one * np.where(x < 0, 1 / (1 + e), tail)
    return _reduce(loss, gradient, logits, reduction, grad)


def nll_loss(
    log_probabilities: Array,
    targets: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.nll_loss`.

    >>> loss, grad = nll_loss(np.log(np.array([[0.5, 0.5], [0.25, 0.75]])), np.array([0, 0]), reduction="sum")
    >>> round(loss, 4), grad.tolist()  # log(8)
    (2.0794, [[-1.0, 0.0], [-1.0, 0.0]])
    """
    check_reduction(reduction)
    check_storage("log_probabilities", log_probabilities, dtype)
    if log_probabilities.ndim < 2 or log_probabilities.size == 0:
        raise ValueError(f"log_probabilities: expected (N, C, ...), not empty, got {log_probabilities.shape}")
    check_array("targets", targets)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets: expected class indices of an integer type, got {targets.dtype}; convert it first")
    x = np.moveaxis(decode(log_probabilities, np.float64), 1, -1)  # (N, d1, ..., C)
    classes = x.shape[-1]
    check_vector("weight", weight, classes, own_or_float32(weight, log_probabilities))
    labels, kept = check_labels(targets, x.shape[:-1], classes, ignore_index)
    w = (np.ones(classes) if weight is None else decode(weight, np.float64))[labels] * kept
    picked = np.where(kept, np.take_along_axis(x, labels[..., None], -1)[..., 0], 0.0)
    losses, mass = 0.0 - w * picked, float(w.sum())
    with np.errstate(all="ignore"):
        divisor = np.float64(mass) if reduction == "mean" else np.float64(1)
        gradient = np.zeros(x.shape)
        np.put_along_axis(gradient, labels[..., None], np.where(kept, -w / divisor, 0.0)[..., None], -1)
        written = None if grad is False else give(np.moveaxis(gradient, -1, 1), log_probabilities, grad)
        if reduction == "none":
            return losses.astype(loss_type(log_probabilities)), written
        return float(losses.sum() / divisor), written


def _difference(prediction: Array, target: Array, dtype: str | None) -> Array:
    check_storage("prediction", prediction, dtype)
    target = _beside("target", target, prediction, "prediction")
    check_filled("prediction", prediction)
    with np.errstate(all="ignore"):
        difference: Array = decode(prediction, np.float64) - target
    return difference


def _beside(name: str, a: Array, model: Array, model_name: str = "logits") -> Array:
    """In float64: an array like the model, or float32 beside 16 bits."""
    check_array(name, a)
    check_like(name, a, model_name, np.empty(model.shape, own_or_float32(a, model)))
    return decode(a, np.float64)


def _weights(name: str, a: Array | None, logits: Array) -> Any:
    if a is None:
        return 1.0
    check_array(name, a)
    if a.dtype != own_or_float32(a, logits):
        raise TypeError(f"{name}: expected {logits.dtype} like logits, got {a.dtype}; convert it first")
    return np.broadcast_to(decode(a, np.float64), logits.shape)


def _reduce(
    losses: Array, gradient: Array, model: Array, reduction: Reduction, grad: Array | Literal[False] | None
) -> tuple[Any, Array | None]:
    check_reduction(reduction)
    scale = 1 / losses.size if reduction == "mean" else 1.0
    written = None if grad is False else give(gradient * scale, model, grad)
    if reduction == "none":
        with np.errstate(all="ignore"):
            return losses.astype(loss_type(model)), written
    return float(losses.sum() * scale), written
