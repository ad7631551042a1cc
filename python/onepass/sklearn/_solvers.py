"""The optimizers by the names of ``solver``, and what the estimators' parameters mean to them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from onepass import optim
from onepass.optim.averages import Averaging

__all__ = ["SOLVERS", "solver_options"]

SOLVERS: dict[str, type[optim.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(optim).items()
    if isinstance(kind, type)
    and issubclass(kind, optim.Optimizer)
    and not issubclass(kind, Averaging)
    and kind is not optim.Optimizer
}
_LIKE_ADAM = {"adam", "adamw", "adamax", "nadam", "radam"}  # beta_1, beta_2 and epsilon are meant for them
_STORAGE = {"state_dtype", "stochastic_rounding", "seed"}


def solver_options(estimator: Any) -> dict[str, Any]:
    """The keyword arguments of the optimizer; ValueError for one of ``solver_options`` that it does not take."""
    solver = estimator.solver
    given: Mapping[str, Any] = estimator.solver_options or {}
    taken = {*inspect.signature(SOLVERS[solver]).parameters, *_STORAGE} - {"params", "lr", "storage", "maximize"}
    for name in given:
        if name not in taken:
            remedy = "it is learning_rate_init" if name == "lr" else f"expected some of {', '.join(sorted(taken))}"
            raise ValueError(f"solver_options has {name!r}, which solver {solver!r} does not take here; {remedy}")
    options: dict[str, Any] = {"lr": float(estimator.learning_rate_init)}
    if solver == "sgd":
        momentum = float(estimator.momentum)
        options |= {"momentum": momentum, "nesterov": bool(estimator.nesterovs_momentum) and momentum > 0}
    if solver in _LIKE_ADAM:
        options |= {"betas": (float(estimator.beta_1), float(estimator.beta_2)), "eps": float(estimator.epsilon)}
    if solver == "adam":
        options["eps_hat"] = True  # scikit-learn's epsilon stands before the bias correction
    return {**options, **given}
