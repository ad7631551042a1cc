"""What the estimators refuse of their parameters, when fit is called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from onepass.sklearn._network import ACTIVATIONS
from onepass.sklearn._solvers import SOLVERS

__all__ = ["check_parameters", "hidden_sizes"]

_INTEGERS = {"max_iter": 1}  # and the least
_NUMBERS = {  # the interval, and whether its ends belong to it
    "alpha": (0, math.inf, "[)"),
    "learning_rate_init": (0, math.inf, "()"),
    "power_t": (0, math.inf, "[)"),
    "tol": (0, math.inf, "[)"),
    "momentum": (0, 1, "[]"),
    "validation_fraction": (0, 1, "[)"),
    "beta_1": (0, 1, "[)"),
    "beta_2": (0, 1, "[)"),
    "epsilon": (0, math.inf, "()"),
    "dropout": (0, 1, "[)"),
}
_FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping", "batch_norm")
_CHOICES = {"activation": tuple(ACTIVATIONS), "solver": tuple(sorted(SOLVERS))}
_RATES = ("constant", "invscaling", "adaptive")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_integer(name: str, value: Any, least: int, otherwise: str = "") -> None:
    expected = f"expected an integer >= {least}{otherwise}"
    if not _is_integer(value):
        raise TypeError(f"{name} is {value!r:.60}, {expected}")
    if value < least:
        raise ValueError(f"{name} is {value}, {expected}")


def _check_number(name: str, value: Any, low: float, high: float, ends: str) -> None:
    if math.isinf(high):
        expected = f"a finite number {'>' if ends[0] == '(' else '>='} {low}"
    else:
        expected = f"a number in {ends[0]}{low}, {high}{ends[1]}"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.60}, expected {expected}")
    number = float(value)
    above = number > low if ends[0] == "(" else number >= low
    below = number < high if ends[1] == ")" else number <= high
    if not (above and below):
        raise ValueError(f"{name} is {value}, expected {expected}")


def _check_choice(name: str, value: Any, choices: Iterable[str], otherwise: str = "") -> None:
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        remedy = "; scikit-learn's own estimators have it" if name == "solver" and value == "lbfgs" else ""
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name} is {value!r:.60}, expected one of {', '.join(choices)}{otherwise}{remedy}")


def hidden_sizes(value: Any) -> tuple[int, ...]:
    """``hidden_layer_sizes`` as a tuple: an integer is one layer."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, (Iterable, Real)):
        raise TypeError(f"hidden_layer_sizes is {value!r:.60}, expected integers >= 1, such as (100,)")
    sizes: list[Any] = list(value) if isinstance(value, Iterable) else [value]
    for index, size in enumerate(sizes):
        _check_integer(f"hidden_layer_sizes[{index}]", size, 1)
    return tuple(int(size) for size in sizes)


def check_parameters(estimator: Any) -> None:
    """TypeError or ValueError naming the parameter, what it is, and what was expected."""
    hidden_sizes(estimator.hidden_layer_sizes)
    for name, choices in _CHOICES.items():
        _check_choice(name, getattr(estimator, name), choices)
    for name, least in _INTEGERS.items():
        _check_integer(name, getattr(estimator, name), least)
    for name, interval in _NUMBERS.items():
        _check_number(name, getattr(estimator, name), *interval)
    for name in _FLAGS:
        value = getattr(estimator, name)
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} is {value!r:.60}, expected True or False")
    if not isinstance(estimator.verbose, (bool, np.bool_, Integral)):
        raise TypeError(f"verbose is {estimator.verbose!r:.60}, expected True, False or an integer")
    if not (isinstance(estimator.batch_size, str) and estimator.batch_size == "auto"):
        _check_integer("batch_size", estimator.batch_size, 1, " or 'auto'")
    if estimator.n_iter_no_change != math.inf:
        _check_integer("n_iter_no_change", estimator.n_iter_no_change, 1, " or numpy.inf")
    if not callable(estimator.learning_rate):
        _check_choice("learning_rate", estimator.learning_rate, _RATES, " or a schedule, a function step -> rate")
    if not isinstance(estimator.solver_options, (Mapping, type(None))):
        raise TypeError(f"solver_options is {estimator.solver_options!r:.60}, expected a dictionary or None")
