"""Export of a trained model to ONNX, for inference anywhere. Needs the extra ``onnx``.

>>> from onepass import nn, onnx
>>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 3))
>>> graph = onnx.export(model, None, (4,)).graph
>>> [node.op_type for node in graph.node]
['Gemm', 'BatchNormalization', 'Relu', 'Gemm']
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike, fspath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import onepass
from onepass import nn
from onepass._extras import require
from onepass.nn.layer import check_row_shape

__all__ = ["Graph", "export", "register"]

OPSET = 17
Array = NDArray[Any]
L = TypeVar("L", bound=nn.Layer)
Converter = Callable[[Any, "Graph", str], str]
_CONVERTERS: dict[type[nn.Layer], Converter] = {}


class Graph:
    """The nodes and constants that converters add to."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.integers: set[str] = set()  # names of what has to hold integers
        self._count = 0

    def constant(self, value: Array | float) -> str:
        """The name of a constant; numbers take the model's type."""
        array = value if isinstance(value, np.ndarray) else np.array(value, self.dtype)
        name = self._name("constant")
        self.constants.append(require("onnx.numpy_helper", "onnx").from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of the output of a new node."""
        output = self._name(operator.lower())
        make = require("onnx.helper", "onnx").make_node
        self.nodes.append(make(operator, inputs, [output], name=output, **attributes))
        return output

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

    def layer(self, layer: nn.Layer, x: str) -> str:
        """The name of what ``layer`` makes of ``x``."""
        for kind in type(layer).__mro__:
            if kind in _CONVERTERS:
                return _CONVERTERS[kind](layer, self, x)
        name = type(layer).__name__
        raise TypeError(f"{layer!r:.60} has no ONNX form; give it one with onepass.onnx.register({name})")


def register(kind: type[L]) -> Callable[[Callable[[L, Graph, str], str]], Callable[[L, Graph, str], str]]:
    """Says how layers of a class are exported: ``convert(layer, graph, x)`` adds nodes and returns the output's name.

    >>> from onepass import nn, onnx
    >>> class Double(nn.Layer):
    ...     def forward(self, x, training=True):
    ...         return 2 * x
    >>> @onnx.register(Double)
    ... def double(layer, graph, x):
    ...     return graph.node("Mul", x, graph.constant(2.0))
    >>> onnx.export(nn.Sequential(nn.Linear(3, 2), Double()), None, (3,)).graph.node[-1].op_type
    'Mul'
    """

    def add(convert: Callable[[L, Graph, str], str]) -> Callable[[L, Graph, str], str]:
        _CONVERTERS[kind] = convert
        return convert

    return add


def export(
    model: nn.Layer,
    path: str | PathLike[str] | None,
    input_shape: tuple[int, ...],
    softmax: bool = False,
    names: tuple[str, str] = ("x", "y"),
) -> Any:
    """The model in inference mode as an ONNX ModelProto, checked by onnx, and written to ``path`` unless that is None.

    Args:
        input_shape: of one row, without the batch's axis, which stays free.
        softmax: a softmax over the last axis is added, so that a classifier gives probabilities.
        names: of input and output.

    The graph's type is that of the model's parameters, float32 or float64; what an `nn.Embedding` takes is int64.
    Operators of ONNX 17, which every runtime since 2022 has.

    Raises:
        TypeError: a layer of a class without a converter: see `register`.
        ValueError: parameters of more than one type.
    """
    input_shape = check_row_shape("input_shape", input_shape)
    types = sorted({str(array.dtype) for array in model.parameters()}) or ["float32"]
    if len(types) > 1:
        raise ValueError(f"model has parameters of types {', '.join(types)}, expected one")
    onnx, helper = require("onnx", "onnx"), require("onnx.helper", "onnx")
    graph = Graph(np.dtype(types[0]))
    output = graph.layer(model, names[0])
    if softmax:
        output = graph.node("Softmax", output, axis=-1)
    output = graph.node("Identity", output) if output == names[0] else output
    graph.nodes[-1].output[0] = names[1]
    element = helper.np_dtype_to_tensor_dtype(graph.dtype)
    rows = np.zeros((2, *input_shape), np.int64 if _holds_integers(graph, names[0]) else graph.dtype)
    taken = helper.np_dtype_to_tensor_dtype(rows.dtype)
    inputs = [helper.make_tensor_value_info(names[0], taken, ["N", *input_shape])]
    outputs = [helper.make_tensor_value_info(names[1], element, ["N", *model.forward(rows, False).shape[1:]])]
    made = helper.make_graph(graph.nodes, "onepass", inputs, outputs, graph.constants)
    proto = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="onepass",
        producer_version=onepass.__version__,
    )
    onnx.checker.check_model(proto, full_check=True)
    if path is not None:
        onnx.save_model(proto, fspath(path))
    return proto


def _holds_integers(graph: Graph, name: str) -> bool:
    """Whether this name is where integers that a node takes come from; but for a Cast they stay what they are."""
    names = set(graph.integers)
    for node in reversed(graph.nodes):
        if names.intersection(node.output) and node.op_type != "Cast":
            names.update(node.input)
    return name in names


@register(nn.Sequential)
def _sequential(layer: nn.Sequential, graph: Graph, x: str) -> str:
    for part in layer.layers:
        x = graph.layer(part, x)
    return x


@register(nn.Linear)
def _linear(layer: nn.Linear, graph: Graph, x: str) -> str:
    bias = [] if layer.bias is None else [graph.constant(layer.bias)]
    return graph.node("Gemm", x, graph.constant(layer.weight), *bias, transB=1)


def _window(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> dict[str, Any]:
    pads = [*layer.padding, *layer.padding]  # before H, W; behind them
    return {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": pads}


@register(nn.Conv2d)
def _conv2d(layer: nn.Conv2d, graph: Graph, x: str) -> str:
    bias = [] if layer.bias is None else [graph.constant(layer.bias)]
    return graph.node("Conv", x, graph.constant(layer.weight), *bias, **_window(layer))


@register(nn.MaxPool2d)
def _max_pool2d(layer: nn.MaxPool2d, graph: Graph, x: str) -> str:
    return graph.node("MaxPool", x, **_window(layer))


@register(nn.AvgPool2d)
def _avg_pool2d(layer: nn.AvgPool2d, graph: Graph, x: str) -> str:
    return graph.node("AveragePool", x, count_include_pad=1, **_window(layer))


@register(nn.BatchNorm)
def _batch_norm(layer: nn.BatchNorm, graph: Graph, x: str) -> str:
    if layer.channel_axis != 1:
        raise ValueError(f"{layer!r} has channel_axis {layer.channel_axis}; ONNX normalizes axis 1 only")
    gamma = np.ones_like(layer.running_var) if layer.gamma is None else layer.gamma
    beta = np.zeros_like(layer.running_mean) if layer.beta is None else layer.beta
    variance = layer.running_var + layer.running_var.dtype.type(layer.eps)  # an attribute would be rounded to float32
    constants = [graph.constant(a) for a in (gamma, beta, layer.running_mean, variance)]
    y = graph.node("BatchNormalization", x, *constants, epsilon=0.0)
    return graph.node("Relu", y) if layer.relu else y


@register(nn.Residual)
def _residual(layer: nn.Residual, graph: Graph, x: str) -> str:
    around = x if layer.shortcut is None else graph.layer(layer.shortcut, x)
    return graph.node("Add", graph.layer(layer.body, x), around)


@register(nn.Flatten)
def _flatten(layer: nn.Flatten, graph: Graph, x: str) -> str:
    return graph.node("Flatten", x)


def _over_its_square(graph: Graph, x: str, axes: list[int], eps: float) -> str:
    """x / sqrt(mean(x^2) + eps)"""
    square = graph.node("ReduceMean", graph.node("Mul", x, x), axes=axes, keepdims=1)
    return graph.node("Div", x, graph.node("Sqrt", graph.node("Add", square, graph.constant(eps))))


@register(nn.LayerNorm)
def _layer_norm(layer: nn.LayerNorm, graph: Graph, x: str) -> str:
    gamma = np.ones(layer.normalized_shape, graph.dtype) if layer.gamma is None else layer.gamma
    beta = np.zeros(layer.normalized_shape, graph.dtype) if layer.beta is None else layer.beta
    constants = [graph.constant(gamma), graph.constant(beta)]
    first = -len(layer.normalized_shape)
    assert layer.eps is not None
    if graph.dtype == np.float32:
        return graph.node("LayerNormalization", x, *constants, axis=first, epsilon=layer.eps)
    axes = list(range(first, 0))  # an attribute would be rounded to float32
    centered = graph.node("Sub", x, graph.node("ReduceMean", x, axes=axes, keepdims=1))
    y = graph.node("Mul", _over_its_square(graph, centered, axes, layer.eps), constants[0])
    return graph.node("Add", y, constants[1])


@register(nn.RMSNorm)
def _rms_norm(layer: nn.RMSNorm, graph: Graph, x: str) -> str:
    eps = float(np.finfo(graph.dtype).eps) if layer.eps is None else layer.eps
    y = _over_its_square(graph, x, list(range(-len(layer.normalized_shape), 0)), eps)
    return y if layer.gamma is None else graph.node("Mul", y, graph.constant(layer.gamma))


@register(nn.Embedding)
def _embedding(layer: nn.Embedding, graph: Graph, x: str) -> str:
    graph.integers.add(x)
    return graph.node("Gather", graph.constant(layer.weight), x, axis=0)


@register(nn.Dropout)
def _dropout(layer: nn.Dropout, graph: Graph, x: str) -> str:
    return x


@register(nn.ReLU)
def _relu(layer: nn.ReLU, graph: Graph, x: str) -> str:
    return graph.node("Relu", x)


@register(nn.LeakyReLU)
def _leaky_relu(layer: nn.LeakyReLU, graph: Graph, x: str) -> str:
    if graph.dtype == np.float32:
        return graph.node("LeakyRelu", x, alpha=layer.negative_slope)
    below = graph.node("Sub", x, above := graph.node("Relu", x))  # an attribute would be rounded to float32
    return graph.node("Add", above, graph.node("Mul", below, graph.constant(layer.negative_slope)))


@register(nn.Sigmoid)
def _sigmoid(layer: nn.Sigmoid, graph: Graph, x: str) -> str:
    return graph.node("Sigmoid", x)


@register(nn.Tanh)
def _tanh(layer: nn.Tanh, graph: Graph, x: str) -> str:
    return graph.node("Tanh", x)


@register(nn.SiLU)
def _silu(layer: nn.SiLU, graph: Graph, x: str) -> str:
    return graph.node("Mul", x, graph.node("Sigmoid", x))


@register(nn.GELU)
def _gelu(layer: nn.GELU, graph: Graph, x: str) -> str:
    """Operator Gelu is of opset 20; here are its parts."""
    half = graph.node("Mul", x, graph.constant(0.5))
    if layer.approximate == "tanh":
        cube = graph.node("Mul", graph.node("Mul", graph.node("Mul", x, x), x), graph.constant(0.044715))
        inner = graph.node("Mul", graph.node("Add", x, cube), graph.constant(float(np.sqrt(2 / np.pi))))
        gate = graph.node("Tanh", inner)
    else:
        gate = graph.node("Erf", graph.node("Mul", x, graph.constant(float(np.sqrt(0.5)))))
    return graph.node("Mul", half, graph.node("Add", gate, graph.constant(1.0)))
