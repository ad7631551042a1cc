"""An optimizer step in a NumPy loop: what np.matmul and the step cost alone, and beside each other.

BLAS keeps a pool of threads that spin for a while after work, and so does an OpenMP region;
alternating, each finds the cores taken by the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from bench import arrays
from bench.case import Case, Contender, Entry, Result
from bench.contenders import onepass_updates, torch_updates
from bench.contenders.problem import Problem
from bench.selection import Selection

# side of the square matrices; an Adam step over one of them
SIDES = ((128, "small"), (512, "cache"))


def _matmul(side: int) -> tuple[Callable[[], object], Callable[[], Result]]:
    a, b = (arrays.copy(arrays.normal((side, side), seed)) for seed in (1, 2))
    product = arrays.full((side, side), 0.0)
    return lambda: np.matmul(a, b, out=product), lambda: {"product": product}


def _beside(
    timed: Callable[[], object], other: Callable[[], object]
) -> tuple[Callable[[], None], Callable[[int], float]]:
    """Alternates the two; counts the seconds of the first alone."""

    def run() -> None:
        other()
        timed()

    def measure(repeat: int) -> float:
        total = 0.0
        for _ in range(repeat):
            other()
            start = time.perf_counter()
            timed()
            total += time.perf_counter() - start
        return total

    return run, measure


def _step(side: int, who: str) -> Contender:
    problem = Problem("adam", ((side, side),))
    entries = [*onepass_updates.entries(problem), *torch_updates.entries(problem)]
    return next(entry for entry in entries if entry.name == who).make()


def _matmul_alone(side: int) -> Contender:
    return Contender(_matmul(side)[0])


def _step_alone(side: int, who: str) -> Contender:
    return Contender(_step(side, who).run)


def _both(side: int, who: str, matmul_timed: bool) -> Contender:
    (matmul, product), step = _matmul(side), _step(side, who)
    pair = (matmul, step.run) if matmul_timed else (step.run, matmul)
    run, measure = _beside(*pair)
    return Contender(run, lambda: {**product(), **step.result()}, measure)


def _expected(side: int) -> Result:
    a, b = (arrays.normal((side, side), seed).astype(np.float64) for seed in (1, 2))
    return {"product": a @ b, **Problem("adam", ((side, side),)).expected()}


def cases(selection: Selection) -> list[Case]:
    found = []
    for side, size in SIDES:
        alone = "np.matmul alone"
        entries = [Entry(alone, partial(_matmul_alone, side))]
        for who, needs in (("onepass", ("onepass",)), ("torch fused", ("torch",))):
            step, beside = f"{who} alone", f"np.matmul beside {who}"
            entries += [
                Entry(beside, partial(_both, side, who, True), needs),
                Entry(step, partial(_step_alone, side, who), needs, base=step),
                Entry(f"{who} beside np.matmul", partial(_both, side, who, False), needs, base=step),
            ]
        found.append(
            Case(
                f"numpy_loop/{side}x{side}",
                size,
                tuple(entries),
                partial(_expected, side),
                base=alone,
                steps=3,
                atol=1e-3,
            )
        )
    return found
