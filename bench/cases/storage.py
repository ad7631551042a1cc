"""An Adam step with parameters, gradients and states in fewer bits, beside float32's."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from bench import limits, peers
from bench.arrays import narrow, widen
from bench.case import Case, Contender, Entry, Goal, label, size_class
from bench.contenders.problem import STEPS, Problem
from bench.selection import Selection


class Storage(NamedTuple):
    data: str  # parameters and gradients
    states: str
    stochastic: bool
    master_weights: str | None = None


STORAGES = {
    "onepass": Storage("float32", "float32", False),
    "bf16 states": Storage("float32", "bfloat16", False),
    "bf16 states, stochastic": Storage("float32", "bfloat16", True),
    "8-bit states": Storage("float32", "float8", True),
    "8-bit states, nearest": Storage("float32", "float8", False),
    "bf16 p, g, f32 states": Storage("bfloat16", "float32", True),
    "bf16 p, g, states": Storage("bfloat16", "bfloat16", True),
    "bf16 p, g, 8-bit states": Storage("bfloat16", "float8", True),
    "bf16 p, g, 8-bit states, nearest": Storage("bfloat16", "float8", False),
    "bf16 p, g, split, 8-bit states": Storage("bfloat16", "float8", True, "split"),
    "bf16 p, g, f32 master, bf16 states": Storage("bfloat16", "bfloat16", False, "float32"),
    "f16 p, g, bf16 states": Storage("float16", "bfloat16", True),
}
GOALS = {"bf16 states": 1.35, "8-bit states": 1.6, "bf16 p, g, 8-bit states": 2.2}


def _onepass(problem: Problem, name: str) -> Contender:
    storage = STORAGES[name]
    params = [narrow(p, storage.data) for p in problem.params()]
    grads = [narrow(g, storage.data) for g in problem.grads()]
    optimizer = peers.load("onepass.optim").Adam(
        params,
        state_dtype=storage.states,
        stochastic_rounding=storage.stochastic,
        master_weights=storage.master_weights,
        dtype="bfloat16",
    )
    return Contender(lambda: optimizer.step(grads), lambda: problem.result([widen(p) for p in params]))


def _torch(problem: Problem) -> Contender:
    torch = peers.load("torch")
    params = [torch.from_numpy(p).bfloat16() for p in problem.params()]
    for param, grad in zip(params, problem.grads(), strict=True):
        param.grad = torch.from_numpy(grad).bfloat16()
    optimizer: Any = torch.optim.Adam(params, fused=True)
    return Contender(optimizer.step, lambda: problem.result([p.float().numpy() for p in params]))


def _case(size: int) -> Case:
    problem = Problem("adam", ((size,),))
    entries = [Entry(name, partial(_onepass, problem, name), ("onepass",)) for name in STORAGES]
    entries += [
        limits.entry(problem.elements, ("g", "pab", "")),
        Entry("torch fused, all bf16", partial(_torch, problem), ("torch",)),
    ]
    goals = tuple(Goal(least, "onepass", name) for name, least in GOALS.items())
    return Case(
        f"storage/adam/{label(size)}",
        size_class(size),
        tuple(entries),
        problem.expected,
        goals if size_class(size) == "memory" else (),
        bytes=problem.bytes,
        memory=problem.owned(len(entries)),
        steps=STEPS,
        atol=4e-3,
        rtol=2e-2,
    )


def cases(selection: Selection) -> list[Case]:
    return [_case(size) for size in selection.sizes]
