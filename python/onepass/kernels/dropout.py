"""Dropout with a mask that is computed where it is needed and stored nowhere."""

from __future__ import annotations

from typing import Any

from onepass import _core
from onepass._update_functions import check_seed
from onepass.kernels._arguments import Array, bfloat16_bits, integer, new_in_order, real, thread_count


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
    """``x / (1 - p)`` where an element is kept, with probability ``1 - p``, else 0 (Srivastava et al. 2014).

    An element is kept if 32 random bits of a counter-based generator keyed by (seed, step, index) are at least
    ``2^32 p``: the same mask at any number of threads, and for the same seed and step again in
    :func:`dropout_backward`, without a byte of it in memory. The index counts in C order whatever the strides.

    Args:
        x: float32, float64, float16 or bfloat16 (of ml_dtypes, or its bits in uint16 if dtype says so), any shape and
            strides.
        p: in [0, 1]; 0 keeps and 1 drops everything. What is dropped is 0, also where x is not finite.
        out: like x; it may be x.
        dtype: "bfloat16": arrays in uint16 are the bits of bfloat16.
        seed: in [0, 2**64), another one for every layer; step: 0 or more, another one for every batch.

    8 bytes for each float32 element.

    >>> dropout(np.ones(6), 0.5, seed=3).tolist()
    [2.0, 0.0, 2.0, 2.0, 2.0, 0.0]
    """
    result = new_in_order(x, "x") if out is None else out
    bits = bfloat16_bits(dtype)
    _core.dropout(x, real("p", p), check_seed(seed), _step(step), result, bits, thread_count(threads))
    return result


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
    """The gradient behind :func:`dropout` with the same p, seed and step; out may be dy. 8 bytes an element.

    >>> dropout_backward(np.ones(6), 0.5, seed=3).tolist()
    [2.0, 0.0, 2.0, 2.0, 2.0, 0.0]
    """
    result = new_in_order(dy, "dy") if out is None else out
    bits = bfloat16_bits(dtype)
    _core.dropout_backward(dy, real("p", p), check_seed(seed), _step(step), result, bits, thread_count(threads))
    return result


def _step(value: Any) -> int:
    step = integer("step", value)
    if step < 0:
        raise ValueError(f"step: expected 0 or more, got {value!r}")
    return step
