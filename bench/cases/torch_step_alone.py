"""A step of an optimizer for torch: by itself, and in turns with operators of torch, which have a pool of their own.

"apart" is what both take when each runs for itself and has the caches, "own threads" what a second pool costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench import peers
from bench.case import Case, Contender, Entry, Goal, label
from bench.cases.many_tensors import MLP, mixed
from bench.contenders import onepass_updates, torch_updates
from bench.contenders.native_calls import recorded
from bench.contenders.problem import STEPS, Problem
from bench.selection import Selection

NATIVE = "native call alone"
ALONE = (("mlp_6", MLP, "small"), ("mixed_200", mixed(), "cache"))
TURNS = (((512, 512),) * 4, "cache")

Step = tuple[Callable[[], object], list[Any]]
"""A step, and the arrays that it updates."""


def _ours(problem: Problem, module: str = "onepass.torch", **switches: Any) -> Step:
    name, options, params, tensors = torch_updates.tensors_of(problem)
    return getattr(peers.load(module), name)(tensors, **options, **switches).step, params


def _alone(problem: Problem) -> Contender:
    step, params = _ours(problem)
    return Contender(step, lambda: problem.result(params))


def _native(problem: Problem) -> Contender:
    """The first step makes the states, too; what the others repeat of it goes to torch's threads, steps and leaves."""
    step, params = _ours(problem)
    calls: list[Callable[[], object]] = []

    def run() -> None:
        if not calls:
            calls.extend(call for call in recorded(step) if call.func.__name__ in ("enter", "step_at", "leave"))
        else:
            for call in calls:
                call()

    return Contender(run, lambda: problem.result(params))


def _work() -> Callable[[], object]:
    """Two operators of torch that its OpenMP threads share, a product and a GELU."""
    torch = peers.load("torch")
    x, weight = torch.randn(256, 512), torch.randn(512, 512)
    out = torch.empty(256, 512)
    return lambda: torch.nn.functional.gelu(torch.mm(x, weight, out=out))


def _turns(make: Callable[[], Step], problem: Problem, threads: int | None = None, *, share: bool = True) -> Contender:
    step, params = make()
    work = _work()

    def run() -> None:
        work()
        step()

    def measure(repeat: int) -> float:
        onepass = peers.load("onepass")
        before = onepass.get_threads()
        share_threads = peers.load("onepass.torch").share_threads
        share_threads(share)
        if threads is not None:
            onepass.set_threads(threads)
        try:
            run()
            start = time.perf_counter()
            for _ in range(repeat):
                run()
            return time.perf_counter() - start
        finally:
            onepass.set_threads(before)
            share_threads()

    return Contender(run, lambda: problem.result(params), measure)


def _apart(make: Callable[[], Step], problem: Problem) -> Contender:
    """First all of torch's operators, then all steps."""
    step, params = make()
    work = _work()

    def run() -> None:
        work()
        step()

    def measure(repeat: int) -> float:
        seconds = 0.0
        for part in (work, step):
            part()
            start = time.perf_counter()
            for _ in range(repeat):
                part()
            seconds += time.perf_counter() - start
        return seconds

    return Contender(run, lambda: problem.result(params), measure)


def _case(name: str, problem: Problem, size: str, entries: list[Entry], goals: tuple[Goal, ...]) -> Case:
    expected = problem.expected if peers.installed("torch") else dict
    return Case(f"torch_step/{name}", size, tuple(entries), expected, goals, bytes=problem.bytes,
                memory=problem.owned(len(entries)), steps=STEPS, atol=1e-6, rtol=1e-5)  # fmt: skip


def cases(selection: Selection) -> list[Case]:
    found = []
    for name, shapes, size in ALONE:
        problem = Problem("adam", shapes)
        arrays = next(entry for entry in onepass_updates.entries(problem) if entry.name == "onepass")
        entries = [
            Entry("onepass", partial(_alone, problem), ("torch",), bare=NATIVE),
            Entry(NATIVE, partial(_native, problem), ("torch",)),
            Entry("onepass.optim, NumPy", arrays.make),
            *torch_updates.entries(problem),
        ]
        goals = (Goal(1.0, "torch fused|torch foreach|torch single"),)
        found.append(_case(f"alone/{name}", problem, size, entries, goals))
    shapes, size = TURNS
    problem = Problem("adam", shapes)
    ours = partial(_ours, problem)
    theirs = partial(_ours, problem, "torch.optim", fused=True)
    entries = [
        Entry("onepass", partial(_turns, ours, problem), ("torch",)),
        Entry("onepass, apart", partial(_apart, ours, problem), ("torch",)),
        Entry("onepass, own threads", partial(_turns, ours, problem, share=False), ("torch",)),
        Entry("onepass, one thread", partial(_turns, ours, problem, 1), ("torch",)),
        Entry("torch fused", partial(_turns, theirs, problem), ("torch",)),
        Entry("torch fused, apart", partial(_apart, theirs, problem), ("torch",)),
    ]
    goals = (Goal(1.0, "torch fused"),)
    found.append(_case(f"in_turns/{label(problem.elements)}", problem, size, entries, goals))
    return found
