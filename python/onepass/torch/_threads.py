"""In whose threads the kernels run: torch's own, where its OpenMP runtime can be found.

Two pools whose threads look out for work hold each other's cores: a step over a million parameters behind torch's
operators takes 1.2 times as long in threads of another pool (docs/performance.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from onepass import _core

Result = TypeVar("Result")


def _openmp() -> _core.OpenMp | None:
    """What torch's operators run in; None: another kind of threads."""
    if not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        return _core.OpenMp(ctypes.CDLL(torch._C.__file__)._handle)
    except (OSError, RuntimeError):
        return None


_torch = _openmp()
tensors = _core.Tensors((torch.Tensor, torch.nn.Parameter), torch._C._to_dlpack)
"""Kernels on tensors; ``openmp``: the threads that they and all others run in."""
tensors.openmp = _torch


def share_threads(enabled: bool = True) -> bool:
    """Whether optimizers and operators of :mod:`onepass.torch` run in torch's OpenMP threads, which is the default.

    Then torch's operators and these do not wait for each other's threads, and there are as many as
    ``torch.set_num_threads`` says, but no more than :func:`onepass.set_threads`. Results have the same bits. As for
    torch's own operators, a region waits for all of its threads; where a third pool (NumPy's BLAS) is at work between
    the steps, onepass's own may be faster.

    Args:
        enabled: False: onepass's own threads.

    Returns:
        Whether they are shared now: False, too, where torch has no OpenMP runtime that can be used.

    Raises:
        TypeError: enabled is no boolean.

    >>> share_threads(False)
    False
    >>> shared = share_threads()
    """
    if not isinstance(enabled, bool):
        raise TypeError(f"enabled: expected True or False, got {enabled!r}")
    tensors.openmp = _torch if enabled else None
    return tensors.openmp is not None


def in_threads(function: Callable[..., Result], *args: Any) -> Result:
    """``function(*args)``, its kernels in the threads that are used."""
    openmp = tensors.openmp
    if openmp is None:
        return function(*args)
    openmp.enter()
    try:
        return function(*args)
    finally:
        openmp.leave()
