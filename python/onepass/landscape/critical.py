"""What kind of point training has stopped at."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onepass.landscape.curvature import DENSE, at_the_critical_point, curvature, unknown
from onepass.landscape.differences import EPS
from onepass.landscape.function import Array, Function, Theta, check_count, norm
from onepass.landscape.minimum_ratio import minimum_ratio
from onepass.landscape.verdict import Verdict, judge

__all__ = ["CriticalPoint", "check_dense", "check_gtol", "check_result", "critical_point"]

GRADIENT_SHARE = 1e-5  # of the gradient a distance of one away; SciPy's BFGS stops at 1e-5
NEARNESS = 1e-2  # how far away a critical point may be at most, by the stiffest curvature
_WHAT: dict[Verdict, str] = {
    "not critical": "this is not a critical point",
    "local minimum": "this is a local minimum",
    "local maximum": "this is a local maximum",
    "saddle point": "this is a saddle point",
    "degenerate": "this point is degenerate",
    "undecided": "what this point is stays undecided",
}


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """The report of `critical_point`; ``print`` shows it.

    Attributes
    ----------
    verdict : str
        "not critical", "local minimum", "local maximum", "saddle point", "degenerate" or "undecided".
    message : str
        The verdict's reasons in a sentence or two.
    theta
        The point, in the structure it came in.
    loss, gradient_norm, gtol : float
        A gradient of at most ``gtol`` counts as none.
    smallest, largest : float
        The extreme eigenvalues of the Hessian; NaN where it could not be computed.
    smallest_error, largest_error : float
        How far they may be off: the residual of the eigenpair (Lanczos), the error of the Hessian-vector products, the
        Hessian's asymmetry; and if the gradient is small, but not zero, four times what curvature changes by on
        Newton's step to the critical point itself, so that x**4 and x**3 are flat beside the origin, too.
    smallest_vector, largest_vector
        The eigenvectors, of norm 1, in theta's structure; from a saddle the loss falls along ``smallest_vector``.
    negative_curvature : bool
        Whether the smallest eigenvalue is certainly below zero. A Rayleigh quotient below zero proves it even where
        Lanczos has not converged.
    minimum_ratio, minimum_ratio_error : float
        The share of eigenvalues that are positive beyond their error. Of a dense Hessian it is counted, and the error
        is the share of those within the error of zero; else an estimate; NaN without one.
    eigenvalues : array (n,) or None
        Ascending, of a dense Hessian.
    scale : float
        The gradient's norm a distance of one away; what is flat or large is measured against it.
    evaluations : int
        Calls of f, of f.loss and of f.hessian_vector.
    """

    verdict: Verdict
    message: str
    theta: Any = field(repr=False)
    loss: float
    gradient_norm: float
    gtol: float
    smallest: float
    largest: float
    smallest_error: float
    largest_error: float
    smallest_vector: Any = field(repr=False)
    largest_vector: Any = field(repr=False)
    negative_curvature: bool
    minimum_ratio: float
    minimum_ratio_error: float
    eigenvalues: Array | None = field(repr=False)
    scale: float = field(repr=False)
    evaluations: int

    @property
    def error(self) -> float:
        """The larger of the two extreme eigenvalues' errors."""
        return max(self.smallest_error, self.largest_error)

    def __str__(self) -> str:
        lines = [
            self.verdict,
            f"  loss                 {self.loss:.6g}",
            f"  gradient norm        {self.gradient_norm:.3g} (critical: at most {self.gtol:.2g})",
            f"  smallest eigenvalue  {self.smallest:.6g} ± {self.smallest_error:.1e}",
            f"  largest eigenvalue   {self.largest:.6g} ± {self.largest_error:.1e}",
        ]
        if not math.isnan(self.minimum_ratio):
            share, error = f"{self.minimum_ratio:.4g}", f"{self.minimum_ratio_error:.2g}"
            counted = f"{share} are positive, {error} zero within error"
            estimated = f"{share} ± {error} are positive, by estimate"
            lines.append(f"  minimum ratio        {estimated if self.eigenvalues is None else counted}")
        return "\n".join([*lines, f"  {self.message}"])


def critical_point(
    f: Any,
    theta: Theta = None,
    *,
    gtol: float | None = None,
    dense: bool | None = None,
    samples: int = 8,
    steps: int = 40,
    seed: int = 0,
) -> CriticalPoint:
    """What kind of point ``theta`` is: gradient, ends of the Hessian's spectrum and a verdict that they support.

    Parameters
    ----------
    f : callable
        ``f(theta) -> (loss, gradient)``; its ``hessian_vector`` is used where it has one.
    theta
        A flat float64 vector, a list of float64 arrays, or an object with such a ``.theta``; None: ``f.theta``.
    gtol : float, optional
        Norm of the gradient up to which the point counts as critical. The default measures it against the function
        itself, so that multiplying f by a constant changes no verdict: 1e-5 sqrt(n) times the gradient's norm a
        distance of one away (the larger one of two sides, in a random direction), which is SciPy's 1e-5 where curvature
        is about one; but at most 0.01 times the largest curvature at theta, so that a critical point is expected within
        0.01. That fails in a ravine, where curvature is small along the gradient: if Newton's step is longer than one,
        and curvature along it is certain, gtol is the gradient from which it would be one.
        What changes the loss by less than its rounding over a distance of one counts as no gradient in any case.
    dense : bool, optional
        Whether the whole Hessian is computed; None: up to 300 parameters. Else its ends come from SciPy's Lanczos.
    samples, steps : int
        Of stochastic Lanczos quadrature, which estimates the minimum ratio without a dense Hessian: ``samples * steps``
        Hessian-vector products; 0 samples: no estimate.
    seed : int
        Of the random directions.

    Returns
    -------
    CriticalPoint
        Its verdict is one of

        - "not critical": the gradient's norm is above gtol. The eigenvalues are reported all the same.
        - "local minimum", "local maximum": all eigenvalues are positive (negative) by more than their error. Without
          a dense Hessian: as far as Lanczos found.
        - "saddle point": the smallest is negative and the largest positive by more than their errors.
        - "degenerate": the eigenvalue that decides is zero within a small error, so that second derivatives do not tell
          a minimum (x**4) from a saddle (x**3, a monkey saddle), from a valley of minima or a plateau.
        - "undecided": the errors are too large for any of these.

    The Hessian costs n (dense) or some tens to hundreds of Hessian-vector products, each 4 gradients unless ``f`` has
    ``hessian_vector``, and up to 48 where differences are hard; beside a degenerate point a second dense one follows.
    The loss is only reported: whether the gradient belongs to it is what `gradient_check` tells.

    >>> def saddle(theta):
    ...     x, y = theta
    ...     return x**2 - y**2 + y**4 / 4, np.array([2 * x, -2 * y + y**3])
    >>> report = critical_point(saddle, np.zeros(2))
    >>> report.verdict, round(report.smallest, 6), round(report.largest, 6), report.minimum_ratio
    ('saddle point', -2.0, 2.0, 0.5)
    >>> critical_point(saddle, np.array([0.0, 2**0.5])).verdict
    'local minimum'
    """
    check_gtol(gtol)
    check_dense(dense)
    check_count("samples", samples, 0)
    check_count("steps", steps, 2)
    check_count("seed", seed, 0)
    function = Function(f, theta)
    x, n = function.x, function.size
    loss, gradient = function.loss_and_gradient(x)
    dense = n <= DENSE if dense is None else dense
    try:
        curved = curvature(function, dense, seed)
    except FloatingPointError:
        curved = unknown(n)
    size = norm(gradient)
    stiffest = float(np.nan_to_num(max(abs(curved.smallest.value), abs(curved.largest.value))))
    distant = _gradient_at_a_distance(function, seed)
    given = gtol is not None
    if gtol is None:
        gtol = min(GRADIENT_SHARE * math.sqrt(n) * distant, NEARNESS * stiffest) + EPS * abs(loss)
    if size <= gtol:
        curved = at_the_critical_point(function, gradient, curved, seed)
        if not given and curved.distance > 1.0:
            gtol = max(size / curved.distance, EPS * abs(loss))
    scale = max(distant, stiffest)
    verdict, message = judge(size, gtol, curved, scale)
    ratio, ratio_error = math.nan, math.nan
    if curved.values is not None or (samples and math.isfinite(curved.errors)):
        ratio, ratio_error = minimum_ratio(function, curved, samples, steps, seed)
    return CriticalPoint(
        verdict=verdict,
        message=message,
        theta=function.unflatten(x),
        loss=loss,
        gradient_norm=size,
        gtol=gtol,
        smallest=curved.smallest.value,
        largest=curved.largest.value,
        smallest_error=curved.smallest.error,
        largest_error=curved.largest.error,
        smallest_vector=function.unflatten(curved.smallest.vector),
        largest_vector=function.unflatten(curved.largest.vector),
        negative_curvature=bool(curved.smallest.value + curved.smallest.proof < 0),
        minimum_ratio=ratio,
        minimum_ratio_error=ratio_error,
        eigenvalues=curved.values,
        scale=scale,
        evaluations=function.loss_count + function.gradient_count + function.product_count,
    )


def check_result(result: Any, f: Any, **options: Any) -> CriticalPoint:
    """What SciPy's ``result`` is: `critical_point` at ``result.x``, and what it says to SciPy's "success".

    SciPy's local minimizers stop where the gradient vanishes and look no further: started at a saddle, BFGS, Newton-CG,
    trust-ncg, trust-krylov and trust-exact report success there.

    Parameters
    ----------
    result : scipy.optimize.OptimizeResult
        With ``x``, ``success`` and ``message``.
    f : callable
        ``f(x) -> (loss, gradient)`` of the flat x.
    options
        Of `critical_point`: gtol, dense, samples, steps, seed.

    >>> from scipy.optimize import minimize
    >>> def saddle(x):
    ...     return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4, np.array([2 * x[0], -2 * x[1] + x[1] ** 3])
    >>> print(check_result(minimize(saddle, np.zeros(2), jac=True, method="BFGS"), saddle).message)
    SciPy reports success, but this is a saddle point: curvature is -2 along smallest_vector and 2 along largest_vector.
    """
    missing = [name for name in ("x", "success", "message") if not hasattr(result, name)]
    if missing:
        raise TypeError(
            f"result is {result!r:.60} without {', '.join(missing)}, expected what scipy.optimize.minimize returns; "
            "for a point without a result call critical_point(f, theta)"
        )
    x = np.atleast_1d(result.x)
    if x.dtype.kind not in "fiu":
        raise TypeError(f"result.x is {x.dtype}, expected real numbers")
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("result.x is not finite: the minimization ran away; look at where f falls without bound")
    report = critical_point(f, x, **options)
    what = _WHAT[report.verdict]
    if result.success:
        said = f"SciPy reports success, {'and' if report.verdict == 'local minimum' else 'but'} {what}"
    else:
        said = f"SciPy reports no success ({str(result.message).strip().rstrip('.')}); {what}"
    return replace(report, message=f"{said}: {report.message}")


def _gradient_at_a_distance(function: Function, seed: int) -> float:
    """The larger norm on two sides, a distance of one away; where it is not finite there nearer, and in proportion."""
    unit = np.random.default_rng(seed).standard_normal(function.size)
    unit /= np.linalg.norm(unit)
    for distance in (1.0, 0.1, 0.01, 0.001):
        sides = (function.x + distance * unit, function.x - distance * unit)
        with np.errstate(all="ignore"), suppress(FloatingPointError):
            return max(norm(function.gradient(x)) for x in sides) / distance
    return 0.0


def check_gtol(gtol: object) -> None:
    if gtol is None:
        return
    number = isinstance(gtol, (int, float, np.number)) and not isinstance(gtol, bool)
    if not (number and 0 <= float(gtol) < math.inf):  # type: ignore[arg-type]
        raise ValueError(f"gtol is {gtol!r}, expected a finite number >= 0, or None for one that scales with f")


def check_dense(dense: object) -> None:
    if dense is not None and not isinstance(dense, (bool, np.bool_)):
        raise TypeError(f"dense is {dense!r}, expected True, False, or None for up to {DENSE} parameters")
