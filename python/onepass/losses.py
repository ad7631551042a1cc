"""Losses: a scalar and its gradient with respect to the prediction, in one pass."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass._right import RightRows
from onepass.kernels import (
    binary_cross_entropy_with_logits,
    huber_loss,
    mean_squared_error,
    nll_loss,
    smooth_l1_loss,
    softmax_cross_entropy,
)

__all__ = [
    "BinaryCrossEntropyWithLogits",
    "CrossEntropy",
    "Huber",
    "Loss",
    "MeanSquaredError",
    "NegativeLogLikelihood",
    "SmoothL1",
]

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
        self._right = RightRows()

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
        return self._right.of_classes(prediction, target, self.ignore_index)

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


class BinaryCrossEntropyWithLogits(Loss):
    """Mean cross-entropy of independent yes-or-no questions: `kernels.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    weight, pos_weight : array that broadcasts to the logits, or None
        A factor of each loss, and one of the yes alone: above 1 it weighs a missed yes more than a false one.

    ``prediction`` are logits of any shape; ``target`` integers 0 or 1, or probabilities of the prediction's dtype.

    >>> import numpy as np
    >>> from onepass import losses
    >>> loss, grad = losses.BinaryCrossEntropyWithLogits()(np.zeros((1, 2)), np.array([[0, 1]]))
    >>> round(loss, 4), grad.tolist()  # log(2)
    (0.6931, [[0.25, -0.25]])
    """

    def __init__(self, weight: Array | None = None, pos_weight: Array | None = None) -> None:
        self.weight = weight
        self.pos_weight = pos_weight
        self._right = RightRows()

    def __call__(self, prediction: Array, target: Array, grad: Grad = None) -> tuple[float, Array | None]:
        return binary_cross_entropy_with_logits(prediction, target, self.weight, self.pos_weight, grad=grad)

    def correct(self, prediction: Array, target: Array) -> int:
        """Rows whose every answer is right: a logit above 0 where the target is above one half."""
        return self._right.of_answers(prediction, target)

    def __repr__(self) -> str:
        return "BinaryCrossEntropyWithLogits()"


class Huber(Loss):
    """Mean of ``d^2 / 2`` where ``|d| < delta``, else ``delta (|d| - delta / 2)``: `kernels.huber_loss`.

    >>> import numpy as np
    >>> from onepass import losses
    >>> loss, grad = losses.Huber()(np.array([[0.5, 3.0]]), np.zeros((1, 2)))
    >>> loss, grad.tolist()
    (1.3125, [[0.25, 0.5]])
    """

    def __init__(self, delta: float = 1.0) -> None:
        if not 0 < delta < np.inf:
            raise ValueError(f"delta is {delta}, expected a finite number > 0")
        self.delta = delta

    def __call__(self, prediction: Array, target: Array, grad: Grad = None) -> tuple[float, Array | None]:
        return huber_loss(prediction, target, self.delta, grad=grad)

    def __repr__(self) -> str:
        return f"Huber({self.delta})"


class SmoothL1(Loss):
    """`Huber` divided by its delta, here ``beta``; the mean of ``|d|`` for 0: `kernels.smooth_l1_loss`.

    >>> import numpy as np
    >>> from onepass import losses
    >>> losses.SmoothL1(beta=0.5)(np.array([[0.25, 3.0]]), np.zeros((1, 2)), False)
    (1.40625, None)
    """

    def __init__(self, beta: float = 1.0) -> None:
        if not 0 <= beta < np.inf:
            raise ValueError(f"beta is {beta}, expected a finite number >= 0")
        self.beta = beta

    def __call__(self, prediction: Array, target: Array, grad: Grad = None) -> tuple[float, Array | None]:
        return smooth_l1_loss(prediction, target, self.beta, grad=grad)

    def __repr__(self) -> str:
        return f"SmoothL1({self.beta})"


class NegativeLogLikelihood(Loss):
    """Mean of ``-x[target]`` over rows x of log-probabilities: `kernels.nll_loss`.

    Parameters
    ----------
    weight : array (C,) of the prediction's dtype, or None
        One factor a class; the mean is then the weighted mean, as in PyTorch.
    ignore_index : int, default -100
        Rows with this label count for nothing.

    >>> import numpy as np
    >>> from onepass import losses
    >>> loss, grad = losses.NegativeLogLikelihood()(np.log([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 0]))
    >>> round(loss, 4), grad.tolist()  # log(8) / 2
    (1.0397, [[-0.5, 0.0], [-0.5, 0.0]])
    """

    def __init__(self, weight: Array | None = None, ignore_index: int = -100) -> None:
        self.weight = weight
        self.ignore_index = ignore_index
        self._right = RightRows()

    def __call__(self, prediction: Array, target: Array, grad: Grad = None) -> tuple[float, Array | None]:
        return nll_loss(prediction, target, self.weight, self.ignore_index, grad=grad)

    def correct(self, prediction: Array, target: Array) -> int:
        """Rows whose largest log-probability is the target's class; ignored rows are not correct."""
        return self._right.of_classes(prediction, target, self.ignore_index)

    def __repr__(self) -> str:
        return "NegativeLogLikelihood()"
