"""JAX with Optax: forward, backward and Adam in one jitted step, parameters and states donated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import peers
from bench.case import Array, Contender
from bench.contenders.first_steps import first_steps


def cross_entropy(logits: Any, y: Any) -> Any:
    jax = peers.load("jax")
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1).mean()


def contender(logits_of: Callable[[Any, Any], Any], initial: Sequence[Array], x: Array, y: Array) -> Contender:
    """logits_of: parameters and x -> logits."""
    jax, optax = peers.load("jax"), peers.load("optax")
    optimizer = optax.adam(1e-3)

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        return cross_entropy(logits_of(params, x), y)

    def update(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss, gradients

    step = jax.jit(update, donate_argnums=(0, 1))
    params = [jax.numpy.array(param) for param in initial]
    state = optimizer.init(params)
    inputs, targets = jax.numpy.array(x), jax.numpy.array(y)
    loss: Any = None
    gradients: Any = None

    def run() -> None:
        nonlocal params, state, loss, gradients
        params, state, loss, gradients = jax.block_until_ready(step(params, state, inputs, targets))

    result = first_steps(run, lambda: loss, lambda: gradients)
    return Contender(run, lambda: result)
