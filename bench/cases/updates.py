"""One optimizer step over one float32 tensor, for every rule of the registry."""

from __future__ import annotations

from bench import limits, peers
from bench.case import Case, Entry, Goal, label, size_class
from bench.contenders import (
    deepspeed_updates,
    jax_updates,
    numba_updates,
    numpy_updates,
    onepass_updates,
    torch_updates,
)
from bench.contenders.problem import STEPS, Problem, class_options
from bench.selection import Selection

FUSED_GOALS = {"small": 10.0, "cache": 1.4, "memory": 1.0}


def goals(problem: Problem, size: str) -> tuple[Goal, ...]:
    """Of targets.md: of the limit, against torch, NumPy and JAX."""
    found = []
    if size == "memory":
        found.append(Goal(0.95, "limit"))
    if (named := class_options(problem)) is not None:
        if named[0] in torch_updates.FUSED:
            found.append(Goal(FUSED_GOALS[size], "torch fused"))
        elif named[0] in torch_updates.CLASSES and size == "memory":
            found.append(Goal(4.0, "torch foreach|torch single"))
    if size != "small":
        found.append(Goal(7.0, "NumPy in place"))
    if size == "memory" and problem.rule == "adam":
        found.append(Goal(1.4, "JAX+Optax"))
    return tuple(found)


def streams(problem: Problem) -> tuple[limits.Pass, ...]:
    """Clipping reads the gradients once more, before anything may change."""
    norm: tuple[limits.Pass, ...] = (("g", "", ""),) if problem.max_norm is not None else ()
    return (*norm, ("g", "pabcd"[: 1 + len(problem.states)], ""))


def case(name: str, problem: Problem, goals: tuple[Goal, ...]) -> Case:
    entries: list[Entry] = [
        *onepass_updates.entries(problem),
        limits.entry(problem.elements, *streams(problem)),
        *torch_updates.entries(problem),
        *deepspeed_updates.entries(problem),
        *jax_updates.entries(problem),
        *numba_updates.entries(problem),
        *numpy_updates.entries(problem),
    ]
    return Case(
        name,
        size_class(problem.elements),
        tuple(entries),
        problem.expected,
        goals,
        bytes=problem.bytes,
        memory=problem.owned(len(entries)),
        steps=STEPS,
        atol=1e-6,
        rtol=1e-5,
    )


def cases(selection: Selection) -> list[Case]:
    found = []
    for rule in peers.load("onepass.kernels").UPDATES:
        for size in selection.sizes:
            problem = Problem(rule, ((size,),))
            wanted = goals(problem, size_class(size))
            found.append(case(f"update/{rule}/{label(size)}", problem, wanted))
    return found
