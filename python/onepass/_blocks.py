"""States in 8 bits, in NumPy: the twin of kernels/blocks.hpp, which describes the codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 128  # numbers that share a scale
_SMALLEST_SCALE = 32
_ONE, _TWO = np.uint32(127 << 23), np.uint32(128 << 23)
_SIGN = np.uint32(0x80000000)


def blocks_size(elements: int) -> int:
    """Bytes of a state of so many elements: whole blocks of codes, then a scale for each."""
    return -(-elements // BLOCK) * (BLOCK + 1)


def is_blocks(array: Array) -> bool:
    """Whether a state holds 8-bit blocks: nothing else in an update is uint8."""
    return array.dtype == np.uint8


def decode_blocks(array: Array, elements: int, positive: bool) -> Array:
    """The float32 numbers of a state, (elements,) in the order of the parameter's memory."""
    blocks = -(-elements // BLOCK)
    codes = array[: blocks * BLOCK].reshape(blocks, 2, 16, 4).swapaxes(2, 3).reshape(blocks, BLOCK).astype(np.uint32)
    exponents = array[blocks * BLOCK :].astype(np.uint32)
    special = (exponents == 0) | (exponents == 255)
    reach = np.uint32(_reach(positive) + 1)
    scales = (np.where(special, exponents, exponents - reach) << np.uint32(23)).view(np.float32)[:, None]
    mask = np.uint32((0xFF if positive else 0x7F) << 20)
    numbers = (((codes << np.uint32(20)) & mask) | _TWO).view(np.float32)
    if positive:
        values = numbers * scales
    else:
        magnitudes = ((numbers - np.float32(2)) * scales).view(np.uint32)
        values = (magnitudes | ((codes << np.uint32(24)) & _SIGN)).view(np.float32)
    decoded: Array = values.reshape(-1)[:elements]
    return decoded


def encode_blocks(values: Array, out: Array, positive: bool, random: Array | None) -> None:
    """Rounds float32 numbers, (elements,) in the order of the parameter's memory, into a state.

    random: twenty bits for each, or None: to nearest, ties away from zero.
    """
    blocks = -(-values.size // BLOCK)
    x = np.zeros((blocks, BLOCK), np.float32)
    x.reshape(-1)[: values.size] = values
    added = np.full((blocks, BLOCK), 0x80000, np.uint32)
    if random is not None:
        added.reshape(-1)[: values.size] = random
    magnitudes = x.view(np.uint32) & ~_SIGN
    exponents = magnitudes.max(axis=1, initial=0) >> np.uint32(23)
    exponents = np.where((exponents > 0) & (exponents < _SMALLEST_SCALE), np.uint32(_SMALLEST_SCALE), exponents)
    special = (exponents == 0) | (exponents == 255)
    sound = np.where(special, np.uint32(127), exponents).astype(np.uint32)
    inverse = ((np.uint32(254 + _reach(positive)) - sound) << np.uint32(23)).view(np.float32)[:, None]
    if positive:
        numbers = np.maximum((x * inverse).view(np.int32), np.int32(_ONE)).view(np.uint32)
        codes = ((numbers + (added - _ONE)) >> np.uint32(20)) & np.uint32(0xFF)
    else:
        numbers = (magnitudes.view(np.float32) * inverse + np.float32(1)).view(np.uint32)
        codes = ((numbers + (added - _ONE)) >> np.uint32(20)) & np.uint32(0x7F)
        codes |= (x.view(np.uint32) >> np.uint32(24)) & np.uint32(0x80)
    codes[special] = 0
    stored = codes.astype(np.uint8).reshape(blocks, 2, 4, 16).swapaxes(2, 3)
    out[: blocks * BLOCK] = stored.reshape(-1)
    out[blocks * BLOCK :] = exponents.astype(np.uint8)


def _reach(positive: bool) -> int:  # the exponent of a block's largest number
    return 30 if positive else 14
