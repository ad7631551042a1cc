"""JAX: one jitted step, parameters and states donated. With Optax, or with onepass.jax in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench import peers
from bench.case import Contender, Entry
from bench.contenders.problem import Problem

Transform = Callable[[Any, dict[str, float]], Any]

TRANSFORMS: dict[str, Transform] = {
    "sgd": lambda optax, h: optax.sgd(h["lr"]),
    "sgd_momentum": lambda optax, h: optax.sgd(h["lr"], momentum=h["momentum"]),
    "adagrad": lambda optax, h: optax.adagrad(h["lr"], 0.0, h["eps"]),
    "rmsprop": lambda optax, h: optax.rmsprop(h["lr"], h["alpha"], h["eps"], eps_in_sqrt=False),
    "adam": lambda optax, h: optax.adam(h["lr"], h["beta1"], h["beta2"], h["eps"]),
    "adamw": lambda optax, h: optax.adamw(h["lr"], h["beta1"], h["beta2"], h["eps"], weight_decay=h["weight_decay"]),
    "adadelta": lambda optax, h: optax.adadelta(h["lr"], h["rho"], h["eps"]),
    "adamax": lambda optax, h: optax.adamax(h["lr"], h["beta1"], h["beta2"], h["eps"]),
    "lion": lambda optax, h: optax.lion(h["lr"], h["beta1"], h["beta2"], weight_decay=h["weight_decay"]),
    "signum": lambda optax, h: optax.signum(h["lr"], h["momentum"]),
}
# Not the same formula there: nadam (constant momentum), radam (eps behind the bias correction), rprop (a turn undoes
# the step before).


def _make(problem: Problem, package: str = "optax", fused: bool = False) -> Contender:
    """fused: with onepass.jax' apply."""
    jax = peers.load("jax")
    transform = TRANSFORMS[problem.rule](peers.load(package), problem.hyperparameters)
    if problem.max_norm is not None:
        optax = peers.load("optax")
        transform = optax.chain(optax.clip_by_global_norm(problem.max_norm), transform)

    def update(params: Any, state: Any, grads: Any) -> Any:
        if fused:
            return transform.apply(params, grads, state)
        updates, state = transform.update(grads, state, params)
        return peers.load("optax").apply_updates(params, updates), state

    step = jax.jit(update, donate_argnums=(0, 1))
    params = [jax.numpy.array(param) for param in problem.params()]
    grads = [jax.numpy.array(grad) for grad in problem.grads()]
    state = transform.init(params)

    def run() -> None:
        nonlocal params, state
        params, state = step(params, state, grads)
        jax.block_until_ready(params)

    return Contender(run, lambda: problem.result([np.asarray(param) for param in params]))


def onepass_entries(problem: Problem) -> list[Entry]:
    """The fused step, and updates that Optax adds."""
    package = "onepass.jax"
    return [
        Entry("onepass.jax", lambda: _make(problem, package, fused=True), ("jax",), "limit"),
        Entry("onepass.jax updates", lambda: _make(problem, package), ("jax", "optax"), "limit"),
    ]


def entries(problem: Problem) -> list[Entry]:
    if problem.rule not in TRANSFORMS:
        return []
    return [Entry("JAX+Optax", lambda: _make(problem), ("jax", "optax"))]
