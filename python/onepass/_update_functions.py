"""Makes a function with a proper signature and docstring from an entry of the registry of optimizer updates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
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
        run(_as_lists(names, args), {**keywords, **kwargs}, threads)

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
    if isinstance(arguments[0], np.ndarray):
        return [[argument] for argument in arguments]
    lists = [list(argument) for argument in arguments]
    for name, arrays in zip(names, lists, strict=True):
        if len(arrays) != len(lists[0]):
            raise ValueError(f"{name}: expected {len(lists[0])} arrays like param, got {len(arrays)}")
    return lists
