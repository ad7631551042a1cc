"""How long `import` takes, in a new interpreter; `import numpy` is what everybody pays."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from bench.case import Case, Contender, Entry, Goal
from bench.selection import Selection

SCRIPT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def _seconds(module: str, repeat: int) -> float:
    total = 0.0
    for _ in range(repeat):
        command = [sys.executable, "-c", SCRIPT.format(module)]
        total += float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return total


def _contender(module: str) -> Contender:
    measure = partial(_seconds, module)
    return Contender(lambda: None, measure=measure)


# What onepass exports at its top does not need NumPy; what one trains with does.
TRAINING = "onepass.optim, onepass.nn"
GOAL = 1 / 1.3  # at most 1.3 times NumPy's


def cases(selection: Selection) -> list[Case]:
    modules = ("onepass", TRAINING, "numpy", "torch", "jax", "numba")
    entries = tuple(Entry(name, partial(_contender, name), (name.partition(".")[0],)) for name in modules)
    goals = (Goal(GOAL, "numpy"), Goal(GOAL, "numpy", TRAINING))
    return [Case("import", "small", entries, goals=goals)]
