"""Layers one after another."""

from __future__ import annotations

from typing import Any

import numpy as np

from onepass.nn.layer import Array, Layer, Out

__all__ = ["Sequential"]


class Sequential(Layer):
    """A network whose layers run one after another.

    Parameters
    ----------
    *layers : Layer
        At least one; each object once.
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
        if len({id(layer) for layer in layers}) != len(layers):
            raise ValueError("layers holds one layer twice; its buffers can serve one place only")
        self.layers = layers
        self.keeps_output = layers[-1].keeps_output
        trained = [index for index, layer in enumerate(layers) if layer.parameters()]
        self._lowest = trained[0] if trained else 0  # below it a gradient serves nobody
        if seed is not None:
            self.initialize(np.random.default_rng(seed))

    def initialize(self, rng: np.random.Generator) -> None:
        for layer in self.layers:
            layer.initialize(rng)

    def forward(self, x: Array, training: bool = True) -> Array:
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        """As `Layer.backward`; with ``out=False`` it ends at the lowest layer with parameters."""
        stop = self._lowest if out is False else 0
        gradient: Any = dy  # of an array, until the last line
        for index in range(len(self.layers) - 1, stop, -1):
            layer = self.layers[index]
            owned = gradient is not dy  # a buffer of the layer above, not the caller's array
            gradient = layer.backward(gradient, gradient if owned and layer.in_place else None)
        return self.layers[stop].backward(gradient, out)

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
