"""Sizes of windows that slide over images."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

__all__ = ["Pair", "check_window", "out_shape", "pair", "window"]

Pair: TypeAlias = "int | tuple[int, int]"

_MOST = 1 << 20  # as in the kernels


def pair(name: str, value: Any) -> tuple[int, int]:
    """A number for both axes, or a pair.

    >>> pair("stride", 2), pair("stride", (1, 3))
    ((2, 2), (1, 3))
    """
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int and type(value[1]) is int:
        return value
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    try:
        first, second = (operator.index(number) for number in numbers)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected an integer or a pair of them, got {value!r:.60}") from None
    if not -(2**63) <= min(first, second) <= max(first, second) < 2**63:
        raise ValueError(f"{name}: expected integers of 64 bits, got {value!r}")
    return first, second


def window(
    kernel_size: Pair, stride: Pair | None, padding: Pair
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride (None: the kernel's) and padding of H and W.

    >>> window(2, None, (0, 1))
    ((2, 2), (2, 2), (0, 1))
    """
    kernel = pair("kernel_size", kernel_size)
    return kernel, kernel if stride is None else pair("stride", stride), pair("padding", padding)


def out_shape(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    channels: tuple[int, ...] = (),
) -> tuple[int, ...]:
    """The shape (N, C, H, W) becomes; ``channels``: of the outputs, if other than C.

    What the checks behind it refuse (too few axes, windows larger than the image) becomes some shape without negative
    numbers.

    >>> out_shape((5, 3, 28, 28), (3, 3), (2, 2), (1, 1), (8,))
    (5, 8, 14, 14)
    """
    sizes = tuple(
        max((size + 2 * around - window) // max(step, 1) + 1, 0)
        for size, window, step, around in zip(shape[2:4], kernel, stride, padding, strict=False)
    )
    return (*shape[:1], *(channels or shape[1:2]), *sizes)


def check_window(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    pooling: bool = False,
) -> None:
    """What the kernels refuse of windows over images (N, C, H, W); ``pooling``: none may lie in the padding alone.

    Raises:
        ValueError: a kernel or a stride below 1, padding below 0, any of them above 2**20, a window larger than the
            padded image, or, of pooling, padding of more than half of the kernel.

    >>> check_window((1, 1, 5, 5), (3, 3), (1, 1), (2, 2), pooling=True)
    Traceback (most recent call last):
    ...
    ValueError: padding: expected at most half of kernel_size, got 2 of 3
    """
    for axis, size in enumerate(shape[2:]):
        window, around = kernel[axis], padding[axis]
        for name, value, least in (("kernel_size", window, 1), ("stride", stride[axis], 1), ("padding", around, 0)):
            if not least <= value <= _MOST:
                raise ValueError(f"{name}: expected integers from {least} to 2^20, got {value}")
        if size + 2 * around < window:
            side = ("height", "width")[axis]
            raise ValueError(f"x: {side} {size} with padding {around} is less than the window's {window}")
    for around, window in zip(padding, kernel, strict=True):
        if pooling and 2 * around > window:
            raise ValueError(f"padding: expected at most half of kernel_size, got {around} of {window}")
