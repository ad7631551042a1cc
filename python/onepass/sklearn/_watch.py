"""When a fit ends, and what it leaves in the estimator's attributes: scikit-learn's rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onepass.callbacks import Callback
from onepass.callbacks.callback import Run
from onepass.history import History, Record
from onepass.nn.layer import Array

__all__ = ["Watch"]

SMALLEST = 1e-6  # adaptive rates go no lower


class Watch(Callback):
    """Writes ``loss_``, ``loss_curve_``, ``n_iter_``, ``t_`` ..., stops, and restores the best validated network.

    Parameters
    ----------
    estimator
        A fitted one, or one that has the attributes of a fit of no epochs.
    rows : int
        Of an epoch.
    score : function () -> float, or None
        Of the validation rows, where there are any.
    """

    def __init__(self, estimator: Any, rows: int, score: Callable[[], float] | None) -> None:
        self.estimator = estimator
        self.converged = False
        self._rows = rows
        self._score = score
        self._best: dict[str, Array] = {}

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        self.estimator.n_iter_ = 0
        if self._score is not None:
            self._keep(trainer)

    def _keep(self, trainer: Run) -> None:
        for name, array in trainer.model.state().items():
            np.copyto(self._best.setdefault(name, np.empty_like(array)), array)

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.t_ += self._rows
        estimator.loss_ = record["loss"]
        estimator.loss_curve_.append(estimator.loss_)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
        better = self._better_loss() if self._score is None else self._better_score(self._score(), trainer)
        estimator._no_improvement_count = 0 if better else estimator._no_improvement_count + 1
        if estimator.learning_rate == "invscaling" and estimator.solver != "adam":
            estimator._network.set_rate(float(estimator.learning_rate_init) / (estimator.t_ + 1) ** estimator.power_t)
        if estimator._no_improvement_count > estimator.n_iter_no_change:
            self._stop(trainer)

    def _better_loss(self) -> bool:
        estimator = self.estimator
        loss, best = estimator.loss_, estimator.best_loss_
        estimator.best_loss_ = min(loss, best)
        return bool(loss <= best - estimator.tol)

    def _better_score(self, score: float, trainer: Run) -> bool:
        estimator = self.estimator
        best = estimator.best_validation_score_
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        if score > best:
            estimator.best_validation_score_ = score
            self._keep(trainer)
        return bool(score >= best + estimator.tol)

    def _stop(self, trainer: Run) -> None:
        estimator = self.estimator
        what = "Training loss" if self._score is None else "Validation score"
        message = f"{what} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} epochs."
        if estimator.learning_rate == "adaptive" and estimator.solver != "adam":
            rate = trainer.optimizer.learning_rates()[0]
            if rate > SMALLEST:
                estimator._network.set_rate(rate / 5)
                estimator._no_improvement_count = 0
                if estimator.verbose:
                    print(f"{message} Setting learning rate to {rate / 5:f}")
                return
            message += " Learning rate too small."
        if estimator.verbose:
            print(f"{message} Stopping.")
        self.converged = True
        trainer.stop()

    def on_fit_end(self, trainer: Run, history: History) -> None:
        if self._best:
            trainer.model.load_state(self._best)
