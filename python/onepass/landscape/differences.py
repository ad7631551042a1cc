"""Central differences whose step is chosen by what they say, and whose error is estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EPS", "STEP", "WORTH", "Difference", "best_difference", "difference", "norm"]

EPS = float(np.finfo(np.float64).eps)
STEP = EPS ** (1 / 3)  # where truncation (step^2) and rounding (eps / step) of a central difference meet
WORTH = 1e-7  # relative error beyond which other steps are tried
LADDER = 8.0  # from one step to the next one tried
RUNGS = 6  # steps tried in one direction at most
PATIENCE = 2  # longer steps in a row that bring nothing
STAIRS = 2.0**-40, 2.0**-21  # noise of float32, as a share of the gradient here or a distance of one away


@dataclass(frozen=True)
class Difference:
    """g'(0) by differences of step ``length``: ``value``, the estimated norm of its ``error``, and g's ``noise``.

    ``single``: g's values are float32 numbers.
    """

    value: Any
    error: float
    length: float
    noise: float
    single: bool = False


def difference(g: Callable[[float], Any], length: float, center: Any, blur: float = 0.0) -> Difference:
    """(4 D(s) - D(2s)) / 3 with D(s) = (g(s) - g(-s)) / 2s, s = ``length`` (Richardson); ``center`` is g(0).

    The error is estimated from what D(s) and D(2s) differ by, odd in s, and from the fourth difference of g, even in s:
    two independent samples of g's noise, of which the first holds the truncation too. It is that of D(s), which the
    extrapolated value seldom reaches. ``blur``: how far from their places rounding moves the points.
    """
    up, down, up2, down2 = g(length), g(-length), g(2 * length), g(-2 * length)
    near, far = (up - down) / (2 * length), (up2 - down2) / (4 * length)
    noise = _norm(up2 + down2 - 4 * (up + down) + 6 * center) / math.sqrt(70)
    rounding = EPS * max(_norm(up), _norm(down)) + blur * _norm(near)
    error = (1.5 * max(_norm(far - near) * length, noise) + rounding) / length
    return Difference((4 * near - far) / 3, error, length, noise, _is_single(up) and _is_single(down))


def best_difference(g: Callable[[float], Any], start: float, center: Any, blur: float = 0.0) -> Difference:
    """`difference` at ``start``, or, where that is not good to 1e-7, at the best of shorter and longer steps.

    4 calls of g a step. No shorter ones where g is computed in float32: a staircase, flat between its steps. A step at
    which g raises FloatingPointError is passed over, unless there is no other.
    """
    tried: list[Difference] = []
    failure: FloatingPointError | None = None
    for factor in (1.0, 1 / LADDER, LADDER):
        length, wasted = start, 0
        if factor < 1.0 and tried and tried[0].single:
            continue
        for _ in range(RUNGS if factor != 1.0 else 1):
            length *= factor
            try:
                found = difference(g, length, center, blur)
            except FloatingPointError as error:
                failure, wasted = error, wasted + 1
                if factor > 1.0:
                    break
                continue
            wasted = wasted + 1 if tried and found.error >= min(d.error for d in tried) else 0
            tried.append(found)
            if found.error <= WORTH * _norm(found.value):
                return _pooled(tried)
            if factor < 1.0 and wasted == PATIENCE and _is_staircase(found, tried[0], center):
                break  # shorter ones end between two stairs, where nothing changes and all differences agree
            if wasted == PATIENCE and factor > 1.0:  # a kink may be nearer than many shorter steps
                break
    if not tried:
        assert failure is not None
        raise failure
    return _pooled(tried)


def _pooled(tried: list[Difference]) -> Difference:
    """The best one; noise that smaller steps have seen counts for it too, so that luck does not pass for accuracy."""
    noises = [max(d.noise for d in tried if d.length <= one.length) for one in tried]
    errors = [max(one.error, 1.5 * noise / one.length) for one, noise in zip(tried, noises, strict=True)]
    best = int(np.argmin(errors))
    return Difference(tried[best].value, errors[best], tried[best].length, noises[best])


def _is_single(value: Any) -> bool:
    exact = np.asarray(value, np.float64)
    with np.errstate(over="ignore"):
        return bool(np.all(exact.astype(np.float32).astype(np.float64) == exact))


def _is_staircase(found: Difference, first: Difference, center: Any) -> bool:
    """Whether g is computed in float32 inside, by its noise; that of a kink is larger, that of waves falls."""
    scale = _norm(center) + _norm(first.value) * first.length / STEP
    return STAIRS[0] * scale < found.noise <= STAIRS[1] * scale and found.noise > first.noise / LADDER


def _norm(value: Any) -> float:
    return norm(np.asarray(value))


def norm(v: NDArray[np.float64]) -> float:
    """The Euclidean norm, also where the squares of v leave the range of float64; NaN or inf where v holds it."""
    largest = float(np.abs(v).max(initial=0.0))
    return largest * float(np.linalg.norm(v / largest)) if 0.0 < largest < math.inf else largest
