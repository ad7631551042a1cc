"""Normalization of rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from onepass._types import RowNormSaved
from onepass.kernels import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out, check_integer

__all__ = ["LayerNorm", "RMSNorm"]


class _RowNorm(Layer):
    in_place = True
    keeps_shape = True

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float | None, affine: bool, dtype: DTypeLike
    ) -> None:
        shape = normalized_shape if isinstance(normalized_shape, tuple) else (normalized_shape,)
        for size in shape:
            check_integer("normalized_shape", size, 1)
        self.normalized_shape = shape
        self.eps = eps
        self.gamma: Array | None = np.ones(shape, dtype) if affine else None
        self.dgamma: Array = np.zeros(shape, dtype)
        self._x: Array | None = None
        self._saved: RowNormSaved | None = None
        self._y, self._dx = Buffer(), Buffer()
        self._mean, self._invstd = Buffer(), Buffer()

    def _checked(self, x: Array) -> tuple[Array, tuple[int]]:
        """x, and the shape of what there is one of for each row."""
        count = len(self.normalized_shape)
        if x.shape[-count:] != self.normalized_shape or x.ndim <= count:
            raise ValueError(f"x has shape {x.shape}, expected (N, ..., {', '.join(map(str, self.normalized_shape))})")
        self._x = x
        return x, (math.prod(x.shape[:-count]),)

    def _before(self, dy: Array, out: Out) -> tuple[Array, RowNormSaved, Array]:
        if self._x is None or self._saved is None:
            raise RuntimeError(f"{type(self).__name__}.backward was called before forward")
        return self._x, self._saved, self._dx.get(dy.shape, dy.dtype) if out is None or out is False else out

    def __repr__(self) -> str:
        shape = self.normalized_shape
        return f"{type(self).__name__}({shape[0] if len(shape) == 1 else shape})"


class LayerNorm(_RowNorm):
    """``y = (x - mean) / sqrt(var + eps) * gamma + beta`` for each row: `kernels.layer_norm`.

    Ba, Kiros and Hinton, "Layer Normalization", 2016. ``x`` is (N, ..., *normalized_shape).

    Parameters
    ----------
    normalized_shape : int or tuple
        The last axes, which make up a row.
    eps : float, default 1e-5
    affine : bool, default True
        With ``gamma`` and ``beta``, which are None otherwise.
    dtype : float32 (default) or float64

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.LayerNorm(2, dtype=np.float64).forward(np.array([[1.0, 3.0]])).round(3).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        affine: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(normalized_shape, eps, affine, dtype)
        self.beta: Array | None = np.zeros(self.normalized_shape, dtype) if affine else None
        self.dbeta: Array = np.zeros(self.normalized_shape, dtype)

    def forward(self, x: Array, training: bool = True) -> Array:
        y = self._y.get(x.shape, x.dtype)
        axes, eps = len(self.normalized_shape), 1e-5 if self.eps is None else self.eps
        x, rows = self._checked(x)
        mean, invstd = self._mean.get(rows, np.float64), self._invstd.get(rows, np.float64)
        y, self._saved = layer_norm(x, self.gamma, self.beta, axes, eps, y, mean=mean, invstd=invstd)
        return y

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        x, saved, dx = self._before(dy, out)
        wanted: tuple[Out, Out] = (False, False) if self.gamma is None else (self.dgamma, self.dbeta)
        layer_norm_backward(dy, x, self.gamma, saved, dx, dgamma=wanted[0], dbeta=wanted[1])
        return None if out is False else dx

    def parameters(self) -> list[Array]:
        return [] if self.gamma is None or self.beta is None else [self.gamma, self.beta]

    def gradients(self) -> list[Array]:
        return [] if self.gamma is None else [self.dgamma, self.dbeta]

    def state(self) -> dict[str, Array]:
        return dict(zip(("gamma", "beta"), self.parameters(), strict=False))


class RMSNorm(_RowNorm):
    """``y = x / sqrt(mean(x^2) + eps) * gamma`` for each row: `kernels.rms_norm`.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    Parameters
    ----------
    normalized_shape : int or tuple
    eps : float or None, default None
        None: the spacing of the numbers at 1, as in PyTorch.
    affine : bool, default True
        With ``gamma``.
    dtype : float32 (default) or float64

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.RMSNorm(2, dtype=np.float64).forward(np.array([[1.0, 7.0]])).round(3).tolist()
    [[0.2, 1.4]]
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        affine: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(normalized_shape, eps, affine, dtype)

    def forward(self, x: Array, training: bool = True) -> Array:
        y = self._y.get(x.shape, x.dtype)
        x, rows = self._checked(x)
        invstd = self._invstd.get(rows, np.float64)
        y, self._saved = rms_norm(x, self.gamma, len(self.normalized_shape), self.eps, y, invstd=invstd)
        return y

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        x, saved, dx = self._before(dy, out)
        rms_norm_backward(dy, x, self.gamma, saved, dx, dgamma=False if self.gamma is None else self.dgamma)
        return None if out is False else dx

    def parameters(self) -> list[Array]:
        return [] if self.gamma is None else [self.gamma]

    def gradients(self) -> list[Array]:
        return [] if self.gamma is None else [self.dgamma]

    def state(self) -> dict[str, Array]:
        return {} if self.gamma is None else {"gamma": self.gamma}
