"""Options of parameter groups and of storage: what a user may give, and how a rule takes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

from onepass import optim
from onepass.optim.storage import STATE_DTYPES, Storage

FLAGS = frozenset(
    {
        "amsbound", "amsgrad", "bias_correction", "capturable", "centered", "decoupled_weight_decay", "differentiable",
        "maximize", "nesterov",
    }
)  # fmt: skip
CHOICES = frozenset({"foreach", "fused"})
"""Flags that may be None: torch chooses then."""
PAIRS = frozenset({"betas", "etas", "step_sizes"})
ABSENT = frozenset({"base_lr", "sgd_ratio"})
"""Numbers that may be None."""
_STORAGE = tuple([name for name in Storage._fields if name not in ("dtype", "copies")])


def option_of(name: str, value: Any) -> Any:
    """An option as the rule takes it: True or False, a tuple of two numbers, or a number; none of them a tensor.

    Raises:
        TypeError: it is no such thing.
        ValueError: a tensor of several elements, an integer that is no flag, a pair of another length.
    """
    if name in FLAGS or name in CHOICES:
        return None if value is None and name in CHOICES else _flag_of(name, value)
    if name in PAIRS:
        return _pair_of(name, value)
    return None if value is None and name in ABSENT else number_of(name, value)


def number_of(name: str, value: Any) -> Any:
    """A number, also of a tensor or an array of one element."""
    if callable(value):
        raise TypeError(f"{name}: expected a number, got {value!r}; schedules are torch.optim.lr_scheduler's here")
    number = _item(name, value, "a number")
    if not isinstance(number, Real):
        remedy = {str: "; convert it with float()", type(None): "; leave it out for the default"}.get(type(value), "")
        raise TypeError(f"{name}: expected a number or a tensor of one element, got {_shown(value)}{remedy}")
    return number


def check_storage(rule: type[optim.Optimizer], name_of_class: str, options: Mapping[str, Any]) -> None:
    """Refuses what onepass.torch's optimizers do not take beside torch's arguments."""
    own = inspect.signature(rule).parameters.keys()
    for name, value in options.items():
        if name in ("dtype", "copies"):
            raise TypeError(f"{name}: is of onepass.optim alone; a tensor knows its type, and has no copies here")
        if name not in _STORAGE and name not in own:
            raise TypeError(
                f"{name}: is no argument of {name_of_class}; beside the rule's own there are max_norm, max_value, "
                f"{', '.join(_STORAGE)}"
            )
        if name == "state_dtype" and not (isinstance(value, str) and value in STATE_DTYPES):
            raise ValueError(
                f"state_dtype: expected one of {', '.join(map(repr, STATE_DTYPES))}, got {_shown(value)}; of 8 bits "
                "there is 'float8': 8-bit numbers in blocks of 128 with a scale each"
            )
        if name == "stochastic_rounding" and value is not None:
            _flag_of(name, value)


def check_not_of_a_group(group: Mapping[str, Any], *given: Mapping[str, Any]) -> None:
    """Refuses in a group what is of the whole optimizer, unless it is there as it was given.

    ZeroRedundancyOptimizer hands its arguments on to the optimizer of each process twice: as arguments and in groups.

    Args:
        group: a parameter group.
        given: what this optimizer was made with beside the rule's options, as the user has given it and as it is.
    """
    if group.get("max_norm") is not None:
        raise ValueError(
            f"max_norm: is of all parameters of an optimizer, got {group['max_norm']!r} in a group; give it as an "
            "argument. Under ZeroRedundancyOptimizer, which gives its arguments on in groups, each process would clip "
            "its own parameters by their own norm: leave it out there, and call torch.nn.utils.clip_grad_norm_ over "
            "all parameters before the step"
        )
    for name in ("max_value", *_STORAGE):
        if name in group and not any(_same(group[name], own.get(name)) for own in given):
            raise ValueError(
                f"{name}: is of all parameters of an optimizer, got {group[name]!r} in a group; give it as an "
                "argument, or make an optimizer for each"
            )


def _same(value: Any, given: Any) -> bool:
    return value is given or (type(value) is type(given) and not differ(value, given))


def differ(values: Any, seen: Any) -> bool:
    """Whether two tuples of options do."""
    try:
        return bool(values != seen)
    except (RuntimeError, ValueError):  # tensors or arrays of several elements
        return True


def is_plain(value: Any) -> bool:
    """Whether it cannot be changed in place."""
    return isinstance(value, (float, int, type(None))) or (type(value) is tuple and all(map(is_plain, value)))


def _flag_of(name: str, value: Any) -> bool:
    flag = _item(name, value, "True or False")
    if isinstance(flag, (bool, np.bool_)) or (isinstance(flag, Integral) and flag in (0, 1)):
        return bool(flag)
    kind = ValueError if isinstance(flag, Integral) else TypeError
    raise kind(f"{name}: expected True or False, got {_shown(value)}; write {name}=True or {name}=False")


def _pair_of(name: str, value: Any) -> tuple[Any, ...]:
    pair = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)):
        raise TypeError(f"{name}: expected two numbers, got {_shown(value)}; give a tuple of two")
    if len(pair) != 2:
        raise ValueError(f"{name}: expected two numbers, got {len(pair)}, {value!r}; give a tuple of two")
    return tuple([number_of(f"{name}[{i}]", one) for i, one in enumerate(pair)])


def _item(name: str, value: Any, expected: str) -> Any:
    if not isinstance(value, (Tensor, np.ndarray)):
        return value
    if value.shape.numel() != 1 if isinstance(value, Tensor) else value.size != 1:
        raise ValueError(
            f"{name}: expected {expected} or a tensor of one element, got a tensor {tuple(value.shape)}; take the one "
            f"that is meant"
        )
    return value.item()


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"
