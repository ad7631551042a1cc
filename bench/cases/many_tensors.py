"""Adam over many tensors in one call."""

from __future__ import annotations

import numpy as np

from bench.case import Case, Goal
from bench.cases import updates
from bench.contenders.problem import Problem
from bench.selection import Selection

MLP = ((128, 64), (128,), (128, 128), (128,), (10, 128), (10,))  # 26 122 parameters


def mixed(count: int = 200, total: int = 3_500_000) -> tuple[tuple[int, ...], ...]:
    """Matrices and vectors of sizes spread over four orders of magnitude, as networks have them."""
    sizes = np.random.default_rng(0).lognormal(8.0, 2.0, count)
    sizes *= total / sizes.sum()
    shapes: list[tuple[int, ...]] = []
    for i, size in enumerate(sizes):
        rows = max(1, round(size**0.5))
        shapes.append((max(1, round(size)),) if i % 2 else (rows, max(1, round(size / rows))))
    return tuple(shapes)


def cases(selection: Selection) -> list[Case]:
    return [
        updates.case("tensors/mlp_6", Problem("adam", MLP), (Goal(10.0, "torch fused"),)),
        updates.case("tensors/mixed_200", Problem("adam", mixed()), (Goal(2.0, "torch fused"),)),
    ]
