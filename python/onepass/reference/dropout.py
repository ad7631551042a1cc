"""Dropout in NumPy, with the kernels' generator."""

from __future__ import annotations

import numpy as np

from onepass._checks import check_storage
from onepass._storage import Rounding, decode, random_words
from onepass._update_functions import check_seed
from onepass.reference._results import Array, give

_STREAM = 2**64 - 1  # takes the place of a tensor's number in the generator's key


def dropout(
    x: Array,
    p: float,
    seed: int,
    step: int = 0,
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.dropout`.

    >>> dropout(np.ones(6), 0.5, seed=3).tolist()
    [2.0, 0.0, 2.0, 2.0, 2.0, 0.0]
    """
    return _apply("x", x, p, seed, step, out, dtype)


def dropout_backward(
    dy: Array,
    p: float,
    seed: int,
    step: int = 0,
    out: Array | None = None,
    *,
    dtype: str | None = None,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.dropout_backward`.

    >>> dropout_backward(np.ones(6), 0.5, seed=3).tolist()
    [2.0, 0.0, 2.0, 2.0, 2.0, 0.0]
    """
    return _apply("dy", dy, p, seed, step, out, dtype)


def _apply(name: str, x: Array, p: float, seed: int, step: int, out: Array | None, dtype: str | None) -> Array:
    check_storage(name, x, dtype)
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
        y = np.where(random >= dropped, decode(x, np.float64) * (1 / (1 - p)), 0.0)
    return give(y, x, out)
