"""A step after 10,000 with vanishing gradients: averages have decayed through the subnormal numbers, or linger there.

One ordinary gradient, then zeros. Rounding to nearest holds beta * x above zero for the smallest x, so that without
flushing an average stays subnormal for good, and every operation on it costs a microcode assist.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from bench import peers
from bench.case import Array, Case, Contender, Entry, Goal, Result, label, size_class
from bench.contenders import numpy_updates, onepass_updates, torch_updates
from bench.contenders.problem import Problem
from bench.selection import Selection

RULES = ("adam", "rmsprop", "sgd_momentum")
CONTENDERS = ("onepass", "torch fused", "torch foreach", "NumPy in place")
SIZE, STEPS = 1 << 16, 10_000
PERIOD = 1 << 9  # elements after which the data repeats itself: 10,000 steps in float64 of so many are soon done
GOAL = 0.9


class Vanishing(Problem):
    """Its gradients can be taken away from whoever has got them."""

    @cached_property
    def given(self) -> list[Array]:
        return []

    def _periods(self, i: int) -> tuple[Array, Array]:
        param, grad = super()._periods(i)
        return param[:PERIOD], grad[:PERIOD]

    def grads(self) -> list[Array]:
        grads = super().grads()
        self.given.extend(grads)
        return grads

    def vanish(self) -> None:
        for grad in self.given:
            grad.fill(0.0)

    def expected(self) -> Result:
        step = getattr(peers.load("onepass.reference"), self.rule)
        param, grad = (period.astype(np.float64) for period in self._periods(0))
        states = [np.zeros_like(param) for _ in self.states]
        for number in range(1, STEPS + 1):
            step(param, grad if number == 1 else np.zeros_like(grad), *states, step=number)
        return self.result([param])


def _entries(problem: Problem) -> dict[str, Entry]:
    modules = (onepass_updates, torch_updates, numpy_updates)
    found = {entry.name: entry for module in modules for entry in module.entries(problem)}
    return {name: found[name] for name in CONTENDERS if name in found}


def _faded(rule: str, name: str) -> Contender:
    """All but the last of the steps: that is the one whose result is compared."""
    problem = Vanishing(rule, ((SIZE,),))
    contender = _entries(problem)[name].make()
    contender.run()
    problem.vanish()
    for _ in range(STEPS - 2):
        contender.run()
    return contender


def _fresh(rule: str, name: str) -> Contender:
    """The same step with ordinary gradients; update/* compares what it does."""
    return Contender(_entries(Problem(rule, ((SIZE,),)))[name].make().run)


def _case(rule: str) -> Case:
    problem = Vanishing(rule, ((SIZE,),))
    entries = []
    for name, entry in _entries(problem).items():
        fresh = f"{name}, fresh"
        entries.append(Entry(name, partial(_faded, rule, name), entry.needs, base=fresh))
        entries.append(Entry(fresh, partial(_fresh, rule, name), entry.needs, base=fresh))
    return Case(
        f"vanishing/{rule}/{label(SIZE)}",
        size_class(SIZE),
        tuple(entries),
        problem.expected,
        (Goal(GOAL, "onepass, fresh"),),
        bytes=problem.bytes,
        memory=problem.owned(len(entries)),
        atol=1e-5,
        rtol=1e-5,
    )


def cases(selection: Selection) -> list[Case]:
    return [_case(rule) for rule in RULES]
