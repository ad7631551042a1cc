"""What kernels and reference of batch normalization share: what their arguments mean."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._types import BatchNormStatistics

Array = NDArray[Any]


def running_weight(momentum: float | None, batches: int | None, training: bool) -> float:
    """The weight of a new batch in the running statistics."""
    if type(momentum) is float and 0.0 <= momentum <= 1.0:
        return momentum
    if momentum is not None:
        if not isinstance(momentum, Real):
            raise TypeError(f"momentum: expected a number or None (the mean over all batches), got {momentum!r}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number in [0, 1] or None, got {momentum!r}")
        return float(momentum)
    if not training:
        return 0.0
    if batches is None:
        raise ValueError(
            "batches: is missing; momentum=None needs the number of batches that the running statistics hold already"
        )
    try:
        number = operator.index(batches)
    except TypeError:
        raise TypeError(f"batches: expected an integer, got {batches!r}") from None
    if number < 0:
        raise ValueError(f"batches: expected 0 or more, got {batches!r}")
    return 1.0 / (number + 1.0)


def check_count(count: Any, name: str = "count") -> int:
    """A number of values, 1 or more."""
    try:
        number = operator.index(count)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {count!r}") from None
    if not 1 <= number < 2**63:
        raise ValueError(f"{name}: expected 1 or more (and less than 2**63), got {count!r}")
    return number


def unpack_statistics(statistics: Any) -> tuple[BatchNormStatistics, bool]:
    """(count, mean, m2) of a batch, or the constants (mean, var): and whether they are a batch's."""
    parts = _sequence("statistics", statistics, (2, 3), "(count, mean, m2) or (mean, var)")
    if len(parts) == 2:
        mean, var = (_numbers(f"statistics: {name}", a) for name, a in zip(("mean", "var"), parts, strict=True))
        return BatchNormStatistics(1, mean, var), False
    count = check_count(parts[0], "statistics: count")
    mean, m2 = (_numbers(f"statistics: {name}", a) for name, a in zip(("mean", "m2"), parts[1:], strict=True))
    return BatchNormStatistics(count, mean, m2), True


def unpack_sums(sums: Any) -> tuple[Array, Array]:
    """(sum_dy, sum_dyx)"""
    parts = _sequence("sums", sums, (2,), "(sum_dy, sum_dyx)")
    sum_dy, sum_dyx = (_numbers(f"sums: {name}", a) for name, a in zip(("sum_dy", "sum_dyx"), parts, strict=True))
    return sum_dy, sum_dyx


def check_merged(statistics: Iterable[Any]) -> list[BatchNormStatistics]:
    """The parts of a batch; one without values has count 0."""
    parts = []
    for i, part in enumerate(_sequence("statistics", statistics, None, "a sequence of (count, mean, m2)")):
        name = f"statistics[{i}]"
        count, mean, m2 = _sequence(name, part, (3,), "(count, mean, m2)")
        number = 0 if type(count) is int and count == 0 else check_count(count, f"{name}: count")
        parts.append(BatchNormStatistics(number, _numbers(f"{name}: mean", mean), _numbers(f"{name}: m2", m2)))
        for field in ("mean", "m2"):
            shape = getattr(parts[-1], field).shape
            if shape != parts[0].mean.shape:
                raise ValueError(f"{name}: {field}: expected shape {parts[0].mean.shape} like the first's, got {shape}")
    if not parts:
        raise ValueError("statistics: is empty, expected at least one (count, mean, m2)")
    return parts


def _sequence(name: str, value: Any, lengths: tuple[int, ...] | None, expected: str) -> Sequence[Any]:
    if isinstance(value, np.ndarray) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    parts = tuple(value)
    if lengths is not None and len(parts) not in lengths:
        raise ValueError(f"{name}: expected {expected}, got {len(parts)} values")
    return parts


def _numbers(name: str, a: Any) -> Array:
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}; make one with numpy.asarray first")
    if a.dtype != np.float64:
        raise TypeError(f"{name}: expected float64, got {a.dtype}; convert it first")
    if a.ndim != 1:
        raise ValueError(f"{name}: expected one value for each channel, got shape {a.shape}")
    return np.ascontiguousarray(a)
