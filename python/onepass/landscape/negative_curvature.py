"""The step off a saddle along negative curvature."""

from __future__ import annotations

import numpy as np

from onepass.landscape.differences import EPS
from onepass.landscape.function import Array
from onepass.landscape.walk import Walk

__all__ = ["along_negative_curvature"]

FIRST = 0.1  # step tried first, of the norm of x, or of one
SHARE = 0.25  # of the fall that the quadratic model promises
DOUBLINGS = 60


def along_negative_curvature(walk: Walk, x: Array, vector: Array, curvature: float) -> Array | None:
    """The lowest of what line searches along ``vector``, against it and down the gradient find from ``x``, or None.

    ``vector`` (n,) is of norm one and ``curvature`` < 0 its Rayleigh quotient. At a saddle the loss falls along it by
    ``|curvature| u^2 / 2`` at a distance of u, on both sides (Moré and Sorensen, "On the use of directions of negative
    curvature in a modified Newton method", 1979). A search halves its first step until the loss falls by a quarter of
    that, then doubles it while the loss falls.
    """
    loss, gradient = walk.value(x)
    sign = -1.0 if gradient @ vector > 0 else 1.0
    directions = [(sign * vector, curvature), (-sign * vector, curvature)]
    norm = float(np.linalg.norm(gradient))
    if norm > 0.0:
        directions.append((-gradient / norm, 0.0))
    found = [_search(walk, x, loss, d, float(gradient @ d), c) for d, c in directions]
    points = [(value, point) for value, point in found if value < loss]
    if not points:
        return None
    best = min(points, key=lambda pair: pair[0])[1]
    walk.visit(best)
    return best


def _search(walk: Walk, x: Array, loss: float, direction: Array, slope: float, curvature: float) -> tuple[float, Array]:
    """Loss and point; those of ``x`` where the loss does not fall beyond rounding."""
    length = FIRST * max(1.0, float(np.linalg.norm(x)))
    while True:
        promised = -min(slope, 0.0) * length - curvature * length**2 / 2
        if promised <= 4 * EPS * abs(loss) or length < EPS:
            return loss, x
        value = walk.loss(x + length * direction)
        if value <= loss - SHARE * promised:
            break
        length /= 2
    for _ in range(DOUBLINGS):
        further = walk.loss(x + 2 * length * direction)
        if not further < value:
            break
        length, value = 2 * length, further
    return value, x + length * direction
