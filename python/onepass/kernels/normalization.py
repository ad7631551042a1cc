"""Batch normalization, forward and backward."""

from __future__ import annotations

import numpy as np

from onepass import _core
from onepass._types import BatchNormSaved
from onepass.kernels._arguments import Array, array_shape, flag, integer, new_like, real, thread_count


def batch_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    channel_axis: int = 1,
    relu: bool = False,
    residual: Array | None = None,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> tuple[Array, BatchNormSaved]:
    """Batch normalization (Ioffe and Szegedy 2015), with an optional residual and ReLU behind it::

        y = relu((x - mean) / sqrt(var + eps) * gamma + beta + residual)

    PyTorch's conventions: ``momentum`` is the weight of the new batch in the running statistics (Keras and ONNX mean
    the weight of the old: pass one minus theirs), the variance that normalizes is biased, the running one unbiased.

    Args:
        x: C-contiguous, at least 2 axes, the channels along ``channel_axis``; float32 or float64.
        gamma, beta: (C,) of x's type; None: ones and zeros.
        running_mean, running_var: (C,) of x's type; updated in place when training (if given), used when not.
        training: statistics of the batch, or the running ones.
        residual: like x, added before the ReLU.
        out: like x; None: a new array. In inference it may be x.

    Returns:
        ``(y, saved)``; ``saved`` goes to :func:`batch_norm_backward` and holds ``mean`` and ``invstd``, (C,) float64.

    8 bytes for each float32 element while a channel fits into cache, 12 otherwise, and 4 for a residual.

    >>> y, saved = batch_norm(np.array([[1.0], [3.0]]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0], [1.0]], [2.0])
    """
    shape = array_shape(x, "x")
    y = np.empty(shape, x.dtype) if out is None else out
    axis = integer("channel_axis", channel_axis)
    channels = shape[axis] if -len(shape) <= axis < len(shape) else 0
    mean = np.empty(channels)
    invstd = np.empty(channels)
    _core.batch_norm(
        x, gamma, beta, running_mean, running_var, residual,
        flag("training", training), real("momentum", momentum), real("eps", eps), axis, flag("relu", relu),
        y, mean, invstd, thread_count(threads),
    )  # fmt: skip
    return y, BatchNormSaved(
        mean=mean,
        invstd=invstd,
        beta=beta if relu else None,
        relu=relu,
        residual=residual is not None,
        y=y if relu and residual is not None else None,
        training=training,
        channel_axis=channel_axis,
    )


def batch_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: BatchNormSaved,
    out: Array | None = None,
    *,
    dgamma: Array | None = None,
    dbeta: Array | None = None,
    dresidual: Array | None = None,
    threads: int | None = None,
) -> tuple[Array, ...]:
    """Gradients of :func:`batch_norm`, from what it was given (x, gamma) and what it saved.

    With ``xhat = (x - mean) invstd`` and dy cut to where the ReLU let something through::

        dbeta = sum(dy)    dgamma = sum(dy xhat)
        dx = gamma invstd (dy - mean(dy) - xhat mean(dy xhat))      (inference: gamma invstd dy)

    Args:
        dy: like x, C-contiguous.
        out: where dx goes, like x; it may be dy. None: a new array.
        dgamma, dbeta: (C,), dresidual: like x; where those go. None: new arrays.

    Returns:
        ``(dx, dgamma, dbeta)``, and ``dresidual`` if the forward pass had a residual.

    12 bytes for each float32 element while a channel fits into cache, 20 otherwise.

    >>> x = np.array([[1.0], [3.0], [8.0]])
    >>> _, saved = batch_norm(x)
    >>> dx, dgamma, dbeta = batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [1.0])
    """
    dx = new_like(x, "x") if out is None else out
    if dgamma is None or dbeta is None:
        channels = x.shape[saved.channel_axis] if -x.ndim <= saved.channel_axis < x.ndim else 0
        dgamma = np.empty(channels, x.dtype) if dgamma is None else dgamma
        dbeta = np.empty(channels, x.dtype) if dbeta is None else dbeta
    if not saved.residual:
        dresidual = None
    elif dresidual is None:
        dresidual = np.empty_like(x)
    _core.batch_norm_backward(
        dy, x, gamma, saved.beta, saved.mean, saved.invstd, saved.y,
        saved.training, saved.channel_axis, saved.relu, dx, dgamma, dbeta, dresidual, thread_count(threads),
    )  # fmt: skip
    return (dx, dgamma, dbeta) if dresidual is None else (dx, dgamma, dbeta, dresidual)
