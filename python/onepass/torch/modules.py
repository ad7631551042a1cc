"""torch.nn's modules whose forward pass is onepass's: subclasses, with torch's parameters, buffers and state dicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass.torch.batch_norm import batch_norm
from onepass.torch.cross_entropy import cross_entropy
from onepass.torch.linear_cross_entropy import linear_cross_entropy

_ABSENT: Any = object()


def _tensor(module: torch.nn.Module, kept: Any, name: str) -> Any:
    """The attribute, in a quarter of the time; where it is not kept as usual (parametrizations), by its name."""
    value = kept.get(name, _ABSENT)
    return getattr(module, name) if value is _ABSENT else value


class _BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        training, momentum = self.training, self.momentum
        update = training and self.track_running_stats
        mean, var = _tensor(self, self._buffers, "running_mean"), _tensor(self, self._buffers, "running_var")
        if update and (batches := _tensor(self, self._buffers, "num_batches_tracked")) is not None:
            batches.add_(1)
            if momentum is None:
                return self._mean_over_batches(input)
        if not training and mean is None and var is None:
            training = True
        elif training and not update:
            mean = var = None
        momentum = 0.0 if momentum is None else momentum
        weight, bias = _tensor(self, self._parameters, "weight"), _tensor(self, self._parameters, "bias")
        return batch_norm(input, mean, var, weight, bias, training, momentum, self.eps)

    def _mean_over_batches(self, input: Tensor) -> Tensor:
        # The number of batches stays a tensor, so that torch.compile need not break off to read it.
        running: Any = self.running_mean, self.running_var
        batch = [torch.zeros_like(statistic) for statistic in running]
        y = batch_norm(input, batch[0], batch[1], self.weight, self.bias, True, 1.0, self.eps)
        number: Any = self.num_batches_tracked
        for statistic, new in zip(running, batch, strict=True):
            statistic.lerp_(new, number.double().reciprocal().to(new.dtype))
        return y


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` of (N, C) or (N, C, L), computed by :func:`onepass.torch.batch_norm`.

    Arguments, attributes, state dict and behaviour are torch's; ``isinstance(layer, torch.nn.BatchNorm1d)`` holds.

    >>> layer = BatchNorm1d(1, dtype=torch.float64)
    >>> layer(torch.tensor([[1.0], [3.0]]).double()).detach().numpy().round(3).tolist()
    [[-1.0], [1.0]]
    >>> layer.running_mean.numpy().round(3).tolist()
    [0.2]
    """


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` of (N, C, H, W), contiguous or channels_last; see :class:`BatchNorm1d`.

    >>> images = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    >>> BatchNorm2d(3)(images).is_contiguous(memory_format=torch.channels_last)
    True
    """


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` of (N, C, D, H, W); see :class:`BatchNorm1d`.

    >>> BatchNorm3d(2)(torch.zeros(1, 2, 2, 2, 2)).shape
    torch.Size([1, 2, 2, 2, 2])
    """


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """:class:`torch.nn.CrossEntropyLoss`, computed by :func:`onepass.torch.cross_entropy`.

    Arguments and meaning are torch's; ``z_loss`` is weighed against the mean or sum that reduction names.

    >>> criterion = CrossEntropyLoss(label_smoothing=0.1)
    >>> round(criterion(torch.zeros(4, 10), torch.tensor([3, 1, 4, 1])).item(), 4)  # log 10
    2.3026
    """

    z_loss: float = 0.0  # of the class, too: replace_modules gives it to modules that were torch's

    def __init__(self, *args: Any, z_loss: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        if z_loss != 0.0:
            self.z_loss = z_loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )


class LinearCrossEntropyLoss(torch.nn.Module):
    """A classifier's last linear layer and its loss: :func:`onepass.torch.linear_cross_entropy`.

    Arguments and state dict (``linear.weight``, ``linear.bias``, and ``weight`` where there is one) are those of
    :class:`torch.nn.LinearCrossEntropyLoss` (torch 2.13), but for its ``out_features`` and ``options``.

    Args:
        in_features, num_classes: K and C.
        bias: whether the layer has one.
        weight: (C,), weights of the classes; a buffer.
        reduction, ignore_index, label_smoothing, z_loss: as for :func:`onepass.torch.cross_entropy`.

    Attributes:
        linear: the :class:`torch.nn.Linear`; call it for logits, or put another there to share its weight.

    >>> criterion = LinearCrossEntropyLoss(8, 1000)
    >>> loss = criterion(torch.zeros(4, 8), torch.tensor([3, 1, 4, 1]))
    >>> round(loss.item(), 4)  # log 1000
    6.9078
    """

    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(in_features, num_classes, bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.reduction, self.ignore_index = reduction, ignore_index
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )

    def extra_repr(self) -> str:
        return (
            f"reduction={self.reduction!r}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, z_loss={self.z_loss}"
        )
