"""Makes a function with a proper signature and docstring from an entry of the registry of optimizer updates."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onepass._types import Update

UpdateFunction = Callable[..., None]


class Call(NamedTuple):
    """What a call of an update function asks for: as many lists of arrays as it has positional arguments."""

    arrays: Sequence[Sequence[NDArray[Any]]]
    hyper: dict[str, Any]  # step, maximize, grad_scale and max_value among them
    stochastic_rounding: bool
    seed: int
    threads: int | None


Run = Callable[[Call], None]

_STORAGE: dict[str, Any] = {"stochastic_rounding": False, "seed": 0, "dtype": None}

_DOC = """One step of {name}, in place, on an array or on a sequence of arrays in one parallel region.

Args:
    param: read and written; float32, float64, float16 or bfloat16 (of ml_dtypes, or its bits in uint16 if dtype says
        so), any strides.
    grad: read; of param's shape, with a type and strides of its own.
{states}    step: this step's number, from 1.
    {hyperparameters}: see the optimizer class in onepass.optim.
    maximize: follow the gradient instead of going against it.
    grad_scale: what the loss was multiplied by: the gradient is divided by it.
    max_value: then the gradient is clipped to [-max_value, max_value], before weight decay; None: it is not.
    threads: at most so many; None: onepass.get_threads().
    stochastic_rounding: what is stored in fewer bits than float32 is rounded up with the probability of what is cut
        off, from a generator keyed by (seed, step, index); otherwise to nearest even.
    dtype: "bfloat16": param and grad in uint16 are the bits of bfloat16.

Computed in float64 for a float64 param, else in float32. {bytes} bytes for each float32 parameter.
"""


def make_update_function(update: Update, run: Run, module: str) -> UpdateFunction:
    """run(arrays, hyperparameters, threads): arrays are as many lists as the function has positional arguments."""
    names = ["param", "grad", *update.states]
    keywords: dict[str, Any] = {**update.hyperparameters, "maximize": False, "grad_scale": 1.0, "max_value": None}
    parameter = inspect.Parameter
    signature = inspect.Signature(
        [parameter(name, parameter.POSITIONAL_OR_KEYWORD) for name in names]
        + [parameter("step", parameter.KEYWORD_ONLY)]
        + [parameter(k, parameter.KEYWORD_ONLY, default=v) for k, v in keywords.items()]
        + [parameter(k, parameter.KEYWORD_ONLY, default=v) for k, v in _STORAGE.items()]
        + [parameter("threads", parameter.KEYWORD_ONLY, default=None)]
    )

    known = {*keywords, "step"}

    def function(
        *args: Any,
        stochastic_rounding: bool = False,
        seed: int = 0,
        dtype: str | None = None,
        threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        if len(args) != len(names) or "step" not in kwargs or not kwargs.keys() <= known:
            bound = signature.bind(*args, **kwargs)  # raises, or an array came by name
            args = bound.args
            kwargs = {k: v for k, v in kwargs.items() if k in known}
        hyper = {**keywords, **kwargs, "step": _check_step(kwargs["step"])}
        hyper["max_value"] = math.inf if hyper["max_value"] is None else check_limit("max_value", hyper["max_value"])
        arrays = _as_lists(names, args)
        check_bits("param", arrays[0], dtype)
        check_bits("grad", arrays[1], dtype)
        run(Call(arrays, hyper, stochastic_rounding, check_seed(seed), threads))

    function.__name__ = function.__qualname__ = update.name
    function.__module__ = module
    function.__signature__ = signature  # type: ignore[attr-defined]
    states = "".join(
        f"    {name}: read and written; of param's shape, float64 for a float64 param, else float32 or bfloat16;\n"
        "        or, all states together, 8-bit blocks in uint8: see docs/storage.md.\n"
        for name in update.states
    )
    function.__doc__ = _DOC.format(
        name=update.name,
        states=states,
        hyperparameters=", ".join(update.hyperparameters),
        bytes=update.bytes_per_parameter,
    )
    return function


def check_bits(name: str, arrays: Sequence[Any], dtype: str | None) -> None:
    """Whole numbers are not taken for the bits of bfloat16 unless the caller says so."""
    if dtype not in (None, "bfloat16"):
        raise ValueError(f"dtype: expected 'bfloat16' (for bits in uint16) or None, got {dtype!r}")
    for i, array in enumerate(arrays):
        if dtype is None and isinstance(array, np.ndarray) and array.dtype == np.uint16:
            at = name if len(arrays) == 1 else f"{name}[{i}]"
            raise TypeError(f"{at}: is uint16; if these are the bits of bfloat16, say dtype='bfloat16'")


def check_limit(name: str, value: Any) -> Any:
    """What clipping takes: a number above 0."""
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number or None, got {value!r}")
    if not float(value) > 0:
        raise ValueError(f"{name}: expected a positive number or None, got {value!r}")
    return value


def check_seed(seed: Any) -> int:
    """A seed of stochastic rounding."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed: expected an integer, got {seed!r}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"seed: expected 0 <= seed < 2**64, got {seed!r}")
    return number


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
