"""One step of an optimizer over a list of tensors: one custom call, parameters and states in their own memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onepass import kernels
from onepass.jax._ffi import call

# Hyperparameters that every update has, before its own.
COMMON = {"step": 1.0, "grad_scale": 1.0, "max_value": float("inf"), "maximize": 0.0}
SUMS_OVER_TENSORS = ("lamb", "lars", "swats")


def is_static(value: Any) -> bool:
    """A number that is known while tracing: it becomes part of the compiled program; everything else is an operand."""
    return isinstance(value, bool | int | float | np.number | np.bool_) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    )


def take_step(
    update: str,
    params: Sequence[Any] | None,
    grads: Sequence[Any],
    states: Sequence[Sequence[Any]],
    step: Any,
    groups: Sequence[Mapping[str, Any]],
    group_of: Sequence[int],
    like: Sequence[tuple[tuple[int, ...], Any]] = (),
) -> tuple[list[Any], list[list[Any]]]:
    """New params and new states.

    params: None: zeros, of the shapes and types that `like` says.
    states: for each state of the update a list like params. step: integer scalar, from 1. groups: hyperparameters,
    numbers or scalars of JAX; what a group does not name has the registry's default.
    """
    defaults = {**COMMON, **kernels.UPDATES[update].hyperparameters}
    columns = {name: i for i, name in enumerate(defaults)}
    values = np.tile(np.array([float(value) for value in defaults.values()]), (len(groups), 1))
    scalars: list[Any] = [step]
    traced = [(0, g, columns["step"]) for g in range(len(groups))]
    for g, group in enumerate(groups):
        for name, value in group.items():
            if is_static(value):
                values[g, columns[name]] = float(value)
                continue
            known = [i for i, scalar in enumerate(scalars) if scalar is value]
            if not known:
                scalars.append(value)
            traced.append((known[0] if known else len(scalars) - 1, g, columns[name]))
    n, moments = len(grads), [state for each in states for state in each]
    own = list(params or ())
    first = len(scalars)  # of the arrays
    aliases = {first + i: i for i in range(len(own))}
    aliases |= {first + len(own) + n + i: n + i for i in range(len(moments))}
    found = call(
        "onepass_cpu_update",
        [*(like if params is None else map(_kind, own)), *map(_kind, moments)],
        [*map(_scalar, scalars), *own, *grads, *moments],
        aliases,
        update=update,
        values=values.ravel(),
        traced=np.array(traced, np.int64).ravel(),
        group_of=np.array(group_of, np.int64),
        from_zero=np.int64(params is None),
        elementwise=np.int64(update not in SUMS_OVER_TENSORS),
    )
    return list(found[:n]), [list(found[i : i + n]) for i in range(n, len(found), n)]


def _kind(x: Any) -> tuple[tuple[int, ...], Any]:
    return tuple(x.shape), x.dtype


def _scalar(value: Any) -> Any:
    """Of a type that the handler reads."""
    return value if value.dtype in (np.int32, np.int64, np.float32, np.float64) else value.astype(np.float32)
