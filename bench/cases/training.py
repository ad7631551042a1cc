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
from bench.contenders import jax_training, numpy_training, onepass_training, torch_training
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

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}/batch_{self.batch}"

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

    def data(self) -> tuple[list[Array], Array, Array]:
        return self.params(), self.x(), self.y()


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


def _model(problem: Problem, nn: Any, batch_norm: Any) -> Any:
    """Of onepass.nn or torch.nn."""
    layers: list[Any] = []
    for inputs, outputs in zip(problem.sizes[:-1], problem.sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), batch_norm(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


def onepass_model(problem: Problem) -> Any:
    nn = peers.load("onepass.nn")
    return _model(problem, nn, nn.BatchNorm)


def torch_model(problem: Problem, nn: Any) -> Any:
    return _model(problem, nn, nn.BatchNorm1d)


def _onepass(problem: Problem) -> Contender:
    return onepass_training.contender(onepass_model(problem), *problem.data())


def _jax_logits(params: Any, x: Any) -> Any:
    jax = peers.load("jax")
    for i in range(0, len(params) - 2, 4):
        weight, bias, gamma, beta = params[i : i + 4]
        x = jax.nn.relu(forward(jax.numpy, x @ weight.T + bias, gamma, beta, (0,))[0])
    return x @ params[-2].T + params[-1]


def _jax(problem: Problem) -> Contender:
    return jax_training.contender(_jax_logits, *problem.data())


def _numpy(problem: Problem) -> Contender:
    return numpy_training.contender(loss_and_gradients, *problem.data())


def _expected(problem: Problem) -> Result:
    return numpy_training.expected(loss_and_gradients, *problem.data())


def cases(selection: Selection) -> list[Case]:
    found = []
    for sizes, batch, size, goal in SHAPES:
        problem = Problem(sizes, batch)
        torch = torch_training.entries(partial(torch_model, problem), problem.data, images=False)
        entries = (
            Entry("onepass", partial(_onepass, problem), ("scipy",)),
            *torch,
            Entry("JAX+Optax", partial(_jax, problem), ("jax", "optax")),
            Entry("NumPy", partial(_numpy, problem)),
        )
        found.append(
            Case(
                f"training/{problem.name}",
                size,
                entries,
                partial(_expected, problem),
                (Goal(goal, "torch"),),
                rtol=1e-3,
                atol=1e-5,
            )
        )
    return found
