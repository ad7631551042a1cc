"""Losses: a scalar and its gradient with respect to the prediction, in one pass."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass.kernels import mean_squared_error, softmax_cross_entropy

__all__ = ["CrossEntropy", "Loss", "MeanSquaredError"]

Array = NDArray[Any]
Grad = Array | Literal[False] | None


class Loss:
    """What `Trainer` asks of a loss: ``loss, grad = loss(prediction, target, grad)``.

    ``grad`` says where the gradient goes: None, a new array; an array, written there (it may be
    ``prediction`` itself); False, no gradient, and None is returned in its place.
    """

    def __call__(self, prediction: Array, target: Array, grad: Grad = None) -> tuple[float, Array | None]:
        raise NotImplementedError

    def correct(self, prediction: Array, target: Array) -> int | None:
        """How many rows are predicted correctly; None where the question makes no sense."""
        return None


class CrossEntropy(Loss):
    """Softmax cross-entropy of logits, mean over the rows: `kernels.softmax_cross_entropy`.

    Parameters
    ----------
    weight : array (C,) of the logits' dtype, or None
        One factor a class; the mean is then the weighted mean, as in PyTorch.
    label_smoothing : float, default 0.0
        ``s``: the target becomes ``(1 - s) * onehot + s / C`` (Szegedy et al., 2016).
    ignore_index : int, default -100
        Rows with this label count for nothing.

    ``prediction`` is (N, C) or (N, C, d1, ...) float32 or float64; ``target`` integers (N, d1, ...)
    or probabilities of the prediction's shape.

    >>> import numpy as np
    >>> from onepass import losses
    >>> logits = np.zeros((2, 4), dtype=np.float32)
    >>> loss, grad = losses.CrossEntropy()(logits, np.array([0, 3]))
    >>> round(loss, 4)  # log(4)
    1.3863
    >>> grad[0]
    array([-0.375,  0.125,  0.125,  0.125], dtype=float32)
    """

    def __init__(self, weight: Array | None = None, label_smoothing: float = 0.0, ignore_index: int = -100) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is {label_smoothing}, expected 0 <= value <= 1")
        self.weight = weight
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def __call__(self, prediction: Array, target: Array, grad: Grad = None) -> tuple[float, Array | None]:
        return softmax_cross_entropy(
            prediction,
            target,
            self.weight,
            self.ignore_index,
            self.label_smoothing,
            grad=grad,
        )

    def correct(self, prediction: Array, target: Array) -> int:
        """Rows whose largest logit is the target's class; ignored rows are not correct."""
        if target.ndim == prediction.ndim:
            target = target.argmax(axis=1)
        return int(np.count_nonzero(prediction.argmax(axis=1) == target))

    def __repr__(self) -> str:
        return f"CrossEntropy(label_smoothing={self.label_smoothing})"


class MeanSquaredError(Loss):
    """Mean of ``(prediction - target) ** 2`` over all elements: `kernels.mean_squared_error`.

    ``prediction`` and ``target`` have one shape and dtype (float32 or float64).

    >>> import numpy as np
    >>> from onepass import losses
    >>> loss, grad = losses.MeanSquaredError()(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    >>> loss, grad.tolist()
    (2.0, [[0.0, 2.0]])
    """

    def __call__(self, prediction: Array, target: Array, grad: Grad = None) -> tuple[float, Array | None]:
        return mean_squared_error(prediction, target, grad=grad)

    def __repr__(self) -> str:
        return "MeanSquaredError()"
