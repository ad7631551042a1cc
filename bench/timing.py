"""Interleaved timing: every contender runs in every round, so that drift hits all of them."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench.case import Contender

Samples = dict[str, dict[int, float]]
"""Seconds a run, by contender and round."""


@dataclass(frozen=True)
class Plan:
    rounds: int = 25
    sample: float = 2e-3
    """Seconds that one sample lasts at least: short runs are repeated within it."""
    budget: float = 4.0
    """Seconds a contender may take in all; slow ones run in fewer rounds, `least` at least."""
    least: int = 3


QUICK = Plan(rounds=3, sample=1e-3, budget=0.1, least=1)


def wait_until_quiet(step: float = 5e-3, patience: int = 12) -> None:
    """Waits until the last contender's threads stop spinning: they take the next one's cores."""
    for _ in range(patience):
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(step)
        if time.process_time() - cpu < 0.1 * (time.perf_counter() - wall):
            return


def run_for(contender: Contender, repeat: int) -> float:
    """Seconds of `repeat` runs."""
    if contender.measure is not None:
        return contender.measure(repeat)
    run = contender.run
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return time.perf_counter() - start


def _calibrate(contender: Contender, plan: Plan) -> tuple[int, float]:
    """Repetitions a sample, and seconds a run."""
    repeat = 1
    while True:
        seconds = run_for(contender, repeat)
        if seconds >= 0.5 * plan.sample or repeat >= 1 << 16:
            each = max(seconds / repeat, 1e-9)
            return max(1, round(plan.sample / each)), each
        repeat *= 4


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def interleave(contenders: Mapping[str, Contender], plan: Plan, seed: int = 0) -> Samples:
    """Samples of all contenders, in a new order every round."""
    order = random.Random(seed)
    repeats: dict[str, int] = {}
    strides: dict[str, int] = {}
    with _no_garbage_collection():
        for name, contender in contenders.items():
            wait_until_quiet()
            repeats[name], seconds = _calibrate(contender, plan)
            affordable = int(plan.budget / (2 * seconds * repeats[name]))
            strides[name] = -(-plan.rounds // max(plan.least, min(plan.rounds, affordable)))
        samples: Samples = {name: {} for name in contenders}
        for number in range(plan.rounds):
            names = [name for name in contenders if number % strides[name] == 0]
            order.shuffle(names)
            for name in names:
                wait_until_quiet()
                contenders[name].run()  # wakes its threads and loads its caches
                samples[name][number] = run_for(contenders[name], repeats[name]) / repeats[name]
    return samples


def median(samples: Samples, name: str) -> float:
    return statistics.median(samples[name].values())


def _common(samples: Samples, one: str, other: str) -> set[int]:
    return samples[one].keys() & samples[other].keys()


def difference(samples: Samples, one: str, other: str) -> float:
    """How many seconds longer one took: median over the rounds that both ran in."""
    return statistics.median(samples[one][r] - samples[other][r] for r in _common(samples, one, other))


def ratio(samples: Samples, numerator: str, denominator: str) -> float:
    """How many times longer the numerator took: median over the rounds that both ran in."""
    rounds = _common(samples, numerator, denominator)
    return statistics.median(samples[numerator][r] / samples[denominator][r] for r in rounds)
