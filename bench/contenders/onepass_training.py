"""onepass: a training step as its Trainer makes it, without batches, schedules and counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench import peers
from bench.case import Array, Contender
from bench.contenders.first_steps import first_steps


def step_of(model: Any, params: Sequence[Array], x: Array, y: Array) -> tuple[Callable[[], None], Callable[[], float]]:
    """The step of Adam with its defaults on cross-entropy, and the loss of the last one."""
    for param, value in zip(model.parameters(), params, strict=True):
        param[...] = value
    optimizer = peers.load("onepass.optim").Adam(model.parameters())
    loss_and_grad = peers.load("onepass.losses").CrossEntropy()
    gradients = model.gradients()
    loss = 0.0

    def run() -> None:
        nonlocal loss
        logits = model.forward(x, training=True)
        loss, grad = loss_and_grad(logits, y, grad=logits)
        model.backward(grad, out=False)
        optimizer.step(gradients)

    return run, lambda: loss


def contender(model: Any, params: Sequence[Array], x: Array, y: Array) -> Contender:
    run, loss = step_of(model, params, x, y)
    result = first_steps(run, loss, model.gradients)
    return Contender(run, lambda: result)
