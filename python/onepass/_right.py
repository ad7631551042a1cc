"""How many rows a model predicts correctly, counted without new arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.nn.buffer import Buffer

__all__ = ["RightRows"]

Array = NDArray[Any]


class RightRows:
    """Counts the rows that are predicted correctly, in memory that it keeps.

    A target whose shape does not fit counts for nothing: the loss, which is asked next, says what is wrong with it.

    >>> count = RightRows()
    >>> count.of_classes(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    1
    """

    def __init__(self) -> None:
        self._found, self._wanted, self._last_axis = Buffer(), Buffer(), Buffer()
        self._right, self._yes, self._rows = Buffer(), Buffer(), Buffer()

    def of_classes(self, prediction: Array, target: Array, ignored: int = -100) -> int:
        """Rows whose largest value is that of their class, unless it is the ignored one.

        target: classes (N, d1, ...), or like prediction, (N, C, d1, ...): then its largest value is the class.
        """
        found = self._largest(prediction, self._found)
        if target.ndim == prediction.ndim:
            wanted, ignored = self._largest(target, self._wanted), -1
        elif target.dtype == np.intp:
            wanted = target
        else:  # a comparison would convert it in pieces, each in new memory
            wanted = self._wanted.get(target.shape, np.intp)
            np.copyto(wanted, target, casting="unsafe")
        if wanted.shape != found.shape:
            return 0
        right = np.equal(found, wanted, self._right.get(found.shape, bool))
        if ignored >= 0:  # else no largest value has this number
            right &= np.not_equal(wanted, ignored, self._yes.get(found.shape, bool))
        return int(np.count_nonzero(right))

    def of_answers(self, prediction: Array, target: Array) -> int:
        """Rows whose every answer is right: a logit above 0 where the target is above one half."""
        if target.shape != prediction.shape:
            return 0
        half = 0.5 if target.dtype.kind == "f" else 0  # a number of the target's own kind: nothing is converted
        yes = np.greater(target, half, self._yes.get(target.shape, bool))
        right = np.greater(prediction, 0, self._right.get(prediction.shape, bool))
        np.equal(right, yes, right)
        rows = len(right)
        return int(np.count_nonzero(right.reshape(rows, -1).all(1, out=self._rows.get((rows,), bool)) if rows else 0))

    def _largest(self, values: Array, found: Buffer) -> Array:
        """The first largest along axis 1."""
        if values.ndim > 2 or not values.flags.c_contiguous:  # of these argmax would make a copy of its own
            moved = np.moveaxis(values, 1, -1)
            values = self._last_axis.get(moved.shape, values.dtype)
            np.copyto(values, moved)
        return values.argmax(-1, found.get(values.shape[:-1], np.intp))
