"""onepass in PyTorch programs: operators and modules for tensors on the CPU."""

from __future__ import annotations

from onepass.torch.batch_norm import batch_norm
from onepass.torch.cross_entropy import cross_entropy
from onepass.torch.linear_cross_entropy import linear_cross_entropy
from onepass.torch.modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, CrossEntropyLoss, LinearCrossEntropyLoss
from onepass.torch.replace import replace_modules, restore_modules

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "batch_norm",
    "cross_entropy",
    "linear_cross_entropy",
    "replace_modules",
    "restore_modules",
]
