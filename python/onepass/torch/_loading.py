"""State dictionaries, torch's and ours, made into the states that an optimizer has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onepass._blocks import blocks_size
from onepass._storage import memory_axes
from onepass._types import Update
from onepass.kernels import UPDATES
from onepass.optim._torch_state import check_mu_product, torchs_beside, torchs_states
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


def check_memory_order(entry: Mapping[str, Any], param: Array, name: Callable[[], str]) -> None:
    """8-bit blocks hold a tensor in the order of its memory, which must still be the parameter's."""
    if "axes" not in entry:
        return
    made, own = _axes(entry["axes"], "axes"), memory_axes(param)
    if made != own:
        raise ValueError(
            f"{name()}: its memory has the axes in the order {own} now, its 8-bit states lie in the order {made} that "
            "it had when they were made; choose the memory format (channels_last, ...) before the first step, or go "
            "back to the one it had"
        )


def check_is_mapping(state_dict: Any) -> None:
    """Refuses what is no dictionary at all."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a dictionary, as state_dict() gives it, got {_kind(state_dict)}")


def loaded_states(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> dict[Tensor, Entry]:
    """The states of a dictionary, copied, in the types that the optimizer keeps.

    Raises:
        ValueError: see Optimizer.load_state_dict.
    """
    _check_form(state_dict)
    given, groups = state_dict["param_groups"], optimizer.param_groups
    sizes, expected = [[len(group["params"]) for group in all_groups] for all_groups in (given, groups)]
    if sizes != expected:
        raise ValueError(f"state_dict: has groups of {sizes} parameters, this optimizer of {expected}")
    pairs: dict[Any, tuple[Tensor, Mapping[str, Any], Update]] = {}
    for theirs, group in zip(given, groups, strict=True):
        options: Mapping[str, Any] = optimizer.checked_options(theirs)
        update = UPDATES[optimizer.update_of(options)]
        for key, param in zip(theirs["params"], group["params"], strict=True):
            if key in pairs:
                raise ValueError(f"state_dict: has parameter {key!r} twice in its groups")
            pairs[key] = (param, options, update)
    unknown = sorted(state_dict["state"].keys() - pairs.keys(), key=str)
    if unknown:
        raise ValueError(f"state_dict: has a state of parameter {unknown[0]!r}, which no group has")
    states = {}
    for i, (key, (param, options, update)) in enumerate(pairs.items()):
        found = state_dict["state"].get(key, {})
        if not isinstance(found, Mapping):
            raise TypeError(f"state_dict: state of parameter {i}: expected a dictionary, got {_kind(found)}")
        entry = {name: value for name, value in found.items() if value is not None}
        if entry:  # SGD's momentum_buffer may be None
            check_param(param, f"params[{i}]")
            states[param] = _entry(optimizer, i, entry, param, options, update)
    return states


def _check_form(state_dict: Mapping[str, Any]) -> None:
    """Refuses what has not the form of a dictionary of torch.optim."""
    for name in ("param_groups", "state"):
        if name not in state_dict:
            raise ValueError(f"state_dict: has no {name!r}")
    if "update" in state_dict:
        raise ValueError("state_dict: is one of onepass.optim, whose states are arrays; expected one of an optimizer "
                         "for tensors")  # fmt: skip
    if not isinstance(state_dict["state"], Mapping):
        raise TypeError(f"state_dict: 'state': expected a dictionary, got {_kind(state_dict['state'])}")
    groups = state_dict["param_groups"]
    if not isinstance(groups, (list, tuple)):
        raise TypeError(f"state_dict: 'param_groups': expected a list of dictionaries, got {_kind(groups)}")
    for at, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"state_dict: group {at}: expected a dictionary with 'params', got {_kind(group)}")
        keys = group["params"]
        if not isinstance(keys, (list, tuple)) or not all(isinstance(key, (int, str)) for key in keys):
            raise TypeError(f"state_dict: 'params' of group {at}: expected a list of numbers or names, got {keys!r}")


def _entry(
    optimizer: Optimizer, i: int, given: Entry, param: Tensor, options: Mapping[str, Any], update: Update
) -> Entry:
    names, beside = torchs_states(update), torchs_beside(update)
    own_class = type(optimizer).__name__
    extra = sorted(given.keys() - names.keys() - beside - OURS, key=str)
    if extra:
        raise ValueError(
            f"state_dict: parameter {i} has {extra[0]}, which the update {update.name} does not keep; is it of another "
            f"optimizer than {own_class}, or of other options?"
        )
    missing = sorted({*names, *beside} - given.keys())
    if missing:
        raise ValueError(
            f"state_dict: parameter {i} has no {missing[0]}, which the update {update.name} keeps; is it of another "
            f"optimizer than {own_class}, or of other options?"
        )
    entry: Entry = {}
    if "step" in given:
        entry["step"] = torch.tensor(float(_step_count(given["step"], i)), dtype=scalar_type(), device="cpu")
    for name in sorted(beside - {"step"}):
        entry[name] = torch.tensor(_number(given[name], f"{name} of parameter {i}"), dtype=scalar_type(), device="cpu")
    if "mu_product" in entry:
        check_mu_product(float(entry["mu_product"]), int(entry["step"]), dict(options), i)
    own = array(local(param))
    tensors = {name: _tensor(given[name], f"{name} of parameter {i}") for name in [*names, "master", "lower"]
               if name in given}  # fmt: skip
    if any(tensor.dtype == torch.uint8 for tensor in tensors.values()) and "axes" not in given:
        raise ValueError(f"state_dict: parameter {i} has 8-bit blocks and no axes, the order in which they lie")
    if "axes" in given and (axes := _axes(given["axes"], f"state_dict: axes of parameter {i}")) != memory_axes(own):
        raise ValueError(
            f"state_dict: states of parameter {i} are in blocks along the axes {axes}, this optimizer's along "
            f"{memory_axes(own)}; the parameter's memory must have the order that it had"
        )
    for (name, ours), positive in zip(names.items(), update.positive, strict=True):
        what = f"{name} of parameter {i}"
        entry[name] = _state(optimizer, what, tensors[name], param, own, update, ours, positive)
    for name, option, dtype in (("master", "float32", torch.float32), ("lower", "split", torch.int16)):
        if name not in given:
            continue
        if optimizer.storage.master_weights != option:
            raise ValueError(
                f"state_dict: parameter {i} has {name}, which belongs to master_weights={option!r}; this optimizer has "
                f"master_weights={optimizer.storage.master_weights!r}"
            )
        if param.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"state_dict: parameter {i} has {name}, which {param.dtype} parameters have not")
        value = tensors[name]
        if value.dtype != dtype:
            raise ValueError(f"state_dict: {name} of parameter {i} is {value.dtype}, expected {dtype}")
        entry[name] = _copied(f"{name} of parameter {i}", value, param, dtype)
    if optimizer.storage.state_dtype == "float8" and names:
        entry["axes"] = torch.tensor(memory_axes(own), dtype=torch.int64, device="cpu")
    return entry


def _kind(value: Any) -> str:
    return type(value).__name__


def _number(value: Any, what: str) -> float:
    number = value
    if isinstance(value, (Tensor, np.ndarray)):
        if tuple(value.shape) not in ((), (1,)):
            raise ValueError(f"state_dict: {what}: expected a number, got a tensor {tuple(value.shape)}")
        number = _tensor(value, what).item()
    if not isinstance(number, Real) or isinstance(number, (bool, np.bool_)):
        raise TypeError(f"state_dict: {what}: expected a number or a tensor of one, got {value!r}")
    try:
        return float(number)
    except OverflowError:  # an integer
        return math.inf


def _step_count(value: Any, i: int) -> int:
    step = _number(value, f"step of parameter {i}")
    if not (0 <= step < 2**53 and step.is_integer()):
        raise ValueError(
            f"state_dict: step of parameter {i}: expected an integer of 0 or more, below 2**53, got {step!r}"
        )
    return int(step)


def _axes(value: Any, what: str) -> list[int]:
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.device.type == "meta"):
        raise ValueError(f"{what}: expected a tensor with its numbers in memory, got {value!r}")
    axes = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    if not isinstance(axes, Sequence) or not all(isinstance(axis, int) for axis in axes):
        raise TypeError(f"{what}: expected the parameter's axes in the order of its memory, integers, got {value!r}")
    return list(axes)


def _tensor(value: Any, what: str) -> Tensor:
    """A tensor's part in this process, in memory."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
        value = torch.as_tensor(value, device="cpu")  # whatever the default device is
    if not isinstance(value, Tensor):
        raise TypeError(f"state_dict: {what}: expected a tensor, got {_kind(value)}")
    tensor = local(value).detach()
    if tensor.layout != torch.strided:
        raise ValueError(f"state_dict: {what} is {tensor.layout}; make it dense with to_dense()")
    if tensor.device.type == "meta":
        raise ValueError(f"state_dict: {what} is on the device meta, which has no numbers; load those that were saved")
    return tensor.cpu()


def _state(
    optimizer: Optimizer, what: str, value: Tensor, param: Tensor, own: Array, update: Update, name: str, positive: bool
) -> Tensor:
    """A state of any type, as it is stored here."""
    kind = optimizer.storage.state_dtype
    if value.dtype == torch.uint8:
        return _blocks(what, value, kind, own)
    if not value.dtype.is_floating_point:
        raise ValueError(f"state_dict: {what} is {value.dtype}, expected floating-point numbers")
    if positive and bool(((value.float() if value.itemsize == 1 else value) < 0).any()):  # torch compares no float8
        raise ValueError(
            f"state_dict: {what} has elements below 0, which the update {update.name} never makes; is it another state "
            "under this name?"
        )
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
