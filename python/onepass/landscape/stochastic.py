"""What random vectors tell about all eigenvalues of a Hessian: their sum and their density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onepass.landscape.axes import axes_or_new
from onepass.landscape.differences import EPS
from onepass.landscape.function import Array, Theta, check_count
from onepass.landscape.lanczos import lanczos, ritz
from onepass.landscape.spectrum import as_operator, dense

__all__ = ["Estimate", "SpectralDensity", "spectral_density", "trace"]

WIDTH = 0.01  # of a bump of the density, as a share of the spectrum's width
POINTS = 2**17  # of a grid, at most
DENSE = 2048  # rows up to which all eigenvalues are computed if that takes no more products


@dataclass(frozen=True)
class Estimate:
    """``value``, and ``error``: one standard error of the samples and the products' error; ``exact``: no samples."""

    value: float
    error: float
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.value:.6g} +- {self.error:.2g}"


def trace(f: Any, theta: Theta = None, samples: int = 96, *, seed: int = 0) -> Estimate:
    """The trace of the Hessian at ``theta``, the sum of its eigenvalues, by Hutch++.

    Meyer, Musco, Musco and Woodruff, "Hutch++: Optimal Stochastic Trace Estimation", 2021: a third of the products
    finds the space Q of large eigenvalues, a third its trace, the last third estimates the rest from random signs g,
    ``tr(Q'HQ) + mean of g'(1 - QQ')H(1 - QQ')g``.

    Parameters
    ----------
    f, theta
        As in `eigenpairs`; also a matrix or an operator.
    samples : int, default 96
        Products that may be spent, at least 6, of 2 gradients each where f has no ``hessian_vector``. From n on the
        diagonal is summed: no estimate then.
    seed : int, default 0

    >>> import numpy as np
    >>> from onepass import landscape
    >>> def f(theta):
    ...     return float((theta**4).sum()), 4 * theta**3
    >>> estimate = landscape.trace(f, np.ones(200), samples=60)
    >>> abs(estimate.value - 200 * 12) <= 3 * estimate.error + 1e-3
    True
    """
    check_count("samples", samples, 6)
    operator = as_operator(f, theta, seed)
    n, noise = operator.shape[0], getattr(operator, "error", 0.0)
    if n <= samples:
        matrix, error = dense(operator)
        return Estimate(float(np.trace(matrix)), error * math.sqrt(n), True)
    third = samples // 3
    rng = np.random.default_rng(seed)
    sketch = operator.matmat(rng.choice([-1.0, 1.0], (n, third)))
    q = np.linalg.qr(sketch)[0]
    projected = np.sum(q * operator.matmat(q), axis=0)
    large = float(projected.sum())
    g = rng.choice([-1.0, 1.0], (n, samples - 2 * third))
    g -= q @ (q.T @ g)
    rest = np.sum(g * operator.matmat(g), axis=0)
    deviation = float(rest.std(ddof=1)) / math.sqrt(rest.size)
    rounding = EPS * math.sqrt(n) * (float(np.abs(projected).sum()) + float(np.abs(rest).mean()))
    return Estimate(large + float(rest.mean()), deviation + noise * (third + math.sqrt(n)) + rounding)


@dataclass(frozen=True)
class SpectralDensity:
    """What `spectral_density` found; the density integrates to 1 over the grid.

    Attributes
    ----------
    grid, density : arrays (points,)
        Eigenvalues, and how many of all are there, per unit of eigenvalue: the nodes as bumps (Gaussians).
    nodes, weights : arrays (m,)
        The quadrature itself: moments are ``weights @ nodes**p``. Weights sum to 1.
    width : float
        The standard deviation of a bump.
    exact : bool
        True if nodes are all eigenvalues.
    """

    grid: Array
    density: Array
    nodes: Array
    weights: Array
    width: float
    exact: bool

    def share_below(self, value: float = 0.0) -> float:
        """The share of eigenvalues below ``value``; give a little less than 0 where many are 0 up to rounding."""
        return float(self.weights[self.nodes < value].sum())

    def plot(self, ax: Any = None, **style: Any) -> Any:
        """Density (log scale) against eigenvalue into matplotlib's axes ``ax`` or new ones, which are returned."""
        ax = axes_or_new(ax)
        visible = self.density > 1e-6 * self.density.max()
        ax.semilogy(self.grid, np.where(visible, self.density, np.nan), **style)
        ax.set_xlabel("eigenvalue of the Hessian")
        ax.set_ylabel("density")
        return ax


def spectral_density(
    f: Any,
    theta: Theta = None,
    steps: int = 80,
    samples: int = 10,
    *,
    width: float | None = None,
    points: int = 1024,
    seed: int = 0,
) -> SpectralDensity:
    """How the Hessian's eigenvalues at ``theta`` are distributed, by stochastic Lanczos quadrature.

    Ghorbani, Krishnan and Xiao, "An Investigation into Neural Net Optimization via Hessian Eigenvalue Density", 2019:
    ``steps`` of Lanczos from each of ``samples`` random vectors give nodes and weights whose moments are right up to
    ``2 steps - 1`` for that vector, and on average over vectors for the spectrum. Lanczos keeps all its vectors
    orthogonal: ``8 n steps`` bytes.

    Parameters
    ----------
    f, theta
        As in `eigenpairs`; also a matrix or an operator.
    steps, samples : int, default 80 and 10
        ``steps * samples`` products, of 2 gradients each where f has no ``hessian_vector``. If n is no more than that
        (and at most 2048), all eigenvalues are computed instead.
    width : float or None
        Standard deviation of a bump; None: one percent of the distance from the smallest node to the largest.
    points : int, default 1024
        Of the grid, evenly spaced, five widths beyond the nodes; at least 16, more where bumps are narrow.
    seed : int, default 0

    >>> import numpy as np
    >>> from onepass import landscape
    >>> H = np.diag(np.r_[np.full(75, 1.0), np.full(25, -1.0)])
    >>> found = landscape.spectral_density(H)
    >>> found.share_below(0.0), round(float(found.density.sum() * (found.grid[1] - found.grid[0])), 5)
    (0.25, 1.0)
    """
    check_count("steps", steps, 1)
    check_count("samples", samples, 1)
    check_count("points", points, 16)
    if width is not None and not 0 < width < math.inf:
        raise ValueError(f"width is {width}, expected a finite number > 0, or None")
    operator = as_operator(f, theta, seed)
    n = operator.shape[0]
    exact = n <= min(steps * samples, DENSE)
    if exact:
        matrix = dense(operator)[0]
        nodes, weights = np.linalg.eigvalsh((matrix + matrix.T) / 2), np.full(n, 1 / n)
    else:
        nodes, weights = _quadrature(operator, steps, samples, np.random.default_rng(seed))
    span = float(nodes[-1] - nodes[0]) or abs(float(nodes[0])) or 1.0
    width = WIDTH * span if width is None else float(width)
    low, high = float(nodes[0]) - 5 * width, float(nodes[-1]) + 5 * width
    needed = 2 * (high - low) / width  # two points a width integrate a bump right
    if needed > POINTS:
        raise ValueError(f"width is {width:.4g}, expected at least {2 * (high - low) / POINTS:.4g} for this spectrum")
    points = max(points, math.ceil(needed))
    grid = np.linspace(low, high, points)
    density = np.zeros(points)
    for node, weight in zip(nodes, weights, strict=True):
        density += weight * np.exp(-0.5 * ((grid - node) / width) ** 2)
    density /= width * math.sqrt(2 * math.pi)
    return SpectralDensity(grid, density, nodes, weights, width, exact)


def _quadrature(operator: Any, steps: int, samples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Nodes, ascending, and weights."""
    nodes, weights = [], []
    for _ in range(samples):
        diagonal, beside, _ = lanczos(operator.matvec, rng.standard_normal(operator.shape[0]), steps)
        values, vectors = ritz(diagonal, beside)
        nodes.append(values)
        weights.append(vectors[0] ** 2 / samples)
    joined = np.concatenate(nodes)
    order = joined.argsort()
    return joined[order], np.concatenate(weights)[order]
