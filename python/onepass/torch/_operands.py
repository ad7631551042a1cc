"""Tensors seen as NumPy arrays that share their memory, and what the operators check of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass.torch._tensors import FLOATS, Array, array as memory_of


def array(tensor: Tensor) -> Array:
    """A view of the tensor's memory. A lazily negated view (of complex numbers) is read as a copy, as torch's operators
    do."""
    return memory_of(tensor.detach().resolve_neg() if tensor.is_neg() else tensor)


def optional_array(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else array(tensor)


def bits(tensor: Tensor) -> str | None:
    """What the kernels' argument dtype must say."""
    return "bfloat16" if tensor.dtype == torch.bfloat16 else None


def in_memory(values: tuple[Any, ...]) -> bool:
    """Whether the tensors among them have their own memory (no fakes, no batches of vmap), and nothing is recorded."""
    for value in values:
        kind = type(value)
        if kind is Tensor or kind is torch.nn.Parameter:
            if not torch._C._has_storage(value):
                return False
        elif isinstance(value, Tensor):
            return False
    return torch._C._len_torch_dispatch_stack() == 0 and torch._C._get_tracing_state() is None


def computed_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the kernels compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_tensors(instead: str, **tensors: Any) -> None:
    """Of strided tensors in the CPU's memory; None is an argument that was not given."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name}: is on {tensor.device}, expected the CPU; move it with .cpu(), or use {instead}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{name}: is {tensor.layout}, expected a dense tensor; make one with .to_dense()")


def check_float(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    if tensor.dtype not in dtypes:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: is {tensor.dtype}, expected one of {known}; convert it with .to()")


def needs_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def check_no_gradient(instead: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if needs_gradient(tensor):
            raise ValueError(
                f"{name}: requires a gradient, which this operator does not compute; "
                f"pass {name}.detach(), or use {instead}"
            )


def autocast_to_float32(tensor: Any) -> Any:
    """What torch's autocast does with the arguments of a function that it runs in float32."""
    if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64:
        return tensor.float()
    return tensor
