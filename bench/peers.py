"""Who can take part: imported once, set to the same number of threads, absent ones kept by name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any

PEERS = ("torch", "jax", "optax", "numba", "sklearn", "deepspeed")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where the name is not the module's
_state = {"threads": 1, "compile": False}


def configure(threads: int | None, compile_: bool) -> int:
    """Sets every pool to `threads` (default: what onepass uses), before a peer is imported."""
    onepass = load("onepass")
    count: int = onepass.get_threads() if threads is None else threads
    onepass.set_threads(count)
    _state.update(threads=count, compile=compile_)
    os.environ["NPROC"] = os.environ["NUMBA_NUM_THREADS"] = str(count)  # NPROC: XLA's pool
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with contextlib.suppress(ImportError):
        importlib.import_module("threadpoolctl").threadpool_limits(count, user_api="blas")
    return count


def threads() -> int:
    return _state["threads"]


def compiling() -> bool:
    """Whether torch.compile takes part."""
    return bool(_state["compile"])


def installed(name: str) -> bool:
    """A module, or one of a package: "onepass.sklearn"."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package itself
        return False


def version(name: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def load(name: str) -> Any:
    module = importlib.import_module(name)
    if name == "torch":
        module.set_num_threads(threads())
    return module


def stream_limit() -> Callable[..., None]:
    function: Callable[..., None] = importlib.import_module("onepass._core").stream_limit
    return function
