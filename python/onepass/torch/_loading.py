"""State dictionaries, torch's and ours, made into the states that an optimizer has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onepass._blocks import blocks_size
from onepass._storage import memory_axes
from onepass._types import Update
from onepass.kernels import UPDATES
from onepass.optim._torch_state import check_mu_product, number, step_count, torchs_beside, torchs_states
from onepass.torch._tensors import Array, array, check_param, is_distributed, like_param, local, scalar_type, tensor_of

if TYPE_CHECKING:
    from onepass.torch._optimizer import Optimizer

OURS = frozenset({"step", "master", "lower", "axes"})
"""What a parameter may have beside its states, and torch knows nothing of."""

Entry = dict[str, Any]


def names_of(update: str) -> dict[str, str]:
    """What is kept of a parameter as arrays: torch's names, and ours."""
    return {**torchs_states(UPDATES[update]), "master": "master", "lower": "lower"}


def steps_made(entry: Mapping[str, Any]) -> int:
    """How many steps a parameter has made. torch's SGD does not count them; only the first is unlike the others."""
    if entry.get("step") is not None:
        return int(entry["step"])
    return int(entry.get("momentum_buffer") is not None)


def check_axes(entry: Mapping[str, Any], param: Array, i: int) -> None:
    """8-bit blocks hold a tensor in the order of its memory."""
    if "axes" not in entry:
        return
    given, own = [int(axis) for axis in entry["axes"]], memory_axes(param)
    if given != own:
        raise ValueError(
            f"state_dict: states of parameter {i} are in blocks along the axes {given}, this optimizer's along {own}; "
            "the parameter's memory must have the order that it had"
        )


def loaded_states(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> dict[Tensor, Entry]:
    """The states of a dictionary, copied, in the types that the optimizer keeps.

    Raises:
        ValueError: see Optimizer.load_state_dict.
    """
    for name in ("param_groups", "state"):
        if name not in state_dict:
            raise ValueError(f"state_dict: has no {name!r}")
    if "update" in state_dict:
        raise ValueError("state_dict: is one of onepass.optim, whose states are arrays; expected one of an optimizer "
                         "for tensors")  # fmt: skip
    given, groups = state_dict["param_groups"], optimizer.param_groups
    if [len(group["params"]) for group in given] != [len(group["params"]) for group in groups]:
        return {}  # torch says so
    pairs: dict[Any, tuple[Tensor, Mapping[str, Any], Update]] = {}
    for theirs, group in zip(given, groups, strict=True):
        options: Mapping[str, Any] = optimizer.checked_options(theirs)
        update = UPDATES[optimizer.update_of(options)]
        pairs.update({key: (p, options, update) for key, p in zip(theirs["params"], group["params"], strict=True)})
    unknown = sorted(state_dict["state"].keys() - pairs.keys(), key=str)
    if unknown:
        raise ValueError(f"state_dict: has a state of parameter {unknown[0]!r}, which no group has")
    states = {}
    for i, (key, (param, options, update)) in enumerate(pairs.items()):
        entry = {name: value for name, value in state_dict["state"].get(key, {}).items() if value is not None}
        if entry:  # SGD's momentum_buffer may be None
            check_param(param, f"params[{i}]")
            states[param] = _entry(optimizer, i, entry, param, options, update)
    return states


def _entry(
    optimizer: Optimizer, i: int, given: Entry, param: Tensor, options: Mapping[str, Any], update: Update
) -> Entry:
    names, beside = torchs_states(update), torchs_beside(update)
    extra = sorted(given.keys() - names.keys() - beside - OURS)
    if extra:
        raise ValueError(f"state_dict: parameter {i} has {extra[0]}, which the update {update.name} does not keep")
    missing = sorted({*names, *beside} - given.keys())
    if missing:
        raise ValueError(f"state_dict: parameter {i} has no {missing[0]}")
    entry: Entry = {}
    if "step" in given:
        entry["step"] = torch.tensor(float(step_count(given["step"], i)), dtype=scalar_type(), device="cpu")
    for name in sorted(beside - {"step"}):
        entry[name] = torch.tensor(number(given[name], name), dtype=scalar_type(), device="cpu")
    if "mu_product" in entry:
        check_mu_product(float(entry["mu_product"]), int(entry["step"]), dict(options), i)
    own = array(local(param))
    check_axes(given, own, i)
    for (name, ours), positive in zip(names.items(), update.positive, strict=True):
        what = f"{name} of parameter {i}"
        entry[name] = _state(optimizer, what, given[name], param, own, update, ours, positive)
    for name, option, dtype in (("master", "float32", torch.float32), ("lower", "split", torch.int16)):
        if name not in given:
            continue
        if optimizer.storage.master_weights != option:
            raise ValueError(
                f"state_dict: parameter {i} has {name}, which belongs to master_weights={option!r}; this optimizer has "
                f"master_weights={optimizer.storage.master_weights!r}"
            )
        value = local(given[name])
        if value.dtype != dtype:
            raise ValueError(f"state_dict: {name} of parameter {i} is {value.dtype}, expected {dtype}")
        entry[name] = _copied(f"{name} of parameter {i}", value, param, dtype)
    if optimizer.storage.state_dtype == "float8" and names:
        entry["axes"] = torch.tensor(memory_axes(own), dtype=torch.int64, device="cpu")
    return entry


def _state(
    optimizer: Optimizer, what: str, value: Any, param: Tensor, own: Array, update: Update, name: str, positive: bool
) -> Tensor:
    """A state of any type, as it is stored here."""
    value = local(value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")).detach().cpu()
    kind = optimizer.storage.state_dtype
    if value.dtype == torch.uint8:
        return _blocks(what, value, kind, own)
    if not value.dtype.is_floating_point:
        raise ValueError(f"state_dict: {what} is {value.dtype}, expected floating-point numbers")
    if kind == "bfloat16":
        return _copied(what, value, param, torch.bfloat16)
    computed = torch.float64 if param.dtype == torch.float64 else torch.float32
    full = _copied(what, value, param, computed)
    if kind == "float32":
        return full
    one = update._replace(states=(name,), positive=(positive,))
    (stored,) = optimizer.storage.states(one, own, (array(local(full)),))
    return tensor_of(stored, param, bfloat16=False)


def _blocks(what: str, value: Tensor, kind: str, own: Array) -> Tensor:
    if kind != "float8":
        raise ValueError(f"state_dict: {what} is in 8-bit blocks, this optimizer's states are {kind!r}")
    if value.shape != (blocks_size(own.size),):
        raise ValueError(
            f"state_dict: {what} are 8-bit blocks of {value.numel()} bytes, expected {blocks_size(own.size)}"
        )
    return value.clone(memory_format=torch.contiguous_format)


def _copied(what: str, value: Tensor, param: Tensor, dtype: torch.dtype) -> Tensor:
    """In the parameter's own order of axes."""
    own = local(param)
    if value.shape != own.shape:
        raise ValueError(f"state_dict: {what} has shape {tuple(value.shape)}, expected {tuple(own.shape)}")
    copy = torch.empty_like(own, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    with torch.no_grad():
        copy.copy_(value)
    return like_param(copy, param) if is_distributed(param) else copy
