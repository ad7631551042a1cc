"""The native calls of a piece of Python, recorded once, to be made again without it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench import peers


@contextmanager
def _watching(calls: list[partial[Any]]) -> Iterator[None]:
    """Functions of onepass._core, and methods of its classes; the first argument of a method is the object."""
    core = peers.load("onepass._core")
    owners = [core, *(value for value in vars(core).values() if inspect.isclass(value))]
    found = [(owner, name, value) for owner in owners for name, value in vars(owner).items() if _is_call(name, value)]
    for owner, name, value in found:
        setattr(owner, name, _recording(value, calls))
    try:
        yield
    finally:
        for owner, name, value in found:
            setattr(owner, name, value)


def _is_call(name: str, value: object) -> bool:
    return callable(value) and not inspect.isclass(value) and not name.startswith("_")


def _recording(function: Callable[..., Any], calls: list[partial[Any]]) -> Callable[..., Any]:
    def record(*arguments: Any, **keywords: Any) -> Any:
        calls.append(partial(function, *arguments, **keywords))
        return calls[-1]()

    return record


def recorded(run: Callable[[], object]) -> list[partial[Any]]:
    """What `run` calls, in order. The operands are kept: made again, the calls read and write the same memory."""
    calls: list[partial[Any]] = []
    with _watching(calls):
        run()
    return calls
