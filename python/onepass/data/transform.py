"""What a transform of batches is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, TypeAlias

import numpy as np

from onepass.data.rows import Array
from onepass.nn.buffer import Buffer

__all__ = ["BatchRandom", "Transform", "TransformFunction", "apply", "describe"]

TransformFunction: TypeAlias = Callable[[Array, Array, np.random.Generator], "tuple[Array, Array]"]


class Transform:
    """A function of a batch with settings, and buffers of its own.

    ``transform(x, y, generator)`` returns the new ``(x, y)``. It may write into the arrays that it gets, and into
    `buffer`, which stays as it is until the next call; into no other array of its own, as several epochs may run at
    once. It may call transforms that are its attributes. ``repr`` names the settings: a resumed run must agree in them.
    """

    def __call__(self, x: Array, y: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        raise NotImplementedError

    def buffer(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """A C-contiguous array with any content, the same memory at each call with ``name``."""
        buffers: dict[str, Buffer] = self.__dict__.setdefault("_buffers", {})
        return buffers.setdefault(name, Buffer()).get(shape, dtype)

    def fresh(self) -> Transform:
        """A copy with other buffers, so that two epochs can be iterated at once.

        So are transforms that are its attributes, also in lists, tuples and dictionaries; not those in other objects or
        in a function's closure.
        """
        other = copy(self)
        other.__dict__.pop("_buffers", None)
        for name, value in other.__dict__.items():
            other.__dict__[name] = _fresh(value)
        return other


def _fresh(value: Any) -> Any:
    if isinstance(value, Transform):
        return value.fresh()
    if type(value) in (list, tuple):
        return type(value)(map(_fresh, value))
    if type(value) is dict:
        return {key: _fresh(item) for key, item in value.items()}
    return value


class BatchRandom:
    """Generators of the batches of an epoch: Philox with the key ``(seed, epoch)``, the batch in its counter's top."""

    def __init__(self, seed: int, epoch: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, epoch], np.uint64))
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def of(self, batch: int) -> np.random.Generator:
        """Of batch ``batch``; the next call changes it. Counter 0 is the epoch's order's."""
        self._state["state"]["counter"][3] = batch + 1
        self._bits.state = self._state
        return self._generator


def apply(
    transforms: Sequence[TransformFunction], x: Array, y: Array, generator: np.random.Generator
) -> tuple[Array, Array]:
    for index, transform in enumerate(transforms):
        result = transform(x, y, generator)
        if not isinstance(result, tuple) or len(result) != 2:
            kind = type(result).__name__
            raise TypeError(f"transform[{index}], {describe(transform)}, returned a {kind}, expected a pair (x, y)")
        x, y = result
        for name, array in (("x", x), ("y", y)):
            if not isinstance(array, np.ndarray):
                kind = type(array).__name__
                raise TypeError(f"transform[{index}], {describe(transform)}, returned a {kind} as {name}, not an array")
        if len(x) != len(y) or len(x) == 0:
            raise ValueError(
                f"transform[{index}], {describe(transform)}, returned {len(x)} rows of x and {len(y)} of y, "
                "expected equally many and at least one"
            )
    return x, y


def describe(transform: TransformFunction) -> str:
    """Settings of a `Transform`, else its name."""
    if isinstance(transform, Transform):
        return repr(transform)
    name = getattr(transform, "__qualname__", None)
    return name if isinstance(name, str) else type(transform).__qualname__
