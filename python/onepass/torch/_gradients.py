"""Gradients that a forward pass kept: scaled in the backward pass, and never derived again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass.torch._operands import in_memory

_keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)


def scaled(kept: Tensor, factor: Tensor, loss: Tensor, name: str) -> Tensor:
    """``kept * factor``, in kept's memory if the graph is about to be freed, and kept itself if the factor is 1.

    Args:
        kept: the gradient of the sum of all losses.
        factor: the loss's gradient, of its shape, with as many axes as kept or none.
        loss: what second derivatives are found by.
    """
    if torch.is_grad_enabled():  # create_graph=True, or torch.func.grad
        return _Scaled.apply(kept, factor, loss, name)  # type: ignore[no-untyped-call,no-any-return]
    if torch.compiler.is_compiling() or not in_memory((kept, factor)) or _graph_is_kept():
        return (kept * factor).to(kept.dtype)
    kept = kept.detach()
    return kept if _is_one(factor) else kept.mul_(factor)


def _is_one(factor: Tensor) -> bool:
    if not factor.dim():
        return factor.item() == 1
    # without a look at each of many: the gradient of a sum is one number in the memory of all
    same = not any(stride for size, stride in zip(factor.shape, factor.stride(), strict=True) if size != 1)
    return same and factor.numel() > 0 and factor[(0,) * factor.dim()].item() == 1


def _graph_is_kept() -> bool:
    """retain_graph=True: the saved tensors are needed again. So they may be where torch does not tell (before 2.5)."""
    return _keep_graph is None or bool(_keep_graph())


def no_second_derivatives(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name}: second derivatives (create_graph=True, nested torch.func.grad) are not implemented; "
        f"use torch.nn.functional.{name} where they are needed"
    )


class _Scaled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(kept: Tensor, factor: Tensor, loss: Tensor, name: str) -> Tensor:
        return (kept * factor).to(kept.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.operator = inputs[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise no_second_derivatives(ctx.operator)
