"""Operators of torch.library as functions that torch.func's transforms go through, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from onepass.torch._operands import in_memory
from onepass.torch._threads import in_threads


def operator(
    name: str,
    arguments: str,
    fake: Callable[..., tuple[Tensor, ...]],
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
    vmap: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., tuple[Tensor, ...]]], Callable[..., Any]]:
    """Registers a function of tensors in memory as ``torch.ops.onepass.NAME``, and returns what to call it by.

    One derivative serves three ways: registered with torch.library, for whatever traces (torch.compile, fake tensors,
    modes); as a torch.autograd.Function for eager calls, which costs them half as much; and as one with setup_context,
    which torch.func wants, and which costs more.

    Args:
        arguments: and results, as in a schema of torch.library; several results.
        fake: the results, empty, from the same arguments.
        backward: ``(ctx, *gradients)``.
        setup_context: ``(ctx, inputs, output)``.
        vmap: ``(info, in_dims, *args)``, as torch.func describes it; None: the operator is called for each element of
            the batch.
    """

    setup = setup_context or _no_context

    def decorate(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
        def implementation(*args: Any) -> tuple[Tensor, ...]:
            return in_threads(function, *args)

        registered: Any = torch.library.custom_op(
            f"onepass::{name}", implementation, mutates_args=(), device_types="cpu", schema=arguments
        )
        registered.register_fake(fake)
        registered.register_autograd(backward, setup_context=setup_context)

        def forward(ctx: Any, *args: Any) -> Any:
            results = implementation(*args)
            setup(ctx, args, results)
            return results

        def forward_apart(*args: Any) -> Any:
            return implementation(*args) if in_memory(args) else registered(*args)

        def loop(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
            return vmap_loop(call, info, in_dims, *args)

        eager = _function(name, forward=forward, backward=backward)
        transformed = _function(name, forward=forward_apart, setup_context=setup, backward=backward, vmap=vmap or loop)

        def call(*args: Any) -> Any:
            if torch.compiler.is_compiling():
                return registered(*args)
            if torch._C._are_functorch_transforms_active():
                return transformed.apply(*args)
            if forward_ad._current_level >= 0:
                _check_no_tangent(name, args)
            if not in_memory(args):
                return registered(*args)
            return eager.apply(*args) if torch.is_grad_enabled() else implementation(*args)

        return call

    return decorate


def _function(name: str, **methods: Callable[..., Any]) -> Any:
    bases = (torch.autograd.Function,)
    return type(name, bases, {key: staticmethod(method) for key, method in methods.items()})


def _no_context(ctx: Any, inputs: Any, output: Any) -> None:
    pass


def _check_no_tangent(name: str, args: tuple[Any, ...]) -> None:
    """torch.library would drop it without a word."""
    unpack: Any = forward_ad.unpack_dual
    for argument in args:
        if isinstance(argument, Tensor) and unpack(argument).tangent is not None:
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
