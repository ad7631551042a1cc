"""Softmax cross-entropy of a linear layer's output, which is never held whole."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from onepass import _blas, _core
from onepass.kernels._arguments import (
    Array,
    Reduction,
    array_shape,
    class_count,
    gradient_buffer,
    integer,
    real,
    reduction_code,
    thread_count,
)


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
    """:func:`softmax_cross_entropy` of ``x @ weight.T + bias``, and its gradients, without the (N, C) logits.

    Logits are made for a chunk of rows by SciPy's BLAS (called by each thread of the package's own team), become their
    own gradient in place, and are used up before the next chunk (as in Hsu et al. 2024, Liger Kernel). A chunk has as
    many rows as 8 MiB of logits hold, but at least 128. So beyond arguments and results the call takes at most
    ``max(8 MiB, 128 C itemsize)`` bytes for logits, 16 N for labels and losses, 8 C for dbias, and what BLAS packs.

    Args:
        x: (N, K) features, float32 or float64, unit stride along the last axis.
        weight: (C, K) of x's type, unit stride along the last axis.
        bias: (C,) of x's type, or None.
        targets: labels (N,) of any integer type, or probabilities (N, C) of x's type.
        class_weight: (C,): the weight argument of :func:`softmax_cross_entropy`.
        ignore_index, label_smoothing, z_loss, reduction, n_classes: as there. Rows of weight behind n_classes count for
            nothing, and get zero gradients.
        dx, dweight, dbias: None: a new array; an array: written there; False: not computed, returned as None. Without a
            bias, dbias is None unless an array is given. They overlap no input.

    Returns:
        ``(loss, dx, dweight, dbias)``: a float, or for "none" an array (N,) and the gradients of its sum.

    ``6 N C K`` floating-point operations with all gradients; a chunk reads weight twice, and reads and writes dweight.

    Raises:
        ImportError: SciPy is not installed.
        ValueError: also for a label out of range; it names the row, and nothing was written.

    >>> loss, dx, dweight, dbias = linear_cross_entropy(
    ...     np.eye(2), np.array([[2.0, 0.0], [0.0, 0.0]]), None, np.array([0, 1])
    ... )
    >>> round(loss, 4), dx.round(3).tolist(), dbias
    (0.41, [[-0.119, 0.0], [0.5, 0.0]], None)
    """
    code = reduction_code(reduction)
    _blas.connect()
    dx = gradient_buffer("dx", dx, x, "x")
    dweight = gradient_buffer("dweight", dweight, weight, "weight")
    if dbias is None and bias is not None:
        db: Array | None = np.empty(array_shape(weight, "weight")[:1], weight.dtype)
    else:
        db = None if dbias is None else gradient_buffer("dbias", dbias, weight, "weight")
    losses = np.empty(array_shape(x, "x")[:1], x.dtype) if code == 0 else None
    total = _core.linear_cross_entropy(
        x,
        weight,
        bias,
        targets,
        class_weight,
        integer("ignore_index", ignore_index),
        real("label_smoothing", label_smoothing),
        real("z_loss", z_loss),
        code,
        class_count(n_classes),
        losses,
        dx,
        dweight,
        db,
        thread_count(threads),
    )
    return (total if losses is None else losses), dx, dweight, db
