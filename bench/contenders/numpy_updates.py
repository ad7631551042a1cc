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


def usual_adadelta(p: Array, g: Array, square: Array, moved: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    square = h["rho"] * square + (1 - h["rho"]) * g**2
    delta = np.sqrt(moved + h["eps"]) / np.sqrt(square + h["eps"]) * g
    return p - h["lr"] * delta, square, h["rho"] * moved + (1 - h["rho"]) * delta**2


def usual_adamax(p: Array, g: Array, m: Array, largest: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    m = h["beta1"] * m + (1 - h["beta1"]) * g
    largest = np.maximum(h["beta2"] * largest, np.abs(g) + h["eps"])
    return p - h["lr"] / (1 - h["beta1"] ** t) * m / largest, m, largest


def usual_nadam(p: Array, g: Array, m: Array, v: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    m = h["beta1"] * m + (1 - h["beta1"]) * g
    v = h["beta2"] * v + (1 - h["beta2"]) * g**2
    weight_g, weight_m = _nadam_weights(h, t)
    return p - (weight_g * g + weight_m * m) / (np.sqrt(v / (1 - h["beta2"] ** t)) + h["eps"]), m, v


def usual_radam(p: Array, g: Array, m: Array, v: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    m = h["beta1"] * m + (1 - h["beta1"]) * g
    v = h["beta2"] * v + (1 - h["beta2"]) * g**2
    size, rectified = _radam_size(h, t)
    return p - size * m / (np.sqrt(v) + h["eps"] if rectified else 1), m, v


def usual_rprop(p: Array, g: Array, prev: Array, size: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    sign = np.sign(g * prev)
    factor = np.where(sign > 0, h["eta_plus"], np.where(sign < 0, h["eta_minus"], 1)).astype(p.dtype)
    size = np.clip((h["lr"] if t == 1 else size) * factor, h["step_size_min"], h["step_size_max"])
    g = np.where(sign < 0, 0, g).astype(p.dtype)
    return p - np.sign(g) * size, g, size


def usual_asgd(p: Array, g: Array, average: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    eta, mu = _asgd_rates(h, t)
    p = p * (1 - h["lambd"] * eta) - eta * g
    return p, p if mu == 1 else average + (p - average) * mu


def usual_lion(p: Array, g: Array, m: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    direction = np.sign(h["beta1"] * m + (1 - h["beta1"]) * g)
    return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * direction, h["beta2"] * m + (1 - h["beta2"]) * g


def usual_signum(p: Array, g: Array, m: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    m = h["momentum"] * m + (1 - h["momentum"]) * g
    return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * np.sign(m), m


def usual_adabound(p: Array, g: Array, *states: Array, h: Hyper, t: int) -> tuple[Array, ...]:
    m = h["beta1"] * states[0] + (1 - h["beta1"]) * g
    v = h["beta2"] * states[1] + (1 - h["beta2"]) * g**2
    largest = [np.maximum(states[2], v)] if len(states) == 3 else []
    size, low, high = _adabound_rates(h, t)
    return (p - np.clip(size / (np.sqrt((largest or [v])[0]) + h["eps"]), low, high) * m, m, v, *largest)


def _nadam_weights(h: Hyper, t: int) -> tuple[float, float]:
    mu = [h["beta1"] * (1 - 0.5 * 0.96 ** (k * h["momentum_decay"])) for k in range(1, t + 2)]
    product = math.prod(mu[:-1])
    return h["lr"] * (1 - mu[-2]) / (1 - product), h["lr"] * mu[-1] / (1 - product * mu[-1])


def _radam_size(h: Hyper, t: int) -> tuple[float, bool]:
    correction = 1 - h["beta2"] ** t
    limit = 2 / (1 - h["beta2"]) - 1
    rho = limit - 2 * t * h["beta2"] ** t / correction
    size = h["lr"] / (1 - h["beta1"] ** t)
    if rho <= 5:
        return size, False
    ratio = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
    return size * math.sqrt(correction * ratio), True


def _asgd_rates(h: Hyper, t: int) -> tuple[float, float]:
    return h["lr"] / (1 + h["lambd"] * h["lr"] * (t - 1)) ** h["alpha"], 1 / max(1, t - 1 - h["t0"])


def _adabound_rates(h: Hyper, t: int) -> tuple[float, float, float]:
    size = h["lr"] * math.sqrt(1 - h["beta2"] ** t) / (1 - h["beta1"] ** t)
    age = h["gamma"] * t
    return size, h["final_lr"] * (1 - 1 / (age + 1)), h["final_lr"] * (1 + 1 / age)


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


def place_adadelta(p: Array, g: Array, square: Array, moved: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    np.multiply(g, g, out=a)
    _average(square, a, h["rho"], a)
    np.add(square, h["eps"], out=a)
    np.sqrt(a, out=a)
    np.add(moved, h["eps"], out=b)
    np.sqrt(b, out=b)
    b /= a
    b *= g
    np.multiply(b, b, out=a)
    _average(moved, a, h["rho"], a)
    b *= h["lr"]
    p -= b


def place_adamax(p: Array, g: Array, m: Array, largest: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    _average(m, g, h["beta1"], a)
    np.abs(g, out=a)
    a += h["eps"]
    largest *= h["beta2"]
    np.maximum(largest, a, out=largest)
    np.divide(m, largest, out=a)
    a *= h["lr"] / (1 - h["beta1"] ** t)
    p -= a


def place_nadam(p: Array, g: Array, m: Array, v: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    _average(m, g, h["beta1"], a)
    np.multiply(g, g, out=a)
    _average(v, a, h["beta2"], a)
    weight_g, weight_m = _nadam_weights(h, t)
    np.multiply(g, weight_g, out=b)
    np.multiply(m, weight_m, out=a)
    b += a
    np.sqrt(v, out=a)
    a *= 1 / math.sqrt(1 - h["beta2"] ** t)
    a += h["eps"]
    b /= a
    p -= b


def place_radam(p: Array, g: Array, m: Array, v: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    _average(m, g, h["beta1"], a)
    np.multiply(g, g, out=a)
    _average(v, a, h["beta2"], a)
    size, rectified = _radam_size(h, t)
    np.multiply(m, size, out=b)
    if rectified:
        np.sqrt(v, out=a)
        a += h["eps"]
        b /= a
    p -= b


def place_rprop(p: Array, g: Array, prev: Array, size: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    if t == 1:
        size.fill(h["lr"])
    np.multiply(g, prev, out=a)
    turned = a < 0
    b.fill(1)
    np.copyto(b, h["eta_plus"], where=a > 0)
    np.copyto(b, h["eta_minus"], where=turned)
    size *= b
    np.clip(size, h["step_size_min"], h["step_size_max"], out=size)
    np.copyto(prev, g)
    np.copyto(prev, 0, where=turned)
    np.sign(prev, out=a)
    a *= size
    p -= a


def place_asgd(p: Array, g: Array, average: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    eta, mu = _asgd_rates(h, t)
    np.multiply(g, eta, out=a)
    p *= 1 - h["lambd"] * eta
    p -= a
    if mu == 1:
        np.copyto(average, p)
        return
    np.subtract(p, average, out=a)
    a *= mu
    average += a


def _step_of_signs(p: Array, a: Array, h: Hyper) -> None:
    np.sign(a, out=a)
    a *= h["lr"]
    p *= 1 - h["lr"] * h["weight_decay"]
    p -= a


def place_lion(p: Array, g: Array, m: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    np.multiply(m, h["beta1"], out=a)
    np.multiply(g, 1 - h["beta1"], out=b)
    a += b
    _step_of_signs(p, a, h)
    _average(m, g, h["beta2"], b)


def place_signum(p: Array, g: Array, m: Array, h: Hyper, t: int, a: Array, b: Array) -> None:
    _average(m, g, h["momentum"], a)
    np.copyto(a, m)
    _step_of_signs(p, a, h)


def place_adabound(
    p: Array, g: Array, m: Array, v: Array, *states: Array, h: Hyper, t: int, a: Array, b: Array
) -> None:
    _average(m, g, h["beta1"], a)
    np.multiply(g, g, out=a)
    _average(v, a, h["beta2"], a)
    for largest in states:
        np.maximum(largest, v, out=largest)
        v = largest
    size, low, high = _adabound_rates(h, t)
    np.sqrt(v, out=a)
    a += h["eps"]
    np.divide(size, a, out=a)
    np.clip(a, low, high, out=a)
    a *= m
    p -= a


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
    "adadelta": (usual_adadelta, place_adadelta),
    "adamax": (usual_adamax, place_adamax),
    "nadam": (usual_nadam, place_nadam),
    "radam": (usual_radam, place_radam),
    "rprop": (usual_rprop, place_rprop),
    "asgd": (usual_asgd, place_asgd),
    "lion": (usual_lion, place_lion),
    "signum": (usual_signum, place_signum),
    "adabound": (usual_adabound, place_adabound),
    "amsbound": (usual_adabound, place_adabound),
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
