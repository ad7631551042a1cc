"""Batch normalization of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass import kernels
from onepass._types import BatchNormSaved
from onepass.torch._gradients import no_second_derivatives
from onepass.torch._operands import (
    array,
    bits,
    check_float,
    check_tensors,
    computed_dtype,
)
from onepass.torch._operators import operator

_INSTEAD = "torch.nn.functional.batch_norm"


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm` (Ioffe and Szegedy 2015)::

        y = (x - mean) / sqrt(var + eps) * weight + bias

    Args:
        input: (N, C, ...), float32, float64, float16 or bfloat16, any strides, on the CPU; its axes are taken in the
            order of its memory, so that images in channels_last are read as they lie, and so is the result laid out.
        running_mean, running_var: (C,); updated in place when training (the variance unbiased), used when not; None,
            both, only when training.
        weight, bias: (C,); None: ones and zeros.
        training: statistics of the batch, or the running ones.
        momentum: weight of the batch in the running statistics, in [0, 1].

    Statistics, weight and bias have the input's type; beside 16 bits they may be float32, and are computed as such.

    Returns:
        y, of the input's shape, type and order of axes.

    8 bytes for each float32 element while a channel fits into cache, 12 otherwise; the backward pass 12 or 20, or 8 if
    the input needs no gradient. Kept for it: the input, and 16 bytes a channel. An empty batch changes no statistics.

    Works under torch.compile, torch.func.grad and (one call for each element of the batch) torch.func.vmap.

    Raises:
        TypeError, ValueError: an argument that does not fit, one value a channel when training, a tensor on another
            device.
        NotImplementedError: in the backward pass of a backward pass.

    >>> mean, var = torch.zeros(1).double(), torch.ones(1).double()
    >>> batch_norm(torch.tensor([[1.0], [3.0]]).double(), mean, var, training=True).numpy().round(3).tolist()
    [[-1.0], [1.0]]
    >>> mean.numpy().round(3).tolist(), var.numpy().round(3).tolist()
    ([0.2], [1.1])
    """
    if momentum is None:
        raise TypeError("momentum: is None, expected a number; BatchNorm1d, 2d and 3d count batches, and take None")
    _check(input, running_mean, running_var, weight, bias, training)
    y, _, _, new_mean, new_var = _batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
    if training and running_mean is not None and running_var is not None:
        running_mean.copy_(new_mean)
        running_var.copy_(new_var)
    return y  # type: ignore[no-any-return]


def _check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
) -> None:
    channels = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    check_tensors(_INSTEAD, input=input, **channels)
    check_float("input", input)
    shape = tuple(input.shape)
    if len(shape) < 2:
        raise ValueError(f"input: has shape {shape}, expected (N, C) or (N, C, ...)")
    for name, tensor in channels.items():
        if tensor is None:
            continue
        if tensor.dim() != 1 or tensor.shape[0] != shape[1]:
            raise ValueError(f"{name}: has shape {tuple(tensor.shape)}, expected one value a channel, ({shape[1]},)")
        if tensor.dtype != input.dtype and not (tensor.dtype == torch.float32 and input.dtype.itemsize == 2):
            raise TypeError(f"{name}: is {tensor.dtype} beside an input of {input.dtype}; convert one with .to()")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean, running_var: expected both or neither")
    if running_mean is None and not training:
        raise ValueError("running_mean: is missing; with training=False it is what normalizes")
    if training and input.numel() == shape[1] > 0:
        raise ValueError(f"input: expected more than one value a channel when training, got shape {shape}")


def _computed(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    return None if tensor is None else array(tensor if tensor.dtype == dtype else tensor.to(dtype))


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


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    if dy is None:
        return (None,) * 8
    input, weight, mean, invstd = ctx.saved_tensors
    dx, dweight, dbias = _batch_norm_backward(dy, input, weight, mean, invstd, ctx.training, needs[0])
    return dx if needs[0] else None, dweight if needs[1] else None, dbias if needs[2] else None, *(None,) * 5


@operator(
    "batch_norm",
    "(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, "
    "float momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _empty_results,
    _backward,
    _setup_context,
)
def _batch_norm(
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
def _batch_norm_backward(
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
