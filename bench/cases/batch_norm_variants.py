"""Batch normalization where it is less usual: channels last, three channels, bfloat16, and with a ReLU fused into it
beside separate calls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, limits, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result, size_class
from bench.cases.batch_norm import EPS, GOAL_TORCH, backward, forward
from bench.selection import Selection


@dataclass(frozen=True)
class Problem:
    name: str
    shape: tuple[int, ...]
    channels_last: bool = False  # in memory
    dtype: str = "float32"
    relu: bool = False
    cached: bool = False  # a channel stays in cache between its statistics and its use

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.shape)) if axis != 1)

    @property
    def words(self) -> int:
        """Of four bytes."""
        return math.prod(self.shape) * (2 if self.dtype == "bfloat16" else 4) // 4

    @property
    def keyword(self) -> dict[str, Any]:
        return {"dtype": "bfloat16"} if self.dtype == "bfloat16" else {}

    def _array(self, seed: int, scale: float, shift: float) -> Array:
        values = arrays.narrow(arrays.normal(self.shape, seed) * np.float32(scale) + np.float32(shift), self.dtype)
        return self.placed(values)

    def placed(self, values: Array) -> Array:
        if not self.channels_last:
            return arrays.copy(values, values.dtype)
        return np.moveaxis(arrays.copy(np.moveaxis(values, 1, -1), values.dtype), -1, 1)

    def x(self) -> Array:
        return self._array(1, 2.0, 1.0)

    def dy(self) -> Array:
        dy = self._array(2, 1.0, 0.0)
        if self.relu:  # whether rounding left y above zero is no error
            y = forward(np, self.wide("x"), self.gamma(), self.beta(), self.axes)[0]
            dy[np.abs(y) < 1e-4] = 0
        return dy

    def out(self) -> Array:
        return self.placed(arrays.full(self.shape, 0.0, np.uint16 if self.dtype == "bfloat16" else np.float32))

    def gamma(self) -> Array:
        return arrays.copy(1 + 0.1 * arrays.normal(self.channels, seed=3))

    def beta(self) -> Array:
        return arrays.copy(0.1 * arrays.normal(self.channels, seed=4))

    def passes(self, read: str) -> tuple[limits.Pass, ...]:
        once = (read, "", "y")
        return (once,) if self.cached else ((read, "", ""), once)

    def wide(self, name: str) -> Array:
        return arrays.widen(getattr(self, name)()).astype(np.float64)

    def expected_forward(self) -> Result:
        y = forward(np, self.wide("x"), self.gamma(), self.beta(), self.axes)[0]
        return {"y": np.maximum(y, 0) if self.relu else y}

    def expected_backward(self) -> Result:
        x, dy = self.wide("x"), self.wide("dy")
        y, mean, variance = forward(np, x, self.gamma(), self.beta(), self.axes)
        dy = np.where(y > 0, dy, 0.0) if self.relu else dy
        return self.gradients(*backward(dy, x, self.gamma(), mean, 1 / np.sqrt(variance + EPS), self.axes))

    def gradients(self, dx: Any, dgamma: Any, dbeta: Any) -> Result:
        """Sums over n elements are divided by sqrt(n), so that one tolerance serves all shapes."""
        scale = math.sqrt(math.prod(self.shape) / self.channels)
        return {
            "dx": arrays.widen(dx) if self.dtype == "bfloat16" else dx,
            "dgamma": np.asarray(dgamma).reshape(-1) / scale,
            "dbeta": np.asarray(dbeta).reshape(-1) / scale,
        }


PROBLEMS = (
    Problem("channels_last", (32, 256, 28, 28), channels_last=True),
    Problem("channels_last", (64, 512, 7, 7), channels_last=True),
    Problem("three_channels", (16, 3, 224, 224)),
    Problem("three_channels", (1_000_000, 3)),
    Problem("bfloat16", (32, 256, 28, 28), dtype="bfloat16", cached=True),
    Problem("bfloat16", (65536, 256), dtype="bfloat16"),
    Problem("relu", (32, 256, 28, 28), relu=True, cached=True),
    Problem("relu", (65536, 256), relu=True),
)


def _forward(problem: Problem, fused: bool) -> Contender:
    kernels = peers.load("onepass.kernels")
    x, gamma, beta, out = problem.x(), problem.gamma(), problem.beta(), problem.out()

    def run() -> None:
        kernels.batch_norm(x, gamma, beta, eps=EPS, relu=problem.relu and fused, out=out, **problem.keyword)
        if problem.relu and not fused:
            kernels.relu(out, out)

    return Contender(run, lambda: {"y": arrays.widen(out)})


def _backward(problem: Problem, fused: bool) -> Contender:
    kernels = peers.load("onepass.kernels")
    x, dy, gamma, out = problem.x(), problem.dy(), problem.gamma(), problem.out()
    relu = problem.relu and fused
    y, saved = kernels.batch_norm(x, gamma, problem.beta(), eps=EPS, relu=relu, **problem.keyword)
    if problem.relu:
        kernels.relu(y, y)
    kept: list[Any] = [None] * 3

    def run() -> None:
        passed = kernels.relu_backward(dy, y, out) if problem.relu and not fused else dy
        kept[:] = kernels.batch_norm_backward(passed, x, gamma, saved, out, **problem.keyword)

    return Contender(run, lambda: problem.gradients(*kept))


def _tensor(array: Array) -> Any:
    torch = peers.load("torch")
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def _torch_forward(problem: Problem) -> Contender:
    torch = peers.load("torch")
    x, gamma, beta = map(_tensor, (problem.x(), problem.gamma(), problem.beta()))
    kept: list[Any] = [None]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def run() -> None:
        y = torch.nn.functional.batch_norm(x, None, None, gamma, beta, True, 0.1, EPS)
        kept[0] = y.relu_() if problem.relu else y

    return Contender(run, lambda: {"y": kept[0].float().numpy()})


def _torch_backward(problem: Problem) -> Contender:
    torch = peers.load("torch")
    x, dy, gamma, beta = map(_tensor, (problem.x(), problem.dy(), problem.gamma(), problem.beta()))
    y, mean, invstd = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1, EPS)
    step, mask = torch.ops.aten.native_batch_norm_backward, torch.ops.aten.threshold_backward
    kept: list[Any] = [None] * 3

    def run() -> None:
        passed = mask(dy, y, 0) if problem.relu else dy
        kept[:] = step(passed, x, gamma, None, None, mean, invstd, True, EPS, [True, True, True])

    def result() -> Result:
        dx, dgamma, dbeta = (a.float().numpy() for a in kept)
        return {**problem.gradients(problem.out(), dgamma, dbeta), "dx": dx}

    return Contender(run, result)


def _cases(problem: Problem) -> list[Case]:
    name = f"{problem.name}/{'x'.join(map(str, problem.shape))}"
    coarse = problem.dtype == "bfloat16"
    found = []
    for direction, ours, torchs, expected, read in (
        ("forward", _forward, _torch_forward, problem.expected_forward, "x"),
        ("backward", _backward, _torch_backward, problem.expected_backward, "dx"),
    ):
        passes = problem.passes(read)
        separate = [Entry("onepass separate calls", partial(ours, problem, False))] if problem.relu else []
        found.append(
            Case(
                f"batch_norm/{direction}/{name}",
                size_class(math.prod(problem.shape)),
                (
                    Entry("onepass", partial(ours, problem, True), limit="limit"),
                    *separate,
                    limits.entry(problem.words, *passes),
                    Entry("torch", partial(torchs, problem), ("torch",)),
                ),
                expected,
                (Goal(GOAL_TORCH, "torch"),),
                bytes=limits.bytes_moved(problem.words, *passes),
                memory=4 * math.prod(problem.shape) * 24,
                rtol=2**-7 if coarse else 1e-4,
                atol=2**-7 if coarse else 1e-3,  # torch's float32 sums of a million
            )
        )
    return found


def cases(selection: Selection) -> list[Case]:
    return [case for problem in PROBLEMS for case in _cases(problem)]
