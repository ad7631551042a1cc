"""Ranges of hyperparameters that are plain numbers, as the optimizers of onepass.optim and the kernels have them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from onepass import kernels, optim
from onepass.jax._step import COMMON, is_static

_CLASSES: dict[str, type[optim.Optimizer]] = {name.lower(): getattr(optim, name) for name in optim.__all__}
# Options of the classes that are several hyperparameters of the registry.
_TOGETHER = {
    "betas": ("beta1", "beta2"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}


def check_ranges(update: str, values: Mapping[str, Any], arguments: Mapping[str, str]) -> None:
    """ValueError for a number out of its range; scalars of JAX and schedules pass.

    values: hyperparameters of the registry, or options of the class. arguments: what the user calls them.
    """
    known = {**COMMON, **kernels.UPDATES[update].hyperparameters}
    optimizer = _CLASSES[update.partition("_")[0]]  # sgd_momentum: SGD
    options = inspect.signature(optimizer).parameters
    numbers = {
        name: value.item() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in values.items()
        if is_static(value) and type(known.get(name)) is not bool
    }
    for name, number in numbers.items():
        if name in options:
            _construct(optimizer, {name: number}, arguments.get(name, name))
        else:
            _ask_kernel(update, name, number, arguments.get(name, name))
    for option, names in _TOGETHER.items():
        if option in options and all(name in numbers for name in names):
            called = " and ".join(arguments.get(name, name) for name in names)
            _construct(optimizer, {option: tuple(numbers[name] for name in names)}, called)


def _construct(optimizer: type[optim.Optimizer], options: Mapping[str, Any], called: str) -> None:
    try:
        optimizer([np.zeros(0)], **options)
    except ValueError as error:
        raise ValueError(f"{called}: {_after_name(error)}") from None


def _ask_kernel(update: str, name: str, number: Any, called: str) -> None:
    arrays = [np.zeros(0) for _ in range(2 + len(kernels.UPDATES[update].states))]
    try:
        getattr(kernels, update)(*arrays, step=1, **{name: float(number)})
    except ValueError as error:
        raise ValueError(f"{called}: {_after_name(error).removesuffix(' (group 0)')}") from None


def _after_name(error: ValueError) -> str:
    return str(error).partition(": ")[2]
