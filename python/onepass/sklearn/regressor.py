"""Regression."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d

from onepass.nn.layer import Array
from onepass.sklearn._estimator import BaseMLP, Rows
from onepass.sklearn._weights import sample_weights

__all__ = ["MLPRegressor"]


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """A multi-layer perceptron for one or several numbers a row: scikit-learn's MLPRegressor with squared error.

    Parameters and attributes are those of `MLPClassifier` without ``class_weight`` and ``classes_``. The loss is half
    the squared error, the mean over rows and outputs; as in scikit-learn, the gradient is that of the outputs' sum.
    The validation score is R2.

    >>> x = np.linspace(-1, 1, 200).reshape(100, 2)
    >>> y = x @ [1.0, -2.0]
    >>> model = MLPRegressor((32,), learning_rate_init=0.02, batch_size=20, random_state=0).fit(x, y)
    >>> bool(model.score(x, y) > 0.99), model.predict(x).shape
    (True, (100,))
    """

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        """One epoch more, on these rows; arguments as for fit; returns self."""
        return self._train(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:  # noqa: N803
        """(rows,), or (rows, outputs) where there are several, of the network's dtype."""
        output = self._output(X)
        return output[:, 0] if output.shape[1] == 1 else output

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _score_rows(self, output: Array, rows: Rows) -> float:
        return float(r2_score(rows.target, output, sample_weight=rows.weight))

    def _rows(self, x: Any, y: Any, sample_weight: Any, first: bool, incremental: bool, classes: Any) -> Rows:
        x, y = self._checked(x, y, first, y_numeric=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        y = y.reshape(len(y), -1)
        if first:
            self.n_outputs_, self.out_activation_ = y.shape[1], "identity"
        elif y.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {y.shape[1]} outputs, expected {self.n_outputs_} as in the fit before")
        with np.errstate(over="ignore"):  # the trainer says where y is infinite
            target = y.astype(x.dtype, copy=False)
        return Rows(x, target, sample_weights(sample_weight, len(x), x.dtype.name))
