"""A model in another floating-point type."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from onepass.nn.layer import Layer

__all__ = ["converted"]

Model = TypeVar("Model", bound="Layer")
TYPES = (np.dtype(np.float32), np.dtype(np.float64))


def _tree(layer: Layer) -> Iterator[Layer]:
    yield layer
    for _, child in layer.children():
        yield from _tree(child)


def converted(model: Model, dtype: DTypeLike) -> Model:
    """What `Layer.astype` does."""
    wanted = np.dtype(dtype)
    if wanted not in TYPES:
        raise TypeError(f"dtype is {wanted}, expected float32 or float64")
    copy = deepcopy(model)
    made: dict[int, NDArray[np.floating]] = {}  # arrays that two layers share stay shared
    for layer in _tree(copy):
        kept = (*layer.parameters(), *layer.gradients(), *layer.state().values())
        own = {id(array) for array in kept if array.dtype in TYPES}
        for name, value in list(vars(layer).items()):
            if isinstance(value, np.ndarray) and id(value) in own:
                made.setdefault(id(value), value.astype(wanted))
                setattr(layer, name, made[id(value)])
            elif isinstance(value, np.dtype) and value in TYPES:
                setattr(layer, name, wanted)
    for index, parameter in enumerate(copy.parameters()):
        if parameter.dtype != wanted:
            raise TypeError(
                f"parameters()[{index}] of {type(model).__name__} is {parameter.dtype} and no attribute of a layer; "
                f"make the model with dtype={wanted} instead"
            )
    return copy
