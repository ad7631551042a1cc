"""What the estimators minimize: the loss of weighted rows and the L2 penalty, as scikit-learn defines both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onepass.kernels import (
    binary_cross_entropy_with_logits,
    global_norm,
    mean_squared_error,
    softmax_cross_entropy,
)
from onepass.losses import Grad, Loss
from onepass.nn.layer import Array
from onepass.sklearn._network import PenalizedSequential

__all__ = ["LOSSES", "Objective"]

# Each takes the prediction (N, outputs), the target, where the gradient goes, and the rows' shares (N,) of the batch's
# weight, or None for 1 / N each. It returns the loss and its gradient.


def _softmax(prediction: Array, target: Array, grad: Grad, share: Array | None) -> tuple[float, Array | None]:
    if share is None:
        return softmax_cross_entropy(prediction, target, grad=grad)
    losses, gradient = softmax_cross_entropy(prediction, target, reduction="none", grad=grad)
    if gradient is not None:
        gradient *= share[:, None]
    losses *= share
    return float(losses.sum(dtype=np.float64)), gradient


def _logistic(prediction: Array, target: Array, grad: Grad, share: Array | None) -> tuple[float, Array | None]:
    """The sum over a row's outputs."""
    rows, outputs = prediction.shape
    if share is None and outputs == 1:
        return binary_cross_entropy_with_logits(prediction, target, grad=grad)
    weight = np.full((1, 1), 1 / rows, prediction.dtype) if share is None else share[:, None]
    return binary_cross_entropy_with_logits(prediction, target, weight, reduction="sum", grad=grad)


def _squared(prediction: Array, target: Array, grad: Grad, share: Array | None) -> tuple[float, Array | None]:
    """Half the squared error, the mean over a row's outputs; but the gradient of their sum."""
    if share is None:
        loss, gradient = mean_squared_error(prediction, target, grad=grad)
        if gradient is not None:
            gradient *= prediction.shape[1] / 2
        return loss / 2, gradient
    losses, gradient = mean_squared_error(prediction, target, reduction="none", grad=grad)
    if gradient is not None:
        gradient *= share[:, None] / 2
    return float((losses.mean(axis=1) * share).sum(dtype=np.float64)) / 2, gradient


LOSSES: dict[str, Callable[[Array, Array, Grad, Array | None], tuple[float, Array | None]]] = {
    "softmax": _softmax,
    "logistic": _logistic,
    "identity": _squared,
}


class Objective(Loss):
    """The weighted mean over the rows of a batch, and ``alpha / 2`` times the sum of squared weights, divided by the
    weight of the batch: its number of rows without weights.

    Parameters
    ----------
    output : "softmax", "logistic" or "identity"
        What becomes of the model's output: which loss it is.
    model : PenalizedSequential
        It is told what the penalty adds to the gradients of the batch at hand.
    alpha : float

    A target is an array, or a pair ``(target, weight)``, weight (N,) not all 0.

    >>> from onepass import nn
    >>> model = PenalizedSequential(nn.Linear(1, 1))
    >>> loss = Objective("identity", model, alpha=0.0)
    >>> loss(np.array([[1.0], [3.0]]), (np.array([[0.0], [3.0]]), np.array([3.0, 1.0])))
    (0.375, array([[0.75], [0.  ]]))
    """

    def __init__(self, output: str, model: PenalizedSequential, alpha: float) -> None:
        self._loss = LOSSES[output]
        self._model = model
        self._alpha = alpha

    def __call__(self, prediction: Array, target: Any, grad: Grad = None) -> tuple[float, Array | None]:
        total, share = float(len(prediction)), None
        if isinstance(target, tuple):
            target, weight = target
            total = float(weight.sum(dtype=np.float64))
            share = weight / prediction.dtype.type(total)
        loss, gradient = self._loss(prediction, target, grad, share)
        if self._alpha:
            self._model.decay = self._alpha / total
            loss += self._model.decay / 2 * global_norm(self._model.weights) ** 2
        return loss, gradient
