"""Numba: Adam as a parallel loop, the way one writes it by hand."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from bench import peers
from bench.case import Array, Contender, Entry
from bench.contenders.problem import Problem


@cache
def _kernel() -> Any:
    numba = peers.load("numba")
    numba.set_num_threads(peers.threads())
    prange, sqrt = numba.prange, math.sqrt

    def adam(p: Array, g: Array, m: Array, v: Array, h: Any) -> None:
        beta1, fresh1, beta2, fresh2, step_size, unbias, eps = h
        for i in prange(p.size):
            m[i] = beta1 * m[i] + fresh1 * g[i]
            v[i] = beta2 * v[i] + fresh2 * g[i] * g[i]
            p[i] -= step_size * m[i] / (sqrt(v[i]) * unbias + eps)

    return numba.njit(parallel=True)(adam)


def _make(problem: Problem) -> Contender:
    adam, h = _kernel(), problem.hyperparameters
    params, grads, states = problem.params(), problem.grads(), problem.zeros()
    operands = [tuple(array.reshape(-1) for array in tensor) for tensor in zip(params, grads, *states, strict=True)]
    beta1, beta2 = h["beta1"], h["beta2"]
    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        size, unbias = h["lr"] / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
        values = (beta1, 1 - beta1, beta2, 1 - beta2, size, unbias, h["eps"])
        scalars = tuple([np.float32(value) for value in values])
        for p, g, m, v in operands:
            adam(p, g, m, v, scalars)

    return Contender(run, lambda: problem.result(params))


def entries(problem: Problem) -> list[Entry]:
    if problem.rule != "adam" or problem.max_norm is not None:
        return []
    return [Entry("Numba", lambda: _make(problem), ("numba",))]
