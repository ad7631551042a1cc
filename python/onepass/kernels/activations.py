"""Activations, forward and backward."""

from __future__ import annotations

from onepass import _core
from onepass.kernels._arguments import Array, new_like, thread_count


def relu(x: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """``max(x, 0)``, NaN stays NaN; C-contiguous; out may be x. 8 bytes for each float32 element.

    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    result = new_like(x, "x") if out is None else out
    _core.relu(x, result, thread_count(threads))
    return result


def relu_backward(dy: Array, y: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """dy where y, the ReLU's output, is positive, else 0; out may be dy. 12 bytes for each float32 element.

    >>> relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 5.0]
    """
    result = new_like(dy, "dy") if out is None else out
    _core.relu_backward(dy, y, result, thread_count(threads))
    return result
