"""What a benchmark is made of: a case has entries (who takes part), goals, an expected result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Result: TypeAlias = Mapping[str, Array]

SIZE_CLASSES = {"small": 1 << 12, "cache": 1 << 20, "memory": 1 << 26}


def size_class(elements: int) -> str:
    """small: the call itself counts; cache: the last level of cache holds it; else memory."""
    return "small" if elements < 1 << 16 else "cache" if elements < 1 << 22 else "memory"


@dataclass(frozen=True)
class Contender:
    """Somebody's own buffers, ready to run."""

    run: Callable[[], object]
    result: Callable[[], Result] = dict
    """What the first `case.steps` runs produced. Nothing, for a loop without a result to check."""
    measure: Callable[[int], float] | None = None
    """Seconds of that many repetitions, where timing `run` would not measure the right thing."""


@dataclass(frozen=True)
class Entry:
    """A contender before it owns any memory."""

    name: str
    make: Callable[[], Contender]
    needs: tuple[str, ...] = ()
    limit: str | None = None
    """The entry that moves the same bytes and computes nothing."""
    base: str | None = None
    """The contender that its ratio is taken to, where it is not the case's."""
    bare: str | None = None
    """The entry that makes the same native calls and nothing else: what this one takes longer is Python's."""


@dataclass(frozen=True)
class Goal:
    """The fastest of the contenders `against` (globs, separated by |) takes at least `at_least`
    times as long as `contender`."""

    at_least: float
    against: str
    contender: str = "onepass"

    def meets(self, name: str) -> bool:
        patterns = self.against.split("|")
        return name != self.contender and any(fnmatchcase(name, p) for p in patterns)


@dataclass(frozen=True)
class Case:
    name: str
    size: str
    entries: tuple[Entry, ...]
    expected: Callable[[], Result] = dict
    goals: tuple[Goal, ...] = ()
    base: str = "onepass"
    """The contender that the ratios are taken to."""
    bytes: int | None = None
    """Moved by one run, at least."""
    memory: int = 0
    """Bytes that all contenders own together."""
    steps: int = 1
    rtol: float = 1e-4
    atol: float = 1e-5

    @property
    def group(self) -> str:
        return self.name.split("/")[0]


def label(elements: int) -> str:
    """4096 -> 4096, 1048576 -> 1Mi."""
    millions, rest = divmod(elements, 1 << 20)
    return f"{millions}Mi" if millions and not rest else str(elements)
