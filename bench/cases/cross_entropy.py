"""Softmax cross-entropy with integer targets: the mean loss and the gradient of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, limits, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result, size_class
from bench.selection import Selection

# rows, classes, and how many times faster than the best peer
SHAPES = (
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
                (Goal(goal, "torch*|JAX|NumPy", "onepass in place"),),
                base="onepass in place",
                bytes=limits.bytes_moved(elements, in_place),
                memory=4 * elements * 24,
                atol=1e-6,
            )
        )
    return found
