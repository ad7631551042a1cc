"""One step of Adam inside a jitted program of JAX, parameters and states donated: onepass.jax against Optax."""

from __future__ import annotations

from bench import limits
from bench.case import Case, Goal, label, size_class
from bench.cases.updates import streams
from bench.contenders import jax_updates, onepass_updates
from bench.contenders.problem import STEPS, Problem
from bench.selection import Selection

SIZES = {1 << 12: 1.5, 1 << 20: 1.5, 1 << 24: 1.1}  # elements: how much faster
SMALL_TENSORS = ((64, 64),) * 200


def _case(name: str, problem: Problem, goals: tuple[Goal, ...] = ()) -> Case:
    entries = [
        *jax_updates.onepass_entries(problem),
        *jax_updates.entries(problem),
        *onepass_updates.entries(problem)[:1],
        limits.entry(problem.elements, *streams(problem)),
    ]
    return Case(
        f"jax/{problem.rule}/{name}",
        size_class(problem.elements),
        tuple(entries),
        problem.expected,
        goals,
        base="onepass.jax",
        bytes=problem.bytes,
        memory=problem.owned(len(entries)),
        steps=STEPS,
        rtol=1e-5,
        atol=1e-6,
    )


def cases(selection: Selection) -> list[Case]:
    found = [
        _case(label(size), Problem("adam", ((size,),)), (Goal(goal, "JAX+Optax", "onepass.jax"),))
        for size, goal in SIZES.items()
    ]
    return [*found, _case("200_tensors", Problem("adam", SMALL_TENSORS))]
