"""Makes a function with a proper signature and docstring from an entry of the registry of optimizer updates."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._types import Update

UpdateFunction = Callable[..., None]
Run = Callable[[Sequence[Sequence[NDArray[Any]]], dict[str, Any], "int | None"], None]

_DOC = """One step of {name}, in place, on an array or on a sequence of arrays in one parallel region.

Args:
    param: read and written; float32 or float64, any strides.
    grad: read; like param, with strides of its own.
{states}    step: this step's number, from 1.
    {hyperparameters}: see the optimizer class in onepass.optim.
    maximize: follow the gradient instead of going against it.
    grad_scale: the gradient is multiplied by it.

{bytes} bytes for each float32 parameter.
"""


def make_update_function(update: Update, run: Run, module: str) -> UpdateFunction:
    """run(arrays, hyperparameters, threads): arrays are as many lists as the function has positional arguments."""
    names = ["param", "grad", *update.states]
    keywords: dict[str, Any] = {**update.hyperparameters, "maximize": False, "grad_scale": 1.0}
    parameter = inspect.Parameter
    signature = inspect.Signature(
        [parameter(name, parameter.POSITIONAL_OR_KEYWORD) for name in names]
        + [parameter("step", parameter.KEYWORD_ONLY)]
        + [parameter(k, parameter.KEYWORD_ONLY, default=v) for k, v in keywords.items()]
        + [parameter("threads", parameter.KEYWORD_ONLY, default=None)]
    )

    known = {*keywords, "step"}

    def function(*args: Any, threads: int | None = None, **kwargs: Any) -> None:
        if len(args) != len(names) or "step" not in kwargs or not kwargs.keys() <= known:
            bound = signature.bind(*args, threads=threads, **kwargs)  # raises, or an array came by name
            args = bound.args
            kwargs = {k: v for k, v in kwargs.items() if k in known}
        hyper = {**keywords, **kwargs, "step": _check_step(kwargs["step"])}
        run(_as_lists(names, args), hyper, threads)

    function.__name__ = function.__qualname__ = update.name
    function.__module__ = module
    function.__signature__ = signature  # type: ignore[attr-defined]
    states = "".join(f"    {name}: read and written; like param.\n" for name in update.states)
    function.__doc__ = _DOC.format(
        name=update.name,
        states=states,
        hyperparameters=", ".join(update.hyperparameters),
        bytes=update.bytes_per_parameter,
    )
    return function


def _as_lists(names: Sequence[str], arguments: Sequence[Any]) -> list[list[NDArray[Any]]]:
    one = isinstance(arguments[0], np.ndarray)
    lists: list[list[NDArray[Any]]] = []
    for name, argument in zip(names, arguments, strict=True):
        if one != isinstance(argument, np.ndarray) or not isinstance(argument, np.ndarray | Iterable):
            expected = "a NumPy array" if one else "a sequence of NumPy arrays" if lists else "a NumPy array or several"
            raise TypeError(f"{name}: expected {expected}, got {type(argument).__name__}; see numpy.asarray")
        arrays: list[Any] = [argument] if one else list(argument)
        for i, array in enumerate(arrays):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name}[{i}]: expected a NumPy array, got {type(array).__name__}; see numpy.asarray")
        if lists and len(arrays) != len(lists[0]):
            raise ValueError(f"{name}: expected {len(lists[0])} arrays like param, got {len(arrays)}")
        lists.append(arrays)
    return lists


def _check_step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        raise TypeError(f"step: expected an integer, got {step!r}") from None
    if not 1 <= number < 2**63:
        raise ValueError(f"step: expected 1 or more (and less than 2**63), got {step!r}")
    return number
