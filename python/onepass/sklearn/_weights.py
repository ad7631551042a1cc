"""Weights of rows: what the caller gives, times those of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_array

from onepass.nn.layer import Array

__all__ = ["balanced", "of_classes", "sample_weights"]


def sample_weights(sample_weight: Any, rows: int, dtype: str) -> Array | None:
    """An array (rows,), or None where there are none; ValueError for another shape, negative ones, NaN and inf."""
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        return np.full(rows, _positive(float(sample_weight)), dtype)
    weights: Array = check_array(sample_weight, ensure_2d=False, dtype=dtype, input_name="sample_weight")
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}, expected one weight a row of X: ({rows},)")
    if weights.min() < 0:
        row = int(weights.argmin())
        raise ValueError(f"sample_weight is {weights[row]} in row {row}, expected no negative weights")
    return weights


def _positive(weight: float) -> float:
    if not 0 <= weight < np.inf:
        raise ValueError(f"sample_weight is {weight}, expected a finite number >= 0, or one for each row")
    return weight


def balanced(encoded: Array, classes: int, weights: Array | None) -> Array:
    """Of each class (classes,): all classes have one weight together; the mean over the rows is 1.

    Rows with weight 2 count twice. A class without rows has weight 0.

    >>> balanced(np.array([0, 0, 0, 1]), 2, None).round(4).tolist()
    [0.6667, 2.0]
    """
    counts = np.bincount(encoded, weights, minlength=classes).astype(np.float64)
    shares = np.zeros(classes)
    np.divide(counts.sum(), np.count_nonzero(counts) * counts, out=shares, where=counts > 0)
    return shares


def of_classes(class_weight: Any, classes: Array, encoded: Array, weights: Array | None) -> Array:
    """The factor of each class (classes,), 1 where a dictionary names none."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        return balanced(encoded, len(classes), weights)
    if not isinstance(class_weight, Mapping):
        raise TypeError(f"class_weight is {class_weight!r:.60}, expected 'balanced', a dictionary or None")
    factors, known = np.ones(len(classes)), classes.tolist()
    for label, factor in class_weight.items():
        if label not in known:
            raise ValueError(f"class_weight has {label!r:.60}, which is no class; classes are {known!r:.200}")
        if not isinstance(factor, Real) or not 0 <= float(factor) < np.inf:
            raise ValueError(f"class_weight[{label!r:.60}] is {factor!r:.60}, expected a finite number >= 0")
        factors[known.index(label)] = factor
    return factors
