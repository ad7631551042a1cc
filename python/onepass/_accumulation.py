"""One gradient from several pieces of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.nn.buffer import Buffer

__all__ = ["Accumulation"]

Array = NDArray[Any]


class Accumulation:
    """The sum of ``rows * gradient`` over pieces, each gradient being the mean over its own rows.

    >>> gradients = [np.array([1.0])]
    >>> accumulation = Accumulation(gradients)
    >>> accumulation.add(3)
    >>> gradients[0][:] = 5.0
    >>> accumulation.add(1)
    >>> accumulation.rows, accumulation.total[0] / accumulation.rows
    (4, array([2.]))
    """

    def __init__(self, gradients: Sequence[Array]) -> None:
        self._gradients = gradients
        self._buffers = [Buffer() for _ in gradients]
        self.total: list[Array] = []
        self.rows = 0

    def clear(self) -> None:
        self.rows = 0

    def add(self, rows: int) -> None:
        """Adds the gradients as they are now, and leaves them multiplied by ``rows``."""
        if not self.total:
            self.total = [b.get(g.shape, g.dtype) for b, g in zip(self._buffers, self._gradients, strict=True)]
        for total, gradient in zip(self.total, self._gradients, strict=True):
            if self.rows == 0:
                np.multiply(gradient, gradient.dtype.type(rows), out=total)
            else:
                gradient *= gradient.dtype.type(rows)
                total += gradient
        self.rows += rows
