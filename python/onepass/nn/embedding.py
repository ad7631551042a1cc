"""Rows of a table, by their numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out, check_integer

__all__ = ["Embedding"]

_PIECE = 32768  # elements of dy whose places are computed at once; 8 bytes each


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
        self._rows: Array | None = None  # what was taken: x, dense and of the type of an index
        self._y, self._taken, self._starts, self._places = Buffer(), Buffer(), Buffer(), Buffer()
        self._columns: Array | None = None
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
        rows = x
        if x.dtype != np.intp or not x.flags.c_contiguous:
            rows = self._taken.get(x.shape, np.intp)
            np.copyto(rows, x, casting="unsafe")  # what wraps around is out of range too
        if x.size and not rows.view(np.uintp).max() < len(self.weight):  # a negative number is a very large one
            bad = int(x.min()) if x.min() < 0 else int(x.max())
            raise IndexError(f"x holds {bad}, expected 0 .. {len(self.weight) - 1}")
        self._rows = rows
        y = self._y.get((*x.shape, self.weight.shape[1]), self.weight.dtype)
        return self.weight.take(rows, 0, y, "clip")  # "raise" would go through a copy

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        """Fills `gradients`; integers have no gradient, so that None is returned."""
        if self._rows is None:
            raise RuntimeError("Embedding.backward was called before forward")
        if out is not None and out is not False:
            raise ValueError("out is given, but integers have no gradient; expected None or False")
        width = self.weight.shape[1]
        if dy.shape != (*self._rows.shape, width):
            raise ValueError(f"dy has shape {dy.shape}, expected {(*self._rows.shape, width)}")
        self.dweight.fill(0)
        rows, values, total = self._rows.reshape(-1), dy.reshape(-1), self.dweight.reshape(-1)
        step = max(_PIECE // width, 1)
        for first in range(0, len(rows), step):
            piece = rows[first : first + step]
            # element by element: add.at takes whole rows several times more slowly
            np.add.at(total, self._elements(piece, width), values[first * width : (first + len(piece)) * width])
        if self.padding_idx is not None:
            self.dweight[self.padding_idx] = 0
        return None

    def _elements(self, rows: Array, width: int) -> Array:
        """The places of all elements of these rows of ``weight``, as it lies in memory (rows width,)."""
        count = len(rows)
        if self._columns is None or len(self._columns) < count * width:
            self._columns = np.tile(np.arange(width), count)
        places = self._places.get((count, width), np.intp)
        starts = np.multiply(rows, width, self._starts.get((count,), np.intp))
        np.copyto(places, starts[:, None])  # an addition that broadcasts would go through a buffer
        elements: Array = places.reshape(-1)
        elements += self._columns[: count * width]
        return elements

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
