"""Softmax, log-softmax and softmax cross-entropy."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass import _core
from onepass.kernels._arguments import (
    Array,
    Reduction,
    array_shape,
    bfloat16_bits,
    class_count,
    gradient_buffer,
    integer,
    new_like,
    real,
    reduction_code,
    thread_count,
)


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
    """Softmax cross-entropy and its gradient with respect to the logits, in one pass.

    For a row with target distribution t (one-hot, or the given probabilities, smoothed to
    ``(1 - label_smoothing) t + label_smoothing / C``), class weights w and ``lse = log sum_j exp(x_j)``::

        loss = sum_j t_j w_j (lse - x_j) + z_loss lse^2

    Smoothing: Szegedy et al. 2016; z_loss: Chowdhery et al. 2022 (PaLM).

    Args:
        logits: (N, C) or (N, C, d1, ...), float32, float64, float16 or bfloat16 (of ml_dtypes, or its bits in uint16 if
            dtype says so), any strides. Those of 16 bits are computed in float32 and rounded to nearest even; a row of
            them is all that is kept in float32.
        targets: class indices (N, d1, ...) of any integer type, or probabilities of the logits' shape and type.
        weight: (C,) of the logits' type; None: all ones.
        ignore_index: rows with this target have no loss and a zero gradient; neither they nor their weight are read.
        reduction: "mean" divides by the summed weights of the rows that count (by N for probabilities), as PyTorch
            does (nan if no row counts); "sum"; "none" returns each row's loss, and the gradient of their sum.
        grad: None: a new array; an array like logits: written there; the logits themselves: in place; False: not
            computed. Bytes moved: 8 for each float32 logit in place, 12 otherwise, 4 for the loss alone.
        n_classes: only the first so many columns are classes; it takes the place of C in everything above but the
            shapes of logits and probabilities. The others (a vocabulary's padding) may hold anything; their gradient is
            0, their log-probability -inf.
        log_probabilities: an array like logits: :func:`log_softmax` of them is written there, in the same bits, also of
            ignored rows; 4 bytes more for each float32 logit.
        dtype: "bfloat16": arrays in uint16 are the bits of bfloat16 (targets if they have as many axes as logits).

    Beside logits of 16 bits, weight, probabilities and log_probabilities may be float32.

    Returns:
        ``(loss, grad)``: a float, or for "none" an array (N, d1, ...), float32 for logits of 16 bits; the gradient, or
        None.

    A logit of -inf is a class that cannot be; +inf or nan make the row's loss and gradient nan, and no other row's. Few
    rows of many classes are shared by all threads.

    Raises:
        ValueError: also for a label out of range; it names the row, and nothing was written.

    >>> loss, grad = softmax_cross_entropy(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    >>> round(loss, 4), grad.round(3).tolist()
    (0.41, [[-0.06, 0.06], [0.25, -0.25]])
    """
    code = reduction_code(reduction)
    gradient = gradient_buffer("grad", grad, logits, "logits")
    bits = bfloat16_bits(dtype)
    losses = None
    if code == 0:
        shape = array_shape(logits, "logits")
        losses = np.empty(shape[:1] + shape[2:], np.float32 if logits.dtype.itemsize == 2 else logits.dtype)
    total = _core.softmax_cross_entropy(
        logits,
        targets,
        weight,
        integer("ignore_index", ignore_index),
        real("label_smoothing", label_smoothing),
        real("z_loss", z_loss),
        code,
        class_count(n_classes),
        losses,
        gradient,
        log_probabilities,
        bits,
        thread_count(threads),
    )
    return (total if losses is None else losses), gradient


def softmax(
    x: Array, axis: int = -1, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """``exp(x) / sum(exp(x))`` along an axis; out may be x. 8 bytes for each float32 element in place, 12 otherwise.

    x less the largest is rounded to x's type, so that the error of a result is within 4 + abs(x - max) / 2 units in the
    last place: probabilities near 1 are exact to a few units, very small ones to fewer digits. x: float32, float64,
    float16 or bfloat16 (in uint16 if dtype is "bfloat16"); 16 bits are computed in float32 and rounded to nearest.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    result = new_like(x, "x") if out is None else out
    bits = bfloat16_bits(dtype)
    _core.softmax(x, integer("axis", axis), result, bits, thread_count(threads))
    return result


def log_softmax(
    x: Array, axis: int = -1, out: Array | None = None, *, dtype: str | None = None, threads: int | None = None
) -> Array:
    """``x - log sum(exp(x))`` along an axis, without cancellation; out may be x. Bytes as for :func:`softmax`.

    >>> log_softmax(np.array([0.0, 0.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    result = new_like(x, "x") if out is None else out
    bits = bfloat16_bits(dtype)
    _core.log_softmax(x, integer("axis", axis), result, bits, thread_count(threads))
    return result
