"""Numba: Adam as a parallel loop, the way one writes it by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from bench import peers
from bench.case import Array, Contender, Entry
from bench.contenders.problem import Problem

DEFAULTS = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


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


def adam(params: Sequence[Array], h: Mapping[str, float] = DEFAULTS) -> Callable[[Sequence[Array]], None]:
    """gradients -> None: steps with these hyperparameters, of tensors one after another."""
    kernel = _kernel()
    states = [[np.zeros(param.size, param.dtype) for param in params] for _ in range(2)]
    beta1, beta2 = h["beta1"], h["beta2"]
    step = 0

    def update(gradients: Sequence[Array]) -> None:
        nonlocal step
        step += 1
        size, unbias = h["lr"] / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
        values = (beta1, 1 - beta1, beta2, 1 - beta2, size, unbias, h["eps"])
        scalars = tuple([np.float32(value) for value in values])
        for p, g, m, v in zip(params, gradients, *states, strict=True):
            kernel(p.reshape(-1), g.reshape(-1), m, v, scalars)

    return update


def _make(problem: Problem) -> Contender:
    params, grads = problem.params(), problem.grads()
    update = adam(params, problem.hyperparameters)
    return Contender(lambda: update(grads), lambda: problem.result(params))


def entries(problem: Problem) -> list[Entry]:
    if problem.rule != "adam" or problem.max_norm is not None:
        return []
    return [Entry("Numba", lambda: _make(problem), ("numba",))]
