"""Random displacements, and perturbed gradient descent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onepass.landscape.function import Array
from onepass.landscape.walk import Walk

__all__ = ["ball", "gradient_descent", "lower_after_displacement"]

ATTEMPTS = 3  # displacements, each twice as far as the one before
STEPS = 100  # of gradient descent after a displacement: t_thres of the paper
HALVINGS = 60


def ball(random: np.random.Generator, n: int, radius: float) -> Array:
    """A point of the ball of ``radius`` in n dimensions, (n,), uniform."""
    direction = random.standard_normal(n)
    length: float = radius * random.random() ** (1 / n)
    point: Array = length / np.linalg.norm(direction) * direction
    return point


def lower_after_displacement(
    walk: Walk, x: Array, radius: float, ceiling: float, downwards: Callable[[Walk, Array], Array]
) -> Array | None:
    """A point of a loss below ``ceiling``, reached ``downwards`` from beside ``x``; None if no attempt finds one."""
    for attempt in range(ATTEMPTS):
        displaced = x + ball(walk.random, len(x), radius * 2**attempt)
        walk.visit(displaced)
        found = downwards(walk, displaced)
        if walk.loss(found) < ceiling:
            return found
    return None


def gradient_descent(walk: Walk, x: Array, length: float) -> Array:
    """100 steps of gradient descent, the first of ``length`` times the gradient.

    The length doubles after each step and is halved until the loss falls by half of what the gradient promises: the
    paper's 1/l is a bound of the curvature, which is not known here.
    """
    loss, gradient = walk.value(x)
    for _ in range(STEPS):
        square = float(gradient @ gradient)
        if square == 0.0:
            break
        for _ in range(HALVINGS):
            if walk.loss(x - length * gradient) <= loss - length / 2 * square:
                break
            length /= 2
        else:
            break
        x = x - length * gradient
        walk.visit(x)
        loss, gradient = walk.value(x)
        length *= 2
    return x
