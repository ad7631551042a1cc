"""Softmax cross-entropy of tensors, its gradient made in the forward pass."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from onepass import kernels
from onepass.torch import _cross_entropy_eager
from onepass.torch._eager import REFUSALS
from onepass.torch._gradients import scaled
from onepass.torch._operands import (
    array,
    autocast_to_float32,
    bits,
    check_float,
    check_no_gradient,
    check_tensors,
    computed_dtype,
    needs_gradient,
    optional_array,
)
from onepass.torch._operators import operator, vmap_loop

_INSTEAD = "torch.nn.functional.cross_entropy"


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """:func:`torch.nn.functional.cross_entropy`, with loss and gradient from one read of the logits.

    For a row with target distribution t, smoothed to ``(1 - label_smoothing) t + label_smoothing / C``, class weights w
    and ``lse = log sum_j exp(x_j)``::

        loss = sum_j t_j w_j (lse - x_j) + z_loss lse^2

    Smoothing: Szegedy et al. 2016; z_loss: Chowdhery et al. 2022 (PaLM).

    Args:
        input: logits (C,), (N, C) or (N, C, d1, ...), float32, float64, float16 or bfloat16, any strides, on the CPU.
        target: classes (N, d1, ...) of any integer type, or probabilities of the logits' shape and type.
        weight: (C,) of the logits' type (float32 will do beside 16 bits); None: all ones.
        ignore_index: rows of this class have no loss and a zero gradient.
        reduction: "mean" divides by the summed weights of the rows that count (by their number for probabilities),
            nan if there are none; "sum"; "none": a loss for each row.

    Returns:
        The loss in the logits' type, () or, for "none", target's shape.

    Where a gradient is needed, the forward pass computes it and keeps it, 8 bytes moved for each float32 logit; the
    backward pass hands it on, and moves 8 more only if the loss's own gradient is not 1, in place (with
    retain_graph=True always, into a new tensor). Else the loss alone is computed, 4 bytes. torch keeps as much: the
    log-probabilities.

    Under autocast the loss is float32, as torch's; logits in bfloat16 are read as they are, and so is their gradient
    written. A gradient kept in float16 loses what is below 6e-8: under autocast logits in float16 are converted first.

    Works under torch.compile, torch.func.grad and torch.func.vmap.

    Raises:
        TypeError, ValueError: an argument that does not fit, a class out of range (it names the row), a tensor on
            another device; target or weight requires a gradient.
        NotImplementedError: in the backward pass of a backward pass.

    >>> x = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    >>> loss = cross_entropy(x, torch.tensor([0, 1]))
    >>> loss.backward()
    >>> round(loss.item(), 4), x.grad.numpy().round(3).tolist()
    (0.41, [[-0.06, 0.06], [0.25, -0.25]])
    """
    args = input, target, weight, ignore_index, reduction, label_smoothing, z_loss
    if _cross_entropy_eager.takes(*args):
        with contextlib.suppress(*REFUSALS):
            return _cross_entropy_eager.losses(*args)
    check_tensors(_INSTEAD, input=input, target=target, weight=weight)
    dtype = input.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = computed_dtype(dtype)
        if input.dtype != torch.bfloat16:
            input = autocast_to_float32(input)
        target = target.to(input.dtype) if target.is_floating_point() else target
        weight = autocast_to_float32(weight)
    _check(input, target, weight, reduction)
    unbatched = input.dim() == 1
    if unbatched:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    keep = needs_gradient(input)
    loss, _ = _cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing, z_loss, keep)
    if unbatched and reduction == "none":
        loss = loss.squeeze(0)
    return loss.to(dtype)  # type: ignore[no-any-return]


def _check(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> None:
    check_float("input", input)
    check_reduction(reduction)
    if input.dim() == 0:
        raise ValueError("input: has no axes, expected (C,), (N, C) or (N, C, d1, ...)")
    shape = input.shape
    if shape[0 if input.dim() == 1 else 1] == 0:
        raise ValueError(f"input: has no classes, shape {tuple(shape)}; expected (C,), (N, C) or (N, C, d1, ...)")
    rows = shape[:1] + shape[2:] if input.dim() > 1 else shape[:0]
    check_target(target, rows, shape, input.dtype)
    check_class_weight(weight, shape[0 if input.dim() == 1 else 1], input.dtype)
    check_no_gradient(_INSTEAD, target=target, weight=weight)


def check_reduction(reduction: str) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")


def check_target(target: Tensor, rows: Any, probabilities: Any, dtype: torch.dtype) -> None:
    if target.is_floating_point():
        if target.shape != probabilities:
            raise ValueError(
                f"target: has shape {tuple(target.shape)}, expected probabilities like the logits, "
                f"{tuple(probabilities)}, or classes {tuple(rows)} of an integer type"
            )
        if target.dtype != dtype and not (target.dtype == torch.float32 and dtype.itemsize == 2):
            raise TypeError(f"target: is {target.dtype} beside logits of {dtype}; convert it with .to({dtype})")
    elif target.dtype == torch.bool or target.is_complex():
        raise TypeError(f"target: is {target.dtype}, expected classes of an integer type; convert it with .long()")
    elif target.shape != rows:
        raise ValueError(f"target: has shape {tuple(target.shape)}, expected one class a row, {tuple(rows)}")


def check_class_weight(weight: Tensor | None, classes: int, dtype: torch.dtype) -> None:
    if weight is None:
        return
    if weight.dim() != 1 or weight.shape[0] != classes:
        raise ValueError(f"weight: has shape {tuple(weight.shape)}, expected one weight a class, ({classes},)")
    if weight.dtype != dtype and not (weight.dtype == torch.float32 and dtype.itemsize == 2):
        raise TypeError(f"weight: is {weight.dtype} beside logits of {dtype}; convert it with .to({dtype})")


def loss_of_nothing(reduction: str) -> float:
    return float("nan") if reduction == "mean" else 0.0


def _empty_results(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    keep_gradient: bool,
) -> tuple[Tensor, Tensor]:
    shape = input.shape[:1] + input.shape[2:] if reduction == "none" else ()
    loss = input.new_empty(shape, dtype=computed_dtype(input.dtype))
    return loss, torch.empty_like(input) if keep_gradient else input.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    loss, gradient = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gradient)
    ctx.kept = inputs[-1]
    ctx.options = inputs[3:-1]
    if ctx.kept:
        ctx.save_for_backward(loss, gradient)
    else:  # the caller did not see that a gradient would be needed: under torch.func.vmap, say
        ctx.save_for_backward(loss, *inputs[:3])


def _backward(ctx: Any, factor: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    rest = (None,) * 7
    if factor is None or not ctx.needs_input_grad[0]:
        return None, *rest
    loss, *saved = ctx.saved_tensors
    gradient = saved[0] if ctx.kept else _cross_entropy(*saved, *ctx.options, True)[1]
    return scaled(gradient, factor.unsqueeze(1) if factor.dim() else factor, loss, "cross_entropy"), *rest


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The batch becomes more rows, and what they are reduced to follows from each row's loss."""
    batch = info.batch_size
    input, target = (_batch_first(args[k], in_dims[k], batch) for k in (0, 1))
    weight, ignore_index, reduction, label_smoothing, z_loss, keep = args[2:]
    if in_dims[2] is not None or input.numel() == 0:
        return vmap_loop(_cross_entropy, info, in_dims, *args)
    loss, gradient = _cross_entropy(
        input.flatten(0, 1), target.flatten(0, 1), weight, ignore_index, "none", label_smoothing, z_loss, keep
    )
    loss = loss.unflatten(0, (batch, -1))
    gradient = gradient.unflatten(0, (batch, -1)) if keep else gradient.expand(batch, 0)
    if reduction != "none":
        loss = loss.flatten(1).sum(1)
    if reduction == "mean":
        mass = _mass(target, weight, ignore_index, loss.dtype)
        loss = loss / mass
        if keep:
            gradient = (gradient / mass.reshape(batch, *[1] * (gradient.dim() - 1))).to(gradient.dtype)
    return (loss, gradient), (0, 0)


def _batch_first(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    return tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _mass(target: Tensor, weight: Tensor | None, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """What "mean" divides by, (batch,)."""
    if target.is_floating_point():  # (batch, N, C, d1, ...)
        return torch.full(target.shape[:1], target[0].numel() / target.shape[2], dtype=dtype)
    counts = target != ignore_index
    weights = counts.to(dtype)
    if weight is not None:
        weights = weights * weight.to(dtype)[torch.where(counts, target, 0).long()]
    return weights.flatten(1).sum(1)


@operator(
    "cross_entropy",
    "(Tensor input, Tensor target, Tensor? weight, int ignore_index, str reduction, float label_smoothing, "
    "float z_loss, bool keep_gradient) -> (Tensor, Tensor)",
    _empty_results,
    _backward,
    _setup_context,
    _vmap,
)
def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    keep_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Losses in the type that is computed in, and the gradient of their sum, like input or (0,)."""
    loss, gradient = _empty_results(
        input, target, weight, ignore_index, reduction, label_smoothing, z_loss, keep_gradient
    )
    if input.numel() == 0:
        return loss.fill_(loss_of_nothing(reduction)), gradient
    value, _ = kernels.softmax_cross_entropy(
        array(input),
        array(target),
        optional_array(weight),
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,  # type: ignore[arg-type]
        array(gradient) if keep_gradient else False,
        dtype=bits(input),
    )
    return (torch.from_numpy(value) if reduction == "none" else loss.fill_(value)), gradient
