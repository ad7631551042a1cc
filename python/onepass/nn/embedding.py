"""Rows of a table, by their numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out, check_integer

__all__ = ["Embedding"]


class Embedding(Layer):
    """``y[...] = weight[x[...]]``: x integers (N, ...), y (N, ..., embedding_dim).

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Rows and columns of ``weight``, which starts normal, as PyTorch's.
    padding_idx : int or None, default None
        A row that stays zero and gets no gradient.
    seed : int, default 0
    dtype : float32 (default) or float64

    The gradient of a row is the sum over where it was taken, in that order; all other rows get zero. IndexError for a
    number out of range, before anything is written.

    >>> import numpy as np
    >>> from onepass import nn
    >>> layer = nn.Embedding(10, 4, padding_idx=0)
    >>> y = layer.forward(np.array([[1, 2, 0]]))
    >>> y.shape, y[0, 2].tolist()
    ((1, 3, 4), [0.0, 0.0, 0.0, 0.0])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        seed: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_integer("num_embeddings", num_embeddings, 1)
        check_integer("embedding_dim", embedding_dim, 1)
        check_integer("seed", seed, 0)
        if padding_idx is not None:
            check_integer("padding_idx", padding_idx, 0)
            if padding_idx >= num_embeddings:
                raise ValueError(f"padding_idx is {padding_idx}, expected less than num_embeddings, {num_embeddings}")
        self.padding_idx = padding_idx
        self.weight: Array = np.empty((num_embeddings, embedding_dim), dtype)
        self.dweight: Array = np.zeros_like(self.weight)
        self._x: Array | None = None
        self._y = Buffer()
        self.initialize(np.random.default_rng(seed))

    def initialize(self, rng: np.random.Generator) -> None:
        np.copyto(self.weight, rng.standard_normal(self.weight.shape), casting="same_kind")
        self.initialized()

    def initialized(self) -> None:
        if self.padding_idx is not None:
            self.weight[self.padding_idx] = 0

    def forward(self, x: Array, training: bool = True) -> Array:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"x is a {type(x).__name__}, expected a NumPy array of integers")
        if x.dtype.kind not in "iu":
            raise TypeError(f"x has dtype {x.dtype}, expected integers")
        rows = len(self.weight)
        if x.size and not (x.min() >= 0 and x.max() < rows):
            bad = int(x.min()) if x.min() < 0 else int(x.max())
            raise IndexError(f"x holds {bad}, expected 0 .. {rows - 1}")
        self._x = x
        y = self._y.get((*x.shape, self.weight.shape[1]), self.weight.dtype)
        return self.weight.take(x, 0, y, "clip")  # "raise" would go through a copy

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        """Fills `gradients`; integers have no gradient, so that None is returned."""
        if self._x is None:
            raise RuntimeError("Embedding.backward was called before forward")
        if out is not None and out is not False:
            raise ValueError("out is given, but integers have no gradient; expected None or False")
        if dy.shape != (*self._x.shape, self.weight.shape[1]):
            raise ValueError(f"dy has shape {dy.shape}, expected {(*self._x.shape, self.weight.shape[1])}")
        self.dweight.fill(0)
        np.add.at(self.dweight, self._x, dy)
        if self.padding_idx is not None:
            self.dweight[self.padding_idx] = 0
        return None

    def parameters(self) -> list[Array]:
        return [self.weight]

    def gradients(self) -> list[Array]:
        return [self.dweight]

    def state(self) -> dict[str, Array]:
        return {"weight": self.weight}

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*input_shape, self.weight.shape[1])

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.weight.shape[0]}, {self.weight.shape[1]}{padding})"
