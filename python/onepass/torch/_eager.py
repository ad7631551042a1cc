"""Calls that nothing traces, transforms or records: their operators go to the kernels by the shortest way.

What a registered operator costs by itself (its results as tensors, views of the arguments as arrays) is as much as a
small network's kernels take.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from onepass.torch._threads import tensors

REFUSALS = (TypeError, ValueError, RuntimeError, BufferError)
"""What an eager call ends in that cannot be made so; the registered operator then takes it, or says what is wrong."""

_are_plain = tensors.are_plain
_is_transforming = torch._C._are_functorch_transforms_active
_modes = torch._C._len_torch_dispatch_stack


def is_eager(*arguments: Any) -> bool:
    """Whether all are None or tensors, none of them of a subclass, and only autograd looks on."""
    return not (
        torch.compiler.is_compiling()
        or _is_transforming()
        or forward_ad._current_level >= 0
        or _modes()
        or torch._C._get_tracing_state() is not None
    ) and _are_plain(*arguments)


def eager_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` without what it does for torch.func, a third of its time."""
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply
