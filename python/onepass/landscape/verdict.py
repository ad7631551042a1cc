"""The verdict that gradient and curvature support, and no more than that."""

from __future__ import annotations

import math
from typing import Literal

from onepass.landscape.curvature import Curvature, End

__all__ = ["Verdict", "judge"]

Verdict = Literal["not critical", "local minimum", "local maximum", "saddle point", "degenerate", "undecided"]

FLAT = 0.05  # of the function's scale: an error up to which what is zero within it is called flat


def judge(gradient_norm: float, gtol: float, curved: Curvature, scale: float) -> tuple[Verdict, str]:
    """Verdict and reasons; ``scale`` is what curvature is measured against.

    >>> import numpy as np
    >>> def end(value, error):
    ...     return End(value, np.zeros(2), error, error)
    >>> judge(0.0, 1e-5, Curvature(end(-1.0, 1e-9), end(2.0, 1e-9), None, np.array(1e-9)), 2.0)[0]
    'saddle point'
    >>> judge(0.0, 1e-5, Curvature(end(1e-10, 1e-9), end(2.0, 1e-9), None, np.array(1e-9)), 2.0)[0]
    'degenerate'
    """
    low, high = curved.smallest, curved.largest
    found = "" if curved.values is not None else ", as far as Lanczos found"
    falls, rises = low.value + low.proof < 0, high.value - high.proof > 0
    if math.isnan(low.value) or math.isnan(high.value):
        text = (
            "its eigenvalues could not be computed: the gradient is not finite beside theta or Lanczos did not converge"
        )
        known = (falls and "the loss falls along smallest_vector; ") or (
            rises and "the loss rises along largest_vector; "
        )
        if gradient_norm > gtol:
            return "not critical", f"{_gradient(gradient_norm, gtol)}; {text}"
        return "undecided", f"{known or ''}{text}."
    if gradient_norm > gtol:
        return "not critical", f"{_gradient(gradient_norm, gtol)}; the loss falls along the negative gradient."
    if falls and rises:
        return (
            "saddle point",
            f"curvature is {low.value:.4g} along smallest_vector and {high.value:.4g} along largest_vector.",
        )
    if low.value - low.error > 0:
        return "local minimum", f"the smallest eigenvalue is positive ({_number(low)}){found}."
    if high.value + high.error < 0:
        return "local maximum", f"the largest eigenvalue is negative ({_number(high)}){found}."
    start = f"not a minimum: curvature is {low.value:.4g} along smallest_vector; but " if falls else ""
    which, open_end = ("largest", high) if falls else ("smallest", low)
    if open_end.error <= FLAT * scale:
        return "degenerate", (
            f"{start}the {which} eigenvalue is zero within its error ({_number(open_end)}){found}: second derivatives do "
            f"not tell {'a saddle from a maximum' if falls else 'a minimum from a saddle or a plateau'}."
        )
    return "undecided", f"{start}the {which} eigenvalue, {_number(open_end)}, is not known well enough."


def _gradient(norm: float, gtol: float) -> str:
    return f"the gradient's norm, {norm:.3g}, is above {gtol:.2g}"


def _number(end: End) -> str:
    return f"{end.value:.4g} ± {end.error:.1e}"
