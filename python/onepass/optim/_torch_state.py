"""The state dictionaries of torch.optim, in our form.

Imports no torch: a tensor is what has ``detach()`` and ``numpy()``. torch's dictionaries do not name their rule; the
options of their groups tell it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from onepass._types import Update
from onepass.optim.nadam import mu_product
from onepass.optim.optimizer import Array

_TORCHS_FORMULA = {  # our options that say so
    "eps_inside": False,
    "eps_root": 0.0,
    "eps_hat": False,
    "bias_correction": True,
    "decoupled_weight_decay": False,
}
_EXECUTION = {"foreach", "fused", "capturable", "differentiable"}
_SCHEDULES = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"}
_NOT_OPTIONS = _EXECUTION | _SCHEDULES | {"params", "param_names", "initial_accumulator_value"}


class _Rule(NamedTuple):
    name: str  # of torch's class
    options: frozenset[str]
    beside: frozenset[str]  # what a parameter has beside its states
    renamed: Mapping[str, str]  # our names of states: torch's


def _rule(name: str, options: str, beside: str = "step", **renamed: str) -> _Rule:
    return _Rule(name, frozenset(options.split()), frozenset(beside.split()), renamed)


_ADAM = "lr betas eps weight_decay amsgrad maximize decoupled_weight_decay"
_NADAM = "lr betas eps weight_decay momentum_decay decoupled_weight_decay maximize"
_RULES = {  # by the first word of our update's name
    "sgd": _rule("SGD", "lr momentum dampening weight_decay nesterov maximize", ""),
    "adagrad": _rule("Adagrad", "lr lr_decay eps weight_decay maximize", state_sum="sum"),
    "rmsprop": _rule("RMSprop", "lr momentum alpha eps centered weight_decay maximize"),
    "adam": _rule("Adam", _ADAM),
    "adamw": _rule("AdamW", _ADAM),
    "adadelta": _rule("Adadelta", "lr rho eps weight_decay maximize"),
    "adamax": _rule("Adamax", "lr betas eps weight_decay maximize"),
    "nadam": _rule("NAdam", _NADAM, "step mu_product"),
    "radam": _rule("RAdam", "lr betas eps weight_decay decoupled_weight_decay maximize"),
    "rprop": _rule("Rprop", "lr etas step_sizes maximize"),
    # eta and mu are made anew from options and step count in every step: nothing is lost with them.
    "asgd": _rule("ASGD", "lr lambd alpha t0 weight_decay maximize", "step eta mu"),
}

Options = dict[str, Any]


def torchs_states(update: Update) -> dict[str, str]:
    """torch's names of an update's states, and ours; the same where torch has no such rule."""
    rule = _RULES.get(update.name.partition("_")[0])
    renamed = {} if rule is None else rule.renamed
    return {renamed.get(name, name): name for name in update.states}


def torchs_beside(update: Update) -> frozenset[str]:
    """What torch keeps beside them."""
    rule = _RULES.get(update.name.partition("_")[0])
    return frozenset({"step"}) if rule is None else rule.beside


def is_torchs(state_dict: Mapping[str, Any]) -> bool:
    """Whether it looks like a dictionary of torch.optim, and not like a broken one of ours."""
    if "update" in state_dict or not {"param_groups", "state"} <= state_dict.keys():
        return False
    entries = [entry.values() for entry in state_dict["state"].values() if isinstance(entry, Mapping)]
    tensors = any(hasattr(value, "detach") for values in entries for value in values)
    return tensors or any(not _EXECUTION.isdisjoint(group) for group in state_dict["param_groups"])


def from_torch(
    state_dict: Mapping[str, Any],
    update: Update,
    own_groups: Sequence[Mapping[str, Any]],
    fresh: Sequence[Sequence[Array]],
) -> dict[str, Any]:
    """The same in our form.

    Args:
        state_dict: torch's, with groups of as many parameters as own_groups.
        update: of the optimizer that loads it.
        fresh: the states of each parameter before its first step, in what is computed in, as the result's are.
    """
    rule = _RULES.get(update.name.partition("_")[0])
    if rule is None:
        raise ValueError(f"state_dict: is torch's, which has no {update.name}")
    given, entries = state_dict["param_groups"], state_dict["state"]
    groups = [_group(group, rule, own) for group, own in zip(given, own_groups, strict=True)]
    ids = [(key, group) for theirs, group in zip(given, groups, strict=True) for key in theirs["params"]]
    unknown = entries.keys() - {key for key, _ in ids}
    if unknown:
        raise ValueError(f"state_dict: has a state of parameter {min(unknown, key=str)!r}, which no group has")
    state = {
        i: _parameter(i, entries.get(key, {}), group, rule, update, fresh[i]) for i, (key, group) in enumerate(ids)
    }
    return {"update": update.name, "param_groups": groups, "state": state}


def _group(given: Mapping[str, Any], rule: _Rule, own: Mapping[str, Any]) -> Options:
    group = {name: _option(name, value) for name, value in given.items() if name not in _NOT_OPTIONS}
    group.setdefault("maximize", False)  # older than the option
    names = set(group)
    if rule.options == _RULES["adam"].options:
        decoupled = group.pop("decoupled_weight_decay", rule.name == "AdamW")  # older: its AdamW had no such option
        names.add("decoupled_weight_decay")
    if names != rule.options:
        others = [other.name for other in _RULES.values() if other.options == names]
        what = f"is of torch's {' or '.join(others)}" if others else f"has options {sorted(names)}"
        raise ValueError(f"state_dict: {what}, expected torch's {rule.name} with {sorted(rule.options)}")
    if rule.options == _RULES["adam"].options and bool(decoupled) != (rule.name == "AdamW"):
        raise ValueError(f"state_dict: has decoupled_weight_decay={decoupled}, which torch's {rule.name} has not")
    if rule.name == "AdamW":
        group["decoupled_weight_decay"] = True
    if rule.name == "SGD" and group["momentum"] == 0:
        group["dampening"] = 0.0  # torch dampens nothing then; ours would, for the sake of groups with momentum
    for name in _TORCHS_FORMULA.keys() & own.keys():
        group.setdefault(name, _TORCHS_FORMULA[name])
    return {**group, "params": given["params"]}


def _parameter(
    i: int, given: Mapping[str, Any], group: Options, rule: _Rule, update: Update, fresh: Sequence[Array]
) -> Options:
    entry = {name: value for name, value in given.items() if value is not None}  # SGD's momentum_buffer may be None
    theirs = {name: rule.renamed.get(name, name) for name in update.states}
    extra = sorted(entry.keys() - theirs.values() - rule.beside)
    if extra:
        raise ValueError(f"state_dict: parameter {i} has {extra[0]}, which the update {update.name} does not keep")
    needed = {*theirs.values(), *rule.beside} if entry or rule.name == "Adagrad" else set()
    if group.get("momentum") == 0:
        needed -= {"momentum_buffer"}  # torch makes none
    missing = sorted(needed - entry.keys())
    if missing:
        raise ValueError(f"state_dict: parameter {i} has no {missing[0]}")
    # torch's SGD counts no steps; only the first is unlike the others
    step = 0 if not entry else 1 if rule.name == "SGD" else step_count(entry["step"], i)
    if "mu_product" in entry:
        check_mu_product(number(entry["mu_product"], "mu_product"), step, group, i)
    states = {
        name: _array(entry[theirs[name]]) if theirs[name] in entry else own
        for name, own in zip(update.states, fresh, strict=True)
    }
    return {"step": step, **states}


def check_mu_product(found: float, step: int, group: Options, i: int) -> None:
    """torch multiplies its momenta as they come, ours follows from the options; torch's default type rounds it."""
    expected = mu_product(step, group["betas"][0], group["momentum_decay"])
    if not abs(found - expected) <= 2.0**-23 * (step + 8) * expected + 1e-12:
        raise ValueError(
            f"state_dict: mu_product of parameter {i} is {found:g}; {step} steps with these betas and momentum_decay "
            f"give {expected:g}, so that one of them was changed during the run, and NAdam here goes by the last alone"
        )


def step_count(value: Any, i: int) -> int:
    step = number(value, "step")
    if not (step >= 0 and step.is_integer()):
        raise ValueError(f"state_dict: step of parameter {i}: expected an integer of 0 or more, got {step!r}")
    return int(step)


def _option(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple([_option(name, one) for one in value])
    return number(value, name) if hasattr(value, "detach") else value


def number(value: Any, name: str) -> float:
    array = _array(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise ValueError(f"state_dict: {name}: expected a number, got {array.dtype} {array.shape}")
    return float(array.item())


def _array(value: Any) -> Array:
    """Of a tensor, on any device, or of what NumPy takes; what has fewer bits than float32 becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = value.cpu() if hasattr(value, "cpu") else value
        value = (value.float() if str(value.dtype).endswith("bfloat16") else value).numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array
