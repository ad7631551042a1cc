"""Batch normalization of tensors."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from onepass.torch import _batch_norm_eager, _batch_norm_operator
from onepass.torch._eager import REFUSALS
from onepass.torch._operands import check_float, check_tensors

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
    args = input, weight, bias, running_mean, running_var, training, momentum, eps
    if _batch_norm_eager.takes(*args):
        with contextlib.suppress(*REFUSALS):
            return _batch_norm_eager.normalize(*args)
    _check(input, running_mean, running_var, weight, bias, training)
    y, _, _, new_mean, new_var = _batch_norm_operator.forward(*args)
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
