"""Softmax cross-entropy with integer targets: the mean loss and the gradient of the logits, in float32 and bfloat16; of
one long row, which threads share; and fused with the linear layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, limits, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result, size_class
from bench.selection import Selection

# rows, classes, and how many times faster than the best peer (None: not promised)
SHAPES: tuple[tuple[int, int, float | None], ...] = (
    (1, 250_000, None),
    (128, 10, 6.0),
    (1024, 1000, 3.0),
    (8192, 1000, 4.5),
    (2048, 32000, 5.0),
    (1024, 50257, 8.0),
)


@dataclass(frozen=True)
class Problem:
    rows: int
    classes: int

    def logits(self) -> Array:
        return arrays.copy(arrays.normal((self.rows, self.classes), seed=1))

    def targets(self) -> Array:
        rng = np.random.default_rng(2)
        return rng.integers(0, self.classes, self.rows, dtype=np.int64)

    def result(self, loss: Any, grad: Any) -> Result:
        """The gradient of the sum, so that one tolerance serves all shapes."""
        return {"loss": np.asarray(loss, np.float64), "grad": np.asarray(grad) * self.rows}

    def expected(self) -> Result:
        logits, targets = self.logits(), self.targets()
        grad = np.empty(logits.shape)
        total = 0.0
        for i in range(0, self.rows, 64):
            loss, grad[i : i + 64] = numpy_loss(logits[i : i + 64].astype(np.float64), targets[i : i + 64])
            size = len(grad[i : i + 64])
            total += loss * size
            grad[i : i + 64] *= size / self.rows
        return self.result(total / self.rows, grad)


def numpy_loss(logits: Array, targets: Array) -> tuple[float, Array]:
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    grad = np.exp(shifted)
    total = grad.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - shifted[rows, targets]))
    grad /= total
    grad[rows, targets] -= 1
    grad /= len(logits)
    return loss, grad


def _onepass(problem: Problem, kind: str) -> Contender:
    loss_and_grad = peers.load("onepass.kernels").softmax_cross_entropy
    logits, targets = problem.logits(), problem.targets()
    out = {"new": None, "out": arrays.full(logits.shape, 0.0), "in place": logits}[kind]
    kept: list[Any] = [None, None]

    def run() -> None:
        kept[:] = loss_and_grad(logits, targets, grad=out)

    return Contender(run, lambda: problem.result(*kept))


def _numpy(problem: Problem) -> Contender:
    logits, targets = problem.logits(), problem.targets()
    kept: list[Any] = [None, None]

    def run() -> None:
        kept[:] = numpy_loss(logits, targets)

    return Contender(run, lambda: problem.result(*kept))


def _torch(problem: Problem, compiled: bool = False) -> Contender:
    torch = peers.load("torch")
    logits = torch.from_numpy(problem.logits()).requires_grad_()
    targets = torch.from_numpy(problem.targets())
    kept: list[Any] = [None, None]

    forward = torch.nn.functional.cross_entropy
    if compiled:
        forward = torch.compile(forward)

    def run() -> None:
        loss = forward(logits, targets)
        (grad,) = torch.autograd.grad(loss, logits)
        kept[:] = loss, grad

    return Contender(run, lambda: problem.result(kept[0].detach(), kept[1]))


def _jax(problem: Problem) -> Contender:
    jax = peers.load("jax")

    def mean_loss(logits: Any, targets: Any) -> Any:
        picked = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
        return -picked.mean()

    step = jax.jit(jax.value_and_grad(mean_loss))
    logits, targets = jax.numpy.array(problem.logits()), jax.numpy.array(problem.targets())
    kept: list[Any] = [None, None]

    def run() -> None:
        kept[:] = jax.block_until_ready(step(logits, targets))

    return Contender(run, lambda: problem.result(*kept))


def cases(selection: Selection) -> list[Case]:
    found = []
    for rows, classes, goal in SHAPES:
        problem, elements = Problem(rows, classes), rows * classes
        one_pass, in_place = ("x", "", "y"), ("", "x", "")
        bound = "limit in place"
        entries = [
            Entry("onepass in place", partial(_onepass, problem, "in place"), limit=bound),
            Entry("onepass grad=", partial(_onepass, problem, "out"), limit="limit"),
            Entry("onepass new array", partial(_onepass, problem, "new")),
            limits.entry(elements, in_place, name=bound),
            limits.entry(elements, one_pass),
            Entry("torch", partial(_torch, problem), ("torch",)),
            Entry("JAX", partial(_jax, problem), ("jax",)),
            Entry("NumPy", partial(_numpy, problem)),
        ]
        if peers.compiling():
            compiled = partial(_torch, problem, compiled=True)
            entries.insert(-2, Entry("torch.compile", compiled, ("torch",)))
        found.append(
            Case(
                f"cross_entropy/{rows}x{classes}",
                size_class(elements),
                tuple(entries),
                problem.expected,
                () if goal is None else (Goal(goal, "torch*|JAX|NumPy", "onepass in place"),),
                base="onepass in place",
                bytes=limits.bytes_moved(elements, in_place),
                memory=4 * elements * 24,
                atol=1e-6,
            )
        )
    return [*found, *(half_case(*shape) for shape in HALF_SHAPES), *(linear_case(*shape) for shape in LINEAR_SHAPES)]


# ---- bfloat16

HALF_SHAPES = ((8192, 1000), (1024, 50257))


@dataclass(frozen=True)
class HalfProblem(Problem):
    """Logits cut off to bfloat16."""

    def bits(self) -> Array:
        return arrays.copy(super().logits().view(np.uint32) >> 16, np.uint16)

    def logits(self) -> Array:
        return wide(self.bits())


def wide(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _onepass_half(problem: HalfProblem) -> Contender:
    loss_and_grad = peers.load("onepass.kernels").softmax_cross_entropy
    logits, targets = problem.bits(), problem.targets()
    kept: list[Any] = [None, None]

    def run() -> None:
        kept[:] = loss_and_grad(logits, targets, grad=logits, dtype="bfloat16")

    return Contender(run, lambda: problem.result(kept[0], wide(kept[1])))


def _torch_half(problem: HalfProblem) -> Contender:
    torch = peers.load("torch")
    logits = torch.from_numpy(problem.bits().view(np.int16)).view(torch.bfloat16).requires_grad_()
    targets = torch.from_numpy(problem.targets())
    kept: list[Any] = [None, None]

    def run() -> None:
        loss = torch.nn.functional.cross_entropy(logits, targets)
        (grad,) = torch.autograd.grad(loss, logits)
        kept[:] = loss, grad

    return Contender(run, lambda: problem.result(kept[0].detach().float(), kept[1].float()))


def half_case(rows: int, classes: int) -> Case:
    """torch rounds the log-probabilities to bfloat16 between its two halves, hence the tolerance."""
    problem, elements = HalfProblem(rows, classes), rows * classes
    bound = "limit in place"
    return Case(
        f"cross_entropy/bfloat16 {rows}x{classes}",
        size_class(elements // 2),
        (
            Entry("onepass in place", partial(_onepass_half, problem), limit=bound),
            limits.entry(elements // 2, ("", "x", ""), name=bound),
            Entry("torch", partial(_torch_half, problem), ("torch",)),
        ),
        problem.expected,
        base="onepass in place",
        bytes=4 * elements,
        memory=4 * elements * 24,
        rtol=2e-2,
        atol=2e-2,
    )


# ---- fused with a linear layer

LINEAR_SHAPES = ((2048, 512, 32000),)  # rows, features, classes


@dataclass(frozen=True)
class LinearProblem:
    rows: int
    features: int
    classes: int

    def arguments(self) -> tuple[Array, Array, Array, Array]:
        x = arrays.copy(arrays.normal((self.rows, self.features), seed=1))
        weight = arrays.copy(arrays.normal((self.classes, self.features), seed=3) * self.features**-0.5)
        targets = np.random.default_rng(2).integers(0, self.classes, self.rows, dtype=np.int64)
        return x, weight, arrays.full(self.classes, 0.25), targets

    def result(self, loss: Any, dx: Any, dweight: Any, dbias: Any) -> Result:
        """The gradients of the sum."""
        found = {"dx": dx, "dweight": dweight, "dbias": dbias}
        return {"loss": np.asarray(loss, np.float64), **{k: np.asarray(v) * self.rows for k, v in found.items()}}

    def expected(self) -> Result:
        x, weight, bias, targets = self.arguments()
        x, weight, bias = (a.astype(np.float64) for a in (x, weight, bias))
        total, dx, dweight, dbias = 0.0, np.empty(x.shape), np.zeros(weight.shape), np.zeros(bias.shape)
        for i in range(0, self.rows, 128):
            part = x[i : i + 128]
            loss, grad = numpy_loss(part @ weight.T + bias, targets[i : i + 128])
            share = len(part) / self.rows
            total += loss * share
            grad *= share
            dx[i : i + 128] = grad @ weight
            dweight += grad.T @ part
            dbias += grad.sum(0)
        return self.result(total, dx, dweight, dbias)


def _onepass_linear(problem: LinearProblem) -> Contender:
    function = peers.load("onepass.kernels").linear_cross_entropy
    x, weight, bias, targets = problem.arguments()
    outs = {"dx": arrays.empty(x.shape), "dweight": arrays.empty(weight.shape), "dbias": arrays.empty(bias.shape)}
    kept: list[Any] = [None] * 4

    def run() -> None:
        kept[:] = function(x, weight, bias, targets, **outs)

    return Contender(run, lambda: problem.result(*kept))


def _torch_linear(problem: LinearProblem) -> Contender:
    torch = peers.load("torch")
    *inputs, targets = (torch.from_numpy(a) for a in problem.arguments())
    for a in inputs:
        a.requires_grad_()
    kept: list[Any] = [None] * 4

    def run() -> None:
        loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(*inputs), targets)
        kept[:] = loss, *torch.autograd.grad(loss, inputs)

    return Contender(run, lambda: problem.result(kept[0].detach(), *kept[1:]))


def linear_case(rows: int, features: int, classes: int) -> Case:
    problem = LinearProblem(rows, features, classes)
    return Case(
        f"cross_entropy/linear {rows}x{features}x{classes}",
        size_class(rows * classes),
        (
            Entry("onepass", partial(_onepass_linear, problem)),
            Entry("torch", partial(_torch_linear, problem), ("torch",)),
        ),
        problem.expected,
        memory=16 * rows * classes + 40 * classes * features,
        atol=1e-4,
    )
