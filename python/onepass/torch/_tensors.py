"""Tensors as the arrays that onepass.optim works on, and back: they share their memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def is_distributed(tensor: Tensor) -> bool:
    """Whether it is a DTensor (of FSDP2, tensor parallelism, ...)."""
    return hasattr(tensor, "to_local") and hasattr(tensor, "placements")


def is_flattened(tensor: Tensor) -> bool:
    """Whether torch has marked it as FullyShardedDataParallel's (FSDP1): a plain tensor, one process's share."""
    return bool(getattr(tensor, "_fsdp_flattened", False))


def local(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process: a DTensor's own shard, any other tensor itself."""
    if not is_distributed(tensor):
        return tensor
    with torch.no_grad():  # then it is the shard itself, not a copy in a graph
        own: Any = cast(Any, tensor).to_local()
    return cast(Tensor, own.wait() if hasattr(own, "wait") else own)


def array(tensor: Tensor) -> Array:
    """The memory of a local tensor as an array; bfloat16 as its bits in uint16."""
    plain = tensor.detach()
    if plain.dtype == torch.bfloat16:
        plain = plain.view(torch.uint16)
    return plain.numpy()


def tensor_of(values: Array, param: Tensor, bfloat16: bool) -> Tensor:
    """The memory of an array as a tensor; a DTensor like param if param is one and values have its shard's shape.

    Args:
        values: of a state, or what stands beside the weights.
        param: what it belongs to.
        bfloat16: whether uint16 is the bits of bfloat16; else it becomes int16, of which torch knows more.
    """
    tensor = torch.from_numpy(values.view(np.int16) if values.dtype == np.uint16 else values)
    if values.dtype == np.uint16 and bfloat16:
        tensor = tensor.view(torch.bfloat16)
    if is_distributed(param) and values.dtype != np.uint8:
        return like_param(tensor, param)
    return tensor


def like_param(own: Tensor, param: Tensor) -> Tensor:
    """A DTensor placed as param is, of a local shard."""
    kind, like = cast(Any, type(param)), cast(Any, param)  # its class has moved between torch's versions
    shaped = {"shape": param.shape, "stride": param.stride()}
    return cast(Tensor, kind.from_local(own, like.device_mesh, like.placements, run_check=False, **shaped))


def check_param(param: Tensor, name: str) -> None:
    """Refuses what no step can be made on.

    Raises:
        TypeError: of another type than float32, float64, float16 or bfloat16.
        ValueError: sparse, or on another device than the CPU.
    """
    if param.dtype not in FLOATS:
        more = "; keep its real and imaginary part as two parameters" if param.dtype.is_complex else ""
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {param.dtype}{more}")
    if param.layout != torch.strided:
        raise ValueError(f"{name}: is {param.layout}; make it dense with to_dense() first")
    if param.device.type != "cpu":
        remedy = (
            "give it memory first (module.to_empty(device='cpu'), then initialize it)"
            if param.device.type == "meta"
            else "move it with .cpu(), or step it with torch.optim"
        )
        raise ValueError(f"{name}: is on {param.device}, onepass computes on the CPU; {remedy}")


def check_grad(grad: Tensor, name: str) -> None:
    """Refuses sparse gradients, and what cannot be read where it lies."""
    if grad.layout != torch.strided:
        raise ValueError(
            f"{name}: is sparse ({grad.layout}), and every element is stepped here; make the layer with sparse=False, "
            "convert with p.grad = p.grad.to_dense(), or give this parameter to torch.optim.SparseAdam"
        )
    if grad.device.type != "cpu":
        raise ValueError(f"{name}: is on {grad.device}, onepass computes on the CPU")
    if grad.is_neg() or grad.is_conj():
        raise ValueError(f"{name}: is a lazily negated view; resolve it with p.grad = p.grad.resolve_neg()")


def scalar_type() -> torch.dtype:
    """What torch keeps step counts in."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _increments_lists() -> bool:
    try:
        torch._C._increment_version([])
    except (TypeError, RuntimeError):  # torch 2.4 takes one tensor
        return False
    return True


_LISTS = _increments_lists()


def increment_versions(tensors: Sequence[Tensor]) -> None:
    """Tells autograd that tensors were changed in place: what it has saved of them is not what it was."""
    if _LISTS:
        torch._C._increment_version(tensors)
    else:
        for tensor in tensors:
            torch._C._increment_version(cast(Any, tensor))
