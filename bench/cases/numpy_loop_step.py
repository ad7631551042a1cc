"""A training step in a user's own NumPy loop: whose products, whose kernels, and whose threads meet.

A network of two layers. Products by np.matmul and everything else by somebody's kernels are two pools of threads that
take turns; what mitigates it takes part: fewer threads on one side, or products in onepass's own team.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result
from bench.cases.cross_entropy import numpy_loss
from bench.contenders import numba_updates, numpy_training
from bench.contenders.first_steps import first_steps
from bench.selection import Selection
from bench.timing import run_for

# sizes of the layers, batch, size class
SHAPES = (((64, 128, 10), 128, "small"), ((784, 512, 10), 128, "cache"))
DEFAULT, HELPER = "np.matmul", "kernels.linear"

Loss = Callable[[Array, Array], tuple[float, Array]]
"""Logits and targets -> loss and gradient."""
Update = Callable[[list[Array]], object]
"""Gradients -> a step."""


@dataclass(frozen=True)
class Problem:
    sizes: tuple[int, int, int]
    batch: int

    def x(self) -> Array:
        """No hidden unit is so near 0 that float32 sees it on the other side."""
        return arrays.copy(arrays.normal((self.batch, self.sizes[0]), seed=7))

    def y(self) -> Array:
        return np.random.default_rng(2).integers(0, self.sizes[-1], self.batch, dtype=np.int64)

    def params(self) -> list[Array]:
        """Weight (outputs, inputs) and bias of both layers."""
        rng = np.random.default_rng(3)
        found = []
        for inputs, outputs in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            bound = inputs**-0.5
            found += [rng.uniform(-bound, bound, (outputs, inputs)), rng.uniform(-bound, bound, outputs)]
        return [arrays.copy(param) for param in found]


def loss_and_gradients(params: list[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
    hidden = np.maximum(x @ params[0].T + params[1], 0)
    loss, dy = numpy_loss(hidden @ params[2].T + params[3], y)
    below = (dy @ params[2]) * (hidden > 0)
    return loss, [below.T @ x, below.sum(0), dy.T @ hidden, dy.sum(0)]


class NumPyProducts:
    """kernels.linear and kernels.linear_backward, by np.matmul."""

    @staticmethod
    def linear(x: Array, weight: Array, bias: Array, relu: bool, out: Array) -> Array:
        np.matmul(x, weight.T, out=out)
        out += bias
        return np.maximum(out, 0, out=out) if relu else out

    @staticmethod
    def linear_backward(dy: Array, x: Array, weight: Array, dx: Any, dweight: Array, dbias: Array) -> None:
        np.matmul(dy.T, x, out=dweight)
        np.sum(dy, axis=0, out=dbias)
        if dx is not False:
            np.matmul(dy, weight, out=dx)


def _onepass_kernels(params: list[Array]) -> tuple[Loss, Update]:
    cross_entropy = peers.load("onepass.kernels").softmax_cross_entropy
    return lambda logits, y: cross_entropy(logits, y, grad=logits), peers.load("onepass.optim").Adam(params).step


def _torch_kernels(params: list[Array]) -> tuple[Loss, Update]:
    """Cross-entropy and fused Adam on the same memory: an OpenMP region each."""
    torch = peers.load("torch")
    tensors = [torch.from_numpy(param).requires_grad_() for param in params]
    optimizer = torch.optim.Adam(tensors, fused=True)

    def loss_of(logits: Array, y: Array) -> tuple[float, Array]:
        leaf = torch.from_numpy(logits).requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(y))
        loss.backward()
        return loss.item(), leaf.grad.numpy()

    def update(gradients: list[Array]) -> None:
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.from_numpy(gradient)
        optimizer.step()

    return loss_of, update


def _numba_kernels(params: list[Array]) -> tuple[Loss, Update]:
    """NumPy's cross-entropy, and Adam as a parallel loop of Numba: OpenMP's pool, unless it finds TBB."""
    return numpy_loss, numba_updates.adam(params)


def _numpy_kernels(params: list[Array]) -> tuple[Loss, Update]:
    """Nobody to fight with."""
    return numpy_loss, numpy_training.adam(params)


def _blas_threads(count: int) -> Callable[[], AbstractContextManager[Any]]:
    """As with OPENBLAS_NUM_THREADS, for as long as the context lasts."""
    controller = peers.load("threadpoolctl").ThreadpoolController()
    return lambda: controller.limit(limits=count, user_api="blas")


@contextmanager
def _onepass_threads(count: int) -> Iterator[None]:
    onepass = peers.load("onepass")
    before = onepass.get_threads()
    onepass.set_threads(count)
    try:
        yield
    finally:
        onepass.set_threads(before)


def _step(
    problem: Problem, products: Any, kernels: Callable[[list[Array]], tuple[Loss, Update]]
) -> tuple[Callable[[], None], Result]:
    params, x, y = problem.params(), problem.x(), problem.y()
    loss_of, update = kernels(params)
    _, features, classes = problem.sizes
    hidden, below, logits = (arrays.empty((problem.batch, n)) for n in (features, features, classes))
    gradients = [arrays.empty(param.shape) for param in params]
    loss = 0.0

    def run() -> None:
        nonlocal loss
        products.linear(x, params[0], params[1], True, out=hidden)
        products.linear(hidden, params[2], params[3], False, out=logits)
        loss, dy = loss_of(logits, y)
        products.linear_backward(dy, hidden, params[2], below, gradients[2], gradients[3])
        np.multiply(below, hidden > 0, out=below)
        products.linear_backward(below, x, params[0], False, gradients[0], gradients[1])
        update(gradients)

    return run, first_steps(run, lambda: loss, lambda: gradients)


def _contender(
    problem: Problem,
    kernels: Callable[[list[Array]], tuple[Loss, Update]] = _onepass_kernels,
    team: bool = False,
    blas: int | None = None,
    onepass: int | None = None,
) -> Contender:
    """team: products in onepass's team; blas, onepass: that many threads, set outside of what is timed."""
    run, result = _step(problem, peers.load("onepass.kernels") if team else NumPyProducts, kernels)
    if blas is None and onepass is None:
        return Contender(run, lambda: result)
    setting = nullcontext if blas is None else _blas_threads(blas)

    def within(function: Callable[[], Any]) -> Any:
        with setting(), nullcontext() if onepass is None else _onepass_threads(onepass):
            return function()

    def measure(repeat: int) -> float:
        seconds: float = within(lambda: (run(), run_for(Contender(run), repeat))[1])
        return seconds

    return Contender(lambda: within(run), lambda: result, measure)


def _expected(problem: Problem) -> Result:
    return numpy_training.expected(loss_and_gradients, problem.params(), problem.x(), problem.y())


def cases(selection: Selection) -> list[Case]:
    found = []
    for sizes, batch, size in SHAPES:
        problem = Problem(sizes, batch)
        make = partial(_contender, problem)
        entries = (
            Entry(DEFAULT, make),
            Entry(f"{DEFAULT}, BLAS one thread", partial(make, blas=1), ("threadpoolctl",)),
            Entry(f"{DEFAULT}, onepass one thread", partial(make, onepass=1)),
            Entry(f"{DEFAULT}, both one thread", partial(make, blas=1, onepass=1), ("threadpoolctl",)),
            Entry(HELPER, partial(make, team=True), ("scipy",)),
            Entry(f"{DEFAULT}, torch's kernels", partial(make, _torch_kernels), ("torch",)),
            Entry(f"{DEFAULT}, Numba's Adam", partial(make, _numba_kernels), ("numba",)),
            Entry("NumPy alone", partial(make, _numpy_kernels)),
        )
        found.append(
            Case(
                f"numpy_loop/step/{'-'.join(map(str, sizes))}/batch_{batch}",
                size,
                entries,
                partial(_expected, problem),
                (Goal(1.0, DEFAULT, HELPER),),
                base=DEFAULT,
                rtol=1e-3,
                atol=1e-5,
            )
        )
    return found
