"""Memory and data for the contenders: all get the same kind, filled in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bench.case import Array

ALIGNMENT = 64
# Elements after which large data repeats itself, so that a float64 result of one period is enough.
PERIOD = 1 << 20


def empty(shape: int | Sequence[int], dtype: DTypeLike = np.float32) -> Array:
    """An uninitialized C-contiguous array that starts at a cache line."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def copy(values: Any, dtype: DTypeLike = np.float32) -> Array:
    """The values in memory of their own."""
    values = np.asarray(values)
    out = empty(values.shape, dtype)
    out[...] = values
    return out


def full(shape: int | Sequence[int], value: float, dtype: DTypeLike = np.float32) -> Array:
    out = empty(shape, dtype)
    out.fill(value)
    return out


def repeated(period: Array, shape: int | Sequence[int]) -> Array:
    """An array filled with a period, again and again."""
    out = empty(shape, period.dtype)
    flat = out.reshape(-1)
    for start in range(0, flat.size, period.size):
        part = flat[start : start + period.size]
        part[...] = period[: part.size]
    return out


def normal(shape: int | Sequence[int], seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def narrow(values: Array, name: str) -> Array:
    """float32 rounded to nearest even in another type; bfloat16 as its bits in uint16."""
    if name == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(name, copy=False)


def widen(values: Array) -> Array:
    """The float32 numbers of what narrow() gave."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
