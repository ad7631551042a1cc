"""The verdict that gradient and curvature support, and no more than that."""

from __future__ import annotations

import math
from typing import Literal

from onepass.landscape.curvature import Curvature, End

__all__ = ["Verdict", "judge"]

Verdict = Literal["not critical", "local minimum", "local maximum", "saddle point", "degenerate", "undecided"]

FLAT = 0.05  # of the function's scale: an error up to which what is zero within it is called flat
MINIMUM_OR_SADDLE = "a minimum from a saddle or a plateau"
SADDLE_OR_MAXIMUM = "a saddle from a maximum"
NOT_FINITE = "the Hessian is not finite, theta may be at the border of where f is defined"


def judge(gradient_norm: float, gtol: float, curved: Curvature, scale: float) -> tuple[Verdict, str]:
    """Verdict and reasons; ``scale`` is what curvature is measured against.

    >>> import numpy as np
    >>> def end(value, error):
    ...     return End(value, np.zeros(2), error, error)
    >>> judge(0.0, 1e-5, Curvature(end(-1.0, 1e-9), end(2.0, 1e-9), None, None, np.array(1e-9)), 2.0)[0]
    'saddle point'
    >>> judge(0.0, 1e-5, Curvature(end(1e-10, 1e-9), end(2.0, 1e-9), None, None, np.array(1e-9)), 2.0)[0]
    'degenerate'
    """
    low, high = curved.smallest, curved.largest
    known = not math.isnan(low.value)
    if gradient_norm > gtol:
        then = "the loss falls along the negative gradient" if known else NOT_FINITE
        return "not critical", f"the gradient's norm, {gradient_norm:.3g}, is above {gtol:.2g}; {then}."
    if not known:
        return "undecided", f"{NOT_FINITE}."
    found = "" if curved.values is not None else ", as far as Lanczos found"
    falls, rises = low.value + low.proof < 0, high.value - high.proof > 0
    if falls and rises:
        sides = f"{low.value:.4g} along smallest_vector and {high.value:.4g} along largest_vector"
        return "saddle point", f"curvature is {sides}."
    if low.value - low.error > 0:
        return "local minimum", f"the smallest eigenvalue is positive, {_number(low)}{found}."
    if high.value + high.error < 0:
        return "local maximum", f"the largest eigenvalue is negative, {_number(high)}{found}."
    start = f"not a minimum: curvature is {low.value:.4g} along smallest_vector; but " if falls else ""
    which, between, end = ("largest", SADDLE_OR_MAXIMUM, high) if falls else ("smallest", MINIMUM_OR_SADDLE, low)
    if abs(end.value) > end.proof:
        return "undecided", f"{start}Lanczos has not converged to the {which} eigenvalue, {_number(end)}."
    if not end.error <= FLAT * scale:  # nor NaN
        return "undecided", f"{start}the {which} eigenvalue, {_number(end)}, is not known well enough."
    flat = f"the {which} eigenvalue is zero within its error, {_number(end)}{found}"
    return "degenerate", f"{start}{flat}; second derivatives do not tell {between}."


def _number(end: End) -> str:
    return f"{end.value:.4g} ± {end.error:.1e}"
