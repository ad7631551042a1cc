"""Layers one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onepass.nn.layer import Array, Layer, Out, check_integer
from onepass.nn.relu import ReLU

__all__ = ["Sequential"]


def _flat(layers: Sequence[Layer]) -> Iterator[Layer]:
    for layer in layers:
        if type(layer) is Sequential:
            yield from _flat(layer.layers)
        else:
            yield layer


def _check_sizes(layers: Sequence[Layer]) -> None:
    before: Layer | None = None  # the last layer that fixes how many features there are
    for layer in _flat(layers):
        if layer.sizes is None:
            before = before if layer.keeps_shape or layer.keeps_channels else None
            continue
        if before is not None and before.sizes is not None and before.sizes[1] != layer.sizes[0]:
            raise ValueError(
                f"{before!r} gives {before.sizes[1]} features, but {layer!r} after it takes {layer.sizes[0]}"
            )
        before = layer


def _fuses_relu(layer: Layer) -> bool:
    """A class with a forward or backward of its own fuses only by its own forward_relu, not by one that it inherits."""
    owner = next(kind for kind in type(layer).__mro__ if {"forward", "backward"} & vars(kind).keys())
    return layer.fuses_relu and "forward_relu" in vars(owner)


def _steps(layers: Sequence[Layer]) -> list[tuple[Layer, ReLU | None]]:
    """Each layer, with the ReLU behind it where both can run in one pass."""
    steps: list[tuple[Layer, ReLU | None]] = []
    for layer in layers:
        if type(layer) is ReLU and steps and steps[-1][1] is None and _fuses_relu(steps[-1][0]):
            steps[-1] = (steps[-1][0], layer)
        else:
            steps.append((layer, None))
    return steps


class Sequential(Layer):
    """A network whose layers run one after another.

    A ReLU behind `Linear`, `Conv2d` or `BatchNorm` runs in the same pass over the memory, to the same bits.

    Parameters
    ----------
    *layers : Layer
        At least one; each object once. Neighbours whose numbers of features differ are refused.
    seed : int or None, default 0
        Every layer's initial parameters are drawn, in order, from one generator with this seed;
        None keeps the parameters the layers hold.

    >>> import numpy as np
    >>> from onepass import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 3))
    >>> model.forward(np.ones((5, 4), dtype=np.float32)).shape
    (5, 3)
    >>> sorted(model.state())[:3]
    ['0.bias', '0.weight', '1.beta']
    >>> sum(parameter.size for parameter in model.parameters())
    83
    """

    def __init__(self, *layers: Layer, seed: int | None = 0) -> None:
        if not layers:
            raise ValueError("layers is empty, expected at least one layer")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                hint = "; pass layers one by one, Sequential(*layers)" if isinstance(layer, (list, tuple)) else ""
                if isinstance(layer, type) and issubclass(layer, Layer):
                    hint = f"; make one with {layer.__name__}(...)"
                raise TypeError(f"layers[{index}] is {layer!r:.60}, expected an object of nn.Layer{hint}")
        if len({id(layer) for layer in layers}) != len(layers):
            raise ValueError("layers holds one layer twice; its buffers can serve one place only")
        if seed is not None:
            check_integer("seed", seed, 0)
        _check_sizes(layers)
        self.layers = layers
        self.keeps_output = layers[-1].keeps_output
        self._steps = _steps(layers)
        trained = [index for index, (layer, _) in enumerate(self._steps) if layer.parameters()]
        self._lowest = trained[0] if trained else 0  # below it a gradient serves nobody
        if seed is not None:
            self.initialize(np.random.default_rng(seed))

    def initialize(self, rng: np.random.Generator) -> None:
        for layer in self.layers:
            layer.initialize(rng)

    def forward(self, x: Array, training: bool = True) -> Array:
        for layer, relu in self._steps:
            if relu is None:
                x = layer.forward(x, training)
            else:
                x = relu.output = layer.forward_relu(x, training)
        return x

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        """As `Layer.backward`; with ``out=False`` it ends at the lowest layer with parameters."""
        stop = self._lowest if out is False else 0
        gradient: Any = dy  # of an array, until the last line
        ours = False  # a buffer of the layer above, not the caller's array or a view of it
        for index in range(len(self._steps) - 1, stop - 1, -1):
            layer, relu = self._steps[index]
            target = out if index == stop else gradient if ours and layer.in_place else None
            if relu is None:
                gradient = layer.backward(gradient, target)
            elif relu.output is None:
                raise RuntimeError("Sequential.backward was called before forward")
            else:
                gradient = layer.backward_relu(gradient, relu.output, target, ours)
            if index > stop:
                if gradient is None:
                    raise ValueError(f"{layer!r:.60} gives no gradient to {self._steps[index - 1][0]!r:.60} before it")
                ours = ours or not np.may_share_memory(gradient, dy)
        result: Array | None = gradient
        return result

    def children(self) -> list[tuple[str, Layer]]:
        return [(str(index), layer) for index, layer in enumerate(self.layers)]

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def parameters(self) -> list[Array]:
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def gradients(self) -> list[Array]:
        return [gradient for layer in self.layers for gradient in layer.gradients()]

    def state(self) -> dict[str, Array]:
        return {
            f"{index}.{name}": array for index, layer in enumerate(self.layers) for name, array in layer.state().items()
        }

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"
