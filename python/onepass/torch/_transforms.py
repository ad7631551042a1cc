"""Operators of torch.library as functions that torch.func's transforms go through, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def differentiable(
    name: str,
    operator: Any,
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    vmap: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The operator with its derivative.

    A formula registered with torch.library serves autograd and torch.compile, but not torch.func.grad, which wants a
    torch.autograd.Function with a setup_context: the same formula is made into one.

    Args:
        operator: a torch.library.custom_op that returns several tensors.
        backward: ``(ctx, *gradients)``.
        setup_context: ``(ctx, inputs, output)``.
        vmap: ``(info, in_dims, *args)``, as torch.func describes it; None: the operator is called for each element of
            the batch.
    """
    operator.register_autograd(backward, setup_context=setup_context)

    def call(*args: Any) -> Any:
        if not torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active():
                return transformed.apply(*args)
            _check_no_tangent(name, args)
        return operator(*args)

    def loop(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return vmap_loop(call, info, in_dims, *args)

    def forward(*args: Any) -> Any:
        return operator(*args)

    methods = {
        "forward": forward,
        "setup_context": setup_context or _no_context,
        "backward": backward,
        "vmap": vmap or loop,
    }
    bases = (torch.autograd.Function,)
    transformed: Any = type(name, bases, {key: staticmethod(method) for key, method in methods.items()})
    return call


def _no_context(ctx: Any, inputs: Any, output: Any) -> None:
    pass


def _check_no_tangent(name: str, args: tuple[Any, ...]) -> None:
    """torch.library would drop it without a word."""
    if forward_ad._current_level < 0:
        return
    for argument in args:
        if isinstance(argument, Tensor) and forward_ad.unpack_dual(argument).tangent is not None:
            raise NotImplementedError(f"{name}: forward-mode derivatives are not implemented; use reverse mode")


def vmap_loop(
    operator: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """One call of the operator for each element of the batch."""
    if info.batch_size == 0:
        raise ValueError("vmap: the batch is empty, expected at least one element")
    results = [
        operator(*(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)
