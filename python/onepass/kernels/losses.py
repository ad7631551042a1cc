"""Losses of elements: one pass, value and gradient together."""

from __future__ import annotations

from typing import Any, Literal

from onepass import _core
from onepass.kernels._arguments import Array, Reduction, gradient_buffer, new_like, reduction_code, thread_count


def mean_squared_error(
    prediction: Array,
    target: Array,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """``(prediction - target)^2``, reduced over all elements, and its gradient with respect to prediction.

    Args:
        prediction, target: of one shape and type, C-contiguous.
        reduction: "mean", "sum", or "none" (each element's error; the gradient is that of their sum).
        grad: as in :func:`softmax_cross_entropy`; it may be prediction.

    12 bytes for each float32 element.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    code = reduction_code(reduction)
    gradient = gradient_buffer("grad", grad, prediction, "prediction")
    losses = new_like(prediction, "prediction") if code == 0 else None
    total = _core.mean_squared_error(prediction, target, code, losses, gradient, thread_count(threads))
    return (total if losses is None else losses), gradient
