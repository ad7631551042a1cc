"""Storage formats in NumPy: what an array means, and how numbers are rounded to it. The twin of kernels/formats.hpp.

bfloat16 comes as an array of ml_dtypes, or as its bits in uint16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_WORD = 0xFFFFFFFFFFFFFFFF


class Rounding(NamedTuple):
    """Where the random bits of stochastic rounding come from."""

    seed: int
    step: int
    tensor: int
    array: int  # 0 the param, 1 + k state k
    order: Array  # memory_index(param)
    pairs: bool = False  # beside states in blocks: elements 16 apart share 32 bits


def is_bfloat16(array: Array) -> bool:
    """Whether it holds bfloat16: of ml_dtypes, or uint16, which nothing else in an update can be."""
    return array.dtype == np.uint16 or array.dtype.name == "bfloat16"


def computed_type(param: Array) -> type[np.floating[Any]]:
    """What a parameter's update is computed in: float64 for float64, else float32."""
    return np.float64 if param.dtype == np.float64 else np.float32


def decode(array: Array, to: type[np.floating[Any]]) -> Array:
    """A new array of the type that is computed in."""
    if is_bfloat16(array):
        bits = array.view(np.uint16).astype(np.uint32) << np.uint32(16)
        decoded: Array = np.asarray(bits.view(np.float32).astype(to))  # an array also where there are no axes
        return decoded
    converted: Array = array.astype(to)
    return converted


def encode(values: Array, out: Array, rounding: Rounding | None) -> None:
    """Rounds values into out: to nearest even, or stochastically what has fewer bits."""
    if out.dtype == values.dtype:
        out[...] = values
    elif is_bfloat16(out):
        u = values.view(np.uint32)
        added = np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))
        if rounding is not None:
            added = _random_bits(rounding)
        rounded = (u + added) >> np.uint32(16)  # never carries out of an infinity
        out.view(np.uint16)[...] = np.where(np.isnan(values), np.uint32(0x7FC0), rounded)
    elif rounding is None:
        out[...] = values
        out[np.isnan(values)] = np.nan
    else:
        out.view(np.uint16)[...] = _stochastic_float16(values, _random_bits(rounding))


def _stochastic_float16(values: Array, random: Array) -> Array:
    magnitude = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    sign = (values.view(np.uint32) >> np.uint32(16)) & np.uint32(0x8000)
    added = random & np.uint32(0x1FFF)
    normal = (magnitude + added - np.uint32(112 << 23)) >> np.uint32(13)
    small = magnitude < np.uint32(113 << 23)
    units = (np.where(small, np.abs(values), 0) * np.float32(2.0**37)).astype(np.uint32)  # of 2^-37
    bits = np.where(small, (units + added) >> np.uint32(13), np.minimum(normal, np.uint32(0x7C00)))
    stored: Array = np.where(np.isnan(values), np.uint32(0x7E00), bits | sign).astype(np.uint16)
    return stored


def memory_axes(array: Array) -> list[int]:
    """The axes, that of the largest stride first; those of one element last."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]) if array.shape[axis] != 1 else 0)


def in_memory_order(values: Array, like: Array) -> Array:
    """The elements, (size,), with the axis of like's largest stride outermost."""
    flat: Array = values.transpose(memory_axes(like)).reshape(-1)
    return flat


def from_memory_order(flat: Array, like: Array) -> Array:
    """The way back: an array of like's shape."""
    axes = memory_axes(like)
    back: Array = flat.reshape([like.shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return back


def memory_index(array: Array) -> Array:
    """Each element's number, counted with the axis of the largest stride outermost."""
    return from_memory_order(np.arange(array.size, dtype=np.uint64), array)


def block_bits(rounding: Rounding) -> Array:
    """Twenty bits for each element of a state in 8-bit blocks."""
    turned = _rotated(random_words(rounding), 12 + 8 * (rounding.array - 1))
    return in_memory_order(turned & np.uint32(0xFFFFF), rounding.order)


def _random_bits(rounding: Rounding) -> Array:
    """Sixteen bits for each element of an array."""
    x = random_words(rounding)
    low, up = x & np.uint32(0xFFFF), x >> np.uint32(16)
    shared: Array = [low, up, low ^ up, (low + up) & np.uint32(0xFFFF)][rounding.array]
    return shared


def random_words(rounding: Rounding) -> Array:
    """The 32 bits of each element that all arrays of a tensor share."""
    if rounding.pairs:
        second = rounding.order & np.uint64(16)
        first = rounding._replace(order=rounding.order - second, pairs=False)
        shared: Array = np.where(second != 0, _rotated(random_words(first), 20), random_words(first))
        return shared
    index = rounding.order
    high = (index >> np.uint64(32)).astype(np.int64)
    x = np.zeros(index.shape, np.uint32)
    for part in np.unique(high):
        x[high == part] = _key(rounding, int(part))
    with np.errstate(over="ignore"):
        x = x + index.astype(np.uint32)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x21F0AAAD)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x735A2D97)
        x ^= x >> np.uint32(15)
    words: Array = x
    return words


def _rotated(words: Array, bits: int) -> Array:
    left: Array = (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))
    return left


def _key(rounding: Rounding, high: int) -> int:
    key = _mix(rounding.seed)
    for part in (rounding.step, rounding.tensor, high):
        key = _mix(key ^ part)
    return key >> 32


def _mix(x: int) -> int:  # SplitMix64
    x = (x + 0x9E3779B97F4A7C15) & _WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    return x ^ (x >> 31)
