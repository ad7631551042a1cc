"""Losses of elements, and negative log likelihood: one pass, value and gradient together.

Arrays are float32, float64, float16 or bfloat16 (of ml_dtypes, or its bits in uint16 if ``dtype="bfloat16"``), of any
shape and strides. Those of 16 bits are computed in float32; beside them targets and weights may be float32.
``reduction`` is "mean", "sum", or "none" (each element's loss, float32 beside 16 bits, and the gradient of their sum).
``grad`` says where the gradient with respect to the first argument goes: None, a new array; an array like it, or it;
False, nowhere. All return ``(loss, grad)``. Sums are made in the order of the first argument's memory.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass import _core
from onepass.kernels._arguments import (
    Array,
    Reduction,
    array_shape,
    bfloat16_bits,
    gradient_buffer,
    integer,
    new_in_order,
    real,
    reduction_code,
    thread_count,
)


def mean_squared_error(
    prediction: Array,
    target: Array,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """``(prediction - target)^2``, reduced over all elements, and its gradient with respect to prediction.

    Args:
        prediction, target: of one shape and type.
        reduction, grad: see :mod:`onepass.kernels.losses`.

    12 bytes for each float32 element.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    code = reduction_code(reduction)
    losses, gradient = _buffers(code, grad, prediction, "prediction")
    bits = bfloat16_bits(dtype)
    total = _core.mean_squared_error(prediction, target, code, losses, gradient, bits, thread_count(threads))
    return (total if losses is None else losses), gradient


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
    """``d^2 / 2`` where ``abs(d) < delta``, else ``delta (abs(d) - delta / 2)``, d = prediction - target (Huber 1964).

    Args:
        prediction, target: of one shape and type.
        delta: above 0.
        reduction, grad: see :mod:`onepass.kernels.losses`.

    12 bytes for each float32 element.

    >>> huber_loss(np.array([0.5, 3.0]), np.zeros(2), reduction="sum")
    (2.625, array([0.5, 1. ]))
    """
    return _huber(prediction, target, real("delta", delta), False, reduction, grad, dtype, threads)


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
    """:func:`huber_loss` with ``delta=beta``, divided by beta (Girshick 2015); ``abs(d)`` for beta = 0.

    12 bytes for each float32 element.

    >>> smooth_l1_loss(np.array([0.5, 3.0]), np.zeros(2), beta=0.0, reduction="sum")
    (3.5, array([1., 1.]))
    """
    return _huber(prediction, target, real("beta", beta), True, reduction, grad, dtype, threads)


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
    """``weight ((1 - t) log(1 + exp(x)) + pos_weight t log(1 + exp(-x)))`` of logits x and targets t, and its gradient
    ``weight ((1 - t) sigmoid(x) - pos_weight t sigmoid(-x))``: neither overflows nor cancels.

    Args:
        logits: any shape.
        targets: of the logits' shape; of their type and in [0, 1] (not checked: the formula holds), or integers of any
            type, 0 or 1 (checked in a read of their own; with dtype="bfloat16" uint16 is no integer).
        weight, pos_weight: of the logits' type, of any shape that broadcasts to theirs; None: all ones. With "mean" the
            sum is divided by the number of elements, not by their weight, as PyTorch does.
        reduction, grad: see :mod:`onepass.kernels.losses`.

    12 bytes for each float32 element, less with integer targets of fewer than 32 bits.

    >>> loss, grad = binary_cross_entropy_with_logits(np.array([0.0, 2.0]), np.array([0, 1]))
    >>> round(loss, 4), grad.round(4).tolist()
    (0.41, [0.25, -0.0596])
    """
    code = reduction_code(reduction)
    losses, gradient = _buffers(code, grad, logits, "logits")
    weight, pos_weight = _broadcast("weight", weight, logits), _broadcast("pos_weight", pos_weight, logits)
    bits, number = bfloat16_bits(dtype), thread_count(threads)
    total = _core.binary_cross_entropy(logits, targets, weight, pos_weight, code, losses, gradient, bits, number)
    return (total if losses is None else losses), gradient


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
    """``-weight[t] x[t]`` of each row's log-probabilities x and target t, and its gradient, zero but for one element.

    Args:
        log_probabilities: (N, C) or (N, C, d1, ...).
        targets: (N, d1, ...), class indices of any integer type.
        weight: (C,) of the type of log_probabilities, C-contiguous; None: all ones.
        ignore_index: rows with this target have no loss and a zero gradient.
        reduction: "mean" divides by the summed weights of the rows that count, as PyTorch does (nan if none does).
        grad: see :mod:`onepass.kernels.losses`.

    4 bytes for each float32 element, and a cache line for each row.

    >>> loss, grad = nll_loss(np.log(np.array([[0.5, 0.5], [0.25, 0.75]])), np.array([0, 0]), reduction="sum")
    >>> round(loss, 4), grad.tolist()  # log(8)
    (2.0794, [[-1.0, 0.0], [-1.0, 0.0]])
    """
    code = reduction_code(reduction)
    gradient = gradient_buffer("grad", grad, log_probabilities, "log_probabilities", new_in_order)
    losses = None
    if code == 0:
        shape = array_shape(log_probabilities, "log_probabilities")
        losses = np.empty(shape[:1] + shape[2:], _computed(log_probabilities))
    ignored = integer("ignore_index", ignore_index)
    bits = bfloat16_bits(dtype)
    total = _core.nll_loss(
        log_probabilities, targets, weight, ignored, code, losses, gradient, bits, thread_count(threads)
    )
    return (total if losses is None else losses), gradient


def _huber(
    prediction: Array,
    target: Array,
    delta: float,
    smooth_l1: bool,
    reduction: Reduction,
    grad: Array | Literal[False] | None,
    dtype: str | None,
    threads: int | None,
) -> tuple[Any, Array | None]:
    code = reduction_code(reduction)
    losses, gradient = _buffers(code, grad, prediction, "prediction")
    bits = bfloat16_bits(dtype)
    total = _core.huber_loss(prediction, target, delta, smooth_l1, code, losses, gradient, bits, thread_count(threads))
    return (total if losses is None else losses), gradient


def _buffers(code: int, grad: Any, model: Array, name: str) -> tuple[Array | None, Array | None]:
    gradient = gradient_buffer("grad", grad, model, name, new_in_order)
    return (np.empty_like(model, _computed(model), subok=False) if code == 0 else None), gradient


def _computed(model: Array) -> Any:
    return np.float32 if model.dtype.itemsize == 2 else model.dtype


def _broadcast(name: str, a: Array | None, model: Array) -> Array | None:
    """A view of the model's shape."""
    shape = array_shape(model, "logits")
    if a is None or array_shape(a, name) == shape:
        return a
    try:
        return np.broadcast_to(a, shape)
    except ValueError:
        raise ValueError(f"{name}: expected a shape that broadcasts to {shape} like logits, got {a.shape}") from None
