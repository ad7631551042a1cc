"""Activations, dropout and losses of elements beside torch and NumPy, and the memory's own limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, limits, peers
from bench.case import Array, Case, Contender, Entry, Result, label, size_class
from bench.selection import Selection

SIZES = (1 << 12, 1 << 20, 1 << 26)
NAMES = ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
FROM_OUTPUT = ("relu", "sigmoid", "tanh")
ROOT = np.float32(np.sqrt(8 / np.pi))


def numpy_sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    found: Array = np.where(x < 0, e, x.dtype.type(1)) / (1 + e)
    return found


def numpy_value(name: str, x: Array) -> Array:
    """What one would write without SciPy; GELU by its tanh form alone."""
    if name == "relu":
        return np.maximum(x, 0)
    if name == "tanh":
        return np.tanh(x)
    if name == "sigmoid":
        return numpy_sigmoid(x)
    gate = x if name == "silu" else ROOT.astype(x.dtype) * (x + x.dtype.type(0.044715) * x * x * x)
    found: Array = x * numpy_sigmoid(gate)
    return found


def _x(n: int) -> Array:
    return arrays.repeated(arrays.normal(min(n, arrays.PERIOD), seed=1) * 2, n)


def _dy(n: int) -> Array:
    return arrays.repeated(arrays.normal(min(n, arrays.PERIOD), seed=2), n)


def _targets(n: int) -> Array:
    return arrays.repeated((_dy(min(n, arrays.PERIOD)) > 0).astype(np.float32), n)


def _period(result: Callable[[], Array | None], n: int) -> Callable[[], Result]:
    """Data repeats itself: one period of the result is enough."""
    return lambda: {"y": np.asarray(result())[: min(n, arrays.PERIOD)]}


def _call(name: str, backward: bool = False) -> Callable[..., Any]:
    kernels = peers.load("onepass.kernels")
    own = name.removesuffix("_tanh")
    options = {"approximate": "tanh"} if name.endswith("_tanh") else {}
    return partial(getattr(kernels, f"{own}_backward" if backward else own), **options)


def _onepass_forward(name: str, n: int, allocate: bool) -> Contender:
    x, function = _x(n), _call(name)
    out = None if allocate else arrays.full(n, 0.0)
    kept: list[Any] = [None]

    def run() -> None:
        kept[0] = function(x, out=out)

    return Contender(run, _period(lambda: kept[0], n))


def _onepass_backward(name: str, n: int) -> Contender:
    dy, function, out = _dy(n), _call(name, True), arrays.full(n, 0.0)
    saved = _call(name)(_x(n)) if name in FROM_OUTPUT else _x(n)
    return Contender(lambda: function(dy, saved, out=out), _period(lambda: out, n))


def _numpy_forward(name: str, n: int) -> Contender:
    x = _x(n)
    kept: list[Any] = [None]

    def run() -> None:
        kept[0] = numpy_value(name, x)

    return Contender(run, _period(lambda: kept[0], n))


def _torch_call(name: str) -> Callable[[Any], Any]:
    torch = peers.load("torch")
    functional = torch.nn.functional
    functions: dict[str, Callable[[Any], Any]] = {
        "relu": functional.relu,
        "gelu": functional.gelu,
        "gelu_tanh": partial(functional.gelu, approximate="tanh"),
        "silu": functional.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }
    return functions[name]


def _torch_forward(name: str, n: int) -> Contender:
    torch = peers.load("torch")
    x, function = torch.from_numpy(_x(n)), _torch_call(name)
    kept: list[Any] = [None]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def run() -> None:
        kept[0] = function(x)

    return Contender(run, _period(lambda: kept[0].numpy(), n))


def _torch_backward(name: str, n: int) -> Contender:
    """Through autograd, over a graph that is kept."""
    torch = peers.load("torch")
    x, dy = torch.from_numpy(_x(n)).requires_grad_(), torch.from_numpy(_dy(n))
    y = _torch_call(name)(x)
    kept: list[Any] = [None]

    def run() -> None:
        (kept[0],) = torch.autograd.grad(y, x, dy, retain_graph=True)

    return Contender(run, _period(lambda: kept[0].numpy(), n))


def _expected(name: str, n: int, backward: bool) -> Result:
    reference = peers.load("onepass.reference")
    short = min(n, 1 << 16)  # error functions one by one: a part of a period
    x, dy = _x(n)[:short].astype(np.float64), _dy(n)[:short].astype(np.float64)
    own, options = name.removesuffix("_tanh"), ({"approximate": "tanh"} if name.endswith("_tanh") else {})
    value = getattr(reference, own)(x, **options)
    if backward:
        value = getattr(reference, f"{own}_backward")(dy, value if name in FROM_OUTPUT else x, **options)
    return {"y": value}


def _part(contender: Contender, n: int) -> Contender:
    """Of the result the part that is expected."""
    short = min(n, 1 << 16)
    return Contender(contender.run, lambda: {"y": np.asarray(contender.result()["y"])[:short]})


def _entry(
    name: str, make: Callable[[], Contender], n: int, needs: tuple[str, ...] = (), limit: str | None = None
) -> Entry:
    return Entry(name, lambda: _part(make(), n), needs, limit)


def _activation(name: str, n: int) -> list[Case]:
    on_forward, on_backward = ("x", "", "y"), ("dx", "", "y")
    size = size_class(n)
    numpy = () if name == "gelu" else (_entry("NumPy", partial(_numpy_forward, name, n), n),)
    return [
        Case(
            f"activation/{name}/{label(n)}",
            size,
            (
                _entry("onepass", partial(_onepass_forward, name, n, False), n, limit="limit"),
                _entry("onepass new array", partial(_onepass_forward, name, n, True), n),
                limits.entry(n, on_forward),
                _entry("torch", partial(_torch_forward, name, n), n, ("torch",)),
                *numpy,
            ),
            partial(_expected, name, n, False),
            bytes=limits.bytes_moved(n, on_forward),
            memory=4 * n * 16,
        ),
        Case(
            f"activation/{name}_backward/{label(n)}",
            size,
            (
                _entry("onepass", partial(_onepass_backward, name, n), n, limit="limit"),
                limits.entry(n, on_backward),
                _entry("torch", partial(_torch_backward, name, n), n, ("torch",)),
            ),
            partial(_expected, name, n, True),
            bytes=limits.bytes_moved(n, on_backward),
            memory=4 * n * 16,
        ),
    ]


def _onepass_loss(n: int) -> Contender:
    function = peers.load("onepass.kernels").binary_cross_entropy_with_logits
    x, t, grad = _x(n), _targets(n), arrays.full(n, 0.0)
    kept: list[Any] = [None]

    def run() -> None:
        kept[0] = function(x, t, grad=grad)[0]

    return Contender(run, lambda: _loss_result(kept[0], grad, n))


def _torch_loss(n: int) -> Contender:
    torch = peers.load("torch")
    function = torch.nn.functional.binary_cross_entropy_with_logits
    x, t = torch.from_numpy(_x(n)).requires_grad_(), torch.from_numpy(_targets(n))
    kept: list[Any] = [None, None]

    def run() -> None:
        kept[0] = loss = function(x, t)
        (kept[1],) = torch.autograd.grad(loss, x)

    return Contender(run, lambda: _loss_result(kept[0].item(), kept[1].numpy(), n))


def _loss_result(loss: float, grad: Array, n: int) -> Result:
    """The gradient of the sum, of one period."""
    return {"loss": np.asarray(loss), "grad": grad[: min(n, arrays.PERIOD)] * n}


def _loss_expected(n: int) -> Result:
    x, t = (a(min(n, arrays.PERIOD)).astype(np.float64) for a in (_x, _targets))
    return {"loss": np.asarray((np.logaddexp(0, x) - t * x).mean()), "grad": numpy_sigmoid(x) - t}


def _onepass_dropout(n: int) -> Contender:
    function = peers.load("onepass.kernels").dropout
    x, out = _x(n), arrays.full(n, 0.0)
    return Contender(lambda: function(x, 0.5, 1, 0, out))  # everybody's own mask: nothing to compare


def _torch_dropout(n: int) -> Contender:
    torch = peers.load("torch")
    x = torch.from_numpy(_x(n))
    return Contender(lambda: torch.nn.functional.dropout(x, 0.5))


def _others(n: int) -> list[Case]:
    on_loss, on_dropout = ("xt", "", "g"), ("x", "", "y")
    return [
        Case(
            f"loss/binary_cross_entropy/{label(n)}",
            size_class(n),
            (
                Entry("onepass", partial(_onepass_loss, n), limit="limit"),
                limits.entry(n, on_loss),
                Entry("torch", partial(_torch_loss, n), ("torch",)),
            ),
            partial(_loss_expected, n),
            bytes=limits.bytes_moved(n, on_loss),
            memory=4 * n * 12,
        ),
        Case(
            f"dropout/{label(n)}",
            size_class(n),
            (
                Entry("onepass", partial(_onepass_dropout, n), limit="limit"),
                limits.entry(n, on_dropout),
                Entry("torch", partial(_torch_dropout, n), ("torch",)),
            ),
            bytes=limits.bytes_moved(n, on_dropout),
            memory=4 * n * 8,
        ),
    ]


def cases(selection: Selection) -> list[Case]:
    return [case for n in SIZES for case in (*(case for name in NAMES for case in _activation(name, n)), *_others(n))]
