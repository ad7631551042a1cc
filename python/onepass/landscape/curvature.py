"""What is known of the Hessian's spectrum at a point: its ends, and how far they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onepass._extras import require
from onepass.landscape.function import Array, Function
from onepass.landscape.operators import hessian, hessian_operator
from onepass.landscape.spectrum import eigenpairs

__all__ = ["Curvature", "End", "curvature", "hessian_at", "unknown"]

EPS = float(np.finfo(np.float64).eps)
TOLERANCES = (1e-5, 1e-9)  # of Lanczos, against the norm of H; the second where the first leaves a sign open
POWER_STEPS = 8  # to know the norm of H to its order of magnitude
CAUTION = 4.0  # times what the curvature changes by on the way to the critical point that Newton's step predicts


@dataclass(frozen=True)
class End:
    """One end of the spectrum.

    ``value`` is the Rayleigh quotient of the unit ``vector`` (n,); the eigenvalue lies within ``error`` of it. ``proof``
    is the part of the error that a Rayleigh quotient is subject to: the smallest eigenvalue is at most ``value + proof``
    even where Lanczos has not converged.
    """

    value: float
    vector: Array
    error: float
    proof: float


@dataclass(frozen=True)
class Curvature:
    """Its two ends; of a dense Hessian all ``values`` (n,) ascending and their ``errors`` (n,), else None and the error
    of a product with a unit vector in ``errors``."""

    smallest: End
    largest: End
    values: Array | None
    errors: Array


def unknown(n: int) -> Curvature:
    """Where the Hessian cannot be computed."""
    end = End(math.nan, np.zeros(n), math.inf, math.inf)
    return Curvature(end, end, None, np.array(math.inf))


def curvature(function: Function, gradient: Array, dense: bool, seed: int) -> Curvature:
    """At ``function.x``, where the gradient is ``gradient``.

    The errors hold for the critical point nearby, too: Newton's step towards it is evaluated, and the change of curvature
    along it, four times, is part of them. By Newton and Kantorovich (Kantorovich 1948) a step that leaves less than a
    quarter of the gradient predicts such a point; x**3 leaves that quarter, x**4 8/27, and their second derivatives,
    positive beside the origin, are thereby within the error of zero, as they are at the origin.
    """
    return _dense(function, gradient) if dense else _lanczos(function, gradient, seed)


# ---- dense


def _dense(function: Function, gradient: Array) -> Curvature:
    matrix, error = hessian(function, None, return_error=True)
    values, vectors = np.linalg.eigh(matrix)
    error = error + EPS * len(values) * float(np.abs(values).max())  # that of eigh itself
    errors = error + _shift_of_values(function, gradient, values, vectors, error)
    smallest, largest = (
        End(float(values[i]), vectors[:, i], float(errors[i]), float(errors[i])) for i in (0, len(values) - 1)
    )
    return Curvature(smallest, largest, values, errors)


def _shift_of_values(function: Function, gradient: Array, values: Array, vectors: Array, error: float) -> Array:
    """By how much each eigenvalue may differ at the critical point nearby, (n,).

    One number for all where that settles the signs: how far the gradient after Newton's step is from what H predicts, or
    how far the extreme vectors' curvature changes. Else from a second Hessian.
    """
    curved = np.abs(values) > error
    coefficients = np.where(curved, gradient @ vectors, 0.0)
    step = vectors @ (-coefficients / np.where(curved, values, 1.0))
    step /= max(1.0, float(np.linalg.norm(step)))
    there = function.x + step
    if np.array_equal(there, function.x):
        return np.zeros(len(values))
    try:
        model = gradient + vectors @ (values * (step @ vectors))
        changes = [float(np.linalg.norm(function.gradient(there) - model) / np.linalg.norm(step))]
        for i in {0, len(values) - 1}:
            vector = vectors[:, i]
            changes.append(abs(float(vector @ function.hessian_vector(there, vector)[0] - values[i])))
        if 2 * CAUTION * max(changes) < min(abs(values[0]), abs(values[-1])):
            return np.full(len(values), CAUTION * max(changes))
        moved = np.linalg.eigvalsh(hessian_at(function, there))
    except FloatingPointError:
        return np.full(len(values), math.inf)
    shifts: Array = CAUTION * np.abs(moved - values)
    return shifts


def hessian_at(function: Function, x: Array) -> Array:
    """The dense Hessian (n, n) at another x; its calls are counted as ``function``'s."""
    there = Function(function.f, function.unflatten(x))
    matrix: Array = hessian(there, None)
    function.gradient_count += there.gradient_count
    function.product_count += there.product_count
    return matrix


# ---- Lanczos


def _lanczos(function: Function, gradient: Array, seed: int) -> Curvature:
    operator = hessian_operator(function, None, seed=seed)
    norm = _norm(operator, seed)
    for tolerance in TOLERANCES:
        ends = [_end(function, operator, sign * norm, tolerance, seed) for sign in (-1, 1)]
        if not any(end.proof < abs(end.value) <= end.error for end in ends):
            break
    low, high = _shift_of_ends(function, gradient, ends)
    smallest, largest = (
        End(end.value, end.vector, end.error + shift, end.proof + shift)
        for end, shift in zip(ends, (low, high), strict=True)
    )
    return Curvature(smallest, largest, None, np.array(max(end.proof for end in ends)))


def _norm(operator: Any, seed: int) -> float:
    """Of H to its order of magnitude, by power iteration; never less than its error."""
    v = np.random.default_rng(seed).standard_normal(operator.shape[0])
    norm = 0.0
    for _ in range(POWER_STEPS):
        v = v / np.linalg.norm(v)
        v = operator.matvec(v)
        norm = float(np.linalg.norm(v))
        if norm == 0.0:
            break
    return max(norm, float(operator.error))


def _end(function: Function, operator: Any, shift: float, tolerance: float, seed: int) -> End:
    """Lower end of a negative ``shift``, else the upper.

    The operator is shifted by about its norm: ARPACK's tolerance is relative to the eigenvalue, and one near zero would
    keep it busy for ever.
    """
    n = operator.shape[0]
    if shift == 0.0:  # H u = 0 for a random u
        vector = np.eye(n)[0]
    else:
        identity = require("scipy.sparse.linalg").aslinearoperator(require("scipy.sparse").identity(n, format="csr"))
        top = int(shift > 0)
        pairs = eigenpairs(operator + shift * identity, top=top, bottom=1 - top, tolerance=tolerance, seed=seed)
        if not len(pairs.values):
            return unknown(n).smallest
        vector = pairs.vectors[:, 0] / np.linalg.norm(pairs.vectors[:, 0])
    product, error = function.hessian_vector(function.x, vector)
    value = float(vector @ product)
    residual = float(np.linalg.norm(product - value * vector))
    proof = error + EPS * abs(value)
    return End(value, vector, residual + proof, proof)


def _shift_of_ends(function: Function, gradient: Array, ends: list[End]) -> list[float]:
    """As for a dense Hessian, but along the vectors that were found, and of their Rayleigh quotients."""
    step = np.zeros(function.size)
    for end in ends:
        if abs(end.value) > end.proof:
            step -= (gradient @ end.vector / end.value) * end.vector
    step /= max(1.0, float(np.linalg.norm(step)))
    there = function.x + step
    if np.array_equal(there, function.x):
        return [0.0, 0.0]
    try:
        moved = [float(end.vector @ function.hessian_vector(there, end.vector)[0]) for end in ends]
    except FloatingPointError:
        return [math.inf, math.inf]
    return [CAUTION * abs(value - end.value) for value, end in zip(moved, ends, strict=True)]
