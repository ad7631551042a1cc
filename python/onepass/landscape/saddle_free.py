"""Saddle-free Newton."""

from __future__ import annotations

import numpy as np

from onepass.landscape.curvature import hessian_at
from onepass.landscape.function import Array
from onepass.landscape.walk import Walk

__all__ = ["saddle_free_newton"]

DAMPING = 1e-6  # of the largest |eigenvalue|: the least that one counts for
DECREASE = 1e-4  # of what the gradient promises (Armijo 1966)
HALVINGS = 60


def saddle_free_newton(walk: Walk, x: Array, target: float) -> Array:
    """From ``x`` to a gradient of norm ``target`` by ``step = -|H|^-1 g``, |H| with the absolute eigenvalues of H.

    Dauphin, Pascanu, Gulcehre, Cho, Ganguli and Bengio, "Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization", 2014. Newton's step goes to a saddle; with |H| it goes away from it along
    the directions of negative curvature, the further the flatter they are. Here with the whole H (the paper projects on
    a Krylov space), absolute eigenvalues of at least 1e-6 of the largest, steps within a radius that doubles where they
    succeed, and backtracking. A Hessian a step: n Hessian-vector products.
    """
    radius = max(1.0, float(np.linalg.norm(x)))
    loss, gradient = walk.value(x)
    while np.linalg.norm(gradient) > target:
        step = _step(hessian_at(walk.function, x), gradient, radius)
        slope = float(gradient @ step)
        share = 1.0
        while walk.loss(x + share * step) > loss + DECREASE * share * slope:
            share /= 2
            if share < 2.0**-HALVINGS:
                return x  # rounding: no lower point to be found
        radius = 2 * radius if share == 1.0 else max(share * float(np.linalg.norm(step)), 1e-3 * radius)
        there = x + share * step
        walk.visit(there)
        value, slopes = walk.value(there)
        if value >= loss and np.linalg.norm(slopes) >= np.linalg.norm(gradient):
            return x  # rounding, too
        x, loss, gradient = there, value, slopes
    return x


def _step(hessian: Array, gradient: Array, radius: float) -> Array:
    values, vectors = np.linalg.eigh(hessian)
    sizes = np.abs(values)
    largest = float(sizes.max())
    if largest == 0.0:
        return gradient * (-radius / float(np.linalg.norm(gradient)))
    step = -vectors @ ((gradient @ vectors) / np.maximum(sizes, DAMPING * largest))
    limited: Array = step * min(1.0, radius / float(np.linalg.norm(step)))
    return limited
