"""Dropout in NumPy, with the kernels' generator."""

from __future__ import annotations

import numpy as np

from onepass._checks import check_any_float
from onepass._storage import Rounding, random_words
from onepass._update_functions import check_seed
from onepass.reference._results import Array, give

_STREAM = 2**64 - 1  # takes the place of a tensor's number in the generator's key


def dropout(
    x: Array, p: float = 0.5, out: Array | None = None, *, seed: int, step: int = 0, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.dropout`.

    >>> dropout(np.ones(6), 0.5, seed=3).tolist()
    DOCTEST
    """
    return _apply("x", x, p, out, seed, step)


def dropout_backward(
    dy: Array, p: float = 0.5, out: Array | None = None, *, seed: int, step: int = 0, threads: int | None = None
) -> Array:
    """See :func:`onepass.kernels.dropout_backward`.

    >>> dropout_backward(np.ones(6), 0.5, seed=3).tolist()
    DOCTEST
    """
    return _apply("dy", dy, p, out, seed, step)


def _apply(name: str, x: Array, p: float, out: Array | None, seed: int, step: int) -> Array:
    check_any_float(name, x)
    if not 0 <= p <= 1:
        raise ValueError(f"p: expected a number in [0, 1], got {p}")
    if step < 0:
        raise ValueError(f"step: expected 0 or more, got {step}")
    if p == 1:
        return give(np.zeros(x.shape), x, out)
    index = np.arange(x.size, dtype=np.uint64).reshape(x.shape)
    random = random_words(Rounding(check_seed(seed), step, _STREAM, 0, index))
    dropped = min(round(p * 2.0**32), 2**32 - 1)
    with np.errstate(all="ignore"):
        y = np.where(random >= dropped, x.astype(np.float64) * (1 / (1 - p)), 0.0)
    return give(y, x, out)
