"""Softmax cross-entropy of eager calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from onepass.kernels._arguments import reduction_code
from onepass.torch._eager import eager_apply, is_eager
from onepass.torch._gradients import scaled
from onepass.torch._operands import computed_dtype, needs_gradient
from onepass.torch._threads import tensors

_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


Options = tuple[int, float, float, int]
"""ignore_index, label_smoothing, z_loss, reduction"""


def takes(*arguments: Any) -> bool:
    """Whether :func:`losses` can try such a call: input, target, weight, ..."""
    input, target, weight, *_ = arguments
    return (
        is_eager(input, target, weight)
        and not (input is None or target is None or target.requires_grad)
        and (weight is None or not weight.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and input.dim() > 1
    )


def losses(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
) -> Tensor:
    options = ignore_index, label_smoothing, z_loss, reduction_code(reduction)
    if needs_gradient(input):
        loss: Tensor = _apply(input, target, weight, options)
    else:
        loss = _forward(input, target, weight, options, None)
    return loss if loss.dtype == input.dtype else loss.to(input.dtype)


def _forward(input: Tensor, target: Tensor, weight: Tensor | None, options: Options, gradient: Tensor | None) -> Tensor:
    """Losses in the type that is computed in; the gradient of their sum goes to gradient."""
    kind = computed_dtype(input.dtype)
    if options[-1]:
        loss = tensors.softmax_cross_entropy(input, target, weight, *options, None, gradient)
        return torch.from_numpy(np.array(loss, _TYPES[kind]))
    rows = torch.empty(input.shape[:1] + input.shape[2:], dtype=kind)
    tensors.softmax_cross_entropy(input, target, weight, *options, rows, gradient)
    return rows


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
        gradient = torch.empty_like(input)
        loss = _forward(input, target, weight, options, gradient)
        ctx.save_for_backward(loss, gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        loss, gradient = ctx.saved_tensors
        if factor.dim():
            factor = factor.unsqueeze(1)
        return scaled(gradient, factor, loss, "cross_entropy"), None, None, None


_apply = eager_apply(_CrossEntropy)
