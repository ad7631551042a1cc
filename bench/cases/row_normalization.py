"""Layer, RMS, group and instance normalization: forward and backward beside torch and the memory's own limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, limits, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result, size_class
from bench.selection import Selection

EPS = 1e-5
GOAL_TORCH, GOAL_LIMIT = 1.5, 0.85


@dataclass(frozen=True)
class Problem:
    kind: str
    shape: tuple[int, ...]
    groups: int = 0  # 0: rows are the last axis

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def rms(self) -> bool:
        return self.kind == "rms_norm"

    @property
    def parameters(self) -> int:
        return self.shape[1] if self.groups else self.shape[-1]

    @property
    def count(self) -> int:
        """How many elements a gamma serves."""
        return self.elements // self.parameters

    def x(self) -> Array:
        return arrays.copy(arrays.normal(self.shape, seed=1) * 2 + 1)

    def dy(self) -> Array:
        return arrays.copy(arrays.normal(self.shape, seed=2))

    def gamma(self) -> Array:
        return arrays.copy(1 + 0.1 * arrays.normal(self.parameters, seed=3))

    def beta(self) -> Array | None:
        return None if self.rms else arrays.copy(arrays.normal(self.parameters, seed=4))

    def rows(self, a: Array) -> Array:
        rows = self.shape[0] * self.groups if self.groups else self.shape[0]
        return a.reshape(rows, -1)

    def beside(self, parameter: Array) -> Array:
        return parameter.reshape(-1, *[1] * (len(self.shape) - 2)) if self.groups else parameter

    def statistics(self) -> tuple[Array, Array]:
        """xhat like x, and invstd (rows, 1), in float64."""
        rows = self.rows(self.x().astype(np.float64))
        if not self.rms:
            rows = rows - rows.mean(1, keepdims=True)
        invstd = 1 / np.sqrt((rows**2).mean(1, keepdims=True) + EPS)
        return (rows * invstd).reshape(self.shape), invstd

    def expected_forward(self) -> Result:
        y = self.statistics()[0] * self.beside(self.gamma())
        beta = self.beta()
        return {"y": y if beta is None else y + self.beside(beta)}

    def backward_result(self, dx: Any, dgamma: Any, dbeta: Any = None) -> Result:
        """Sums over n elements are divided by sqrt(n), so that one tolerance serves all shapes."""
        scale = math.sqrt(self.count)
        result = {"dx": np.asarray(dx), "dgamma": np.asarray(dgamma) / scale}
        return result if self.rms else {**result, "dbeta": np.asarray(dbeta) / scale}

    def expected_backward(self) -> Result:
        xhat, invstd = self.statistics()
        dy = self.dy().astype(np.float64)
        g, rows = self.rows(dy * self.beside(self.gamma())), self.rows(xhat)
        mean = 0.0 if self.rms else g.mean(1, keepdims=True)
        dx = invstd * (g - mean - rows * (g * rows).mean(1, keepdims=True))
        axes = (0, *range(2, len(self.shape))) if self.groups else 0
        return self.backward_result(dx.reshape(self.shape), (dy * xhat).sum(axes), dy.sum(axes))


PROBLEMS = (
    Problem("layer_norm", (128, 128)),
    Problem("layer_norm", (4096, 768)),
    Problem("layer_norm", (8192, 4096)),
    Problem("layer_norm", (3, 1_000_000)),
    Problem("rms_norm", (8192, 4096)),
    Problem("group_norm", (32, 256, 28, 28), 32),
    Problem("instance_norm", (32, 64, 56, 56), 64),
)


def _forward(problem: Problem, x: Array, out: Array | None) -> tuple[Array, Any]:
    kernels = peers.load("onepass.kernels")
    function = getattr(kernels, problem.kind)
    more = (problem.groups,) if problem.kind == "group_norm" else ()
    parameters = (problem.gamma(),) if problem.rms else (problem.gamma(), problem.beta())
    result: tuple[Array, Any] = function(x, *more, *parameters, eps=EPS, out=out)
    return result


def _onepass_forward(problem: Problem, allocate: bool) -> Contender:
    function = getattr(peers.load("onepass.kernels"), problem.kind)
    x, gamma, beta = problem.x(), problem.gamma(), problem.beta()
    more = (problem.groups,) if problem.kind == "group_norm" else ()
    arguments = (x, *more, gamma) if problem.rms else (x, *more, gamma, beta)
    out = None if allocate else arrays.full(x.shape, 0.0)
    kept: list[Any] = [None]

    def run() -> None:
        kept[0] = function(*arguments, eps=EPS, out=out)[0]

    return Contender(run, lambda: {"y": kept[0]})


def _onepass_backward(problem: Problem, allocate: bool) -> Contender:
    function = getattr(peers.load("onepass.kernels"), f"{problem.kind}_backward")
    x, dy, gamma = problem.x(), problem.dy(), problem.gamma()
    out = None if allocate else arrays.full(x.shape, 0.0)
    _, saved = _forward(problem, x, None)
    kept: list[Any] = [None]

    def run() -> None:
        kept[0] = function(dy, x, gamma, saved, out)

    return Contender(run, lambda: problem.backward_result(*kept[0]))


def _torch_call(problem: Problem, x: Any, gamma: Any, beta: Any) -> Any:
    functional = peers.load("torch").nn.functional
    if problem.kind == "layer_norm":
        return functional.layer_norm(x, gamma.shape, gamma, beta, EPS)
    if problem.kind == "rms_norm":
        return functional.rms_norm(x, gamma.shape, gamma, EPS)
    if problem.kind == "group_norm":
        return functional.group_norm(x, problem.groups, gamma, beta, EPS)
    return functional.instance_norm(x, None, None, gamma, beta, True, 0.1, EPS)


def _torch_forward(problem: Problem) -> Contender:
    torch = peers.load("torch")
    beta = problem.beta()
    x, gamma = torch.from_numpy(problem.x()), torch.from_numpy(problem.gamma())
    shift = None if beta is None else torch.from_numpy(beta)
    kept: list[Any] = [None]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def run() -> None:
        kept[0] = _torch_call(problem, x, gamma, shift)

    return Contender(run, lambda: {"y": kept[0].numpy()})


def _torch_backward(problem: Problem) -> Contender:
    """Through autograd, over a graph that is kept."""
    torch = peers.load("torch")
    values = [problem.x(), problem.gamma(), problem.beta()]
    leaves = [torch.from_numpy(v).requires_grad_() for v in values if v is not None]
    y = _torch_call(problem, leaves[0], leaves[1], None if problem.rms else leaves[2])
    dy = torch.from_numpy(problem.dy())
    kept: list[Any] = [None]

    def run() -> None:
        kept[0] = torch.autograd.grad(y, leaves, dy, retain_graph=True)

    return Contender(run, lambda: problem.backward_result(*(v.numpy() for v in kept[0])))


def _goals() -> tuple[Goal, ...]:
    return (Goal(GOAL_LIMIT, "limit"), Goal(GOAL_TORCH, "torch", "onepass new array"))


def _cases(problem: Problem) -> list[Case]:
    name = "x".join(map(str, problem.shape))
    size = size_class(problem.elements)
    on_forward, on_backward = ("x", "", "y"), ("dx", "", "y")
    return [
        Case(
            f"{problem.kind}/forward/{name}",
            size,
            (
                Entry("onepass", partial(_onepass_forward, problem, False), limit="limit"),
                Entry("onepass new array", partial(_onepass_forward, problem, True)),
                limits.entry(problem.elements, on_forward),
                Entry("torch", partial(_torch_forward, problem), ("torch",)),
            ),
            problem.expected_forward,
            _goals(),
            bytes=limits.bytes_moved(problem.elements, on_forward),
            memory=4 * problem.elements * 24,
            atol=1e-4,
        ),
        Case(
            f"{problem.kind}/backward/{name}",
            size,
            (
                Entry("onepass", partial(_onepass_backward, problem, False), limit="limit"),
                Entry("onepass new array", partial(_onepass_backward, problem, True)),
                limits.entry(problem.elements, on_backward),
                Entry("torch", partial(_torch_backward, problem), ("torch",)),
            ),
            problem.expected_backward,
            _goals(),
            bytes=limits.bytes_moved(problem.elements, on_backward),
            memory=4 * problem.elements * 24,
            atol=1e-4,
        ),
    ]


def cases(selection: Selection) -> list[Case]:
    return [case for problem in PROBLEMS for case in _cases(problem)]
