"""Classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from onepass.kernels import log_softmax, sigmoid, softmax
from onepass.nn.layer import Array
from onepass.schedules import Rate
from onepass.sklearn._estimator import BaseMLP, Rows
from onepass.sklearn._weights import of_classes, sample_weights

__all__ = ["MLPClassifier"]


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]  # scikit-learn has no types
    """A multi-layer perceptron that classifies: scikit-learn's MLPClassifier, trained by this package.

    With the same ``random_state`` it starts from scikit-learn's initial weights, holds out the same rows and sees the
    same batches, so that with the solvers "sgd" and "adam" it makes the same steps, to rounding.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
    activation : "identity", "logistic", "tanh", "relu" (default), "leaky_relu", "gelu" or "silu"
    solver : str, default "adam"
        An optimizer of `onepass.optim` in small letters: "sgd", "adam", "adamw", "lion", "lamb", "nadam" ...
    alpha : float, default 0.0001
        The L2 penalty ``alpha / 2 * sum(weights^2)``, biases apart, divided by the batch's rows (or its weight), is
        added to the loss, whatever the solver is.
    batch_size : int or "auto" (default)
        "auto": 200. More than there are rows: all of them.
    learning_rate : "constant" (default), "invscaling", "adaptive" or a function step -> rate
        "invscaling": ``learning_rate_init / (t_ + 1) ** power_t`` from each epoch's end on. "adaptive": divided by 5
        where the training would end, until it is at most 1e-6. Solver "adam" keeps its rate, as in scikit-learn. A
        function, such as those of `onepass.schedules`, is asked before every update, of every solver.
    learning_rate_init : float, default 0.001
    power_t : float, default 0.5
    max_iter : int, default 200
        Epochs at most.
    shuffle : bool, default True
    random_state : int, RandomState or None (default)
    tol : float, default 1e-4
        The training ends when the loss (with ``early_stopping``: the validation score) was not better than the best so
        far by ``tol`` in more than ``n_iter_no_change`` epochs in a row.
    verbose : bool, default False
    warm_start : bool, default False
        fit goes on from the last one's weights.
    momentum, nesterovs_momentum : float, default 0.9, and bool, default True
        Of "sgd".
    early_stopping : bool, default False
        Hold out ``validation_fraction`` of the rows, and end with the weights of the epoch that scored best on them.
    validation_fraction : float, default 0.1
    beta_1, beta_2, epsilon : float, default 0.9, 0.999, 1e-8
        Of "adam", "adamw", "adamax", "nadam" and "radam".
    n_iter_no_change : int or inf, default 10
        inf: ``max_iter`` epochs, without the ConvergenceWarning that this number otherwise ends with.
    class_weight : dictionary label -> weight, "balanced" or None (default)
        Multiplies the rows' weights. "balanced": all classes weigh the same together. Not for multilabel y.
    batch_norm : bool, default False
        Batch normalization before each activation. A last batch of one row is left out.
    dropout : float, default 0.0
        The probability with which a hidden unit is dropped, in training.
    solver_options : dictionary or None (default)
        More arguments of the optimizer: ``{"weight_decay": 0.01, "max_norm": 1.0}``. They go before other parameters.

    Attributes
    ----------
    classes_ : (classes,); for multilabel y the numbers of the columns
    coefs_, intercepts_ : lists of arrays (before, after) and (after,)
        Views of the network's parameters.
    loss_, loss_curve_, best_loss_ : float, list of float, float or None
        Means of the batches' losses in an epoch, penalty included.
    validation_scores_, best_validation_score_ : list of float and float, or None
    n_iter_, t_ : int
        Epochs of the last fit; rows seen in all.
    n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_ : as in scikit-learn

    A target is one label a row, of any type, or multilabel: (rows, outputs) of 0 and 1. Two classes and multilabel are
    trained with logistic outputs, more classes with softmax. Sparse X is refused. float32 X makes a float32 network.

    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> model = MLPClassifier(learning_rate_init=0.01, tol=0.01, n_iter_no_change=2, random_state=0)
    >>> bool(model.fit(x / 16, y).score(x / 16, y) > 0.95)
    True
    """

    classes_: Array

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Rate = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        class_weight: Mapping[Any, float] | str | None = None,
        batch_norm: bool = False,
        dropout: float = 0.0,
        solver_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            batch_norm=batch_norm,
            dropout=dropout,
            solver_options=solver_options,
        )
        self.class_weight = class_weight

    # ---- what a user calls

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:  # noqa: N803
        """One epoch more, on these rows; returns self.

        Args:
            X, y, sample_weight: see fit.
            classes: all labels that will ever come; needed in the first call, if fit was not called before. For
                multilabel y they are the columns, and None serves.
        """
        return self._train(X, y, sample_weight, incremental=True, classes=classes)

    def predict(self, X: Any) -> Array:  # noqa: N803
        """The label of each row (rows,), or for multilabel y 0 and 1 (rows, outputs)."""
        output = self._output(X)
        if self._multilabel:
            return (output > 0).astype(np.int64)
        labels: Array = self.classes_[self._encoded(output)]
        return labels

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Probabilities (rows, classes), of the network's dtype; for multilabel y of each 1 (rows, outputs)."""
        output = self._output(X)
        if self.out_activation_ == "softmax":
            return softmax(output, out=output)
        if self._multilabel:
            return sigmoid(output, out=output)
        return np.hstack([sigmoid(-output), sigmoid(output)])

    def predict_log_proba(self, X: Any) -> Array:  # noqa: N803
        """Logarithms of `predict_proba`, exact also where a probability is 0."""
        output = self._output(X)
        if self.out_activation_ == "softmax":
            return log_softmax(output, out=output)
        zero = output.dtype.type(0)
        both = [-np.logaddexp(zero, output), -np.logaddexp(zero, -output)]
        return both[1] if self._multilabel else np.hstack(both)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # ---- inside

    @property
    def _multilabel(self) -> bool:
        return self.out_activation_ == "logistic" and self.n_outputs_ > 1

    def _encoded(self, output: Array) -> Array:
        """The index of each row's class."""
        encoded: Array = output.argmax(axis=1) if self.out_activation_ == "softmax" else (output[:, 0] > 0).astype(int)
        return encoded

    def _may_stratify(self) -> bool:
        return self.n_outputs_ == 1  # scikit-learn's choice, which must be kept to hold out the same rows

    def _score_rows(self, output: Array, rows: Rows) -> float:
        if self._multilabel:
            right = ((output > 0) == (rows.target > 0.5)).all(axis=1)
        else:
            right = self._encoded(output) == rows.target.reshape(len(output))
        return float(np.average(right, weights=rows.weight))

    def _rows(self, x: Any, y: Any, sample_weight: Any, first: bool, incremental: bool, classes: Any) -> Rows:
        x, y = self._checked(x, y, first)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        weight = sample_weights(sample_weight, len(x), x.dtype.name)
        if y.ndim == 2:
            return Rows(x, self._multilabel_target(y, first, x.dtype), weight)
        if not first and self._multilabel:
            raise ValueError(f"y has shape {y.shape}, expected (rows, {self.n_outputs_}) as in the fit before")
        encoded = self._encode(y, first, incremental, classes)
        if self.class_weight is not None:
            if incremental and isinstance(self.class_weight, str):
                raise ValueError(
                    f"class_weight is {self.class_weight!r}, which partial_fit cannot know of rows to come; "
                    "expected a dictionary, or None and sample_weight"
                )
            factors = of_classes(self.class_weight, self.classes_, encoded, weight)[encoded].astype(x.dtype)
            weight = factors if weight is None else weight * factors
        if self.out_activation_ == "softmax":
            return Rows(x, encoded, weight)
        return Rows(x, encoded.astype(x.dtype).reshape(-1, 1), weight)

    def _encode(self, y: Array, first: bool, incremental: bool, given: Any) -> Array:
        """The index of each label in ``classes_``, which is made where first, and checked otherwise."""
        found, encoded = np.unique(y, return_inverse=True)
        if first:
            if incremental and given is None:
                raise ValueError("classes must be passed on the first call to partial_fit: all labels that will come")
            classes = found if given is None else np.unique(given)
            if len(classes) < 2:
                raise ValueError(f"y has 1 class, {classes.tolist()[0]!r:.60}, expected two or more")
        else:
            classes = self.classes_
            if given is not None and not np.array_equal(classes, np.unique(given)):
                raise ValueError(f"classes is {given!r:.200}, in the calls before it was {classes.tolist()!r:.200}")
        unknown = np.setdiff1d(found, classes)
        if unknown.size:
            raise ValueError(
                f"y has {unknown.tolist()[0]!r:.60}, which is no class; classes are {classes.tolist()!r:.200}"
            )
        if not (first or incremental) and len(found) < len(classes):
            raise ValueError(
                f"y has classes {found.tolist()!r:.200}, expected all of the fit before, {classes.tolist()!r:.200}; "
                "fit with warm_start=False"
            )
        if first:
            self.classes_ = classes
            self.n_outputs_ = 1 if len(classes) == 2 else len(classes)
            self.out_activation_ = "logistic" if len(classes) == 2 else "softmax"
        encoded = encoded.reshape(-1)
        return encoded if len(found) == len(classes) else np.searchsorted(classes, found)[encoded]

    def _multilabel_target(self, y: Any, first: bool, dtype: Any) -> Array:
        kind = type_of_target(y)
        if kind != "multilabel-indicator":
            raise ValueError(f"y is {kind} of shape {y.shape}, expected one label a row, or columns of 0 and 1")
        dense = y.toarray() if hasattr(y, "toarray") else y
        if not np.isin(dense, (0, 1)).all():
            raise ValueError("y has two axes and values other than 0 and 1, expected columns of 0 and 1")
        if self.class_weight is not None:
            raise ValueError("class_weight is given, but y is multilabel, where a row has several; use sample_weight")
        if first:
            self.classes_ = np.arange(dense.shape[1])
            self.n_outputs_, self.out_activation_ = dense.shape[1], "logistic"
        elif not self._multilabel or dense.shape[1] != self.n_outputs_:
            before = f"{self.n_outputs_} columns" if self._multilabel else "one label a row"
            raise ValueError(f"y has shape {dense.shape}, in the fit before it was {before}")
        target: Array = dense.astype(dtype)
        return target
