"""Softmax cross-entropy of a linear layer's output, in NumPy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass._checks import check_array, check_float, check_like, check_vector
from onepass.reference._results import Array, Reduction, check_reduction, give
from onepass.reference.cross_entropy import check_labels, losses_and_slopes, one_hot


def linear_cross_entropy(
    x: Array,
    weight: Array,
    bias: Array | None,
    targets: Array,
    class_weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    dx: Array | Literal[False] | None = None,
    dweight: Array | Literal[False] | None = None,
    dbias: Array | Literal[False] | None = None,
    *,
    n_classes: int | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None, Array | None, Array | None]:
    """See :func:`onepass.kernels.linear_cross_entropy`.

    >>> loss, dx, dweight, dbias = linear_cross_entropy(
    ...     np.eye(2), np.array([[2.0, 0.0], [0.0, 0.0]]), None, np.array([0, 1])
    ... )
    >>> round(loss, 4), dx.round(3).tolist(), dbias
    (0.41, [[-0.119, 0.0], [0.5, 0.0]], None)
    """
    check_reduction(reduction)
    check_float("weight", weight)
    check_array("x", x)
    if weight.ndim != 2 or x.ndim != 2 or x.shape[1] != weight.shape[1] or x.size == 0 or weight.size == 0:
        raise ValueError(f"x: expected (N, K) beside weight (C, K), not empty, got {x.shape} and {weight.shape}")
    if x.dtype != weight.dtype:
        raise TypeError(f"x: expected {weight.dtype} like weight, got {x.dtype}; convert it first")
    columns = weight.shape[0]
    check_vector("bias", bias, columns, x.dtype)
    classes = columns if n_classes is None else n_classes
    if not 1 <= classes <= columns:
        raise ValueError(f"n_classes: expected 1 to {columns}, got {n_classes}")
    check_vector("class_weight", class_weight, classes, x.dtype)
    check_array("targets", targets)
    w = np.ones(classes) if class_weight is None else class_weight.astype(np.float64)
    if targets.dtype.kind in "iu":
        labels, kept = check_labels(targets, x.shape[:1], classes, ignore_index)
        t, mass = one_hot(labels, classes), float(w[labels][kept].sum())
    else:
        check_like("targets", targets, "the logits", np.empty((len(x), columns), x.dtype))
        t, kept, mass = targets[:, :classes].astype(np.float64), np.ones(len(x), bool), float(len(x))
    t = ((1 - label_smoothing) * t + label_smoothing / classes) * w
    features, matrix = x.astype(np.float64), weight.astype(np.float64)
    logits = features @ matrix.T + (0.0 if bias is None else bias)
    slopes = np.zeros(logits.shape)
    with np.errstate(all="ignore"):
        losses, slopes[:, :classes] = losses_and_slopes(logits[:, :classes], t, kept, z_loss)
        if reduction == "mean":
            slopes = np.where(kept[:, None], slopes / mass if mass else slopes * np.nan, 0.0)
    gradients = (
        None if dx is False else give(slopes @ matrix, x, dx),
        None if dweight is False else give(slopes.T @ features, x, dweight),
        None if dbias is False or (dbias is None and bias is None) else give(slopes.sum(0), x, dbias),
    )
    if reduction == "none":
        return losses.astype(x.dtype), *gradients
    total = float(losses.sum())
    if reduction == "mean":
        total = total / mass if mass else float("nan")
    return total, *gradients
