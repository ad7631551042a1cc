"""Options of parameter groups: as torch has them, and as a rule takes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def number_of(name: str, value: Any) -> Any:
    """An option as the rule takes it: numbers in place of tensors."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name}: expected a number or a tensor of one element, got a tensor {tuple(value.shape)}")
        return value.item()
    if callable(value):
        raise TypeError(f"{name}: expected a number, got {value!r}; schedules are torch.optim.lr_scheduler's here")
    return tuple([number_of(name, one) for one in value]) if isinstance(value, (tuple, list)) else value


def differ(values: Any, seen: Any) -> bool:
    """Whether two tuples of options do."""
    try:
        return bool(values != seen)
    except RuntimeError:  # tensors of several elements
        return True


def is_plain(value: Any) -> bool:
    """Whether it cannot be changed in place."""
    return isinstance(value, (float, int, type(None))) or (type(value) is tuple and all(map(is_plain, value)))
