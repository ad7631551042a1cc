"""Activations, forward and backward, in NumPy."""

from __future__ import annotations

import numpy as np

from onepass.reference._results import Array, give


def relu(x: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.relu`.

    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return give(np.where(x < 0, 0.0, x), x, out)


def relu_backward(dy: Array, y: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.relu_backward`.

    >>> relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 5.0]
    """
    return give(np.where(y > 0, dy, 0.0), dy, out)
