"""Convolution and pooling of images alone, forward and backward, beside torch and JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import agreement, arrays, numpy_images, peers
from bench.case import Array, Case, Contender, Entry, Result, size_class
from bench.selection import Selection


@dataclass(frozen=True)
class Problem:
    """x (N, C, H, W); outputs, side of the kernel, stride and padding."""

    shape: tuple[int, int, int, int]
    outputs: int
    kernel: int
    stride: int
    padding: int

    @property
    def name(self) -> str:
        stride = f"/stride_{self.stride}" if self.stride > 1 else ""
        return f"{'x'.join(map(str, self.shape))}/{self.kernel}x{self.kernel}x{self.outputs}{stride}"

    @property
    def sides(self) -> tuple[int, int]:
        """Of the output."""
        height, width = (
            numpy_images.output_side(side, self.kernel, self.stride, self.padding) for side in self.shape[2:]
        )
        return height, width

    @property
    def pixels(self) -> int:
        """That a weight's gradient is a sum over."""
        return self.shape[0] * math.prod(self.sides)

    def x(self) -> Array:
        return arrays.copy(arrays.normal(self.shape, seed=1))

    def dy(self) -> Array:
        return arrays.copy(arrays.normal((self.shape[0], self.outputs, *self.sides), seed=2))

    def weight(self) -> Array:
        shape = (self.outputs, self.shape[1], self.kernel, self.kernel)
        return arrays.copy(arrays.normal(shape, seed=3) / math.sqrt(math.prod(shape[1:])))

    def bias(self) -> Array:
        return arrays.copy(arrays.normal(self.outputs, seed=4))

    def expected_forward(self) -> Result:
        x, weight = self.x().astype(np.float64), self.weight().astype(np.float64)
        return {"y": numpy_images.conv2d(x, weight, self.bias(), self.stride, self.padding)}

    def backward_result(self, dx: Any, dweight: Any, dbias: Any) -> Result:
        """Sums over n pixels are divided by sqrt(n), so that one tolerance serves all shapes."""
        scale = math.sqrt(self.pixels)
        return {
            "dx": np.asarray(dx),
            "dweight": np.asarray(dweight) / scale,
            "dbias": np.asarray(dbias) / scale,
        }

    def expected_backward(self) -> Result:
        dy, x, weight = (values.astype(np.float64) for values in (self.dy(), self.x(), self.weight()))
        return self.backward_result(*numpy_images.conv2d_backward(dy, x, weight, self.stride, self.padding))


PROBLEMS = (
    Problem((64, 1, 28, 28), 16, 3, 1, 1),
    Problem((64, 16, 14, 14), 32, 3, 1, 1),
    Problem((32, 64, 56, 56), 64, 3, 1, 1),
    Problem((32, 64, 56, 56), 64, 1, 1, 0),
    Problem((32, 64, 56, 56), 128, 3, 2, 1),
)
POOLED = ((64, 16, 28, 28), (64, 32, 14, 14), (32, 64, 56, 56))


def _kept(run: Any) -> tuple[Any, Any]:
    """A function that keeps what the last call returned."""
    kept: list[Any] = [None]

    def keeping() -> None:
        kept[0] = run()

    return keeping, lambda: kept[0]


def _onepass_forward(problem: Problem) -> Contender:
    run, out = _onepass_call(problem, relu=False)
    return Contender(run, lambda: {"y": out})


def _onepass_relu(problem: Problem) -> Contender:
    """Has to give what a ReLU makes of the other row's result, which is compared with float64."""
    (plain, y), (run, out) = _onepass_call(problem, relu=False), _onepass_call(problem, relu=True)
    plain()
    run()
    agreement.check(f"conv2d/forward/{problem.name}: with ReLU", {"y": out}, {"y": np.maximum(y, 0)}, 1e-6, 1e-6)
    return Contender(run)


def _onepass_call(problem: Problem, relu: bool) -> tuple[Callable[[], object], Array]:
    conv2d = peers.load("onepass.kernels").conv2d
    x, weight, bias = problem.x(), problem.weight(), problem.bias()
    out = arrays.full((problem.shape[0], problem.outputs, *problem.sides), 0.0)
    return partial(conv2d, x, weight, bias, problem.stride, problem.padding, relu=relu, out=out), out


def _onepass_backward(problem: Problem) -> Contender:
    """The layer, which has its buffers."""
    nn = peers.load("onepass.nn")
    layer = nn.Conv2d(problem.shape[1], problem.outputs, problem.kernel, problem.stride, problem.padding)
    layer.weight[...] = problem.weight()
    layer.bias[...] = problem.bias()
    dy, out = problem.dy(), arrays.full(problem.shape, 0.0)
    layer.forward(problem.x(), True)
    return Contender(partial(layer.backward, dy, out), lambda: problem.backward_result(out, layer.dweight, layer.dbias))


def _torch_tensors(channels_last: bool, *values: Array) -> list[Any]:
    torch = peers.load("torch")
    found = [torch.from_numpy(value) for value in values]
    if channels_last:
        return [tensor.contiguous(memory_format=torch.channels_last) for tensor in found]
    return found


def _torch_forward(problem: Problem, channels_last: bool) -> Contender:
    torch = peers.load("torch")
    x, weight = _torch_tensors(channels_last, problem.x(), problem.weight())
    bias = torch.from_numpy(problem.bias())
    run, kept = _kept(partial(torch.nn.functional.conv2d, x, weight, bias, problem.stride, problem.padding))
    return Contender(run, lambda: {"y": kept().numpy()})


def _torch_backward(problem: Problem, channels_last: bool) -> Contender:
    torch = peers.load("torch")
    dy, x, weight = _torch_tensors(channels_last, problem.dy(), problem.x(), problem.weight())
    stride, padding = [problem.stride] * 2, [problem.padding] * 2
    which = (True, True, True)
    step = torch.ops.aten.convolution_backward
    arguments = (dy, x, weight, [problem.outputs], stride, padding, [1, 1], False, [0, 0], 1, which)
    run, kept = _kept(partial(step, *arguments))
    return Contender(run, lambda: problem.backward_result(*(tensor.numpy() for tensor in kept())))


def _jax_function(problem: Problem) -> Any:
    lax = peers.load("jax").lax
    stride, padding = (problem.stride,) * 2, ((problem.padding,) * 2,) * 2

    def conv2d(x: Any, weight: Any, bias: Any) -> Any:
        return lax.conv_general_dilated(x, weight, stride, padding) + bias[:, None, None]

    return conv2d


def _jax_forward(problem: Problem) -> Contender:
    jax = peers.load("jax")
    function = jax.jit(_jax_function(problem))
    operands = tuple(map(jax.numpy.array, (problem.x(), problem.weight(), problem.bias())))
    run, kept = _kept(lambda: jax.block_until_ready(function(*operands)))
    return Contender(run, lambda: {"y": np.asarray(kept())})


def _jax_backward(problem: Problem) -> Contender:
    """What of the forward pass the gradients do not need is left out by the compiler."""
    jax = peers.load("jax")
    function = _jax_function(problem)
    backward = jax.jit(lambda dy, *operands: jax.vjp(function, *operands)[1](dy))
    operands = tuple(map(jax.numpy.array, (problem.dy(), problem.x(), problem.weight(), problem.bias())))
    run, kept = _kept(lambda: jax.block_until_ready(backward(*operands)))
    return Contender(run, lambda: problem.backward_result(*kept()))


def _convolution(problem: Problem) -> list[Case]:
    elements = max(math.prod(problem.shape), problem.pixels * problem.outputs)
    size = size_class(elements)
    forward = (
        Entry("onepass", partial(_onepass_forward, problem), ("scipy",)),
        Entry("onepass with ReLU", partial(_onepass_relu, problem), ("scipy",)),
        Entry("torch", partial(_torch_forward, problem, False), ("torch",)),
        Entry("torch channels last", partial(_torch_forward, problem, True), ("torch",)),
        Entry("JAX", partial(_jax_forward, problem), ("jax",)),
    )
    backward = (
        Entry("onepass", partial(_onepass_backward, problem), ("scipy",)),
        Entry("torch", partial(_torch_backward, problem, False), ("torch",)),
        Entry("torch channels last", partial(_torch_backward, problem, True), ("torch",)),
        Entry("JAX", partial(_jax_backward, problem), ("jax",)),
    )
    memory = 4 * elements * 60  # float64 and a copy a tap, for what is expected
    return [
        Case(f"conv2d/forward/{problem.name}", size, forward, problem.expected_forward, memory=memory, atol=1e-4),
        Case(f"conv2d/backward/{problem.name}", size, backward, problem.expected_backward, memory=memory, atol=1e-4),
    ]


def _x(shape: tuple[int, ...]) -> Array:
    return arrays.copy(arrays.normal(shape, seed=1))


def _dy(shape: tuple[int, ...]) -> Array:
    return arrays.copy(arrays.normal((*shape[:2], shape[2] // 2, shape[3] // 2), seed=2))


def _onepass_pool(shape: tuple[int, ...], backward: bool) -> Contender:
    layer, x = peers.load("onepass.nn").MaxPool2d(2), _x(shape)
    run, kept = _kept(partial(layer.forward, x, True))
    if not backward:
        return Contender(run, lambda: {"y": kept()})
    run()
    dy, out = _dy(shape), arrays.full(shape, 0.0)
    return Contender(partial(layer.backward, dy, out), lambda: {"dx": out})


def _torch_pool(shape: tuple[int, ...], channels_last: bool, backward: bool) -> Contender:
    aten = peers.load("torch").ops.aten
    x, dy = _torch_tensors(channels_last, _x(shape), _dy(shape))
    window = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    forward = partial(aten.max_pool2d_with_indices, x, *window)  # what training runs
    if not backward:
        run, kept = _kept(forward)
        return Contender(run, lambda: {"y": kept()[0].numpy()})
    run, kept = _kept(partial(aten.max_pool2d_with_indices_backward, dy, x, *window, forward()[1]))
    return Contender(run, lambda: {"dx": kept().numpy()})


def _numpy_pool(shape: tuple[int, ...], backward: bool) -> Contender:
    x = _x(shape)
    if not backward:
        run, kept = _kept(partial(numpy_images.max_pool2d, x))
        return Contender(run, lambda: {"y": kept()})
    dy, y = _dy(shape), numpy_images.max_pool2d(x)
    run, kept = _kept(partial(numpy_images.max_pool2d_backward, dy, x, y))
    return Contender(run, lambda: {"dx": kept()})


def _pooling(shape: tuple[int, int, int, int], backward: bool) -> Case:
    entries = (
        Entry("onepass", partial(_onepass_pool, shape, backward)),
        Entry("torch", partial(_torch_pool, shape, False, backward), ("torch",)),
        Entry("torch channels last", partial(_torch_pool, shape, True, backward), ("torch",)),
        Entry("NumPy", partial(_numpy_pool, shape, backward)),
    )
    name = f"max_pool2d/{'backward' if backward else 'forward'}/{'x'.join(map(str, shape))}"
    elements = math.prod(shape)
    return Case(
        name,
        size_class(elements),
        entries,
        partial(_expected_pool, shape, backward),
        memory=4 * elements * 16,
        rtol=1e-6,
        atol=1e-12,
    )


def _expected_pool(shape: tuple[int, ...], backward: bool) -> Result:
    """Exact: pooling only chooses, and the data has no ties."""
    contender = _numpy_pool(shape, backward)
    contender.run()
    return contender.result()


def cases(selection: Selection) -> list[Case]:
    pooling = [_pooling(shape, backward) for shape in POOLED for backward in (False, True)]
    return [*(case for problem in PROBLEMS for case in _convolution(problem)), *pooling]
