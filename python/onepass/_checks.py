"""What the reference refuses: the misuse that the kernels refuse too, with the same types of error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_functions import check_bits

Array = NDArray[Any]


def check_array(name: str, a: object) -> None:
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}; make one with numpy.asarray first")


def check_float(name: str, a: object) -> None:
    check_array(name, a)
    assert isinstance(a, np.ndarray)
    if a.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected float32 or float64, got {a.dtype}; convert it first")


def check_storage(name: str, a: object, dtype: str | None) -> None:
    """Any floating-point type; the bits of bfloat16 in uint16 only where the caller says so."""
    check_array(name, a)
    assert isinstance(a, np.ndarray)
    check_bits(name, [a], dtype)
    if a.dtype not in (np.float32, np.float64, np.float16, np.uint16) and a.dtype.name != "bfloat16":
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {a.dtype}; convert it first")


def check_filled(name: str, a: Array) -> None:
    if a.size == 0:
        raise ValueError(f"{name}: is empty, shape {a.shape}")


def check_like(name: str, a: object, model_name: str, model: Array) -> None:
    check_array(name, a)
    assert isinstance(a, np.ndarray)
    if a.dtype != model.dtype:
        raise TypeError(f"{name}: expected {model.dtype} like {model_name}, got {a.dtype}; convert it first")
    if a.shape != model.shape:
        raise ValueError(f"{name}: expected shape {model.shape} like {model_name}, got {a.shape}")


def check_vector(name: str, a: Array | None, length: int, dtype: np.dtype[Any]) -> None:
    """(length,) of dtype, C-contiguous, or None."""
    if a is None:
        return
    check_array(name, a)
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {a.dtype}; convert it first")
    if a.shape != (length,):
        raise ValueError(f"{name}: expected shape ({length},), got {a.shape}")
    check_contiguous(name, a)


def check_statistics(length: int, **arrays: Array | None) -> None:
    """What mean and invstd are to be written into: (length,) float64, each its own memory; or None."""
    seen: list[tuple[str, Array]] = []
    for name, a in arrays.items():
        check_vector(name, a, length, np.dtype(np.float64))
        if a is not None:
            check_writable(name, a)
            for other_name, other in seen:
                check_apart(name, a, other_name, other)
            seen.append((name, a))


def check_contiguous(name: str, a: Array) -> None:
    if not a.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array; copy it with numpy.ascontiguousarray first")


def check_writable(name: str, a: Array) -> None:
    if not a.flags.writeable:
        raise ValueError(f"{name}: is read-only; pass a writable array or a copy")


def check_apart(name: str, a: Array | None, other_name: str, other: Array | None) -> None:
    if a is not None and other is not None and np.shares_memory(a, other):
        raise ValueError(f"{name}: shares memory with {other_name}; pass a copy")


def check_in_place(name: str, a: Array, other_name: str, other: Array) -> None:
    """The same view, or nothing shared."""
    same = a.__array_interface__["data"] == other.__array_interface__["data"] and a.strides == other.strides
    if not same and np.shares_memory(a, other):
        raise ValueError(
            f"{name}: shares some memory with {other_name} without being the same view; "
            f"pass {other_name} itself or a copy"
        )
