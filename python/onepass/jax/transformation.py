"""What an optimizer of this package is: the init and update of an Optax GradientTransformation, and apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onepass.jax._ffi import check_shape
from onepass.jax._ranges import check_ranges
from onepass.jax._step import SUMS_OVER_TENSORS, is_static, take_step
from onepass.jax._tree import Leaves

# Hyperparameters of the registry that Optax calls otherwise.
ARGUMENTS = {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "alpha": "decay"}


class Rule(NamedTuple):
    """How arguments become hyperparameters of the registry.

    state: the NamedTuple of the state: count, then the update's states in the registry's order. values: numbers,
    scalars of JAX or schedules of the step, from 0. derived: what takes the place of a value in a step: a function of
    all values and the step. initial: what a state begins with, if not 0. checked: numbers besides values, as the class
    in onepass.optim calls them. arguments: what the user calls both, where ARGUMENTS does not say so. dtypes: of the
    states, where they are not the parameter's. decoupled: the decay shrinks the parameter, instead of joining the
    gradient. decay_first: it joins the gradient before the kernel sees it, in a pass of its own.
    """

    update: str
    state: type[Any]
    values: Mapping[str, Any]
    derived: Mapping[str, Callable[[Mapping[str, Any], Any], Any]] = {}
    initial: Mapping[str, Any] = {}
    checked: Mapping[str, Any] = {}
    arguments: Mapping[str, str] = {}
    dtypes: Mapping[str, Any] = {}
    decoupled: bool = False
    decay_first: bool = False
    mask: Any = None


class GradientTransformation(NamedTuple):
    """Optax' pair of functions; Optax takes it for one of its own (chain, masked, inject_hyperparams, MultiSteps)."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


class Optimizer(GradientTransformation):
    """A pair (init, update) for Optax, and ``apply``, which makes the whole step in one pass.

    - ``init(params)``: the state, a NamedTuple of a step count and trees like params.
    - ``update(grads, state, params=None)``: ``(updates, state)``, for ``optax.apply_updates(params, updates)``.
    - ``apply(params, grads, state, grad_scale=1.0)``: ``(params, state)``; the gradients are divided by grad_scale, a
      number or a scalar, which costs nothing: the scale of a loss, or ``max(1, norm / max_norm)`` for clipping.
      Under ``jax.jit(optimizer.apply, donate_argnums=(0, 2))`` params and state stay where they are in memory.

    Bytes moved for each float32 parameter by Adam: 28 by ``apply``; 44 by ``update`` and ``apply_updates``, which also
    write zeros (4) that the kernel turns into updates, and add these to the parameters (12), in memory that XLA may
    allocate anew in each call.

    Both give the same bits, but for weight decay (which ``update`` takes from a rounded product) and for
    :func:`~onepass.jax.lamb` (where updates are a difference of parameters).

    Hyperparameters that are plain numbers are checked when the optimizer is made, for the ranges of the same rule in
    :mod:`onepass.optim` (ValueError), and types of states (TypeError). Scalars of JAX and what schedules return are
    checked when the step runs, for what would make numbers of nothing: not finite, b1 and b2 outside [0, 1), eps below
    0.
    """

    apply: Callable[..., tuple[Any, Any]]

    def __new__(cls, rule: Rule) -> Optimizer:
        """Checks what is known before anything is traced: types, and the ranges of plain numbers."""
        arguments = {**ARGUMENTS, **rule.arguments}
        for name, value in rule.values.items():
            if not callable(value):
                _check_number(arguments.get(name, name), value)
        check_ranges(rule.update, {**rule.values, **rule.checked}, arguments)
        for name, asked in rule.dtypes.items():
            _check_state_type(name, asked)
        self = super().__new__(cls, _Init(rule), _Update(rule))
        self.apply = _Apply(rule)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Optimizer, (self.init.rule,)  # type: ignore[attr-defined]


def _resolved(rule: Rule, count: Any) -> dict[str, Any]:
    """The hyperparameters of this step."""
    check_shape("state.count", count, (), "a scalar")
    arguments = {**ARGUMENTS, **rule.arguments}
    values = {name: value(count) if callable(value) else value for name, value in rule.values.items()}
    for name, value in values.items():
        _check_number(arguments.get(name, name), value)
    return {**values, **{name: of(values, count) for name, of in rule.derived.items()}}


def _check_number(name: str, value: Any) -> None:
    if is_static(value):
        return
    if not isinstance(value, jax.Array):
        raise TypeError(f"{name}: expected a number, a scalar or a schedule, got {type(value).__name__}")
    check_shape(name, value, (), "a scalar")


def _check_state_type(name: str, asked: Any) -> None:
    """8 bits are not there: they are blocks with scales, of another shape than the parameter."""
    try:
        found = None if asked is None else jnp.dtype(asked).name
    except TypeError:
        found = repr(asked)
    if found not in (None, "float32", "bfloat16"):
        raise TypeError(f"{name}: expected a state of float32 or bfloat16, got {found}")


def _groups(rule: Rule, values: dict[str, Any], leaves: Leaves) -> tuple[list[dict[str, Any]], list[int]]:
    """Hyperparameters with decay and, where the mask leaves tensors out, without."""
    if rule.mask is None:
        return [values], [0] * len(leaves)
    mask = leaves.prefix("mask", rule.mask)
    return [values, {**values, "weight_decay": 0.0}], [0 if decays else 1 for decays in mask]


def _decays(values: Mapping[str, Any]) -> bool:
    decay = values.get("weight_decay", 0.0)
    return not (is_static(decay) and float(decay) == 0.0)


def _without_decay(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**group, "weight_decay": 0.0} if "weight_decay" in group else group for group in groups]


def _with_decay(
    grads: list[Any], params: list[Any], groups: list[dict[str, Any]], group_of: list[int]
) -> tuple[list[Any], list[dict[str, Any]]]:
    """Gradients that the decay has joined, still to be divided by grad_scale, and groups without decay."""
    joined = []
    for g, p, k in zip(grads, params, group_of, strict=True):
        if _decays(groups[k]):
            dtype = _computed(p.dtype)
            factor = groups[k]["weight_decay"] * groups[k].get("grad_scale", 1.0)
            g = g.astype(dtype) + (factor * p.astype(dtype)).astype(dtype)
        joined.append(g)
    return joined, _without_decay(groups)


def _moments(rule: Rule, state: Any, leaves: Leaves) -> list[list[Any]]:
    if not isinstance(state, rule.state):
        raise TypeError(f"state: expected {rule.state.__name__}, as init returns it, got {type(state).__name__}")
    names = rule.state._fields[1:]
    return [leaves.like(f"state.{name}", getattr(state, name)) for name in names]


def _new_state(rule: Rule, state: Any, count: Any, leaves: Leaves, moments: list[list[Any]]) -> Any:
    names = rule.state._fields[1:]
    trees = {name: leaves.put_back(getattr(state, name), new) for name, new in zip(names, moments, strict=True)}
    return rule.state(count, **trees)


def _next(count: Any) -> Any:
    largest = np.iinfo(count.dtype).max
    return jnp.where(count < largest, count + 1, largest)


@dataclass(frozen=True, eq=False)
class _Init:
    rule: Rule

    def __call__(self, params: Any) -> Any:
        names = self.rule.state._fields[1:]
        params = Leaves("params", params).tree
        trees = {name: jax.tree.map(lambda p, name=name: self._new(name, p), params) for name in names}
        return self.rule.state(jnp.zeros([], jnp.int32), **trees)

    def _new(self, name: str, param: Any) -> Any:
        asked = self.rule.dtypes.get(name)
        dtype = jnp.dtype(asked) if asked is not None else param.dtype
        if param.dtype.name == "float64":
            dtype = param.dtype
        elif asked is None and param.dtype.itemsize == 2:
            dtype = jnp.dtype("float32")
        return jnp.full_like(param, self.rule.initial.get(name, 0.0), dtype=dtype)


@dataclass(frozen=True, eq=False)
class _Apply:
    rule: Rule

    def __call__(self, params: Any, grads: Any, state: Any, grad_scale: Any = 1.0) -> tuple[Any, Any]:
        leaves = Leaves("params", params)
        leaves.leave_out_none("grads", grads)
        moments = _moments(self.rule, state, leaves)
        _check_number("grad_scale", grad_scale)
        check_ranges(self.rule.update, {"grad_scale": grad_scale}, {})
        values = {**_resolved(self.rule, state.count), "grad_scale": grad_scale}
        count = _next(state.count)
        if not len(leaves):
            return params, state._replace(count=count)
        groups, group_of = _groups(self.rule, values, leaves)
        arrays = leaves.like("grads", grads)
        if self.rule.decay_first:
            arrays, groups = _with_decay(arrays, leaves.arrays, groups, group_of)
        new, moments = take_step(self.rule.update, leaves.arrays, arrays, moments, count, groups, group_of)
        return leaves.put_back(params, new), _new_state(self.rule, state, count, leaves, moments)


@dataclass(frozen=True, eq=False)
class _Update:
    rule: Rule

    def __call__(self, grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra  # what other transformations of a chain take
        rule = self.rule
        leaves = Leaves("grads", grads)
        moments = _moments(rule, state, leaves)
        values = _resolved(rule, state.count)
        count = _next(state.count)
        if not len(leaves):
            return grads, state._replace(count=count)
        whole = rule.update in SUMS_OVER_TENSORS
        if params is None and (whole or _decays(values)):
            raise ValueError("params: update of an optimizer with weight decay or trust ratios needs them; pass them")
        own = None if params is None else leaves.like("params", params)
        groups, group_of = _groups(rule, values, leaves)
        if whole:
            assert own is not None
            arrays = leaves.arrays
            if rule.decay_first:
                arrays, groups = _with_decay(arrays, own, groups, group_of)
            new, moments = take_step(rule.update, own, arrays, moments, count, groups, group_of)
            updates = [_difference(after, before) for after, before in zip(new, own, strict=True)]
        else:
            updates, moments = self._from_zero(leaves.arrays, own, moments, count, groups, group_of)
        return leaves.put_back(grads, updates), _new_state(rule, state, count, leaves, moments)

    def _from_zero(
        self,
        grads: list[Any],
        params: list[Any] | None,
        moments: list[list[Any]],
        count: Any,
        groups: list[dict[str, Any]],
        group_of: list[int],
    ) -> tuple[list[Any], list[list[Any]]]:
        """The step from 0 is the update itself, exactly. What depends on the parameter, the decay, is taken apart."""
        decays, of_params = [_decays(groups[g]) for g in group_of], groups
        groups = _without_decay(groups)
        if params is not None and not self.rule.decoupled:
            grads, groups = _with_decay(grads, params, of_params, group_of)
        like = grads if params is None else params
        kinds = [(tuple(x.shape), _computed(x.dtype)) for x in like]
        updates, moments = take_step(self.rule.update, None, grads, moments, count, groups, group_of, kinds)
        if params is not None and self.rule.decoupled:
            updates = [
                u - (of_params[k]["lr"] * of_params[k]["weight_decay"] * p.astype(u.dtype)).astype(u.dtype)
                if decay
                else u
                for u, p, k, decay in zip(updates, params, group_of, decays, strict=True)
            ]
        return updates, moments


def _computed(dtype: Any) -> Any:
    return dtype if dtype.name == "float64" else jnp.dtype("float32")


def _difference(after: Any, before: Any) -> Any:
    dtype = _computed(before.dtype)
    return after.astype(dtype) - before.astype(dtype)
