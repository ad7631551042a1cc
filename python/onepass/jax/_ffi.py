"""Custom calls: registered with XLA once, and checks that say early what XLA would say late."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onepass import _core
from onepass.jax._varying import alike, result

FLOATS = ("float32", "float64", "float16", "bfloat16")


def interface_version(header: str) -> tuple[int, int]:
    """Of XLA's foreign function interface, as the C header says that every jaxlib brings along."""
    major = re.search(r"#define XLA_FFI_API_MAJOR (\d+)", header)
    minor = re.search(r"#define XLA_FFI_API_MINOR (\d+)", header)
    if major is None or minor is None:
        raise ImportError("onepass.jax: this jaxlib does not say which interface it speaks", name="jax")
    return int(major[1]), int(minor[1])


def _register() -> None:
    if not hasattr(jax, "ffi"):
        raise ImportError(
            f"onepass.jax needs jax 0.5 or newer, found {jax.__version__}; pip install 'onepass[jax]'", name="jax"
        )
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text(encoding="utf-8")
    # A handler that JAX refuses would take JAX' whole CPU backend with it: ask before.
    major, minor = interface_version(header)
    if (major, minor) < (0, 1) or major > 0:
        raise ImportError(
            f"onepass.jax: jaxlib speaks version {major}.{minor} of XLA's interface, expected 0.1 or a later 0.x; "
            "install another jax, or a newer onepass",
            name="jax",
        )
    for name, handler in _core.xla_handlers(minor).items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")


_register()


def call(
    target: str,
    results: Sequence[tuple[tuple[int, ...], Any]],
    operands: Sequence[Any],
    aliases: Mapping[int, int],
    **attributes: Any,
) -> tuple[Any, ...]:
    """results: (shape, dtype) of each; aliases: the result that takes the memory of an operand, by their indices."""
    operands, axes = alike(operands)
    found = jax.ffi.ffi_call(
        target,
        tuple(result(shape, dtype, axes) for shape, dtype in results),
        vmap_method="broadcast_all",
        input_output_aliases=dict(aliases),
    )(*operands, **attributes)
    return tuple(found)


def as_array(name: str, x: Any, dtypes: Sequence[str] = FLOATS) -> jax.Array:
    """An array of JAX or NumPy, of one of these types, on the CPU as far as can be seen while tracing. NumPy's become
    JAX' as everywhere in JAX: without its 64-bit mode in 32 bits."""
    if not isinstance(x, jax.Array | np.ndarray | np.number):
        raise TypeError(f"{name}: expected an array, got {type(x).__name__}; make one with jax.numpy.asarray first")
    array: jax.Array = jnp.asarray(x)
    if array.dtype.name not in dtypes:
        raise TypeError(f"{name}: expected {_either(dtypes)}, got {array.dtype.name}; convert it with astype first")
    if not isinstance(array, jax.core.Tracer):
        check_platform(name, {device.platform for device in array.devices()})
    return array


def check_platform(name: str, platforms: set[str]) -> None:
    if platforms != {"cpu"}:
        raise ValueError(
            f"{name}: is on {_either(sorted(platforms))}, but onepass computes on the CPU; "
            "move it with jax.device_put(x, jax.devices('cpu')[0])"
        )


def check_shape(name: str, x: Any, shape: tuple[int, ...], why: str) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} ({why}), got {tuple(x.shape)}")


def static_real(name: str, value: Any) -> float:
    """Of an option that becomes a part of the compiled program."""
    if isinstance(value, jax.core.Tracer) or not isinstance(value, int | float | np.number | np.bool_ | jax.Array):
        raise TypeError(f"{name}: expected a number that is known while tracing, got {value!r}")
    return float(value)


def static_integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer that is known while tracing, got {value!r}") from None


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
