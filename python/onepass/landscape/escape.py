"""The way out of a saddle point."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from onepass.landscape.critical import CriticalPoint, check_dense, check_gtol, critical_point
from onepass.landscape.curvature import DENSE
from onepass.landscape.descent import descend, trust_region
from onepass.landscape.function import Array, Function, Theta, check_count
from onepass.landscape.negative_curvature import along_negative_curvature
from onepass.landscape.perturbed import ATTEMPTS, gradient_descent, lower_after_displacement
from onepass.landscape.saddle_free import saddle_free_newton
from onepass.landscape.walk import BudgetSpentError, UnboundedError, Walk

__all__ = ["Escape", "escape"]

Method = Literal["negative curvature", "perturbed", "saddle-free newton", "trust-region"]

METHODS: tuple[Method, ...] = ("negative curvature", "perturbed", "saddle-free newton", "trust-region")
FALL = 1e-9  # of the function's scale: a fall of the loss that is worth a new start
DEEPER = 1e-3  # of gtol: how far descent goes, so that the end is clearly critical
DEEPEST = 1e-8  # of the function's scale, the same beside flat points
DESCENTS = 20  # in a row that end where the gradient is small for where they began, but not for where they ended
LEVEL = 1e-12  # of the fall so far: what is left to be gained by going as far again


@dataclass(frozen=True, eq=False)
class Escape:
    """What `escape` came to; ``print`` shows it.

    Attributes
    ----------
    theta
        The end, in the structure that theta came in.
    loss : float
    success : bool
        Whether the end is a local minimum, or a degenerate point below the start that no displacement led down from.
    message : str
        What happened, in a sentence or two.
    report : CriticalPoint
        Of the end.
    path : list
        Points visited, in theta's structure, the start first and the end last; at most 1000, evenly thinned.
    method : str
    iterations, evaluations : int
        Steps taken; calls of f, f.loss and f.hessian_vector, those of the reports included.
    """

    theta: Any = field(repr=False)
    loss: float
    success: bool
    message: str
    report: CriticalPoint
    path: list[Any] = field(repr=False)
    method: str
    iterations: int
    evaluations: int

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{'escaped' if self.success else 'not escaped'} ({self.method}): {self.message}",
                f"  {self.iterations} iterations, {self.evaluations} evaluations; the end is judged",
                *(f"  {line}" for line in str(self.report).splitlines()),
            ]
        )


def escape(
    f: Any,
    theta: Theta = None,
    report: CriticalPoint | None = None,
    method: Method = "negative curvature",
    seed: int = 0,
    *,
    gtol: float | None = None,
    dense: bool | None = None,
    max_iterations: int = 1000,
    radius: float = 0.1,
) -> Escape:
    """From a saddle point, or any other point, down to a point that `critical_point` judges a minimum.

    Parameters
    ----------
    f : callable
        ``f(theta) -> (loss, gradient)``; its ``hessian_vector`` and ``loss`` are used where it has them.
    theta
        A flat float64 vector, a list of float64 arrays, or an object with such a ``.theta``; None: the report's.
    report : CriticalPoint, optional
        Of theta, if there is one already.
    method : str
        How the saddle is left, and what follows:

        - "negative curvature": a line search along the most negative curvature, both signs tried, and the gradient's
          direction where it is not zero; then L-BFGS-B, and Newton's steps for the last digits.
        - "perturbed": a random displacement and 100 steps of gradient descent (Jin, Ge, Netrapalli, Kakade and
          Jordan, "How to Escape Saddle Points Efficiently", 2017), then L-BFGS-B. No second derivatives on the way.
        - "saddle-free newton": a random displacement and ``-|H|^-1 g`` (Dauphin et al. 2014); up to 300 parameters.
        - "trust-region": a random displacement and SciPy's trust-exact, or trust-krylov beyond 300 parameters.

        Where no negative curvature is known (a degenerate point), the first one displaces at random, too.
    seed : int, default 0
        Of the displacements and of the reports.
    gtol, dense
        Of the reports, as in `critical_point`.
    max_iterations : int, default 1000
        Steps of escape and descent together.
    radius : float, default 0.1
        Largest length of the first random displacement; the second and third are twice and four times as long.

    Descent may end at the next saddle, and everything is repeated until the end is a local minimum, or nothing lower is
    found beside it. A function that falls for ever (1e8 times as far away as theta is from zero), or levels off in a
    tail, as cross-entropy does where classes can be told apart, ends it with a message.

    >>> def saddle(theta):
    ...     x, y = theta
    ...     return x**2 - y**2 + y**4 / 4, np.array([2 * x, -2 * y + y**3])
    >>> result = escape(saddle, np.zeros(2))
    >>> result.success, round(result.loss, 9), np.abs(result.theta).round(6).tolist()
    (True, -1.0, [0.0, 1.414214])
    >>> result.message
    'a local minimum of loss -1, reached from a saddle point of loss 0.'
    """
    theta = report.theta if theta is None and isinstance(report, CriticalPoint) else theta
    function = Function(f, theta)
    check_gtol(gtol)
    check_dense(dense)
    check_count("seed", seed, 0)
    _check(function, report, method, max_iterations, radius)

    judging = 0

    def judge(x: Array, samples: int = 0) -> CriticalPoint:
        nonlocal judging
        found = critical_point(f, function.unflatten(x), gtol=gtol, dense=dense, samples=samples, seed=seed)
        judging += found.evaluations
        return found

    start = report = judge(function.x) if report is None else report
    walk = Walk(function, start.loss, max_iterations, seed)
    x, stopped, descents = function.x, "", 0
    try:
        while report.verdict != "local minimum":
            target = DEEPER * report.gtol
            if gtol is None and report.verdict != "not critical":  # flat points have next to no gtol
                target = max(target, DEEPEST * math.sqrt(function.size) * report.scale)
            with np.errstate(all="ignore"):  # far trial points; and SciPy divides by the norm of an empty step
                lower = _leave(walk, x, report, method, target, radius)
            if lower is None:
                break
            before, report = report, judge(lower)
            x = lower
            descents = descents + 1 if report.verdict == "not critical" else 0
            if report.verdict == before.verdict == "not critical" and not _better(report, before):
                stopped = "descent gets no further"
                break
            if descents == DESCENTS or (descents and _levels_off(function, start, report, x)):
                stopped = "the loss levels off while the gradient is above gtol, as in a tail that goes to infinity"
                break
    except BudgetSpentError:
        stopped = f"max_iterations, {max_iterations}, are used up"
    except UnboundedError as error:
        stopped = f"the function seems to have no minimum: {error}"
    except FloatingPointError as error:
        stopped = f"what is needed to go on is not finite: {error}"
    if stopped and walk.lowest < report.loss:
        with suppress(FloatingPointError):
            report = judge(walk.x)
            x = walk.x
    if math.isnan(report.minimum_ratio) and not stopped and x is not function.x:
        report = judge(x, samples=8)
    success, message = _told(start, report, stopped)
    path = walk.path if np.array_equal(walk.path[-1], x) else [*walk.path, x]
    return Escape(
        theta=function.unflatten(x),
        loss=report.loss,
        success=success,
        message=message,
        report=report,
        path=[function.unflatten(point) for point in path],
        method=method,
        iterations=walk.iterations,
        evaluations=walk.evaluations + judging,
    )


def _leave(walk: Walk, x: Array, report: CriticalPoint, method: Method, target: float, radius: float) -> Array | None:
    """A point below ``x`` with a gradient of about ``target``, or None if none is found."""
    towards: dict[Method, Callable[[Walk, Array, float], Array]] = {
        "saddle-free newton": saddle_free_newton,
        "trust-region": trust_region,
    }
    down = towards.get(method, descend)
    if report.verdict == "not critical":
        return down(walk, x, target)
    if method == "negative curvature" and report.negative_curvature:
        vector = walk.function.flatten(report.smallest_vector)
        lower = along_negative_curvature(walk, x, vector, report.smallest)
        if lower is not None:
            return down(walk, lower, target)
    stiffness = float(np.nan_to_num(max(abs(report.smallest), abs(report.largest))))
    length = 1 / (stiffness or report.scale or 1.0)

    def downwards(walk: Walk, displaced: Array) -> Array:
        return gradient_descent(walk, displaced, length) if method == "perturbed" else down(walk, displaced, target)

    ceiling = report.loss - FALL * (report.scale + abs(report.loss))
    lower = lower_after_displacement(walk, x, radius, ceiling, downwards)
    return lower if lower is None or method != "perturbed" else down(walk, lower, target)


def _better(report: CriticalPoint, before: CriticalPoint) -> bool:
    return report.loss < before.loss or report.gradient_norm < before.gradient_norm / 2


def _levels_off(function: Function, start: CriticalPoint, report: CriticalPoint, x: Array) -> bool:
    distance = max(1.0, float(np.linalg.norm(x - function.x)))
    return report.gradient_norm * distance <= LEVEL * (start.loss - report.loss)


def _told(start: CriticalPoint, end: CriticalPoint, stopped: str) -> tuple[bool, str]:
    """Success and message."""
    loss = f"loss {end.loss:.6g}"
    if end.verdict == "local minimum":
        if end is start:
            return True, f"theta is a local minimum of {loss} already: there is nothing to escape from."
        return True, f"a local minimum of {loss}, reached from {_NAMES[start.verdict]} of loss {start.loss:.6g}."
    if stopped:
        return False, f"{stopped}; the lowest point found has {loss}."
    tried = f"none of {ATTEMPTS} random displacements led to a lower point"
    if end.verdict == "degenerate" and end.loss < start.loss and not end.negative_curvature:
        return True, (
            f"a degenerate point of {loss}, flat within error, reached from {_NAMES[start.verdict]} of loss "
            f"{start.loss:.6g}; {tried}, so it is a minimum as far as was tried."
        )
    which = "theta" if end is start else "the end"
    known = "" if end.negative_curvature else "a flat minimum, a plateau, or "
    way = "a way down that another radius might find"
    return False, f"{which}, of {loss}, is {_NAMES[end.verdict]}, and {tried}: {known}{way}."


_NAMES = {
    "not critical": "a point that is not critical",
    "local minimum": "a local minimum",
    "local maximum": "a local maximum",
    "saddle point": "a saddle point",
    "degenerate": "a degenerate point",
    "undecided": "an undecided point",
}


def _check(
    function: Function, report: CriticalPoint | None, method: object, max_iterations: object, radius: object
) -> None:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(map(repr, METHODS))}")
    if method == "saddle-free newton" and function.size > DENSE:
        raise ValueError(
            f"theta has {function.size} parameters, expected at most {DENSE} for saddle-free newton, which needs the "
            "whole Hessian at every step; take method='negative curvature'"
        )
    check_count("max_iterations", max_iterations, 1)
    number = isinstance(radius, (int, float, np.number)) and not isinstance(radius, bool)
    if not (number and 0 < float(radius) < math.inf):  # type: ignore[arg-type]
        raise ValueError(f"radius is {radius!r}, expected a finite number > 0")
    if report is None:
        return
    if not isinstance(report, CriticalPoint):
        raise TypeError(f"report is {report!r:.60}, expected what critical_point(f, theta) returns, or None")
    if not np.array_equal(function.flatten(report.theta, "report.theta"), function.x):
        raise ValueError("report is of another point than theta; leave it out, or pass theta=report.theta")
