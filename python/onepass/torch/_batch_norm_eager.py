"""Batch normalization of eager calls: running statistics are updated in place, and what is kept are arrays."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onepass.torch import _batch_norm_operator
from onepass.torch._eager import REFUSALS, eager_apply, is_eager
from onepass.torch._operands import computed_dtype
from onepass.torch._tensors import Array, increment_versions
from onepass.torch._threads import tensors

Statistics = tuple[Tensor | None, Tensor | None, bool, float, float]
"""running_mean, running_var, training, momentum, eps"""


def takes(*arguments: Any) -> bool:
    """Whether :func:`normalize` can try such a call: input, weight, bias, running_mean, running_var, ..."""
    input, _, _, running_mean, running_var, *_ = arguments
    if not is_eager(*arguments[:5]) or input is None:
        return False
    return input.dim() > 1 and (running_mean is None) == (running_var is None)


def normalize(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    statistics = running_mean, running_var, training, momentum, eps
    if torch.is_grad_enabled():
        y: Tensor = _apply(input, weight, bias, statistics)
    else:
        y, _ = _forward(input, weight, bias, statistics)
    if training and running_mean is not None and running_var is not None:
        increment_versions([running_mean, running_var])
    return y


def _forward(input: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Statistics) -> tuple[Tensor, Array]:
    """y, and the mean and 1 / sqrt(var + eps) that normalized, (2, C)."""
    y = torch.empty_like(input)
    saved = np.empty((2, input.shape[1]))
    tensors.batch_norm(input, weight, bias, *statistics, y, saved)
    return y, saved


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, statistics: Statistics) -> Tensor:
        y, ctx.saved = _forward(input, weight, bias, statistics)
        ctx.training = statistics[2]
        ctx.save_for_backward(input, weight)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        need, need_weight, need_bias, _ = ctx.needs_input_grad
        saved, training = ctx.saved, ctx.training
        found = None
        if need and not torch.is_grad_enabled() and is_eager(dy):
            with contextlib.suppress(*REFUSALS):  # a batch of torch.vmap's, say
                found = _backward(dy, input, weight, saved, training)
        if found is None:
            mean, invstd = torch.from_numpy(saved)
            found = _batch_norm_operator.backward(dy, input, weight, mean, invstd, training, need)
        dx, dweight, dbias = found
        return dx if need else None, dweight if need_weight else None, dbias if need_bias else None, None


def _backward(
    dy: Tensor, input: Tensor, weight: Tensor | None, saved: Array, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kind = computed_dtype(input.dtype)
    dx = torch.empty_like(input)
    dweight, dbias = torch.empty(input.shape[1], dtype=kind), torch.empty(input.shape[1], dtype=kind)
    tensors.batch_norm_backward(dy, input, weight, saved, training, dx, dweight, dbias)
    return dx, dweight, dbias


_apply = eager_apply(_BatchNorm)
