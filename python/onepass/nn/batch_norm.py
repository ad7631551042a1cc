"""Batch normalization."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from onepass._types import BatchNormSaved
from onepass.kernels import batch_norm, batch_norm_backward
from onepass.nn.buffer import Buffer
from onepass.nn.layer import Array, Layer, Out, check_integer

__all__ = ["BatchNorm"]


class BatchNorm(Layer):
    """``y = (x - mean) / sqrt(var + eps) * gamma + beta`` for each channel: `kernels.batch_norm`.

    Ioffe and Szegedy, "Batch Normalization", 2015. ``x`` is (N, channels) or (N, channels, d1,
    ...). In training, mean and variance are the batch's and the running ones move towards them;
    in inference the running ones are used.

    Parameters
    ----------
    channels : int
    eps : float, default 1e-5
    momentum : float or None, default 0.1
        Weight of the new batch in ``running_mean`` and ``running_var``, as in PyTorch (Keras'
        ``momentum`` is one minus this). None: they are the mean over all batches, which
        ``num_batches_tracked`` counts (and `state` then holds).
    affine : bool, default True
        With ``gamma`` and ``beta``, which are None otherwise.
    population : bool, default False
        ``running_var`` takes the biased variance, as in Keras and ONNX.
    channel_axis : int, default 1
        -1 for ``x`` with channels last.
    relu : bool, default False
        With the ReLU behind it in the same pass, in place of an `nn.ReLU`.
    dtype : float32 (default) or float64

    >>> import numpy as np
    >>> from onepass import nn
    >>> layer = nn.BatchNorm(2)
    >>> y = layer.forward(np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32))
    >>> y.round(3).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    >>> layer.running_mean.round(3)
    array([0.2, 0.5], dtype=float32)
    """

    in_place = True

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        dtype: DTypeLike = np.float32,
        affine: bool = True,
        population: bool = False,
        channel_axis: int = 1,
        relu: bool = False,
    ) -> None:
        check_integer("channels", channels, 1)
        self.sizes = (channels, channels)
        self.eps = eps
        self.momentum = momentum
        self.population = population
        self.channel_axis = channel_axis
        self.relu = relu
        self.fuses_relu = not relu
        self.gamma: Array | None = np.ones(channels, dtype) if affine else None
        self.beta: Array | None = np.zeros(channels, dtype) if affine else None
        self.dgamma: Array = np.zeros(channels, dtype)
        self.dbeta: Array = np.zeros(channels, dtype)
        self.running_mean: Array = np.zeros(channels, dtype)
        self.running_var: Array = np.ones(channels, dtype)
        self.num_batches_tracked: Array = np.zeros((), np.int64)
        self._mean, self._invstd = np.empty(channels), np.empty(channels)
        self._x: Array | None = None
        self._saved: BatchNormSaved | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: Array, training: bool = True) -> Array:
        return self._forward(x, training, self.relu)

    def forward_relu(self, x: Array, training: bool) -> Array:
        return self._forward(x, training, True)

    def backward_relu(self, dy: Array, y: Array, out: Out, dy_is_ours: bool) -> Array | None:
        return self.backward(dy, out)  # what forward saved says where the ReLU let through

    def _forward(self, x: Array, training: bool, relu: bool) -> Array:
        batches = int(self.num_batches_tracked)
        y, saved = batch_norm(
            x,
            self.gamma,
            self.beta,
            self.running_mean,
            self.running_var,
            training,
            self.momentum,
            self.eps,
            self.channel_axis,
            relu,
            out=self._y.get(x.shape, x.dtype),
            batches=batches,
            population=self.population,
            mean=self._mean,
            invstd=self._invstd,
        )
        if training:
            self.num_batches_tracked[()] = batches + 1
        self._x, self._saved = x, saved
        return y

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        x, saved = self._x, self._saved
        if x is None or saved is None:
            raise RuntimeError("BatchNorm.backward was called before forward")
        if out is None or out is False:
            out = self._dx.get(x.shape, x.dtype)
        return batch_norm_backward(dy, x, self.gamma, saved, out, dgamma=self.dgamma, dbeta=self.dbeta)[0]

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape

    def parameters(self) -> list[Array]:
        return [] if self.gamma is None or self.beta is None else [self.gamma, self.beta]

    def gradients(self) -> list[Array]:
        return [] if self.gamma is None else [self.dgamma, self.dbeta]

    def state(self) -> dict[str, Array]:
        state = dict(zip(("gamma", "beta"), self.parameters(), strict=False))
        state |= {"running_mean": self.running_mean, "running_var": self.running_var}
        return state if self.momentum is not None else {**state, "num_batches_tracked": self.num_batches_tracked}

    def __repr__(self) -> str:
        return f"BatchNorm({self.running_mean.size})"
