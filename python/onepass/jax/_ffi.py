"""Custom calls: registered with XLA once, called with all operands on the CPU and varying over the same axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from onepass import _core

if not hasattr(jax, "ffi"):
    raise ImportError(
        f"onepass.jax needs jax 0.5 or newer, found {jax.__version__}; pip install 'onepass[jax]'", name="jax"
    )

for _name, _handler in _core.xla_handlers().items():
    jax.ffi.register_ffi_target(_name, _handler, platform="cpu")

FLOATS = ("float32", "float64", "float16", "bfloat16")


def call(
    target: str,
    results: Sequence[tuple[tuple[int, ...], Any]],
    operands: Sequence[Any],
    aliases: Mapping[int, int],
    **attributes: Any,
) -> tuple[Any, ...]:
    """results: (shape, dtype) of each; aliases: the result that takes the memory of an operand, by their indices."""
    axes = _varying_axes(operands)
    options = {"vma": axes} if axes else {}
    found = jax.ffi.ffi_call(
        target,
        tuple(jax.ShapeDtypeStruct(shape, dtype, **options) for shape, dtype in results),
        vmap_method="broadcast_all",
        input_output_aliases=dict(aliases),
    )(*(_vary(operand, axes) for operand in operands), **attributes)
    return tuple(found)


def check_array(name: str, x: Any, dtypes: Sequence[str] = FLOATS) -> None:
    """An array of JAX or NumPy, of one of these types, on the CPU as far as can be seen while tracing."""
    if not isinstance(x, jax.Array | np.ndarray | np.number):
        raise TypeError(f"{name}: expected an array, got {type(x).__name__}; make one with jax.numpy.asarray first")
    if x.dtype.name not in dtypes:
        raise TypeError(f"{name}: expected {_either(dtypes)}, got {x.dtype.name}; convert it with astype first")
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        check_platform(name, {device.platform for device in x.devices()})


def check_platform(name: str, platforms: set[str]) -> None:
    if platforms != {"cpu"}:
        raise ValueError(
            f"{name}: is on {_either(sorted(platforms))}, but onepass computes on the CPU; "
            "move it with jax.device_put(x, jax.devices('cpu')[0])"
        )


def check_shape(name: str, x: Any, shape: tuple[int, ...], why: str) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} ({why}), got {tuple(x.shape)}")


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


# Inside shard_map an array varies over some axes of the mesh, and a custom call wants all operands to vary alike.
def _varying_axes(operands: Sequence[Any]) -> frozenset[Any]:
    axes: frozenset[Any] = frozenset()
    if hasattr(jax, "typeof"):
        for operand in operands:
            axes |= getattr(jax.typeof(operand), "vma", frozenset())
    return axes


def _vary(operand: Any, axes: frozenset[Any]) -> Any:
    missing = tuple(sorted(axes - getattr(jax.typeof(operand), "vma", frozenset()))) if axes else ()
    if not missing:
        return operand
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(operand, missing, to="varying")
    return jax.lax.pvary(operand, missing)
