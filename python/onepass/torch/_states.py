"""Which tensors an optimizer's states are, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from onepass._core import same_values
from onepass.torch._tensors import local

_address: Callable[[Tensor], int] = Tensor.data_ptr


class KnownStates:
    """What a step has found in ``optimizer.state``.

    Args:
        state: a dictionary of each parameter's.
        numbers: names of what is no tensor to step on.
    """

    def __init__(self, state: Mapping[Any, Any], numbers: frozenset[str]) -> None:
        entries = [entry for entry in state.values() if isinstance(entry, dict)]
        self._values = [value for entry in entries for value in entry.values()]
        named = [pair for entry in entries for pair in entry.items()]
        self._tensors = [value for name, value in named if name not in numbers and isinstance(value, Tensor)]
        self._distributed = any(local(tensor) is not tensor for tensor in self._tensors)
        self._addresses = self._look()

    def _look(self) -> list[int]:
        return list(map(_address, map(local, self._tensors) if self._distributed else self._tensors))

    def unchanged(self, state: Any) -> bool:
        """Whether all are the same objects in the same memory, which assigning to data and share_memory_ change."""
        return same_values(state, self._values) and self._look() == self._addresses
