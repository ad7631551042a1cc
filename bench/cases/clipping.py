"""Adam after clipping the gradients to a global norm."""

from __future__ import annotations

from bench.case import Case, Goal, label, size_class
from bench.cases import updates
from bench.contenders.problem import Problem
from bench.selection import Selection


def cases(selection: Selection) -> list[Case]:
    found = []
    for size in selection.sizes:
        goals = (Goal(1.8, "torch fused"),) if size_class(size) == "memory" else ()
        problem = Problem("adam", ((size,),), max_norm=1.0)
        found.append(updates.case(f"clip/adam/{label(size)}", problem, goals))
    return found
