"""Softmax cross-entropy of a linear layer's output, which is never held whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass import kernels
from onepass.torch._gradients import no_second_derivatives, scaled
from onepass.torch._operands import (
    array,
    autocast_to_float32,
    check_float,
    check_no_gradient,
    check_tensors,
    needs_gradient,
    optional_array,
)
from onepass.torch._operators import operator
from onepass.torch.cross_entropy import check_class_weight, check_reduction, check_target, loss_of_nothing

_INSTEAD = "torch.nn.functional.linear and cross_entropy"
_CHUNK = 8 << 20  # bytes of logits, as many as the forward pass holds


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)`` without the (N, C) logits.

    Names are those of :func:`torch.nn.functional.linear_cross_entropy` (torch 2.13). Logits are made for a chunk of
    rows, become their own gradient, and are used up before the next chunk (Hsu et al. 2024, Liger Kernel).

    Args:
        input: features (..., K), float32 or float64, on the CPU; copied if the last axis has gaps or the others cannot
            be seen as one.
        linear_weight: (C, K) of input's type; copied if the last axis has gaps.
        target: classes (...) of any integer type, or probabilities (..., C) of input's type.
        linear_bias: (C,) of input's type, or None.
        weight: (C,), weights of the classes.
        ignore_index, reduction, label_smoothing, z_loss: as for :func:`cross_entropy`; every axis of target is one of
            rows.

    Returns:
        The loss in input's type, () or, for "none", (...).

    Three matrix products, 6 N C K floating-point operations, in the forward pass, which makes the gradients and keeps
    them: as many bytes as input, linear_weight and linear_bias have. The backward pass hands them on, scaled only if
    the loss's own gradient is not 1. With "none" the forward pass makes the losses alone, and the backward pass, which
    learns only then what each row weighs, makes the logits again: 8 N C K. Without a gradient 2 N C K.

    Beside these, ``max(8 MiB, 128 C itemsize)`` bytes are held. Under autocast everything is float32.

    Works under torch.compile, torch.func.grad and (one call for each element of the batch) torch.func.vmap.

    Raises:
        ImportError: SciPy is not installed.
        TypeError, ValueError, NotImplementedError: as for :func:`cross_entropy`.

    >>> x = torch.eye(2, dtype=torch.float64, requires_grad=True)
    >>> loss = linear_cross_entropy(x, torch.tensor([[2.0, 0.0], [0.0, 0.0]]).double(), torch.tensor([0, 1]))
    >>> loss.backward()
    >>> round(loss.item(), 4), x.grad.numpy().round(3).tolist()
    (0.41, [[-0.119, 0.0], [0.5, 0.0]])
    """
    check_tensors(
        _INSTEAD, input=input, linear_weight=linear_weight, target=target, linear_bias=linear_bias, weight=weight
    )
    if torch.is_autocast_enabled("cpu"):
        input, linear_weight, target = map(autocast_to_float32, (input, linear_weight, target))
        linear_bias, weight = map(autocast_to_float32, (linear_bias, weight))
    _check(input, linear_weight, target, linear_bias, weight, reduction)
    rows = input.shape[:-1]
    input = input.reshape(-1, input.shape[-1])
    target = target.reshape(-1, target.shape[-1]) if target.is_floating_point() else target.reshape(-1)
    keep = [needs_gradient(t) and reduction != "none" for t in (input, linear_weight, linear_bias)]
    options = (ignore_index, reduction, label_smoothing, z_loss)
    loss, *_ = _linear_cross_entropy(input, linear_weight, linear_bias, target, weight, *options, *keep)
    return loss.reshape(rows) if reduction == "none" else loss  # type: ignore[no-any-return]


def _check(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    reduction: str,
) -> None:
    check_float("input", input, (torch.float32, torch.float64))
    check_reduction(reduction)
    if input.dim() == 0 or input.shape[-1] == 0:
        raise ValueError(f"input: has shape {tuple(input.shape)}, expected features (..., K)")
    if linear_weight.dim() != 2 or linear_weight.shape[0] == 0 or linear_weight.shape[1] != input.shape[-1]:
        raise ValueError(
            f"linear_weight: has shape {tuple(linear_weight.shape)}, expected (C, {input.shape[-1]}), "
            f"as many features as input, {tuple(input.shape)}"
        )
    classes = linear_weight.shape[0]
    if linear_bias is not None and (linear_bias.dim() != 1 or linear_bias.shape[0] != classes):
        raise ValueError(f"linear_bias: has shape {tuple(linear_bias.shape)}, expected ({classes},)")
    for name, tensor in (("linear_weight", linear_weight), ("linear_bias", linear_bias)):
        if tensor is not None and tensor.dtype != input.dtype:
            raise TypeError(f"{name}: is {tensor.dtype} beside an input of {input.dtype}; convert one with .to()")
    rows = input.shape[:-1]
    check_target(target, rows, (*rows, classes), input.dtype)
    check_class_weight(weight, classes, input.dtype)
    check_no_gradient(_INSTEAD, target=target, weight=weight)


def _dense_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[1] == 1 or matrix.stride(1) == 1 else matrix.contiguous()


_ARGUMENTS = (
    "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight, int ignore_index, "
    "str reduction, float label_smoothing, float z_loss"
)


def _empty_results(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    keep_input: bool,
    keep_weight: bool,
    keep_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        input.new_empty(input.shape[:1] if reduction == "none" else ()),
        input.new_empty(input.shape if keep_input else 0),
        input.new_empty(linear_weight.shape if keep_weight else 0),
        input.new_empty(linear_weight.shape[:1] if keep_bias else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.options = inputs[5:9]
    ctx.all_kept = all(kept or not needs for kept, needs in zip(inputs[9:], ctx.needs_input_grad[:3], strict=True))
    ctx.save_for_backward(output[0], *(output[1:] if ctx.all_kept else inputs[:5]))


def _backward(ctx: Any, factor: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if factor is None:
        return (None,) * 12
    loss, *saved = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    if ctx.options[1] == "none":
        gradients = _linear_cross_entropy_backward(factor, *saved, *ctx.options, *needs)
    else:
        gradients = saved if ctx.all_kept else _linear_cross_entropy(*saved, *ctx.options, *needs)[1:]
        gradients = [
            scaled(gradient, factor, loss, "linear_cross_entropy") if need else None
            for gradient, need in zip(gradients, needs, strict=True)
        ]
    return *(gradient if need else None for gradient, need in zip(gradients, needs, strict=True)), *(None,) * 9


@operator(
    "linear_cross_entropy",
    f"({_ARGUMENTS}, bool keep_input, bool keep_weight, bool keep_bias) -> (Tensor, Tensor, Tensor, Tensor)",
    _empty_results,
    _backward,
    _setup_context,
)
def _linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    keep_input: bool,
    keep_weight: bool,
    keep_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, and the gradients of their sum by input, linear_weight and linear_bias, each like it or (0,)."""
    loss, dinput, dweight, dbias = _empty_results(
        input, linear_weight, linear_bias, target, weight, ignore_index, reduction, label_smoothing, z_loss,
        keep_input, keep_weight, keep_bias,
    )  # fmt: skip
    if input.shape[0] == 0:
        return loss.fill_(loss_of_nothing(reduction)), dinput, dweight.zero_(), dbias.zero_()
    value, *_ = kernels.linear_cross_entropy(
        array(_dense_rows(input)),
        array(_dense_rows(linear_weight)),
        optional_array(linear_bias),
        array(target),
        optional_array(weight),
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,  # type: ignore[arg-type]
        array(dinput) if keep_input else False,
        array(dweight) if keep_weight else False,
        array(dbias) if keep_bias else False,
    )
    return torch.from_numpy(value) if reduction == "none" else loss.fill_(value), dinput, dweight, dbias


def _empty_gradients(
    factor: Tensor,
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        input.new_empty(input.shape if need_input else 0),
        input.new_empty(linear_weight.shape if need_weight else 0),
        input.new_empty(linear_weight.shape[:1] if need_bias else 0),
    )


def _backward_of_backward(ctx: Any, *gradients: Any) -> Any:
    raise no_second_derivatives("linear_cross_entropy")


@operator(
    "linear_cross_entropy_backward",
    f"(Tensor factor, {_ARGUMENTS}, bool need_input, bool need_weight, bool need_bias) -> (Tensor, Tensor, Tensor)",
    _empty_gradients,
    _backward_of_backward,
)
def _linear_cross_entropy_backward(
    factor: Tensor,
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``sum(factor * losses)``, factor (N,): the logits are made again, a chunk of rows at a time."""
    dinput, dweight, dbias = _empty_gradients(
        factor, input, linear_weight, linear_bias, target, weight, ignore_index, reduction, label_smoothing, z_loss,
        need_input, need_weight, need_bias,
    )  # fmt: skip
    dweight.zero_()
    dbias.zero_()
    chunk = max(_CHUNK // (linear_weight.shape[0] * input.element_size()), 128)
    for start in range(0, input.shape[0], chunk):
        rows = slice(start, start + chunk)
        logits = torch.nn.functional.linear(input[rows], linear_weight, linear_bias)
        memory = array(logits)
        kernels.softmax_cross_entropy(
            memory, array(target[rows]), optional_array(weight), ignore_index, label_smoothing, z_loss, "none", memory
        )
        logits *= factor[rows].unsqueeze(1)
        if need_input:
            torch.mm(logits, linear_weight, out=dinput[rows])
        if need_weight:
            dweight.addmm_(logits.T, input[rows])
        if need_bias:
            dbias += logits.sum(0)
    return dinput, dweight, dbias
