"""What all of the reference shares."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass._checks import check_like, check_writable
from onepass._storage import encode, is_bfloat16

Array = NDArray[Any]
Reduction = Literal["mean", "sum", "none"]


def give(value: Array, model: Array, out: Array | None, name: str = "out") -> Array:
    # rounded once, to the model's type
    with np.errstate(all="ignore"):
        if is_bfloat16(model):
            rounded = np.empty(value.shape, model.dtype)
            encode(_to_odd(value), rounded, None)
        else:
            rounded = value.astype(model.dtype)
        if out is None:
            return rounded
        check_like(name, out, "the result", rounded)
        check_writable(name, out)
        out[...] = rounded
    return out


def keep(values: Array, given: Array | None) -> Array:
    """Statistics, in the array that was given for them if one was."""
    if given is None:
        return values
    given[...] = values
    return given


def _to_odd(value: Array) -> Array:
    # float32 with a last bit that says whether something was cut off: rounding again to fewer bits is then exact
    cut = value.astype(np.float32)
    cut = np.where(np.abs(cut) > np.abs(value), np.nextafter(cut, np.float32(0)), cut)
    inexact = np.isfinite(value) & (cut != value)
    odd: Array = (cut.view(np.uint32) | inexact.astype(np.uint32)).view(np.float32)
    return odd


def check_reduction(name: str) -> None:
    if name not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {name!r}")


def own_or_float32(a: Array | None, model: Array) -> np.dtype[Any]:
    """The type asked of an array beside the model: float32 will do too beside 16 bits."""
    wide = model.dtype.itemsize == 2 and getattr(a, "dtype", None) == np.float32
    return np.dtype(np.float32) if wide else model.dtype


def loss_type(model: Array) -> np.dtype[Any]:
    """Of losses that are not reduced."""
    return np.dtype(np.float32) if model.dtype.itemsize == 2 else model.dtype
