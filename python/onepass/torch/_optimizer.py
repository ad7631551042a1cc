"""What the optimizers for torch share: groups, states as tensors, one native call a step."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from onepass import optim
from onepass._core import same_objects
from onepass._storage import memory_axes
from onepass._update_functions import check_limit
from onepass.optim.optimizer import StepInfo
from onepass.optim.storage import Storage
from onepass.torch._bound import Addresses, Bound, ReshapedError
from onepass.torch._loading import check_is_mapping, check_memory_order, loaded_states, names_of, steps_made
from onepass.torch._options import CHOICES, check_not_of_a_group, check_storage, differ, is_plain, option_of
from onepass.torch._states import KnownStates
from onepass.torch._tensors import (
    array,
    check_param,
    is_distributed,
    is_flattened,
    local,
    scalar_type,
    tensor_of,
)

_Function = TypeVar("_Function", bound=Callable[..., Any])

EXECUTION = ("foreach", "fused", "capturable", "differentiable")
NEWER = {"maximize": False, "nesterov": False, "decoupled_weight_decay": False}
"""Options that dictionaries of an older torch lack."""
_CLIP_EPS = 1e-6  # of torch.nn.utils.clip_grad_norm_
_not_traced = cast(Callable[[_Function], _Function], vars(torch)["_disable_dynamo"])  # torch.compile calls it as it is


class Optimizer(torch.optim.Optimizer):
    """Base of the optimizers for torch: the updates of :mod:`onepass.optim` on CPU tensors, in place.

    Parameters may be of float32, float64, float16 or bfloat16, with any strides, or DTensors (each process steps its
    own shard). A class that torch has takes torch's arguments; of those that say how torch executes a step, ``foreach``
    and ``fused`` are accepted and change nothing, ``capturable=True`` (CUDA graphs) and ``differentiable=True`` (steps
    that autograd records) are refused. All take these, by keyword:

    Args:
        max_norm: gradients are scaled down as by torch.nn.utils.clip_grad_norm_ over all parameters of this optimizer,
            without a pass of their own. If the norm is not finite, nothing changes (there: NaN), and ``last_step`` says
            so. DTensors: the norm of the whole tensors. Refused beside a ZeroRedundancyOptimizer, where each process
            would clip its own share by its own norm: call clip_grad_norm_ over all parameters before the step. Refused
            with FullyShardedDataParallel's parameters (FSDP1) for the same reason: call its clip_grad_norm_.
        max_value: then clipped as by torch.nn.utils.clip_grad_value_.
        state_dtype: "float32" (float64 beside float64 parameters), "bfloat16" or "float8", 8-bit blocks; see
            :class:`onepass.optim.Optimizer`. torch keeps states in the parameter's type; here bfloat16 parameters have
            float32 states by default.
        master_weights: "float32" or "split", for float16 and bfloat16 parameters: the weights have 32 bits. What
            else writes to a parameter (``model.load_state_dict``) is seen unless it goes by ``p.data``, as by autograd.
        stochastic_rounding, seed: of what is stored in fewer bits than float32.

    States are tensors in ``self.state[p]`` under torch's names, beside ``step``; ``master``, ``lower`` (int16) and
    ``axes`` (8-bit blocks: the parameter's axes as they lie in memory) are ours. ``load_state_dict`` takes torch's
    dictionaries of the same rule and keeps the types of states that this optimizer has.

    Attributes:
        max_norm, max_value: may be assigned between steps.
        last_step: the norm before clipping (None without max_norm), and whether the step was skipped.

    Raises:
        TypeError, ValueError: an option that is none or out of its range; a parameter or gradient that is complex,
            sparse or on another device. Nothing has changed then.
    """

    rule: ClassVar[type[optim.Optimizer]]
    counts_steps: ClassVar[bool] = True
    """Whether torch keeps a step count beside the states."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Numbers that torch keeps beside the states, and that follow from the options and the step count."""
    eager: ClassVar[bool] = False
    """Whether torch makes the states when the optimizer is made."""
    whole_tensors: ClassVar[bool] = False
    """Whether the rule needs sums over whole tensors."""
    _forced: ClassVar[dict[str, Any]] = {}
    """Options of all groups, whatever is loaded."""

    def __init__(self, params: Any, defaults: dict[str, Any], *, max_norm: Any = None, max_value: Any = None,
                 **storage: Any) -> None:  # fmt: skip
        check_storage(self.rule, type(self).__name__, storage)
        self._given = {"max_value": max_value, **storage}
        self._max_norm: float | None = None
        self._max_value: float | None = None
        self.max_norm, self.max_value = max_norm, max_value
        self.defaults = defaults
        self._prepare()
        super().__init__(params, defaults)
        if self.eager:
            self._bind()

    def _prepare(self) -> None:
        """What is neither saved nor copied."""
        self._template = self.rule([np.zeros(1, np.float32)], dtype="bfloat16", **self._arguments())
        self._names = tuple([name for name in self.defaults if name in self._template._options])
        self._values = itemgetter(*self._names)
        self._numbers = frozenset({"step", "axes", *self.beside})
        self._bounds: list[Bound] | None = None
        self._lock = threading.RLock()
        self.last_step = StepInfo(None, False)

    # ---- what a subclass says

    def _arguments(self) -> dict[str, Any]:
        """Of the rule, beside its options."""
        return {name: value for name, value in self._given.items() if name != "max_value"}

    def _beside(self, step: int, group: Mapping[str, Any]) -> dict[str, float]:
        """The numbers beside the states of a parameter that has made so many steps."""
        return {}

    # ---- what a user calls

    @property
    def max_norm(self) -> float | None:
        return self._max_norm

    @max_norm.setter
    def max_norm(self, value: float | None) -> None:
        self._max_norm = None if value is None else check_limit("max_norm", value)

    @property
    def max_value(self) -> float | None:
        return self._max_value

    @max_value.setter
    def max_value(self, value: float | None) -> None:
        self._max_value = None if value is None else check_limit("max_value", value)

    @_not_traced
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: computes the loss and gradients once more; its result is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._lock:  # the plan holds addresses of one step's gradients
            self._step()
        return loss

    def _step(self) -> None:
        bounds = self._bounds
        if bounds is None or not self._unchanged(bounds):
            bounds = self._bind()
        if self._flattened is not None and self._max_norm is not None:
            self._check_flattened(self._name_of(self._flattened))
        try:
            grads = [bound.addresses() for bound in bounds]
        except ReshapedError:
            bounds = self._bind()
            grads = [bound.addresses() for bound in bounds]
        grad_scale, norm = 1.0, None
        if self._max_norm is not None:
            norm = self._norm(bounds, grads)
            if not math.isfinite(norm):
                self.last_step = StepInfo(norm, True)
                for bound in bounds:
                    bound.release()
                return
            grad_scale = max(1.0, (norm + _CLIP_EPS) / self._max_norm)
        for bound in bounds:
            bound.optimizer.max_value = self._max_value
            bound.check_options()
        if len(bounds) > 1:
            for bound, addresses in zip(bounds, grads, strict=True):
                bound.plan.point_at(addresses)  # what is refused is so before another has stepped
        for bound, addresses in zip(bounds, grads, strict=True):
            bound.step(addresses, grad_scale)
            if self.beside:
                bound.write_beside(self._beside)
            if bound.unwritten:
                self._write(bound)
        self.last_step = StepInfo(norm, False)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if isinstance(param_group, dict):
            check_not_of_a_group(param_group, self._given, {**self.storage._asdict(), "max_value": self._max_value})
            self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = len(self.param_groups) - 1
        try:
            for i, param in enumerate(self.param_groups[group]["params"]):
                name = f"params[{i}] of group {group}"
                if param.device.type != "meta":  # it may get memory before the first step
                    check_param(param, name)
                if self.whole_tensors and is_distributed(param):
                    raise TypeError(f"{name}: is a DTensor; {type(self).__name__} needs sums over whole tensors")
                if is_flattened(param):
                    self._check_flattened(name)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._bounds = None

    @property
    def storage(self) -> Storage:
        """How numbers are kept."""
        return self._template._storage

    def state_dict(self) -> dict[str, Any]:
        if self.storage.state_dtype == "float8" and any(map(is_distributed, self.state)):
            raise ValueError(
                "state_dtype: 8-bit blocks of DTensors are of a shard, and have no place in a dictionary of whole "
                "tensors; use 'bfloat16'"
            )
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy options, step counts and states in; the next step then gives the bits that it would have given.

        It may be the dictionary of torch.optim's optimizer of the same rule. States are stored as this optimizer's are,
        of whatever type they come.

        Raises:
            TypeError, ValueError: it is of another rule, lacks an entry, has an option out of its range or something
                else where a number or a tensor is expected, or its groups, shapes or types differ. Nothing has changed
                then.
        """
        check_is_mapping(state_dict)
        states: dict[Tensor, dict[str, Any]] = {}

        def convert(optimizer: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            states.update(loaded_states(self, given))
            return {**given, "state": {}}

        def assign(optimizer: torch.optim.Optimizer) -> None:
            self.state.update(states)

        # the last of the hooks before, and the first of those after
        before = self.register_load_state_dict_pre_hook(convert)
        after = self.register_load_state_dict_post_hook(assign, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("_given", "_max_norm", "_max_value")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.update({name: self.defaults[name] for name in EXECUTION if name in self.defaults})
            for name in NEWER.keys() & self.defaults.keys():
                group.setdefault(name, NEWER[name])
            group.update(self._forced)
        self._prepare()

    # ---- inside

    def options(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """A group's options in the rule's terms."""
        return {name: option_of(name, group[name]) for name in self._names}

    def _check_group(self, group: Mapping[str, Any]) -> None:
        asked = {name for name in EXECUTION if name in group and option_of(name, group[name])}
        if asked >= CHOICES:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if "capturable" in asked:
            raise ValueError("capturable: is for CUDA graphs, and onepass computes on the CPU; leave it False")
        if "differentiable" in asked:
            raise ValueError(
                "differentiable: autograd records no step that is made here; use torch.optim for steps that it must"
            )
        dummy = {**self.options(group), "params": [np.zeros(1, np.float32)]}
        self.rule([dummy], dtype="bfloat16", **self._arguments())

    def _check_flattened(self, name: str) -> None:
        """Refuses of FullyShardedDataParallel's parameters what would need the other processes' shares."""
        if self.whole_tensors:
            raise TypeError(
                f"{name}: is a share of FullyShardedDataParallel's; {type(self).__name__} needs sums over whole tensors"
            )
        if self._max_norm is not None:
            raise ValueError(
                f"max_norm: {name} is FullyShardedDataParallel's, of which each process would clip its own share by "
                "its own norm; leave max_norm out, and call the wrapped model's clip_grad_norm_(max_norm) before the "
                "step, or shard with fully_shard (FSDP2)"
            )

    def checked_options(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Of a group of a state dictionary."""
        missing = sorted(set(self._names) - group.keys() - NEWER.keys())
        if missing:
            raise ValueError(
                f"state_dict: a group has no {missing[0]!r}; is it of another optimizer than {type(self).__name__}?"
            )
        kept = {name: value for name, value in group.items() if name not in EXECUTION}
        group = {**NEWER, **kept, **self._forced}
        try:
            self._check_group(group)
        except (TypeError, ValueError) as error:
            raise type(error)(f"state_dict: {error}") from None
        return self.options(group)

    def update_of(self, options: Mapping[str, Any]) -> str:
        """The name of the update that a group's options ask for."""
        return self._template.update_name([options])

    def _unchanged(self, bounds: Sequence[Bound]) -> bool:
        """Whether all is where it was; options that were assigned are handed on."""
        groups = self.param_groups
        if len(groups) != len(self._members) or not self._states.unchanged(self.state):
            return False
        for group, members in zip(groups, self._members, strict=True):
            if type(group["params"]) is not list or not same_objects(group["params"], members):
                return False
        for param in self._idle:
            if param.grad is not None:
                return False
        for bound in bounds:
            if not bound.unchanged():
                return False
        for at, group in enumerate(groups):
            values = self._values(group)
            if self._variable[at] or differ(values, self._seen[at]):
                options = self.options(group)
                self._see(at, values)
                own = self._own_groups[at]
                if own is None or self.update_of(options) != self._updates[at]:
                    return False
                own.update(options)
        return True

    def _see(self, at: int, values: Any) -> None:
        self._seen[at] = values
        # what can be assigned in place is read in every step
        self._variable[at] = not all(map(is_plain, values))

    def _norm(self, bounds: Sequence[Bound], grads: Sequence[Addresses]) -> float:
        if not self._distributed:
            return math.hypot(*[bound.norm(addresses) for bound, addresses in zip(bounds, grads, strict=True)])
        norms: dict[Any, list[Tensor]] = {}  # by mesh; what is no DTensor is the same in all processes
        for grad in [p.grad for bound in bounds for p in bound.params if p.grad is not None]:
            norms.setdefault(getattr(grad, "device_mesh", None), []).append(torch.linalg.vector_norm(grad))
        totals: list[Any] = [torch.linalg.vector_norm(torch.stack(own)) for own in norms.values()]
        return math.hypot(*[(total.full_tensor() if is_distributed(total) else total).item() for total in totals])

    def _bind(self) -> list[Bound]:
        """Look at all parameters, make the states that are missing, and the optimizers of onepass.optim on them."""
        self._bounds = None
        groups = self.param_groups
        options = [self.options(group) for group in groups]
        self._updates = [self.update_of(own) for own in options]
        members: list[list[Tensor]] = [[] for _ in groups]
        for at, group in enumerate(groups):
            for i, param in enumerate(group["params"]):
                if self.eager or param.grad is not None or self.state.get(param):
                    check_param(param, f"params[{i}] of group {at}")
                    members[at].append(param)
        self._distributed = any(map(is_distributed, chain.from_iterable(members)))
        # of all groups: a process without a gradient of its own must refuse with the others
        self._flattened = next((p for group in groups for p in group["params"] if is_flattened(p)), None)
        bounds = []
        self._own_groups: list[dict[str, Any] | None] = [None] * len(groups)
        for update in dict.fromkeys(self._updates):
            chosen = [at for at, name in enumerate(self._updates) if name == update and members[at]]
            if chosen:
                bounds.append(self._bind_groups([{**options[at], "params": members[at]} for at in chosen]))
                for at, own in zip(chosen, bounds[-1].optimizer.param_groups, strict=True):
                    self._own_groups[at] = own
        self._members = [list(group["params"]) for group in groups]
        active = {id(p) for params in members for p in params}
        self._idle = [p for p in chain.from_iterable(self._members) if id(p) not in active]
        self._seen: list[Any] = [None] * len(groups)
        self._variable = [False] * len(groups)
        for at, group in enumerate(groups):
            self._see(at, self._values(group))
        for bound in bounds:
            self._write(bound)
        self._states = KnownStates(self.state, self._numbers)
        self._bounds = bounds
        return bounds

    def _bind_groups(self, groups: Sequence[Mapping[str, Any]]) -> Bound:
        names = names_of(self.update_of(groups[0]))
        params = [p for group in groups for p in group["params"]]
        entries = [self.state.get(p) or {} for p in params]
        for param, entry in zip(params, entries, strict=True):
            check_memory_order(entry, array(local(param)), partial(self._name_of, param))
        found = [{ours: array(local(entry[theirs])) for theirs, ours in names.items() if entry.get(theirs) is not None}
                 for entry in entries]  # fmt: skip
        for arrays in found:
            if "lower" in arrays:
                arrays["lower"] = arrays["lower"].view(np.uint16)
        bound = Bound(self.rule, groups, found, [steps_made(entry) for entry in entries], self._arguments())
        bound.beside = {name: torch.ones(len(params), dtype=scalar_type(), device="cpu") for name in self.beside}
        bound.write_beside(self._beside)
        return bound

    def _name_of(self, param: Tensor) -> str:
        """Where the groups have a parameter."""
        places = [
            (i, at) for at, group in enumerate(self.param_groups) for i, p in enumerate(group["params"]) if p is param
        ]
        return "params[{}] of group {}".format(*places[0])

    def _write(self, bound: Bound) -> None:
        """Give self.state what it lacks, of parameters that have made a step."""
        update, storage = bound.optimizer.update, self.storage
        counted = self.counts_steps or storage.stochastic_rounding
        names = {ours: theirs for theirs, ours in names_of(update.name).items()}
        left, all_steps = [], bound.plan.steps
        for i in bound.unwritten:
            param, steps, kept = bound.params[i], all_steps[i], bound.kept(i)
            if not steps and not self.eager:
                left.append(i)
                continue
            if not kept and not counted:
                continue
            entry = self.state[param]
            shown = {"step": bound.steps, **bound.beside} if counted else bound.beside
            entry.update({name: numbers[i] for name, numbers in shown.items()})
            for name, values in kept.items():
                if entry.get(names[name]) is None:
                    entry[names[name]] = tensor_of(values, param, bfloat16=name in update.states)
            if storage.state_dtype == "float8" and update.states and "axes" not in entry:
                entry["axes"] = torch.tensor(memory_axes(bound.optimizer.weights[i]), dtype=torch.int64, device="cpu")
        bound.unwritten = left
        self._states = KnownStates(self.state, self._numbers)
