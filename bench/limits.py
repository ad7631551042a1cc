"""The machine's own limit: onepass's team moves the same streams and computes next to nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench import arrays, peers
from bench.case import Array, Contender, Entry

Pass = tuple[str, str, str]


def _run(reads: list[Array], updates: list[Array], writes: list[Array]) -> Callable[[], object]:
    if updates or writes:
        stream = peers.stream_limit()
        count = peers.threads()
        return lambda: stream(reads, updates, writes, count)
    # Reading alone has no effect that a compiler would keep: the sum of squares is the least one.
    norm = peers.load("onepass.kernels").global_norm
    return lambda: norm(reads)


def _make(elements: int, passes: tuple[Pass, ...]) -> Contender:
    letters = sorted(set("".join("".join(one) for one in passes)))
    streams = {letter: arrays.full(elements, 1.0) for letter in letters}
    calls = [_run(*([streams[letter] for letter in part] for part in one)) for one in passes]

    def run() -> None:
        for call in calls:
            call()

    return Contender(run)


def entry(elements: int, *passes: Pass, name: str = "limit") -> Entry:
    """passes: (read, read and written, written), a letter a stream; one letter is one memory.

    An Adam step: ("g", "pmv", ""). A copy after a reduction: ("x", "", ""), ("x", "", "y").
    """
    return Entry(name, lambda: _make(elements, passes))


def bytes_moved(elements: int, *passes: Pass) -> int:
    """Of float32. A written stream counts once: the machine decides whether it is read first."""
    itemsize = np.dtype(np.float32).itemsize
    return itemsize * elements * sum(len(r) + 2 * len(u) + len(w) for r, u, w in passes)
