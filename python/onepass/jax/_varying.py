"""Over which axes of a mesh an array varies inside shard_map. A custom call wants all operands to vary alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

_jax: Any = jax  # whose names come and go
_ManualAxisType = getattr(jax.sharding, "ManualAxisType", None)  # of the newest JAX; before it, a set called vma


def varying(x: Any) -> frozenset[Any]:
    if not hasattr(jax, "typeof"):  # before shard_map looked at it
        return frozenset()
    kind = jax.typeof(x)
    if _ManualAxisType is not None:
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(getattr(kind, "vma", ()))


def alike(operands: Sequence[Any]) -> tuple[list[Any], frozenset[Any]]:
    """The operands, all of them varying over the axes that any of them varies over, and these axes."""
    axes: frozenset[Any] = frozenset().union(*map(varying, operands))
    return [_vary(operand, axes) for operand in operands], axes


def result(shape: tuple[int, ...], dtype: Any, axes: frozenset[Any]) -> Any:
    if not axes:
        return _jax.ShapeDtypeStruct(shape, dtype)
    if _ManualAxisType is not None:
        local = _jax.sharding.NamedSharding(_jax.sharding.get_abstract_mesh(), _jax.sharding.PartitionSpec())
        return _jax.ShapeDtypeStruct(shape, dtype, sharding=local, manual_axis_type=_ManualAxisType(varying=axes))
    return _jax.ShapeDtypeStruct(shape, dtype, vma=axes)


def _vary(operand: Any, axes: frozenset[Any]) -> Any:
    missing = tuple(sorted(axes - varying(operand))) if axes else ()
    if not missing:
        return operand
    if hasattr(jax.lax, "pcast"):
        return _jax.lax.pcast(operand, missing, to="varying")
    return _jax.lax.pvary(operand, missing)
