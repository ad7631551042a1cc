"""A loss along a line, beside what gradient and Hessian say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onepass.landscape.axes import axes_or_new
from onepass.landscape.function import Array, Theta
from onepass.landscape.operators import as_function

__all__ = ["Taylor", "taylor"]


@dataclass(frozen=True)
class Taylor:
    """What `taylor` found along theta + t direction.

    Attributes
    ----------
    steps : array (k,)
        t.
    losses, first_order, second_order : arrays (k,)
        L(theta + t d), NaN or infinite where it is; ``L + t slope``; ``L + t slope + t^2 curvature / 2``.
    slope, curvature : float
        ``g . d`` and ``d . H d``, for the direction as it was given, not normalized.
    curvature_error : float
        The estimated error of ``curvature``.
    """

    steps: Array
    losses: Array
    first_order: Array
    second_order: Array
    slope: float
    curvature: float
    curvature_error: float

    def plot(self, ax: Any = None) -> Any:
        """The three lines into matplotlib's axes ``ax`` or new ones, which are returned."""
        ax = axes_or_new(ax)
        ax.plot(self.steps, self.losses, color="#000000", label="loss")
        ax.plot(self.steps, self.first_order, color="#0072B2", linestyle=":", label="first order: gradient")
        ax.plot(self.steps, self.second_order, color="#D55E00", linestyle="--", label="second order: and Hessian")
        ax.set_xlabel("step along the direction")
        ax.set_ylabel("loss")
        ax.legend()
        return ax


def taylor(f: Any, theta: Theta, direction: Theta, steps: Any = None) -> Taylor:
    """The loss along a direction, and its Taylor polynomials of degree 1 and 2 at ``theta``.

    ``L(theta + t d) ~ L(theta) + t g . d + t^2 / 2 d . H d``: at a critical point g is 0 and H decides.

    Parameters
    ----------
    f, theta
        As in `hessian_vector_product`.
    direction : array (n,) or list of arrays
        d, in theta's structure or flat; not normalized.
    steps : sequence of float, or None
        t; None: 41 from -1 to 1.

    A loss for each step, one gradient and one Hessian-vector product.

    >>> import numpy as np
    >>> from onepass import landscape
    >>> def f(theta):
    ...     return float(np.cosh(theta).sum()), np.sinh(theta)
    >>> along = landscape.taylor(f, np.zeros(2), np.array([1.0, 0.0]), steps=[0.0, 0.1, 1.0])
    >>> along.slope, round(along.curvature, 6)
    (0.0, 1.0)
    >>> (along.losses - along.second_order).round(6).tolist()  # t^4 / 24 and more
    [0.0, 4e-06, 0.043081]
    """
    function = as_function(f, theta)
    d = function.flatten(direction, "direction")
    if not d.any():
        raise ValueError("direction is zero, expected a direction to go along")
    try:
        t = np.linspace(-1.0, 1.0, 41) if steps is None else np.asarray(steps, np.float64)
    except (TypeError, ValueError):
        t = np.empty(0)
    if t.ndim != 1 or t.size == 0 or not np.isfinite(t).all():
        raise ValueError(f"steps is {steps!r:.60}, expected a sequence of finite numbers")
    loss, gradient = function.loss_and_gradient(function.x)
    product, error = function.hessian_vector(function.x, d)
    slope, curvature = float(gradient @ d), float(d @ product)
    losses = np.array([function.loss(function.x + step * d) for step in t])
    first = loss + t * slope
    error *= float(np.linalg.norm(d))
    return Taylor(t, losses, first, first + t**2 / 2 * curvature, slope, curvature, error)
