"""A whole training step of an MLP: matrix products, batch norm, ReLU, cross-entropy and Adam."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result
from bench.cases.batch_norm import EPS, backward, forward
from bench.cases.cross_entropy import numpy_loss
from bench.selection import Selection

# layer sizes, batch, size class, and how many times faster than torch
SHAPES = (
    ((64, 128, 128, 10), 32, "small", 4.0),
    ((64, 128, 128, 10), 256, "cache", 2.5),
    ((784, 512, 512, 10), 128, "cache", 1.2),
)


@dataclass(frozen=True)
class Problem:
    sizes: tuple[int, ...]
    batch: int

    def x(self) -> Array:
        return arrays.copy(arrays.normal((self.batch, self.sizes[0]), seed=1))

    def y(self) -> Array:
        rng = np.random.default_rng(2)
        return rng.integers(0, self.sizes[-1], self.batch, dtype=np.int64)

    def params(self) -> list[Array]:
        """Weight, bias, gamma, beta of every hidden layer; weight and bias of the last."""
        rng = np.random.default_rng(3)
        found = []
        for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            bound = inputs**-0.5
            found.append(rng.uniform(-bound, bound, (outputs, inputs)))
            found.append(rng.uniform(-bound, bound, outputs))
            found += [np.ones(outputs), np.zeros(outputs)]
        return [arrays.copy(param) for param in found[:-2]]

    def result(self, loss: Any, gradients: list[Any]) -> Result:
        """Of the first step. Parameters tell less: where a gradient is zero but for rounding, as a
        bias' before batch norm, Adam's first step goes up or down by chance."""
        found = {f"gradient[{i}]": np.asarray(gradient) for i, gradient in enumerate(gradients)}
        return {"loss": np.asarray(float(loss)), **found}

    def expected(self) -> Result:
        params = [param.astype(np.float64) for param in self.params()]
        return self.result(*loss_and_gradients(params, self.x().astype(np.float64), self.y()))


def loss_and_gradients(params: list[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
    """In NumPy, in the precision of the data."""
    kept = []
    for i in range(0, len(params) - 2, 4):
        weight, bias, gamma, beta = params[i : i + 4]
        linear = x @ weight.T + bias
        normalized, mean, variance = forward(np, linear, gamma, beta, (0,))
        kept.append((x, linear, mean, 1 / np.sqrt(variance + EPS), normalized > 0))
        x = np.maximum(normalized, 0)
    loss, dy = numpy_loss(x @ params[-2].T + params[-1], y)
    gradients = [dy.T @ x, dy.sum(0)]
    dy = dy @ params[-2]
    for i in range(len(kept) - 1, -1, -1):
        x, linear, mean, invstd, positive = kept[i]
        weight, _, gamma, _ = params[4 * i : 4 * i + 4]
        dy, dgamma, dbeta = backward(dy * positive, linear, gamma, mean, invstd, (0,))
        gradients = [dy.T @ x, dy.sum(0), dgamma.reshape(-1), dbeta.reshape(-1), *gradients]
        dy = dy @ weight
    return loss, gradients


def _onepass(problem: Problem) -> Contender:
    nn, optim = peers.load("onepass.nn"), peers.load("onepass.optim")
    layers: list[Any] = []
    for inputs, outputs in zip(problem.sizes[:-1], problem.sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm(outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-2])
    for param, value in zip(model.parameters(), problem.params(), strict=True):
        param[...] = value
    optimizer = optim.Adam(model.parameters())
    loss_and_grad = peers.load("onepass.losses").CrossEntropy()
    x, y = problem.x(), problem.y()
    kept: list[float] = [0.0]

    def run() -> None:
        logits = model.forward(x, training=True)
        kept[0], grad = loss_and_grad(logits, y, grad=logits)
        model.backward(grad, out=False)
        optimizer.step(model.gradients())

    return Contender(run, lambda: problem.result(kept[0], model.gradients()))


def _torch(problem: Problem) -> Contender:
    torch = peers.load("torch")
    nn = torch.nn
    layers: list[Any] = []
    for inputs, outputs in zip(problem.sizes[:-1], problem.sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-2])
    with torch.no_grad():
        for param, value in zip(model.parameters(), problem.params(), strict=True):
            param.copy_(torch.from_numpy(value))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, y = torch.from_numpy(problem.x()), torch.from_numpy(problem.y())
    kept: list[Any] = [None]

    def run() -> None:
        optimizer.zero_grad()
        kept[0] = nn.functional.cross_entropy(model(x), y)
        kept[0].backward()
        optimizer.step()

    def result() -> Result:
        return problem.result(kept[0].item(), [param.grad for param in model.parameters()])

    return Contender(run, result)


def _jax(problem: Problem) -> Contender:
    jax, optax = peers.load("jax"), peers.load("optax")
    np_ = jax.numpy
    optimizer = optax.adam(1e-3)

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for i in range(0, len(params) - 2, 4):
            weight, bias, gamma, beta = params[i : i + 4]
            x = jax.nn.relu(forward(np_, x @ weight.T + bias, gamma, beta, (0,))[0])
        log_p = jax.nn.log_softmax(x @ params[-2].T + params[-1])
        return -np_.take_along_axis(log_p, y[:, None], axis=1).mean()

    def update(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss, gradients

    step = jax.jit(update, donate_argnums=(0, 1))
    params = [np_.array(param) for param in problem.params()]
    state = optimizer.init(params)
    x, y = np_.array(problem.x()), np_.array(problem.y())
    kept: list[Any] = [None, None]

    def run() -> None:
        nonlocal params, state
        params, state, *kept[:] = jax.block_until_ready(step(params, state, x, y))

    return Contender(run, lambda: problem.result(kept[0], kept[1]))


def _numpy(problem: Problem) -> Contender:
    """Forward and backward in NumPy, with the Adam of a NumPy user's twelve lines."""
    params, x, y = problem.params(), problem.x(), problem.y()
    first = [np.zeros_like(param) for param in params]
    second = [np.zeros_like(param) for param in params]
    kept: list[Any] = [None, None]
    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        kept[:] = loss_and_gradients(params, x, y)
        for p, g, m, v in zip(params, kept[1], first, second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= 1e-3 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    return Contender(run, lambda: problem.result(kept[0], kept[1]))


def cases(selection: Selection) -> list[Case]:
    found = []
    for sizes, batch, size, goal in SHAPES:
        problem = Problem(sizes, batch)
        entries = (
            Entry("onepass", partial(_onepass, problem), ("scipy",)),
            Entry("torch", partial(_torch, problem), ("torch",)),
            Entry("JAX+Optax", partial(_jax, problem), ("jax", "optax")),
            Entry("NumPy", partial(_numpy, problem)),
        )
        found.append(
            Case(
                f"training/{'-'.join(map(str, sizes))}/batch_{batch}",
                size,
                entries,
                problem.expected,
                (Goal(goal, "torch"),),
                rtol=1e-3,
                atol=1e-5,
            )
        )
    return found
