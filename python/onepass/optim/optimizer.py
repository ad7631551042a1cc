"""What all optimizers share: parameter groups, states, one step, saving and loading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onepass import _core, schedules
from onepass._storage import computed_type, decode, encode, memory_axes
from onepass._update_functions import check_limit
from onepass.kernels import UPDATES, global_norm
from onepass.optim.storage import Storage, zeros_like

Array = NDArray[Any]
Rate = float | schedules.Rate


class StepInfo(NamedTuple):
    """What a step tells.

    Attributes:
        grad_norm: the global norm of the unscaled gradients before clipping; None without ``max_norm``.
        skipped: True if that norm was not finite; then nothing has changed, the step count included.
    """

    grad_norm: float | None
    skipped: bool


_PLAIN_STEP = StepInfo(None, False)


class Optimizer:
    """Base of the optimizers. A subclass names its update and says how its options become hyperparameters.

    Args:
        params: arrays to update in place (float32, float64, float16 or bfloat16, any strides), or dictionaries
            ``{"params": [...], "lr": ...}``: groups with options of their own.
        defaults: the options of groups that do not say otherwise.
        max_norm: gradients are scaled down so that their global norm is at most this; None: no clipping.
        max_value: then every element of a gradient is clipped to [-max_value, max_value], before weight decay, as
            torch.nn.utils.clip_grad_value_ does; None: no clipping. NaN stays NaN.
        state_dtype: "float32" (float64 beside float64 parameters); "bfloat16", kept as its bits in uint16; or "float8",
            8-bit numbers in blocks of 128 with a scale each, kept in one-dimensional arrays of uint8. States take half
            or a quarter of the memory and move as many bytes. Slow moving averages need ``stochastic_rounding`` then:
            with beta2 = 0.999 a second moment changes by less than half a unit in the last of eight bits.
        stochastic_rounding: what is stored in fewer bits than float32 (states, and float16 or bfloat16 parameters) is
            rounded up with the probability of what is cut off; otherwise to nearest. None: True for float8, else False.
        seed: of the generator of stochastic rounding, which is keyed by (seed, step, tensor, index): the bits do not
            depend on the number of threads.
        dtype: "bfloat16": parameters and gradients in uint16 are the bits of bfloat16 (arrays of ml_dtypes need none).
        master_weights: for parameters in float16 or bfloat16. "float32": the step is made on float32 weights that this
            optimizer keeps (``weights``), and the parameters receive them rounded to nearest. "split", for bfloat16:
            the parameters are the upper halves of float32 weights, and only the lower ones are kept, in 2 bytes.
        copies: for each parameter an array of float16 or bfloat16 of its shape, or None: receives the new weights
            rounded to nearest, in the same pass. It is first written by the first step.

    An ``lr`` may be a schedule: a function step -> rate, such as those of :mod:`onepass.schedules`. Every step asks it
    once for each group that has one, with the number of steps that the group has made: the largest among its
    parameters, 0 before the first. Nothing else is remembered: ``load_state_dict`` leaves an optimizer its schedules,
    and they go on at the loaded step counts.

    One thread at a time may step an optimizer; several optimizers may step at once.

    Attributes:
        param_groups: dictionaries of ``params`` and options; options may be assigned between steps.
        weights: what the steps are made on: the parameters, or their float32 master weights.
        max_norm, max_value: may be assigned between steps.
    """

    fixed_options: ClassVar[frozenset[str]] = frozenset()
    """Options that choose the update: one value for all groups, never assigned later."""
    choosing_options: ClassVar[tuple[str, ...]] = ()
    """All options that have a say in update_name()."""

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        defaults: Mapping[str, Any],
        max_norm: float | None = None,
        max_value: float | None = None,
        **storage: Any,
    ) -> None:
        self.max_norm = None if max_norm is None else check_limit("max_norm", max_norm)
        self.max_value = None if max_value is None else check_limit("max_value", max_value)
        self._storage = Storage.checked(**storage)
        self._options = frozenset({"params", *defaults})
        self.param_groups = _make_groups(params, defaults)
        self._check_groups(_with_rates(self.param_groups, []))
        self.update = UPDATES[self.update_name(self.param_groups)]
        self._params: list[Array] = [p for group in self.param_groups for p in group["params"]]
        self._storage.check_params(self._params)
        self.weights, self._beside = self._make_weights()
        self._states = self._make_states()
        self._plan = self._make_plan()
        self._seen_groups: list[dict[str, Any]] = []
        self._checked_groups: list[dict[str, Any]] = []  # without their rates
        self._hyper: list[tuple[Any, ...]] = []

    @property
    def state_dtype(self) -> str:
        return self._storage.state_dtype

    # ---- what a subclass says

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        """The entry of ``kernels.UPDATES`` that the options of these groups ask for."""
        raise NotImplementedError

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        """The update's hyperparameters of a group, in the registry's order."""
        return tuple([group[name] for name in self.update.hyperparameters])

    def check_options(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError for an option out of its range."""
        self.check_rate(group)
        for name in ("weight_decay", "eps", "eps_root"):
            check_number(name, group.get(name, 0.0), 0.0, math.inf)

    def check_rate(self, group: Mapping[str, Any]) -> None:
        """The part of check_options that depends on the rate: with a schedule, all that a step has to check again."""
        check_number("lr", group.get("lr", 0.0), 0.0, math.inf)

    def initial_states(self, param: Array) -> tuple[Array, ...]:
        """The states of a parameter before the first step, in what is computed in: zeros in its own order of axes."""
        return tuple([zeros_like(param, place=place) for place in range(len(self.update.states))])

    # ---- what a user calls

    def step(self, grads: Sequence[Array | None], grad_scale: float = 1.0) -> StepInfo:
        """Update all parameters in one native call.

        Args:
            grads: one gradient for each parameter, in the order of ``param_groups``; None leaves a parameter, its
                states and its step count alone.
            grad_scale: what the loss was multiplied by: gradients are divided by it.

        Raises:
            TypeError, ValueError: a gradient of another type or shape, or one that shares memory with what is written;
                an option or a schedule's rate out of its range. Nothing has changed then.
        """
        if type(grads) is not list:
            grads = list(grads)
        if not grad_scale or not math.isfinite(grad_scale):
            raise ValueError(f"grad_scale: expected a finite number other than 0, got {grad_scale!r}")
        info = _PLAIN_STEP
        if self.max_norm is not None:
            norm = global_norm([g for g in grads if g is not None]) / abs(grad_scale)
            info = StepInfo(norm, not math.isfinite(norm))
            if info.skipped:
                return info
            if norm > self.max_norm:
                grad_scale *= norm / self.max_norm
        if self.param_groups != self._seen_groups:  # an option was assigned since the last step, or there is a schedule
            self._read_groups()
        self._run(grads, grad_scale)
        return info

    def learning_rates(self) -> list[float]:
        """The rate of each group in the coming step: its ``lr``, or what its schedule says."""
        return [group["lr"] for group in _with_rates(self.param_groups, self._plan.steps)]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the parameters: update, options, step counts and states (the arrays themselves, no copies).

        In place of a schedule stands its rate in the coming step, since a function cannot be saved.
        """
        index = iter(range(len(self._params)))
        steps = self._plan.steps
        return {
            "update": self.update.name,
            "state_dtype": self.state_dtype,
            "param_groups": [
                {**group, "params": [next(index) for _ in group["params"]]}
                for group in _with_rates(self.param_groups, steps)
            ],
            "state": {i: {"step": steps[i], **self._order(i), **self._kept(i)} for i in range(len(self._params))},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy options, step counts and states in; the next step then gives the bits that it would have given.

        It may be the dictionary of torch.optim's optimizer of the same rule. Its states of float32 or fewer bits are
        stored as this optimizer's; what says how torch executes a step (foreach, fused, ...) and what schedulers leave
        in the groups is dropped.

        Raises:
            ValueError: it is of another update, lacks an entry, has an option out of its range, or its groups, shapes
                or types differ. Nothing has changed then.
        """
        state_dict = self._translated(state_dict)
        for entry in ("update", "param_groups", "state"):
            if entry not in state_dict:
                raise ValueError(f"state_dict: has no {entry!r}")
        if state_dict["update"] != self.update.name:
            raise ValueError(
                f"state_dict: is of update {state_dict['update']!r}, this optimizer's is {self.update.name!r}"
            )
        if state_dict.get("state_dtype", self.state_dtype) != self.state_dtype:
            raise ValueError(
                f"state_dict: states are {state_dict['state_dtype']!r}, this optimizer's are {self.state_dtype!r}"
            )
        if state_dict.get("averages"):
            kinds = ", ".join(own["kind"] for own in state_dict["averages"])
            raise ValueError(f"state_dict: holds averages of {kinds}, this optimizer keeps none")
        groups = state_dict["param_groups"]
        self._check_sizes(groups)
        options = [{**group, "params": own["params"]} for group, own in zip(groups, self.param_groups, strict=True)]
        self._check_groups(options)
        self._check_update(options)
        steps, arrays = [], []
        for i in range(len(self._params)):
            steps.append(_loaded_step(state_dict["state"], i))
            arrays += self._loaded_states(state_dict["state"][i], i)
        for own_array, array in arrays:
            own_array[...] = array
        self._plan.steps = steps
        for own, group in zip(self.param_groups, options, strict=True):
            own.update(group, lr=own["lr"] if callable(own["lr"]) else group["lr"])

    # ---- inside; onepass.torch makes weights and states of tensors, and runs on addresses of gradients

    def _make_weights(self) -> tuple[list[Array], dict[str, list[Array | None]]]:
        return self._storage.weights(self._params)

    def _make_states(self) -> list[tuple[Array, ...]]:
        return [self._storage.states(self.update, p, self.initial_states(p)) for p in self.weights]

    def _run(self, grads: list[Any], grad_scale: float) -> None:
        self._plan.step(grads, self._hyper, grad_scale, math.inf if self.max_value is None else self.max_value, 0)

    def _make_plan(self) -> _core.Plan:
        group_of = [g for g, group in enumerate(self.param_groups) for _ in group["params"]]
        plan = _core.Plan(self.update.name, self.weights, self._states, group_of, self._beside)
        storage = self._storage
        plan.set_storage(storage.stochastic_rounding, storage.seed, storage.dtype == "bfloat16")
        return plan

    def _beside_at(self, name: str, i: int) -> Array | None:
        """What stands beside a parameter's weights under this name, if anything does."""
        arrays = self._beside.get(name)
        return None if arrays is None else arrays[i]

    def _add_average(self) -> tuple[int, list[Array]]:
        """Makes room for an average of each parameter, which begins as the parameter."""
        slots = [slot for slot in range(2) if f"average {slot}" not in self._beside]
        if not slots:
            raise ValueError("optimizer: has two averages already, as many as a step can write")
        arrays = [self._full(i) for i in range(len(self._params))]
        steps = self._plan.steps
        self._beside[f"average {slots[0]}"] = list(arrays)
        self._plan = self._make_plan()
        self._plan.steps = steps
        return slots[0], arrays

    def _full(self, i: int) -> Array:
        """A copy of a parameter in what is computed in."""
        weights = decode(self.weights[i], computed_type(self.weights[i]))
        lower = self._beside_at("lower", i)
        if lower is not None:
            weights = (weights.view(np.uint32) | lower).view(np.float32)
        return np.array(weights, order="K", copy=True, subok=False)

    def _exchange(self, arrays: Sequence[Array]) -> None:
        """Exchange the parameters, their master weights and copies with arrays of what is computed in."""
        for i, array in enumerate(arrays):
            mine = self._full(i)
            lower = self._beside_at("lower", i)
            if lower is not None:
                bits = array.view(np.uint32)
                self.weights[i].view(np.uint16)[...] = bits >> np.uint32(16)
                lower[...] = bits & np.uint32(0xFFFF)
            else:
                encode(array, self.weights[i], None)
            copy = self._beside_at("copy", i)
            if copy is not None:
                encode(array, copy, None)
            array[...] = mine

    def _order(self, i: int) -> dict[str, Any]:
        # 8-bit blocks hold a tensor in the order of its memory
        if self.state_dtype != "float8":
            return {}
        return {"shape": list(self.weights[i].shape), "axes": memory_axes(self.weights[i])}

    def _kept(self, i: int) -> dict[str, Array]:
        """What is saved of a parameter: its states, and what its weights have beside the parameter."""
        kept = dict(zip(self.update.states, self._states[i], strict=True))
        if self.weights[i] is not self._params[i]:
            kept["master"] = self.weights[i]
        lower = self._beside_at("lower", i)
        if lower is not None:
            kept["lower"] = lower
        return kept

    def _check_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        for group in groups:
            unknown = sorted(group.keys() ^ self._options)
            if unknown:
                raise ValueError(
                    f"param_groups: {unknown[0]!r} is unknown or missing; options are {sorted(self._options)}"
                )
            for name in self.fixed_options:
                if group[name] != groups[0][name]:
                    raise ValueError(f"{name}: is one for all parameter groups, got {group[name]!r}")
            self.check_options(group)

    def _check_update(self, groups: Sequence[Mapping[str, Any]]) -> None:
        name = self.update_name(groups)
        if name != self.update.name:
            raise ValueError(
                f"{' or '.join(self.choosing_options)}: chose the update {self.update.name} and its states when this "
                f"optimizer was made, and cannot turn it into {name}; make a new optimizer"
            )

    def _read_groups(self) -> None:
        groups = _with_rates(self.param_groups, self._plan.steps)
        checked = [{**group, "lr": 0.0} if "lr" in group else group for group in groups]
        if checked == self._checked_groups:  # only rates have changed
            for group in groups:
                self.check_rate(group)
        else:
            self._check_groups(groups)
            self._check_update(groups)
            self._checked_groups = checked
        self._hyper = [(group["maximize"], *self.hyperparameters(group)) for group in groups]
        # with a schedule every step reads them again
        self._seen_groups = [dict(group) for group in groups] if groups is self.param_groups else []

    def _translated(self, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        from onepass.optim import _torch_state  # here: it knows the rules, and these know this file

        if not _torch_state.is_torchs(state_dict):
            return state_dict
        self._check_sizes(state_dict["param_groups"])
        fresh = [self.initial_states(p) for p in self.weights]
        ours = _torch_state.from_torch(state_dict, self.update, self.param_groups, fresh)
        for i, (param, states) in enumerate(zip(self.weights, fresh, strict=True)):
            entry = ours["state"][i]
            given = [entry[name] for name in self.update.states]
            for name, array, own in zip(self.update.states, given, states, strict=True):
                _check_like(f"{name} of parameter {i}", array, own)
            stored = self._storage.states(self.update, param, given)
            entry.update(zip(self.update.states, stored, strict=True))
            entry.update(self._order(i))
            entry.update({name: array for name, array in self._kept(i).items() if name in ("master", "lower")})
        return ours

    def _check_sizes(self, groups: Sequence[Mapping[str, Any]]) -> None:
        sizes = [len(group["params"]) for group in groups]
        expected = [len(group["params"]) for group in self.param_groups]
        if sizes != expected:
            raise ValueError(f"state_dict: has groups of {sizes} parameters, this optimizer {expected}")

    def _loaded_states(self, entry: Mapping[str, Any], i: int) -> list[tuple[Array, Array]]:
        order = self._order(i)
        if order and list(entry.get("shape", [])) != order["shape"]:
            raise ValueError(
                f"state_dict: states of parameter {i} are blocks of shape {entry.get('shape')}, "
                f"expected {order['shape']}"
            )
        if order and list(entry.get("axes", [])) != order["axes"]:
            raise ValueError(
                f"state_dict: states of parameter {i} are in blocks along the axes {entry.get('axes')}, this "
                f"optimizer's along {order['axes']}; the parameter's memory must have the order that it had"
            )
        for name, option in (("master", "float32"), ("lower", "split")):
            if name in entry and name not in self._kept(i):
                raise ValueError(
                    f"state_dict: parameter {i} has {name}, which belongs to master_weights={option!r}; "
                    f"this optimizer has master_weights={self._storage.master_weights!r}"
                )
        pairs = []
        for name, own in self._kept(i).items():
            if name not in entry:
                raise ValueError(f"state_dict: parameter {i} has no {name}")
            array = np.asarray(entry[name])
            _check_like(f"{name} of parameter {i}", array, own)
            pairs.append((own, array))
        return pairs

    def __repr__(self) -> str:
        groups = "; ".join(
            ", ".join(f"{name}={value!r}" for name, value in group.items() if name != "params")
            for group in self.param_groups
        )
        return f"{type(self).__name__}({len(self._params)} parameters; {groups})"


def _check_like(what: str, array: Array, own: Array) -> None:
    if array.shape != own.shape or array.dtype != own.dtype:
        raise ValueError(f"state_dict: {what} is {array.dtype} {array.shape}, expected {own.dtype} {own.shape}")


def _loaded_step(state: Mapping[int, Mapping[str, Any]], i: int) -> int:
    if i not in state:
        raise ValueError(f"state_dict: has no state of parameter {i}")
    if "step" not in state[i]:
        raise ValueError(f"state_dict: parameter {i} has no step")
    step = state[i]["step"]
    if not isinstance(step, Integral) or step < 0:
        raise ValueError(f"state_dict: step of parameter {i}: expected an integer of 0 or more, got {step!r}")
    return int(step)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuses what is not a finite number in [low, high]."""
    if type(value) is float and low <= value <= high and value < math.inf:  # as nearly always
        return
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not (low <= float(value) <= high and math.isfinite(value)):
        span = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f">= {low:g}"
        raise ValueError(f"{name}: expected a finite number {span}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuses what is not True or False."""
    if not isinstance(value, bool | np.bool_ | int):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def as_pair(values: Any) -> Any:
    """A tuple of what can be iterated over; else the value as it is, for check_betas to refuse."""
    return tuple(values) if isinstance(values, Iterable) else values


def check_betas(betas: Any) -> None:
    """Refuses what is not a pair of numbers in [0, 1)."""
    if not isinstance(betas, Sequence) or not all(isinstance(beta, Real) for beta in betas):
        raise TypeError(f"betas: expected two numbers in [0, 1), got {betas!r}")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: expected two numbers in [0, 1), got {betas!r}")


def _make_groups(
    params: Iterable[Array] | Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if isinstance(params, (np.ndarray, Mapping)):
        raise TypeError("params: expected a sequence of arrays or of groups, got a single one; put it into a list")
    given = list(params)
    if not given:
        raise ValueError("params: is empty")
    groups = given if isinstance(given[0], Mapping) else [{"params": given}]
    result = []
    for group in groups:
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError("params: expected all arrays, or all dictionaries with a 'params' entry")
        unknown = sorted(set(group) - set(defaults) - {"params"})
        if unknown:
            raise ValueError(f"params: unknown option {unknown[0]!r}; known are {', '.join(defaults)}")
        own = group["params"]
        result.append({**defaults, **group, "params": [own] if isinstance(own, np.ndarray) else list(own)})
    return result


def _with_rates(groups: list[dict[str, Any]], steps: Iterable[int]) -> list[dict[str, Any]]:
    """These groups, the same list, if no lr is a schedule; else copies with rates in place of schedules.

    Args:
        groups: the parameter groups.
        steps: of all parameters, in the order of the groups; empty before the first step.
    """
    if not any(callable(group.get("lr")) for group in groups):
        return groups
    left = iter(steps)
    counts = [max(islice(left, len(group["params"])), default=0) for group in groups]
    return [
        {**group, "lr": _rate(group["lr"], count)} if callable(group.get("lr")) else group
        for group, count in zip(groups, counts, strict=True)
    ]


def _rate(schedule: schedules.Rate, step: int) -> float:
    rate = schedule(step)
    check_number(f"lr (the schedule's at step {step})", rate, 0.0, math.inf)
    return float(rate)
