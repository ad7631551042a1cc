"""onepass in PyTorch programs: optimizers, operators and modules for tensors on the CPU. Needs torch 2.4 or newer.

The optimizers are drop-in: ``from onepass.torch import AdamW`` in place of ``from torch.optim``. They update a model's
parameters in place, in one native call a step, and keep torch's machinery: parameter groups, schedulers, hooks,
GradScaler, DDP, ZeroRedundancyOptimizer, FSDP2, distributed checkpoints. Kernels run in torch's own OpenMP threads
(:func:`share_threads`). Nothing is compiled against torch.

>>> import torch
>>> from onepass.torch import AdamW
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = AdamW(model.parameters(), lr=1e-3, state_dtype="bfloat16", max_norm=1.0)
>>> model(torch.ones(2, 3)).mean().backward()
>>> optimizer.step()
>>> optimizer.last_step.skipped
False
>>> optimizer.state[model.weight]["exp_avg"].dtype
torch.bfloat16
"""

from __future__ import annotations

import torch as _torch

if tuple(int(part) for part in _torch.__version__.split(".")[:2]) < (2, 4):
    raise ImportError(f"onepass.torch: needs torch 2.4 or newer, this is {_torch.__version__}; pip install -U torch")

from onepass.torch._adam import Adam, Adamax, AdamW, NAdam, RAdam
from onepass.torch._adaptive import Adadelta, Adagrad, RMSprop
from onepass.torch._optimizer import Optimizer
from onepass.torch._own_rules import LAMB, LARS, SWATS, AdaBound, Lion, Signum
from onepass.torch._sgd import ASGD, SGD, Rprop
from onepass.torch._threads import share_threads
from onepass.torch.batch_norm import batch_norm
from onepass.torch.cross_entropy import cross_entropy
from onepass.torch.linear_cross_entropy import linear_cross_entropy
from onepass.torch.modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, CrossEntropyLoss, LinearCrossEntropyLoss
from onepass.torch.replace import replace_modules, restore_modules

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "SWATS",
    "AdaBound",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Signum",
    "batch_norm",
    "cross_entropy",
    "linear_cross_entropy",
    "replace_modules",
    "restore_modules",
    "share_threads",
]
