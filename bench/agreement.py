"""No number is measured before the answer is checked, element by element, against float64."""

from __future__ import annotations

import numpy as np

from bench.case import Array, Result

CHUNK = 1 << 22  # elements compared at once, so that checking needs little memory


class AgreementError(AssertionError):
    """A contender computed something else."""


def _worst(actual: Array, expected: Array, rtol: float, atol: float) -> tuple[int, float]:
    error = np.abs(actual.astype(np.float64) - expected)
    error /= atol + rtol * np.abs(expected)
    error[np.isnan(error)] = np.inf
    i = int(error.argmax())
    return i, float(error[i])


def check(who: str, actual: Result, expected: Result, rtol: float, atol: float) -> None:
    """Raises AgreementError unless |actual - expected| <= atol + rtol |expected| everywhere.

    An expected array may be shorter than the actual one: the data is periodic then, and every
    period is compared.
    """
    if not actual:
        return
    if actual.keys() != expected.keys():
        raise AgreementError(f"{who}: returned {sorted(actual)}, expected {sorted(expected)}")
    for name, reference in expected.items():
        got, want = np.asarray(actual[name]).reshape(-1), np.asarray(reference).reshape(-1)
        if want.size == 0 or got.size < want.size:
            raise AgreementError(f"{who}: {name} has {got.size} elements, expected {want.size}")
        if want.size < got.size and want.size > CHUNK:
            raise ValueError(f"{name}: the period of {want.size} elements exceeds {CHUNK}")
        stride = CHUNK if want.size == got.size else want.size
        for start in range(0, got.size, stride):
            part = got[start : start + stride]
            offset = start % want.size
            i, worst = _worst(part, want[offset : offset + part.size], rtol, atol)
            if worst > 1.0:
                raise AgreementError(
                    f"{who}: {name}[{start + i}] is {part[i]!r}, expected {want[offset + i]!r} "
                    f"(error is {worst:.3g} times the tolerance rtol={rtol:g}, atol={atol:g})"
                )
