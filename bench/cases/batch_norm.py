"""Batch normalization in training: forward and backward, with and without allocating the result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, limits, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result, size_class
from bench.selection import Selection

SHAPES = (
    (128, 128),
    (4096, 512),
    (64, 512, 7, 7),
    (32, 256, 28, 28),
    (65536, 256),
    (64, 64, 56, 56),
)
MOMENTUM, EPS = 0.1, 1e-5
GOAL_TORCH, GOAL_LIMIT = 1.5, 0.85


@dataclass(frozen=True)
class Problem:
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.shape)) if axis != 1)

    def x(self) -> Array:
        return arrays.copy(arrays.normal(self.shape, seed=1) * 2 + 1)

    def dy(self) -> Array:
        return arrays.copy(arrays.normal(self.shape, seed=2))

    def gamma(self) -> Array:
        return arrays.copy(1 + 0.1 * arrays.normal(self.channels, seed=3))

    def beta(self) -> Array:
        return arrays.copy(arrays.normal(self.channels, seed=4))

    def running(self) -> tuple[Array, Array]:
        return arrays.full(self.channels, 0.0), arrays.full(self.channels, 1.0)

    def passes(self, read: str, written: str) -> tuple[limits.Pass, ...]:
        """Images: a channel stays in cache between its statistics and its use. Matrices: all rows
        are needed before the first can be finished, so everything is read twice."""
        once = (read, "", written)
        return (once,) if len(self.shape) > 2 else ((read, "", ""), once)

    def expected_forward(self) -> Result:
        x = self.x().astype(np.float64)
        y, mean, variance = forward(np, x, self.gamma(), self.beta(), self.axes)
        count = x.size // self.channels
        unbiased = variance * count / (count - 1)
        return {
            "y": y,
            "running_mean": MOMENTUM * mean.reshape(-1),
            "running_var": 1 - MOMENTUM + MOMENTUM * unbiased.reshape(-1),
        }

    def backward_result(self, dx: Any, dgamma: Any, dbeta: Any) -> Result:
        """Sums over n elements are divided by sqrt(n), so that one tolerance serves all shapes."""
        scale = math.sqrt(self.elements / self.channels)
        return {
            "dx": np.asarray(dx),
            "dgamma": np.asarray(dgamma).reshape(-1) / scale,
            "dbeta": np.asarray(dbeta).reshape(-1) / scale,
        }

    def expected_backward(self) -> Result:
        x, dy = self.x().astype(np.float64), self.dy().astype(np.float64)
        mean, variance = x.mean(self.axes, keepdims=True), x.var(self.axes, keepdims=True)
        invstd = 1 / np.sqrt(variance + EPS)
        return self.backward_result(*backward(dy, x, self.gamma(), mean, invstd, self.axes))


def column(values: Any, x: Any) -> Any:
    """(C) beside x (N, C, ...)."""
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def forward(xp: Any, x: Any, gamma: Any, beta: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """The formula, for NumPy and JAX."""
    mean = x.mean(axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axes, keepdims=True)
    scale = column(gamma, x) / xp.sqrt(variance + EPS)
    return (x - mean) * scale + column(beta, x), mean, variance


def backward(dy: Any, x: Any, gamma: Any, mean: Any, invstd: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    normalized = (x - mean) * invstd
    dbeta = dy.sum(axes, keepdims=True)
    dgamma = (dy * normalized).sum(axes, keepdims=True)
    count = x.size // dbeta.size
    dx = column(gamma, x) * invstd * (dy - dbeta / count - normalized * (dgamma / count))
    return dx, dgamma, dbeta


def _onepass_forward(problem: Problem, allocate: bool) -> Contender:
    batch_norm = peers.load("onepass.kernels").batch_norm
    x, gamma, beta = problem.x(), problem.gamma(), problem.beta()
    mean, variance = problem.running()
    out = None if allocate else arrays.full(x.shape, 0.0)
    kept: list[Any] = [None, None]

    def run() -> None:
        kept[:] = batch_norm(x, gamma, beta, mean, variance, True, MOMENTUM, EPS, out=out)

    return Contender(run, lambda: {"y": kept[0], "running_mean": mean, "running_var": variance})


def _torch_forward(problem: Problem, allocate: bool) -> Contender:
    torch = peers.load("torch")
    x = torch.from_numpy(problem.x())
    gamma, beta = torch.from_numpy(problem.gamma()), torch.from_numpy(problem.beta())
    mean, variance = map(torch.from_numpy, problem.running())
    saved = [torch.zeros(problem.channels) for _ in range(2)]
    out = None if allocate else (torch.from_numpy(arrays.full(x.shape, 0.0)), *saved)
    kept: list[Any] = [None]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def run() -> None:
        if out is None:
            kept[0] = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, True, MOMENTUM, EPS)
        else:
            kept[0] = torch.native_batch_norm(x, gamma, beta, mean, variance, True, MOMENTUM, EPS, out=out)[0]

    return Contender(
        run,
        lambda: {
            "y": kept[0].numpy(),
            "running_mean": mean.numpy(),
            "running_var": variance.numpy(),
        },
    )


def _numpy_forward(problem: Problem) -> Contender:
    x, gamma, beta = problem.x(), problem.gamma(), problem.beta()
    running = problem.running()
    count = problem.elements // problem.channels
    kept: list[Any] = [None]

    def run() -> None:
        kept[0], mean, variance = forward(np, x, gamma, beta, problem.axes)
        statistics = (mean, variance * (count / (count - 1)))
        for average, value in zip(running, statistics, strict=True):
            average *= 1 - MOMENTUM
            average += MOMENTUM * value.reshape(-1)

    return Contender(run, lambda: {"y": kept[0], "running_mean": running[0], "running_var": running[1]})


def _jax_forward(problem: Problem) -> Contender:
    jax = peers.load("jax")
    x, gamma, beta = map(jax.numpy.array, (problem.x(), problem.gamma(), problem.beta()))
    running = tuple(map(jax.numpy.array, problem.running()))
    count = problem.elements // problem.channels
    kept: list[Any] = [None]

    def step(x: Any, gamma: Any, beta: Any, running: Any) -> Any:
        y, mean, variance = forward(jax.numpy, x, gamma, beta, problem.axes)
        unbiased = variance * (count / (count - 1))
        both = zip(running, (mean, unbiased), strict=True)
        return y, tuple((1 - MOMENTUM) * a + MOMENTUM * b.reshape(-1) for a, b in both)

    jitted = jax.jit(step)

    def run() -> None:
        nonlocal running
        kept[0], running = jax.block_until_ready(jitted(x, gamma, beta, running))

    return Contender(
        run,
        lambda: {
            "y": np.asarray(kept[0]),
            "running_mean": np.asarray(running[0]),
            "running_var": np.asarray(running[1]),
        },
    )


def _onepass_backward(problem: Problem, allocate: bool) -> Contender:
    kernels = peers.load("onepass.kernels")
    x, dy, gamma = problem.x(), problem.dy(), problem.gamma()
    out = None if allocate else arrays.full(x.shape, 0.0)
    _, saved = kernels.batch_norm(x, gamma, problem.beta(), eps=EPS)
    kept: list[Any] = [None] * 3

    def run() -> None:
        kept[:] = kernels.batch_norm_backward(dy, x, gamma, saved, out=out)

    return Contender(run, lambda: problem.backward_result(*kept))


def _torch_backward(problem: Problem) -> Contender:
    torch = peers.load("torch")
    x, dy = torch.from_numpy(problem.x()), torch.from_numpy(problem.dy())
    gamma, beta = torch.from_numpy(problem.gamma()), torch.from_numpy(problem.beta())
    running = tuple(map(torch.from_numpy, problem.running()))
    _, mean, invstd = torch.native_batch_norm(x, gamma, beta, *running, True, MOMENTUM, EPS)
    step = torch.ops.aten.native_batch_norm_backward
    kept: list[Any] = [None] * 3

    def run() -> None:
        kept[:] = step(dy, x, gamma, *running, mean, invstd, True, EPS, [True, True, True])

    return Contender(run, lambda: problem.backward_result(*kept))


def _numpy_backward(problem: Problem) -> Contender:
    x, dy, gamma = problem.x(), problem.dy(), problem.gamma()
    mean = x.mean(problem.axes, keepdims=True)
    invstd = 1 / np.sqrt(x.var(problem.axes, keepdims=True) + np.float32(EPS))
    kept: list[Any] = [None] * 3

    def run() -> None:
        kept[:] = backward(dy, x, gamma, mean, invstd, problem.axes)

    return Contender(run, lambda: problem.backward_result(*kept))


def _goals(out_peer: str) -> tuple[Goal, ...]:
    return (
        Goal(GOAL_LIMIT, "limit"),
        Goal(GOAL_TORCH, out_peer),
        Goal(GOAL_TORCH, "torch", "onepass new array"),
    )


def _cases(problem: Problem) -> list[Case]:
    name = "x".join(map(str, problem.shape))
    size = size_class(problem.elements)
    on_forward, on_backward = problem.passes("x", "y"), problem.passes("dx", "y")
    return [
        Case(
            f"batch_norm/forward/{name}",
            size,
            (
                Entry("onepass", partial(_onepass_forward, problem, False), limit="limit"),
                Entry("onepass new array", partial(_onepass_forward, problem, True)),
                limits.entry(problem.elements, *on_forward),
                Entry("torch out=", partial(_torch_forward, problem, False), ("torch",)),
                Entry("torch", partial(_torch_forward, problem, True), ("torch",)),
                Entry("JAX", partial(_jax_forward, problem), ("jax",)),
                Entry("NumPy", partial(_numpy_forward, problem)),
            ),
            problem.expected_forward,
            _goals("torch out="),
            bytes=limits.bytes_moved(problem.elements, *on_forward),
            memory=4 * problem.elements * 24,
            atol=1e-4,  # NumPy adds a column of 65536 up one by one, in float32
        ),
        Case(
            f"batch_norm/backward/{name}",
            size,
            (
                Entry("onepass", partial(_onepass_backward, problem, False), limit="limit"),
                Entry("onepass new array", partial(_onepass_backward, problem, True)),
                limits.entry(problem.elements, *on_backward),
                Entry("torch", partial(_torch_backward, problem), ("torch",)),
                Entry("NumPy", partial(_numpy_backward, problem)),
            ),
            problem.expected_backward,
            _goals("torch"),
            bytes=limits.bytes_moved(problem.elements, *on_backward),
            memory=4 * problem.elements * 24,
            atol=1e-4,  # NumPy adds a column of 65536 up one by one, in float32
        ),
    ]


def cases(selection: Selection) -> list[Case]:
    return [case for shape in SHAPES for case in _cases(Problem(shape))]
