"""What is known of the Hessian's spectrum at a point: its ends, and how far they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onepass._extras import require
from onepass.landscape.differences import EPS, STEP
from onepass.landscape.function import Array, Function, norm
from onepass.landscape.operators import hessian, hessian_operator
from onepass.landscape.spectrum import eigenpairs, products

__all__ = ["DENSE", "Curvature", "End", "at_the_critical_point", "curvature", "hessian_at", "unknown"]

DENSE = 300  # parameters up to which the whole Hessian is computed
TOLERANCES = (1e-4, 1e-6, 1e-9)  # of Lanczos, against the norm of H; the next where one leaves a sign open
PROBES = 3  # random vectors that tell whether H is symmetric
KRYLOV = 20  # steps of MINRES
TINY = 1e-8  # of x: a step along which a difference of gradients would keep less than half of its digits
CAUTION = 4.0  # times what the curvature changes by on the way to the critical point that Newton's step predicts


@dataclass(frozen=True)
class End:
    """One end of the spectrum.

    ``value`` is the Rayleigh quotient of the unit ``vector`` (n,); the eigenvalue lies within ``error`` of it.
    ``proof`` is the part of the error that a Rayleigh quotient is subject to: the smallest eigenvalue is at most
    ``value + proof`` even where Lanczos has not converged.
    """

    value: float
    vector: Array
    error: float
    proof: float


@dataclass(frozen=True)
class Curvature:
    """Both ends; of a dense Hessian all ``values`` (n,) ascending, ``vectors`` (n, n) and ``errors`` (n,); else None,
    None and the error of a product with a unit vector. ``distance``: how far away `at_the_critical_point` expects it,
    as far as curvature is certain."""

    smallest: End
    largest: End
    values: Array | None
    vectors: Array | None
    errors: Array
    distance: float = 0.0


def unknown(n: int) -> Curvature:
    """Where the Hessian cannot be computed."""
    end = End(math.nan, np.zeros(n), math.inf, math.inf)
    return Curvature(end, end, None, None, np.array(math.inf))


def curvature(function: Function, dense: bool, seed: int) -> Curvature:
    """At ``function.x``: the whole spectrum, or its ends by Lanczos."""
    if not dense:
        return _lanczos(function, seed)
    matrix, error = hessian(function, None, return_error=True)
    values, vectors = np.linalg.eigh(matrix)
    error = error + EPS * len(values) * float(np.abs(values).max())  # that of eigh itself
    return _of_values(values, vectors, np.full(len(values), error))


def at_the_critical_point(function: Function, gradient: Array, curved: Curvature, seed: int) -> Curvature:
    """``curved``, with errors that hold for the critical point near ``function.x``, too, where ``gradient`` is not 0.

    Four times the change of curvature along Newton's step towards that point is added to them. The point is certain
    (Kantorovich 1948) where curvature loses less than half on the way; x**3 loses half, x**4 five ninths, and their
    second derivatives, positive beside the origin, are thereby within the error of zero, which they are at the origin.
    """
    if curved.values is not None and curved.vectors is not None:
        shifts = _shift_of_values(function, gradient, curved.values, curved.vectors, float(curved.errors[0]))
        errors = curved.errors + shifts
        certain = np.abs(curved.values) > errors
        steps = np.where(certain, gradient @ curved.vectors, 0.0) / np.where(certain, curved.values, 1.0)
        return replace(_of_values(curved.values, curved.vectors, errors), distance=norm(steps))
    if not gradient.any():
        return curved
    ends = [curved.smallest, curved.largest]
    shifts, distance = _shift_of_ends(function, gradient, ends, float(curved.errors), seed)
    smallest, largest = (
        End(end.value, end.vector, end.error + shift, end.proof + shift)
        for end, shift in zip(ends, shifts, strict=True)
    )
    return Curvature(smallest, largest, None, None, curved.errors, distance)


# ---- dense


def _of_values(values: Array, vectors: Array, errors: Array) -> Curvature:
    smallest, largest = (
        End(float(values[i]), vectors[:, i], float(errors[i]), float(errors[i])) for i in (0, len(values) - 1)
    )
    return Curvature(smallest, largest, values, vectors, errors)


def _shift_of_values(function: Function, gradient: Array, values: Array, vectors: Array, error: float) -> Array:
    """By how much each eigenvalue may differ at the critical point nearby, (n,).

    One number for all where that settles the signs: how far the gradient after Newton's step is from what H predicts,
    or how far the extreme vectors' curvature changes. Else from a second Hessian. A step of a point that is critical to
    rounding is too short to see a change along it: one as long as a difference's is looked at, and the change taken in
    proportion.
    """
    curved = np.abs(values) > error
    coefficients = np.where(curved, gradient @ vectors, 0.0)
    step = vectors @ (-coefficients / np.where(curved, values, 1.0))
    length = norm(step)
    if length == 0.0:
        return np.zeros(len(values))
    size = max(1.0, float(np.linalg.norm(function.x)))
    seen = min(1.0, STEP * size if length < TINY * size else length)
    step *= seen / length
    there, share = function.x + step, CAUTION * min(1.0, length / seen)
    try:
        model = gradient + vectors @ (values * (step @ vectors))
        changes = [norm(function.gradient(there) - model) / norm(step)]
        for i in {0, len(values) - 1}:
            vector = vectors[:, i]
            changes.append(abs(float(vector @ function.hessian_vector(there, vector)[0] - values[i])))
        if 2 * share * max(changes) < min(abs(values[0]), abs(values[-1])):
            return np.full(len(values), share * max(changes))
        moved = np.linalg.eigvalsh(hessian_at(function, there))
    except FloatingPointError:
        return np.full(len(values), math.inf)
    shifts: Array = share * np.abs(moved - values)
    return shifts


def hessian_at(function: Function, x: Array) -> Array:
    """The dense Hessian (n, n) at another x; its calls are counted as ``function``'s."""
    there = Function(function.f, function.unflatten(x))
    matrix: Array = hessian(there, None)
    function.gradient_count += there.gradient_count
    function.product_count += there.product_count
    return matrix


# ---- Lanczos


def _lanczos(function: Function, seed: int) -> Curvature:
    operator = hessian_operator(function, seed=seed)
    asymmetry = _asymmetry(operator, seed)
    ends = _ends(operator, TOLERANCES[0], asymmetry, seed)
    for tolerance in TOLERANCES[1:]:
        low, high = ends  # a negative Rayleigh quotient settles the sign of the smallest, a positive one of the largest
        if not (low.proof < low.value <= low.error or high.proof < -high.value <= high.error):
            break
        more = _ends(operator, tolerance, asymmetry, seed)  # worse, if ARPACK gives up
        ends = [min(pair, key=lambda end: end.error) for pair in zip(ends, more, strict=True)]
    smallest, largest = ends
    return Curvature(smallest, largest, None, None, np.array(max(end.proof for end in ends)))


def _ends(operator: Any, tolerance: float, asymmetry: float, seed: int) -> list[End]:
    pairs = eigenpairs(operator, top=1, bottom=1, tolerance=tolerance, seed=seed)
    more = asymmetry + EPS * float(np.abs(pairs.values).max())
    proofs = pairs.errors - pairs.residuals + more
    return [
        End(float(pairs.values[i]), pairs.vectors[:, i], float(pairs.errors[i] + more), float(proofs[i]))
        for i in (0, -1)
    ]


def _asymmetry(operator: Any, seed: int) -> float:
    """The Frobenius norm of H - H', estimated from u'Hv - v'Hu as far as that is beyond the error of the products: not
    zero for a gradient that is no function's."""
    n = operator.shape[0]
    vectors = np.random.default_rng(seed).standard_normal((n, PROBES))
    vectors /= np.linalg.norm(vectors, axis=0)
    images, errors = products(operator, vectors)
    differences = np.abs(vectors.T @ images - images.T @ vectors) - (errors[:, None] + errors)
    return float(n * max(0.0, differences.max()))


def _shift_of_ends(
    function: Function, gradient: Array, ends: list[End], error: float, seed: int
) -> tuple[Array, float]:
    """As for a dense Hessian, (2,), but of the Rayleigh quotients, and along two steps: Newton's in the space of the
    two vectors, and MINRES' (Paige and Saunders 1975) in a larger one. And that one's length, where the curvature along
    it is certain and stays what it is over a distance of one."""
    near = np.zeros(function.size)
    for end in ends:
        if abs(end.value) > end.proof:
            near -= (gradient @ end.vector / end.value) * end.vector
    with np.errstate(all="ignore"):
        minres = require("scipy.sparse.linalg").minres
        wide = minres(hessian_operator(function, seed=seed), -gradient, maxiter=KRYLOV)[0]
    shifts, distance = np.zeros(2), 0.0
    for step in (near, wide):
        length = norm(step)
        there = function.x + step / max(1.0, length)
        if not np.isfinite(there).all() or np.array_equal(there, function.x):
            continue
        try:
            moved = np.array([end.vector @ function.hessian_vector(there, end.vector)[0] for end in ends])
            if step is wide and length > 1.0:
                unit = step / length
                here, beyond = (float(unit @ function.hessian_vector(x, unit)[0]) for x in (function.x, there))
                distance = length if abs(here) > error + CAUTION * abs(beyond - here) else 0.0
        except FloatingPointError:
            return np.full(2, math.inf), 0.0
        shifts = np.maximum(shifts, CAUTION * np.abs(moved - [end.value for end in ends]))
    return shifts, distance
