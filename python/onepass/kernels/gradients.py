"""What a trainer asks of all gradients together."""

from __future__ import annotations

from collections.abc import Iterable

from onepass import _core
from onepass.kernels._arguments import Array, thread_count


def global_norm(arrays: Iterable[Array], *, threads: int | None = None) -> float:
    """Square root of the sum of squares over all arrays, accumulated in float64; inf or nan if an element is.

    Squares neither scale nor saturate: float64 elements below 1.5e-154 count as 0, and a norm above 1.3e154 is inf.
    4 bytes for each float32 element.

    >>> global_norm([np.array([3.0]), np.array([[4.0]])])
    5.0
    """
    return _core.global_norm(list(arrays), thread_count(threads))
