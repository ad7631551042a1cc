"""NumPy: as usually written, and with every operation in place over two scratch arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import arrays, peers
from bench.case import Array, Contender, Entry
from bench.contenders.problem import Problem

# usual_*: p, g, states, hyperparameters h and the step's number t -> new p and states.
# place_*: the same in place, with two scratch arrays a and b.
Hyper = Any
Usual = Callable[..., tuple[Array, ...]]


def usual_sgd(p: Array, g: Array, *states: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    if not states:
        return (p - h["lr"] * g,)
    buffer = g if t == 1 else h["momentum"] * states[0] + g
    return p - h["lr"] * buffer, buffer


def usual_adagrad(p: Array, g: Array, total: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    total = total + g**2
    return p - h["lr"] * g / (np.sqrt(total) + h["eps"]), total


def usual_rmsprop(p: Array, g: Array, *states: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    square = h["alpha"] * states[0] + (1 - h["alpha"]) * g**2
    direction = g / (np.sqrt(square) + h["eps"])
    if len(states) == 1:
        return p - h["lr"] * direction, square
    buffer = h["momentum"] * states[1] + direction
    return p - h["lr"] * buffer, square, buffer


def usual_rmsprop_centered(p: Array, g: Array, *states: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    square = h["alpha"] * states[0] + (1 - h["alpha"]) * g**2
    mean = h["alpha"] * states[1] + (1 - h["alpha"]) * g
    direction = g / (np.sqrt(np.maximum(square - mean**2, 0)) + h["eps"])
    if len(states) == 2:
        return p - h["lr"] * direction, square, mean
    buffer = h["momentum"] * states[2] + direction
    return p - h["lr"] * buffer, square, mean, buffer


def usual_adam(p: Array, g: Array, *states: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    m = h["beta1"] * states[0] + (1 - h["beta1"]) * g
    v = h["beta2"] * states[1] + (1 - h["beta2"]) * g**2
    largest = [np.maximum(states[2], v)] if len(states) == 3 else []
    m_hat = m / (1 - h["beta1"] ** t)
    v_hat = (largest or [v])[0] / (1 - h["beta2"] ** t)
    return (p - h["lr"] * m_hat / (np.sqrt(v_hat) + h["eps"]), m, v, *largest)


def usual_adamw(p: Array, g: Array, *states: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    return usual_adam(p * (1 - h["lr"] * h["weight_decay"]), g, *states, h=h, t=t)


def _average(average: Array, value: Array, keep: float, scratch: Array) -> None:
    """average = keep * average + (1 - keep) * value; value may be the scratch."""
    np.multiply(value, 1 - keep, out=scratch)
    average *= keep
    average += scratch


def _step(p: Array, direction: Array, lr: float, h: Hyper, buffers: tuple[Array, ...]) -> None:
    """p -= lr * direction, through the momentum buffer if there is one; the direction is lost."""
    for buffer in buffers:
        buffer *= h["momentum"]
        buffer += direction
        np.copyto(direction, buffer)
    direction *= lr
    p -= direction


def place_sgd(p: Array, g: Array, *states: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    for buffer in states:
        if t == 1:
            np.copyto(buffer, g)
        else:
            buffer *= h["momentum"]
            buffer += g
        g = buffer
    np.multiply(g, h["lr"], out=a)
    p -= a


def place_adagrad(p: Array, g: Array, total: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    np.multiply(g, g, out=a)
    total += a
    np.sqrt(total, out=a)
    a += h["eps"]
    np.divide(g, a, out=a)
    _step(p, a, h["lr"], h, ())


def place_rmsprop(p: Array, g: Array, square: Array, *states: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    np.multiply(g, g, out=a)
    _average(square, a, h["alpha"], a)
    np.sqrt(square, out=a)
    a += h["eps"]
    np.divide(g, a, out=a)
    _step(p, a, h["lr"], h, states)


def place_rmsprop_centered(
    p: Array,
    g: Array,
    square: Array,
    mean: Array,
    *states: Array,
    h: Hyper,
    t: int,
    a: Array,
    b: Array,
) -> None:
    np.multiply(g, g, out=a)
    _average(square, a, h["alpha"], a)
    _average(mean, g, h["alpha"], a)
    np.multiply(mean, mean, out=a)
    np.subtract(square, a, out=a)
    np.maximum(a, 0, out=a)
    np.sqrt(a, out=a)
    a += h["eps"]
    np.divide(g, a, out=a)
    _step(p, a, h["lr"], h, states)


def place_adam(p: Array, g: Array, m: Array, v: Array, *states: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    _average(m, g, h["beta1"], a)
    np.multiply(g, g, out=a)
    _average(v, a, h["beta2"], a)
    for largest in states:
        np.maximum(largest, v, out=largest)
        v = largest
    np.sqrt(v, out=a)
    a *= 1 / math.sqrt(1 - h["beta2"] ** t)
    a += h["eps"]
    np.divide(m, a, out=b)
    b *= h["lr"] / (1 - h["beta1"] ** t)
    p -= b


def place_adamw(p: Array, g: Array, *states: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    p *= 1 - h["lr"] * h["weight_decay"]
    place_adam(p, g, *states, h=h, t=t, a=a, b=b)


RULES: dict[str, tuple[Usual, Callable[..., None]]] = {
    "sgd": (usual_sgd, place_sgd),
    "sgd_momentum": (usual_sgd, place_sgd),
    "adagrad": (usual_adagrad, place_adagrad),
    "rmsprop": (usual_rmsprop, place_rmsprop),
    "rmsprop_momentum": (usual_rmsprop, place_rmsprop),
    "rmsprop_centered": (usual_rmsprop_centered, place_rmsprop_centered),
    "rmsprop_centered_momentum": (usual_rmsprop_centered, place_rmsprop_centered),
    "adam": (usual_adam, place_adam),
    "adam_amsgrad": (usual_adam, place_adam),
    "adamw": (usual_adamw, place_adamw),
    "adamw_amsgrad": (usual_adamw, place_adamw),
}


def _norm(grads: list[Array]) -> float:
    return math.sqrt(sum(float(np.vdot(g, g)) for g in grads))


def _usual(problem: Problem) -> Contender:
    update, h = RULES[problem.rule][0], problem.hyperparameters
    params, grads, states = problem.params(), problem.grads(), problem.zeros()
    held = [list(tensors) for tensors in zip(params, *states, strict=True)]
    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        used = grads
        if problem.max_norm is not None:
            scale = min(1.0, problem.max_norm / _norm(grads))
            used = [g * scale for g in grads]
        for i, g in enumerate(used):
            param, *rest = held[i]
            held[i] = list(update(param, g, *rest, h=h, t=step))

    return Contender(run, lambda: problem.result([tensors[0] for tensors in held]))


def _in_place(problem: Problem) -> Contender:
    update, h = RULES[problem.rule][1], problem.hyperparameters
    params, grads, states = problem.params(), problem.grads(), problem.zeros()
    largest = max(param.size for param in params)
    scratch = [arrays.full(largest, 0.0) for _ in range(2)]
    operands = [
        (tensors, [s[: tensors[0].size].reshape(tensors[0].shape) for s in scratch])
        for tensors in zip(params, grads, *states, strict=True)
    ]
    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        if problem.max_norm is not None:
            scale = min(1.0, problem.max_norm / _norm(grads))
            for g in grads:
                g *= scale
        for tensors, (a, b) in operands:
            update(*tensors, h=h, t=step, a=a, b=b)

    return Contender(run, lambda: problem.result(params))


def _reference(problem: Problem) -> Contender:
    update = getattr(peers.load("onepass.reference"), problem.rule)
    params, grads, states = problem.params(), problem.grads(), problem.zeros()
    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        update(params, grads, *states, step=step)

    return Contender(run, lambda: problem.result(params))


def entries(problem: Problem) -> list[Entry]:
    """A rule that is not written out here is measured against onepass.reference."""
    if problem.rule not in RULES:
        return [Entry("NumPy in place", lambda: _reference(problem))]
    return [
        Entry("NumPy in place", lambda: _in_place(problem)),
        Entry("NumPy", lambda: _usual(problem)),
    ]
