"""What the functions do with their arguments before the extension sees them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass._update_functions import check_bits

Array = NDArray[Any]
Reduction = Literal["mean", "sum", "none"]

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def reduction_code(name: str) -> int:
    try:
        return _REDUCTIONS[name]
    except (KeyError, TypeError):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {name!r}") from None


def integer(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name}: expected an integer of 64 bits, got {value!r}")
    return number


def thread_count(threads: int | None) -> int:
    if threads is None:
        return 0
    number = integer("threads", threads)
    if not 0 <= number <= 4096:
        raise ValueError(f"threads: expected 1 to 4096, or None for the default, got {threads!r}")
    return number


def real(name: str, value: Any) -> float:
    if type(value) is float:
        return value
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    if value is True or value is False:
        return value is True
    if not isinstance(value, bool | np.bool_ | int):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def bfloat16_bits(dtype: str | None) -> bool:
    """Whether arrays in uint16 are the bits of bfloat16; without the caller's word the extension refuses them."""
    if dtype is None:
        return False
    check_bits("dtype", (), dtype)
    return True


def class_count(n_classes: int | None) -> int:
    number = 0 if n_classes is None else integer("n_classes", n_classes)
    if n_classes is not None and number < 1:
        raise ValueError(f"n_classes: expected at least 1, or None for all columns, got {n_classes!r}")
    return number


def array_shape(x: Array, name: str) -> tuple[int, ...]:
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(x).__name__}; make one with numpy.asarray first")
    return x.shape


def new_like(x: Array, name: str) -> Array:
    # C-contiguous, even where x is a view with gaps
    return np.empty(array_shape(x, name), x.dtype)


def new_in_order(x: Array, name: str) -> Array:
    # without gaps, the axes in the order of x's strides: both are then walked as they lie in memory
    array_shape(x, name)
    return np.empty_like(x, subok=False)


def gradient_buffer(
    name: str, given: Array | bool | None, model: Array, model_name: str, new: Callable[[Array, str], Array] = new_like
) -> Array | None:
    if given is None:
        return new(model, model_name)
    if given is False:
        return None
    if given is True:
        raise TypeError(f"{name}: expected an array, None (a new array) or False (not computed), got True")
    return given
