"""A way around layers."""

from __future__ import annotations

import numpy as np

from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out
from onepass.nn.sequential import Sequential

__all__ = ["Residual"]


class Residual(Layer):
    """``y = body(x) + shortcut(x)`` (He et al., "Deep Residual Learning", 2016).

    Parameters
    ----------
    *layers : Layer
        The body, one after another.
    shortcut : Layer or None, default None
        None: x itself, so that the body must keep the shape.

    >>> import numpy as np
    >>> from onepass import nn
    >>> block = nn.Residual(nn.Linear(4, 4), nn.ReLU())
    >>> x = np.ones((2, 4), dtype=np.float32)
    >>> bool((block.forward(x) >= x).all()), sorted(block.state())
    (True, ['body.0.bias', 'body.0.weight'])
    """

    def __init__(self, *layers: Layer, shortcut: Layer | None = None) -> None:
        self.body = Sequential(*layers, seed=None)
        if shortcut is not None and not isinstance(shortcut, Layer):
            raise TypeError(f"shortcut is {shortcut!r:.60}, expected an object of nn.Layer or None")
        self.shortcut = shortcut
        self._dy: Array | None = None
        self._y, self._dx = Buffer(), Buffer()

    def initialize(self, rng: np.random.Generator) -> None:
        self.body.initialize(rng)
        if self.shortcut is not None:
            self.shortcut.initialize(rng)

    def forward(self, x: Array, training: bool = True) -> Array:
        y = self.body.forward(x, training)
        around = x if self.shortcut is None else self.shortcut.forward(x, training)
        if y.shape != around.shape:
            what = "x" if self.shortcut is None else "shortcut(x)"
            raise ValueError(f"body(x) has shape {y.shape}, {what} {around.shape}, expected one shape; give a shortcut")
        out = self._y.get(y.shape, y.dtype)
        np.add(y, around, out=out)
        return out

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        if out is False:
            self.body.backward(dy, False)
            if self.shortcut is not None:
                self.shortcut.backward(dy, False)
            return None
        dx = self.body.backward(dy)
        around = dy if self.shortcut is None else self.shortcut.backward(dy)
        if dx is None or around is None:
            raise ValueError(f"{self!r:.60} has no gradient with respect to its input; expected out=False")
        target = self._dx.get(dx.shape, dx.dtype) if out is None else out
        np.add(dx, around, out=target)
        return target

    def children(self) -> list[tuple[str, Layer]]:
        return [("body", self.body), *([] if self.shortcut is None else [("shortcut", self.shortcut)])]

    def parameters(self) -> list[Array]:
        return [parameter for _, layer in self.children() for parameter in layer.parameters()]

    def gradients(self) -> list[Array]:
        return [gradient for _, layer in self.children() for gradient in layer.gradients()]

    def state(self) -> dict[str, Array]:
        return {f"{name}.{key}": array for name, layer in self.children() for key, array in layer.state().items()}

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        shape = self.body.output_shape(input_shape)
        around = input_shape if self.shortcut is None else self.shortcut.output_shape(input_shape)
        if shape != around:
            raise ValueError(f"{self!r:.60}: its body gives rows of shape {shape}, the way around it {around}")
        return shape

    def __repr__(self) -> str:
        shortcut = "" if self.shortcut is None else f", shortcut={self.shortcut!r}"
        return f"Residual({', '.join(map(repr, self.body.layers))}{shortcut})"
