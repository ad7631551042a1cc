"""What classifier and regressor share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from onepass.nn.layer import Array
from onepass.schedules import Rate
from onepass.sklearn._batches import RowBatches
from onepass.sklearn._network import Network, Recipe
from onepass.sklearn._objective import Objective
from onepass.sklearn._parameters import check_parameters, hidden_sizes
from onepass.sklearn._solvers import solver_options
from onepass.sklearn._watch import Watch
from onepass.trainer import DivergedError, Trainer

__all__ = ["BaseMLP", "Rows"]


class Rows(NamedTuple):
    """What is trained on: x (N, features) and target (N,) or (N, outputs), weight (N,) or None for 1 each.

    ``numbers`` (N,) are those of the caller's rows, None for 0 .. N - 1.
    """

    x: Array
    target: Array
    weight: Array | None
    numbers: Array | None = None

    def at(self, index: Array) -> Rows:
        """Those of an array of numbers."""
        weight, numbers = self.weight, self.numbers
        return Rows(
            self.x[index],
            self.target[index],
            None if weight is None else weight[index],
            index if numbers is None else numbers[index],
        )

    def counted(self) -> Rows:
        """Without the rows whose weight is 0; no weights where all others are 1."""
        weight = self.weight
        if weight is None:
            return self
        if not weight.any():
            raise ValueError("sample_weight, times class_weight, is zero in every row")
        rows = self if weight.all() else self.at(np.flatnonzero(weight))
        return rows._replace(weight=None) if np.isin(weight, (0, 1)).all() else rows


class BaseMLP(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A multi-layer perceptron: parameters, fit and partial_fit."""

    n_iter_: int
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    _network: Network

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
        batch_norm: bool = False,
        dropout: float = 0.0,
        solver_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.solver_options = solver_options

    # ---- what a subclass says

    def _rows(self, x: Any, y: Any, sample_weight: Any, first: bool, incremental: bool, classes: Any) -> Rows:
        """Checked and encoded; sets ``n_outputs_``, ``out_activation_`` and what else the labels say, where first.

        Args:
            classes: of partial_fit, or None.
        """
        raise NotImplementedError

    def _score_rows(self, output: Array, rows: Rows) -> float:
        """What `score` would be for the network's output."""
        raise NotImplementedError

    def _may_stratify(self) -> bool:
        return False

    # ---- what a user calls

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803
        """Train on X (rows, features) and y, for ``max_iter`` epochs or until nothing gets better; returns self.

        Args:
            X: float32 or float64, which the network then has too; anything else becomes float64. Copied only if it is
                not C-contiguous.
            y: (rows,) or (rows, outputs).
            sample_weight: None, or (rows,): the loss of a batch is the mean with these weights. Rows with weight 0 are
                left out before anything else.
        """
        return self._train(X, y, sample_weight, incremental=False)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_network")

    @property
    def coefs_(self) -> list[Array]:
        """The weights of each layer, (before, after): views, what is written there is the network's."""
        return [layer.weight.T for layer in self._network.model.linears]

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of each layer, (after,): views."""
        return [layer.bias for layer in self._network.model.linears if layer.bias is not None]

    # ---- inside

    def _checked(self, x: Any, y: Any, first: bool, **options: Any) -> tuple[Array, Array]:
        dtype = [np.float64, np.float32] if first else self._network.recipe.dtype
        checked: tuple[Array, Array] = validate_data(
            self, x, y, reset=first, dtype=dtype, order="C", multi_output=True, **options
        )
        return checked

    def _output(self, x: Any) -> Array:
        check_is_fitted(self)
        network = self._network
        return network.predict(validate_data(self, x, reset=False, dtype=network.recipe.dtype, order="C"))

    def _train(self, x: Any, y: Any, sample_weight: Any, incremental: bool, classes: Any = None) -> Any:
        check_parameters(self)
        if incremental and self.early_stopping:
            raise ValueError("early_stopping is True, but partial_fit has no validation rows; expected False")
        first = not hasattr(self, "_network") or not (self.warm_start or incremental)
        rows = self._rows(x, y, sample_weight, first, incremental, classes).counted()
        self._random_state = check_random_state(self.random_state)
        self._make_network(rows.x, first)
        if not (incremental and self._network.has_optimizer):
            self._network.make_optimizer(self.solver, solver_options(self))
        score = None
        if self.early_stopping:
            rows, score = self._split(rows)
        if self.early_stopping and self.best_validation_score_ is None:
            self.validation_scores_, self.best_validation_score_ = [], -np.inf
        elif not self.early_stopping and self.best_loss_ is None:
            self.best_loss_ = np.inf
        self._run(rows, score, incremental)
        return self

    def _make_network(self, x: Array, first: bool) -> None:
        units = (x.shape[1], *hidden_sizes(self.hidden_layer_sizes), self.n_outputs_)
        dtype = x.dtype.name
        recipe = Recipe(units, self.activation, bool(self.batch_norm), float(self.dropout), dtype)
        if not first:
            if recipe != self._network.recipe:
                raise ValueError(
                    f"the fitted network is {self._network.recipe}, its parameters now ask for {recipe}; "
                    "expected no change with warm_start and partial_fit: fit with warm_start=False"
                )
            return
        self._network = Network(recipe)
        self._network.initialize(self._random_state)
        self.n_layers_ = len(units)
        self.n_iter_ = self.t_ = self._no_improvement_count = 0
        self.loss_curve_ = []
        self.validation_scores_ = self.best_validation_score_ = self.best_loss_ = None

    def _split(self, rows: Rows) -> tuple[Rows, Callable[[], float]]:
        """The rows that are trained on, and the score of the others."""
        count = math.ceil(self.validation_fraction * len(rows.x))
        if not 2 <= count < len(rows.x):
            raise ValueError(
                f"early_stopping would hold out {count} of {len(rows.x)} rows, expected 2 or more, and some to train "
                "on; change validation_fraction"
            )
        train, held_out = train_test_split(
            np.arange(len(rows.x)),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=rows.target if self._may_stratify() else None,
        )
        validation, network = rows.at(held_out), self._network
        return rows.at(train), lambda: self._score_rows(network.predict(validation.x), validation)

    def _run(self, rows: Rows, score: Callable[[], float] | None, incremental: bool) -> None:
        network, count = self._network, len(rows.x)
        size = min(200, count) if self.batch_size == "auto" else min(int(self.batch_size), count)
        if self.batch_norm and size == 1:
            raise ValueError(f"batch_norm is True, but a batch has 1 sample (n_samples={count}), expected 2 or more")
        lonely = bool(self.batch_norm) and count % size == 1  # a last batch of one row has no variance
        x, target, weight, numbers = rows
        batches = RowBatches(x, target, weight, size, bool(self.shuffle), self._random_state, lonely, numbers)
        objective = Objective(self.out_activation_, network.model, float(self.alpha))
        watch = Watch(self, len(rows.x) - lonely, score)
        schedule = self.learning_rate if callable(self.learning_rate) else None
        trainer = Trainer(network.model, objective, network.optimizer, schedule, [watch])
        trainer.step = network.step
        try:
            trainer.fit(batches, epochs=1 if incremental else int(self.max_iter))
        except DivergedError as error:
            what, remedy = error.args
            remedy = remedy if "repair" in remedy else "lower learning_rate_init, or scale X and y"
            raise ValueError(f"{what}; {remedy}") from error
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        else:
            if not (incremental or watch.converged or self.n_iter_no_change == math.inf):
                warnings.warn(
                    f"after max_iter={self.max_iter} epochs the training has not converged", ConvergenceWarning, 4
                )
        finally:
            network.step = trainer.step
            network.release()
        if not all(np.isfinite(array).all() for array in network.model.state().values()):
            raise ValueError("the last step gave parameters that are not finite; lower learning_rate_init, or scale X")
