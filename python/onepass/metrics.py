"""Metrics of predictions, batch by batch: ``Trainer(..., metrics=[metrics.TopK(5)])`` adds them to `Trainer.evaluate`.

A metric has a ``name``, ``reset()``, ``update(prediction, target)`` for a batch, and ``value()``. What looks at all
rows at once comes from scikit-learn: `confusion_matrix` and its picture.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._extras import require

__all__ = ["R2", "Accuracy", "MeanAbsoluteError", "TopK", "confusion_matrix", "plot_confusion_matrix"]

Array = NDArray[Any]


class TopK:
    """The share of rows whose class is among the ``k`` largest of a row of predictions (N, C); targets (N,) integers.

    Among equal predictions the classes with the smaller numbers come first. Rows with ``ignore_index`` do not count.

    >>> metric = TopK(2)
    >>> metric.update(np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]), np.array([1, 2]))
    >>> metric.name, metric.value()
    ('top_2', 0.5)
    """

    def __init__(self, k: int, ignore_index: int = -100) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, expected >= 1")
        self.k = k
        self.ignore_index = ignore_index
        self.name = f"top_{k}"
        self.reset()

    def reset(self) -> None:
        self._right = self._rows = 0

    def update(self, prediction: Array, target: Array) -> None:
        if prediction.ndim != 2 or target.shape != prediction.shape[:1]:
            raise ValueError(
                f"prediction and target have shapes {prediction.shape} and {target.shape}, expected (N, C) and (N,)"
            )
        counted = target != self.ignore_index
        prediction, target = prediction[counted], target[counted]
        own = np.take_along_axis(prediction, target[:, None], axis=1)
        before = (prediction > own) | ((prediction == own) & (np.arange(prediction.shape[1]) < target[:, None]))
        self._right += int((before.sum(axis=1) < self.k).sum())
        self._rows += len(target)

    def value(self) -> float:
        return self._right / self._rows if self._rows else float("nan")


class Accuracy(TopK):
    """`TopK` of one: the share of rows whose largest prediction is their class.

    >>> metric = Accuracy()
    >>> metric.update(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    >>> metric.value()
    0.5
    """

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__(1, ignore_index)
        self.name = "accuracy"


class MeanAbsoluteError:
    """Mean of ``|prediction - target|`` over all elements.

    >>> metric = MeanAbsoluteError()
    >>> metric.update(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    >>> metric.value()
    1.5
    """

    name = "mean_absolute_error"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, prediction: Array, target: Array) -> None:
        self._sum += float(np.abs(prediction - target).sum(dtype=np.float64))
        self._count += prediction.size

    def value(self) -> float:
        return self._sum / self._count if self._count else float("nan")


class R2:
    """Coefficient of determination, ``1 - sum((target - prediction)^2) / sum((target - mean)^2)``, over all elements.

    Sums are kept about the first target, so that a large mean does not cancel. NaN where all targets are equal.

    >>> metric = R2()
    >>> metric.update(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    >>> metric.value()
    0.5
    """

    name = "r2"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._near: float | None = None
        self._count, self._residual, self._first, self._second = 0, 0.0, 0.0, 0.0

    def update(self, prediction: Array, target: Array) -> None:
        wide = target.astype(np.float64)
        if self._near is None:
            self._near = float(wide.flat[0])
        self._residual += float(((wide - prediction) ** 2).sum())
        wide -= self._near
        self._first += float(wide.sum())
        self._second += float((wide**2).sum())
        self._count += target.size

    def value(self) -> float:
        total = self._second - self._first**2 / self._count if self._count else 0.0
        return 1 - self._residual / total if total > 0 else float("nan")


def _labels(name: str, value: Array) -> Array:
    labels = np.asarray(value)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        hint = "; of logits take argmax(axis=1)" if labels.ndim == 2 else ""
        raise ValueError(f"{name} is {labels.dtype} {labels.shape}, expected integers (N,){hint}")
    return labels


def confusion_matrix(target: Array, predicted: Array, classes: int | None = None) -> NDArray[np.int64]:
    """(C, C) int64: rows are true classes, columns predicted ones, both integers (N,). By scikit-learn.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0])).tolist()
    [[1, 0], [1, 1]]
    """
    target, predicted = _labels("target", target), _labels("predicted", predicted)
    count = max(int(target.max(initial=0)), int(predicted.max(initial=0))) + 1 if classes is None else classes
    matrix: NDArray[np.int64] = require("sklearn.metrics").confusion_matrix(target, predicted, labels=range(count))
    return matrix


def plot_confusion_matrix(
    target: Array, predicted: Array, path: str | PathLike[str] | None = None, classes: int | None = None
) -> Any:
    """A picture of `confusion_matrix`: matplotlib's Figure, and a PNG if there is a ``path``.

    The numbers are counts, up to 30 classes; the color is a count's share of its row, the true class.
    """
    matrix = confusion_matrix(target, predicted, classes)
    count = len(matrix)
    side = min(max(0.45 * count + 1.5, 3.5), 12 if count <= 30 else 8)
    figure = require("matplotlib.figure").Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted class", ylabel="true class", title="Confusion matrix")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    percent = require("matplotlib.ticker").PercentFormatter(1.0)
    figure.colorbar(image, ax=axes, label="share of the true class", format=percent, shrink=0.8)
    if count <= 30:
        axes.set(xticks=range(count), yticks=range(count))
        for row, column in np.ndindex(count, count):
            if matrix[row, column]:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, matrix[row, column], ha="center", va="center", color=color, fontsize="small")
    if path is not None:
        figure.savefig(path, dpi=150, format="png")
    return figure
