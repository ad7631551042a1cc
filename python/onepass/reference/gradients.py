"""What a trainer asks of all gradients together, in NumPy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onepass.reference._results import Array


def global_norm(arrays: Iterable[Array], *, threads: int | None = None) -> float:
    """See :func:`onepass.kernels.global_norm`.

    >>> global_norm([np.array([3.0]), np.array([[4.0]])])
    5.0
    """
    with np.errstate(all="ignore"):
        return float(np.sqrt(sum(float(np.square(a.astype(np.float64)).sum()) for a in arrays)))
