"""Dropout."""

from __future__ import annotations

import numpy as np

from onepass.kernels import dropout, dropout_backward
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out, check_integer

__all__ = ["Dropout"]


class Dropout(Layer):
    """In training ``x / (1 - p)`` with probability ``1 - p``, else 0; in inference x: `kernels.dropout`.

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014. The mask is stored
    nowhere: `backward` computes it again.

    Parameters
    ----------
    p : float, default 0.5
        The probability with which an element is dropped, in [0, 1].
    seed : int or None, default None
        None: drawn by the `Sequential` around it, 0 without one.

    The seed and the number of batches seen are the layer's state, so that a resumed training draws the masks that the
    uninterrupted one would have drawn.

    >>> import numpy as np
    >>> from onepass import nn
    >>> layer = nn.Dropout(0.5, seed=3)
    >>> layer.forward(np.ones((1, 6))).tolist()
    [[2.0, 0.0, 2.0, 2.0, 2.0, 0.0]]
    >>> layer.forward(np.ones((1, 2)), training=False).tolist()
    [[1.0, 1.0]]
    """

    keeps_output = True  # in inference that is its input, which the layer before may keep
    in_place = True
    keeps_shape = True

    def __init__(self, p: float = 0.5, seed: int | None = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}, expected a number in [0, 1]")
        if seed is not None:
            check_integer("seed", seed, 0)
        self.p = p
        self._own_seed = seed is not None
        self._generator = np.array([seed or 0, 0], np.uint64)  # the seed, and how many batches were drawn from it
        self._training: bool | None = None
        self._y, self._dx = Buffer(), Buffer()

    def initialize(self, rng: np.random.Generator) -> None:
        if not self._own_seed:
            self._generator[:] = rng.integers(2**63), 0

    def forward(self, x: Array, training: bool = True) -> Array:
        self._training = training
        if not training:
            return x
        seed, step = self._generator.tolist()
        self._generator[1] = step + 1
        return dropout(x, self.p, seed, step, self._y.get(x.shape, x.dtype))

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        if out is False:
            return None
        if self._training is None:
            raise RuntimeError("Dropout.backward was called before forward")
        target = self._dx.get(dy.shape, dy.dtype) if out is None else out
        if not self._training:
            if target is not dy:
                np.copyto(target, dy)
            return target
        seed, batches = self._generator.tolist()
        return dropout_backward(dy, self.p, seed, batches - 1, target)

    def state(self) -> dict[str, Array]:
        return {"generator": self._generator}

    def __repr__(self) -> str:
        return f"Dropout({self.p})"
