"""Batch normalization as operators of torch.library, for whatever traces or transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass import kernels
from onepass._types import BatchNormSaved
from onepass.torch._gradients import no_second_derivatives
from onepass.torch._operands import array, bits, computed_dtype
from onepass.torch._operators import operator


def _computed(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    """What is read for each channel, without gaps."""
    return None if tensor is None else array(tensor.to(dtype).contiguous())


def _empty_results(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels = input.shape[1]
    new = channels if training and running_mean is not None else 0
    kind = computed_dtype(input.dtype)
    return (
        torch.empty_like(input),
        input.new_empty(channels, dtype=torch.float64),
        input.new_empty(channels, dtype=torch.float64),
        input.new_empty(new, dtype=kind),
        input.new_empty(new, dtype=kind),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.training = inputs[5]
    ctx.save_for_backward(inputs[0], inputs[1], output[1], output[2])


def _derivative(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    if dy is None:
        return (None,) * 8
    input, weight, mean, invstd = ctx.saved_tensors
    dx, dweight, dbias = backward(dy, input, weight, mean, invstd, ctx.training, needs[0])
    return dx if needs[0] else None, dweight if needs[1] else None, dbias if needs[2] else None, *(None,) * 5


@operator(
    "batch_norm",
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, "
    "float momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _empty_results,
    _derivative,
    _setup_context,
)
def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the mean and 1 / sqrt(var + eps) that normalized, and the new running statistics.

    Statistics are returned, not updated: torch derives only operators that change none of their arguments.
    """
    y, mean, invstd, *new = _empty_results(input, weight, bias, running_mean, running_var, training, momentum, eps)
    statistics: Any = running_mean, running_var
    updated = training and running_mean is not None
    if updated:
        for result, statistic in zip(new, statistics, strict=True):
            result.copy_(statistic)
        statistics = new
    if input.numel() == 0:
        return y, mean.zero_(), invstd.zero_(), new[0], new[1]
    kind = computed_dtype(input.dtype)
    kernels.batch_norm(
        array(input),
        _computed(weight, kind),
        _computed(bias, kind),
        _computed(statistics[0], kind),
        _computed(statistics[1], kind),
        training,
        momentum,
        eps,
        out=array(y),
        mean=array(mean),
        invstd=array(invstd),
        dtype=bits(input),
    )
    return y, mean, invstd, new[0], new[1]


def _empty_gradients(
    dy: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    training: bool,
    input_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    kind = computed_dtype(input.dtype) if weight is None else weight.dtype
    dx = torch.empty_like(input) if input_gradient else input.new_empty(0)
    return dx, input.new_empty(input.shape[1], dtype=kind), input.new_empty(input.shape[1], dtype=kind)


def _backward_of_backward(ctx: Any, *gradients: Any) -> Any:
    raise no_second_derivatives("batch_norm")


@operator(
    "batch_norm_backward",
    "(Tensor dy, Tensor input, Tensor? weight, Tensor mean, Tensor invstd, bool training, bool input_gradient) "
    "-> (Tensor, Tensor, Tensor)",
    _empty_gradients,
    _backward_of_backward,
)
def backward(
    dy: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    training: bool,
    input_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, or (0,), and of weight and bias, in the weight's type."""
    dx, dweight, dbias = _empty_gradients(dy, input, weight, mean, invstd, training, input_gradient)
    if input.numel() == 0:
        return dx, dweight.zero_(), dbias.zero_()
    saved = BatchNormSaved(array(mean), array(invstd), None, False, False, None, training, 1)
    gamma = _computed(weight, computed_dtype(input.dtype))
    if input_gradient:
        *_, dgamma, dbeta = kernels.batch_norm_backward(
            array(dy), array(input), gamma, saved, array(dx), dtype=bits(input)
        )
    else:
        dbeta, dgamma = kernels.batch_norm_backward_sums(array(dy), array(input), gamma, saved, dtype=bits(input))
        dgamma = dgamma * saved.invstd
    return dx, dweight.copy_(torch.from_numpy(dgamma)), dbias.copy_(torch.from_numpy(dbeta))
