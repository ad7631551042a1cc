"""A NumPy step on arrays as they are stored: decoded to what is computed in, and rounded again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._blocks import blocks_size, decode_blocks, encode_blocks, is_blocks
from onepass._storage import (
    Rounding,
    block_bits,
    computed_type,
    decode,
    encode,
    from_memory_order,
    in_memory_order,
    is_bfloat16,
)
from onepass._types import Update

Array = NDArray[Any]


def stored_step(
    step: Callable[..., None],
    update: Update,
    param: Array,
    grad: Array,
    states: Sequence[Array],
    hyper: Mapping[str, Any],
    rounding: Rounding | None,
) -> None:
    """One step on one tensor, in place.

    rounding: None: to nearest. Its array is that of each array written.
    """
    _check(update, param, grad, states)
    kind = computed_type(param)
    values = [decode_state(state, param, positive) for state, positive in zip(states, update.positive, strict=True)]
    new = decode(param, kind)

    if rounding is not None:
        rounding = rounding._replace(pairs=any(is_blocks(state) for state in states))

    def store() -> None:
        for k, (state, value) in enumerate(zip(states, values, strict=True)):
            own = None if rounding is None else rounding._replace(array=1 + k)
            encode_state(value, state, param, update.positive[k], own)

    def between_passes() -> None:
        store()
        for state, value, positive in zip(states, values, update.positive, strict=True):
            value[...] = decode_state(state, param, positive)

    if "between_passes" in inspect.signature(step).parameters:
        step(new, decode(grad, kind), *values, **hyper, between_passes=between_passes)
    else:
        step(new, decode(grad, kind), *values, **hyper)
        store()
    encode(new, param, rounding)


def decode_state(state: Array, param: Array, positive: bool) -> Array:
    """A new array of param's shape, of the type that is computed in."""
    if is_blocks(state):
        return np.copy(from_memory_order(decode_blocks(state, param.size, positive), param), order="K")
    return decode(state, computed_type(param))


def encode_state(values: Array, state: Array, param: Array, positive: bool, rounding: Rounding | None) -> None:
    """Rounds values, of param's shape, into a state."""
    if is_blocks(state):
        random = None if rounding is None else block_bits(rounding)
        encode_blocks(in_memory_order(values, param), state, positive, random)
    else:
        encode(values, state, rounding)


def _check(update: Update, param: Array, grad: Array, states: Sequence[Array]) -> None:
    for name, array in zip(("param", "grad"), (param, grad), strict=True):
        if array.dtype not in (np.float32, np.float64, np.float16) and not is_bfloat16(array):
            raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {array.dtype}")
    wide = param.dtype == np.float64
    for name, array in zip(update.states, states, strict=True):
        if array.dtype != computed_type(param) and (wide or not (is_bfloat16(array) or is_blocks(array))):
            raise TypeError(f"{name}: expected float32, bfloat16 or uint8, or float64 like param, got {array.dtype}")
    for name, array in zip(("grad", *update.states), (grad, *states), strict=True):
        expected = (blocks_size(param.size),) if name != "grad" and is_blocks(array) else param.shape
        if array.shape != expected:
            raise ValueError(f"{name}: expected shape {expected} like param, got {array.shape}")
