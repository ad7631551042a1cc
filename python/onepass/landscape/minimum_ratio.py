"""The share of the Hessian's eigenvalues that are positive: what the lecture calls the minimum ratio."""

from __future__ import annotations

import math

import numpy as np

from onepass.landscape.curvature import Curvature
from onepass.landscape.function import Array, Function
from onepass.landscape.lanczos import lanczos, ritz
from onepass.landscape.operators import hessian_operator

__all__ = ["minimum_ratio", "share_above"]


def minimum_ratio(function: Function, curved: Curvature, samples: int, steps: int, seed: int) -> tuple[float, float]:
    """The ratio and its uncertainty, as `critical_point` reports them."""
    if curved.values is not None:
        positive = curved.values > curved.errors
        flat = np.abs(curved.values) <= curved.errors
        return float(positive.mean()), float(flat.mean())
    if curved.smallest.value - curved.smallest.error > 0:
        return 1.0, 0.0
    if curved.largest.value + curved.largest.error < 0:
        return 0.0, 0.0
    operator = hessian_operator(function, seed=seed)
    random = np.random.default_rng(seed)
    nodes, weights = [], []
    for _ in range(samples):
        diagonal, beside, _ = lanczos(operator.matvec, random.standard_normal(function.size), steps)
        values, vectors = ritz(diagonal, beside)
        nodes.append(values)
        weights.append(vectors[0] ** 2)
    return share_above(nodes, weights, float(curved.errors))


def share_above(nodes: list[Array], weights: list[Array], threshold: float) -> tuple[float, float]:
    """Share of a density above ``threshold``, from Gauss quadratures, and its uncertainty.

    Parameters
    ----------
    nodes, weights : lists of arrays (steps,)
        Of each random vector's quadrature, nodes ascending, its weights summing to one.
    threshold : float

    The uncertainty is two standard errors of the mean over the random vectors, and what a quadrature leaves open: by
    the separation theorem of Chebyshev, Markov and Stieltjes (Szegő, "Orthogonal Polynomials", 1939, 3.41) the true
    share of a vector's density differs from the quadrature's by at most the weight of a node beside the threshold.

    >>> share_above(2 * [np.array([-1.0, 1.0])], 2 * [np.array([0.25, 0.75])], 0.0)
    (0.75, 0.75)
    """
    shares, open_shares = [], []
    for node, weight in zip(nodes, weights, strict=True):
        above = int(np.searchsorted(node, threshold, side="right"))
        shares.append(float(weight[above:].sum()))
        open_shares.append(float(weight[max(above - 1, 0) : above + 1].max()))
    spread = float(np.std(shares, ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 0.5
    return float(np.mean(shares)), min(1.0, 2 * spread + float(np.mean(open_shares)))
