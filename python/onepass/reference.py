"""The kernels in plain NumPy: same names, same signatures, same results; the oracle of the tests.

Everything but the optimizer updates is computed in float64 and rounded once at the end; the compiled kernels stay
within a few units in the last place of it. The optimizer updates use the kernels' own type and order of operations, so
that both give the same bits; their steps stand beside the classes in onepass/optim/.

``threads`` is accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass._checks import (
    check_apart,
    check_contiguous,
    check_float,
    check_in_place,
    check_like,
    check_vector,
    check_writable,
)
from onepass._storage import Rounding, memory_index
from onepass._subnormals import flush_subnormals
from onepass._types import BatchNormSaved, Update
from onepass._update_functions import Call, UpdateFunction, make_update_function

Array = NDArray[Any]
Reduction = Literal["mean", "sum", "none"]


def softmax_cross_entropy(
    logits: Array,
    targets: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.softmax_cross_entropy`.

    >>> loss, grad = softmax_cross_entropy(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    >>> round(loss, 4), grad.round(3).tolist()
    (0.41, [[-0.06, 0.06], [0.25, -0.25]])
    """
    check_float("logits", logits)
    if logits.ndim < 2 or logits.size == 0:
        raise ValueError(f"logits: expected (N, C) or (N, C, d1, ...), not empty, got {logits.shape}")
    _check_reduction(reduction)
    classes = logits.shape[1]
    check_vector("weight", weight, classes, logits.dtype)
    if isinstance(grad, np.ndarray):
        check_like("grad", grad, "logits", logits)
        check_writable("grad", grad)
        check_in_place("grad", grad, "logits", logits)
    x = np.moveaxis(logits, 1, -1).astype(np.float64)  # (N, d1, ..., C)
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    if targets.dtype.kind == "f":
        if targets.dtype != logits.dtype:
            raise TypeError(f"targets: expected {logits.dtype} like logits, got {targets.dtype}")
        if targets.shape != logits.shape:
            raise ValueError(f"targets: expected shape {logits.shape}, got {targets.shape}")
        t = np.moveaxis(targets, 1, -1).astype(np.float64)
        kept = np.ones(x.shape[:-1], bool)
        mass = float(kept.sum())
    else:
        if targets.shape != x.shape[:-1]:
            raise ValueError(f"targets: expected shape {x.shape[:-1]}, got {targets.shape}")
        kept = targets != ignore_index
        wrong = np.argwhere(kept & ((targets < 0) | (targets >= classes)))
        if wrong.size:
            at = tuple(int(i) for i in wrong[0])
            raise ValueError(
                f"targets{list(at)} is {targets[at]}, expected 0 <= target < {classes} or ignore_index ({ignore_index})"
            )
        labels = np.where(kept, targets, 0).astype(np.int64)
        t = np.eye(classes)[labels]
        mass = float(w[labels][kept].sum())
    t = ((1 - label_smoothing) * t + label_smoothing / classes) * w
    with np.errstate(all="ignore"):
        largest = x.max(-1, keepdims=True)
        e = np.exp(x - largest)
        # log1p of all but the largest: a confident row's loss does not round to zero
        others = e.copy()
        np.put_along_axis(others, x.argmax(-1, keepdims=True), 0.0, -1)
        log_sum = np.log1p(others.sum(-1, keepdims=True))
        lse = (largest + log_sum)[..., 0]
        p = e / e.sum(-1, keepdims=True)
        terms = np.where(t != 0, t * (log_sum + (largest - x)), 0.0)
        terms = np.where(np.isnan(x).any(-1, keepdims=True), np.nan, terms)
        losses = terms.sum(-1) + z_loss * lse**2
        slope = t.sum(-1, keepdims=True) + 2 * z_loss * lse[..., None]
        # p - 1 of a confident row is minus the sum of the others
        rest = _sum_of_others(p)
        gradient = np.where(t == 0, slope * p, (slope - t) * p - t * rest)
        losses = np.where(kept, losses, 0.0)
        gradient = np.where(kept[..., None], gradient, 0.0)
        if reduction == "mean":
            gradient = gradient / mass if mass else gradient * np.nan
            gradient = np.where(kept[..., None], gradient, 0.0)
    written = None
    if grad is not False:
        written = np.empty(logits.shape, logits.dtype) if grad is None else grad
        with np.errstate(over="ignore", under="ignore"):
            written[...] = np.moveaxis(gradient, -1, 1)
    if reduction == "none":
        return losses.astype(logits.dtype), written
    total = float(losses.sum())
    if reduction == "mean":
        return (total / mass if mass else float("nan")), written
    return total, written


def _sum_of_others(p: Array) -> Array:
    # for each class the sum of all other classes' probabilities, without 1 - p
    total = p.sum(-1, keepdims=True)
    at = p.argmax(-1, keepdims=True)
    small = p.copy()
    np.put_along_axis(small, at, 0.0, -1)
    rest: Array = total - p
    np.put_along_axis(rest, at, small.sum(-1, keepdims=True), -1)
    return rest


def softmax(x: Array, axis: int = -1, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.softmax`.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    check_float("x", x)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        e = np.exp(wide - wide.max(axis, keepdims=True))
        return _give(e / e.sum(axis, keepdims=True), x, out)


def log_softmax(x: Array, axis: int = -1, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.log_softmax`.

    >>> log_softmax(np.array([0.0, 0.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    check_float("x", x)
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        shifted = wide - wide.max(axis, keepdims=True)
        e = np.exp(shifted)
        np.put_along_axis(e, wide.argmax(axis, keepdims=True), 0.0, axis)
        log_sum = np.log1p(e.sum(axis, keepdims=True))
        result = shifted - log_sum
        result = np.where(
            np.isnan(wide).any(axis, keepdims=True) | np.isposinf(wide).any(axis, keepdims=True), np.nan, result
        )
        return _give(result, x, out)


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
    """See :func:`onepass.kernels.batch_norm`.

    >>> y, saved = batch_norm(np.array([[1.0], [3.0]]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0], [1.0]], [2.0])
    """
    check_float("x", x)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"x: expected at least 2 axes, not empty, got {x.shape}")
    check_contiguous("x", x)
    for name, vector in (
        ("gamma", gamma),
        ("beta", beta),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        check_vector(name, vector, x.shape[channel_axis], x.dtype)
    if training:
        check_apart("out", out, "x", x)
    axes, wide = _other_axes(x, channel_axis), x.astype(np.float64)
    count = x.size // x.shape[channel_axis]
    if training:
        if count < 2:
            raise ValueError(f"x: expected more than one value a channel when training, got {x.shape}")
        mean, variance = wide.mean(axes), wide.var(axes)
        for running, batch in ((running_mean, mean), (running_var, variance * count / (count - 1))):
            if running is not None:
                running[...] = (1 - momentum) * running.astype(np.float64) + momentum * batch
    else:
        if running_mean is None or running_var is None:
            raise ValueError("running_mean and running_var: are needed when training is false")
        mean, variance = running_mean.astype(np.float64), running_var.astype(np.float64)
    invstd = 1 / np.sqrt(variance + eps)
    shape = _channel_shape(x, channel_axis)
    y = (wide - mean.reshape(shape)) * invstd.reshape(shape)
    y = y * _channels(gamma, 1.0, shape) + _channels(beta, 0.0, shape)
    if residual is not None:
        y = y + residual
    if relu:
        y = np.where(y < 0, 0.0, y)
    result = _give(y, x, out)
    return result, BatchNormSaved(
        mean=mean,
        invstd=invstd,
        beta=beta if relu else None,
        relu=relu,
        residual=residual is not None,
        y=result if relu and residual is not None else None,
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
    """See :func:`onepass.kernels.batch_norm_backward`.

    >>> x = np.array([[1.0], [3.0], [8.0]])
    >>> _, saved = batch_norm(x)
    >>> dx, dgamma, dbeta = batch_norm_backward(np.array([[1.0], [0.0], [0.0]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [1.0])
    """
    check_float("x", x)
    check_like("dy", dy, "x", x)
    axes, shape = _other_axes(x, saved.channel_axis), _channel_shape(x, saved.channel_axis)
    invstd = saved.invstd.reshape(shape)
    xhat = (x.astype(np.float64) - saved.mean.reshape(shape)) * invstd
    scale = _channels(gamma, 1.0, shape)
    d = dy.astype(np.float64)
    if saved.relu:
        y = xhat * scale + _channels(saved.beta, 0.0, shape) if saved.y is None else saved.y
        d = np.where(y > 0, d, 0.0)
    sum_dy, sum_dy_xhat = d.sum(axes), (d * xhat).sum(axes)
    count = x.size // x.shape[saved.channel_axis]
    dx = d
    if saved.training:
        dx = d - sum_dy.reshape(shape) / count - xhat * sum_dy_xhat.reshape(shape) / count
    results = (
        _give(scale * invstd * dx, x, out),
        _give(sum_dy_xhat, x, dgamma),
        _give(sum_dy, x, dbeta),
    )
    return (*results, _give(d, x, dresidual)) if saved.residual else results


def global_norm(arrays: Iterable[Array], *, threads: int | None = None) -> float:
    """See :func:`onepass.kernels.global_norm`.

    >>> global_norm([np.array([3.0]), np.array([[4.0]])])
    5.0
    """
    with np.errstate(all="ignore"):
        return float(np.sqrt(sum(float(np.square(a.astype(np.float64)).sum()) for a in arrays)))


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    relu: bool = False,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """See :func:`onepass.kernels.linear`.

    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5])).tolist()
    [[11.5]]
    """
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    if bias is not None:
        y = y + bias
    if relu:
        y = np.where(y < 0, 0.0, y)
    return _give(y, x, out)


def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    dx: Array | Literal[False] | None = None,
    dweight: Array | Literal[False] | None = None,
    dbias: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """See :func:`onepass.kernels.linear_backward`.

    >>> dx, dweight, dbias = linear_backward(np.ones((2, 1)), np.eye(2), np.array([[3.0, 4.0]]))
    >>> dx.tolist(), dweight.tolist(), dbias.tolist()
    ([[3.0, 4.0], [3.0, 4.0]], [[1.0, 1.0]], [2.0])
    """
    d = dy.astype(np.float64)
    return (
        None if dx is False else _give(d @ weight.astype(np.float64), x, dx),
        None if dweight is False else _give(d.T @ x.astype(np.float64), x, dweight),
        None if dbias is False else _give(d.sum(0), x, dbias),
    )


def relu(x: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.relu`.

    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return _give(np.where(x < 0, 0.0, x), x, out)


def relu_backward(dy: Array, y: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """See :func:`onepass.kernels.relu_backward`.

    >>> relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 5.0]
    """
    return _give(np.where(y > 0, dy, 0.0), dy, out)


def mean_squared_error(
    prediction: Array,
    target: Array,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """See :func:`onepass.kernels.mean_squared_error`.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    _check_reduction(reduction)
    difference = prediction.astype(np.float64) - target
    scale = 1 / prediction.size if reduction == "mean" else 1.0
    written = None if grad is False else _give(2 * scale * difference, prediction, grad)
    squares = np.square(difference)
    if reduction == "none":
        return squares.astype(prediction.dtype), written
    return float(squares.sum() * scale), written


def __getattr__(name: str) -> UpdateFunction:
    # the optimizer updates: their steps are registered by the files of onepass.optim
    import onepass.optim  # noqa: F401
    from onepass._update_steps import STEPS

    if name not in STEPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = globals()[name] = _update_function(name)
    return function


def _update_function(name: str) -> UpdateFunction:
    from onepass._stored_step import stored_step
    from onepass._update_steps import STEPS, describe_step

    step = STEPS[name]
    update: Update = describe_step(name)

    def run(call: Call) -> None:
        with flush_subnormals(), np.errstate(all="ignore"):
            for i, (param, grad, *states) in enumerate(zip(*call.arrays, strict=True)):
                rounding = None
                if call.stochastic_rounding:
                    rounding = Rounding(call.seed, call.hyper["step"], i, 0, memory_index(param))
                stored_step(step, update, param, grad, states, call.hyper, rounding)

    return make_update_function(update, run, __name__)


def _give(value: Array, model: Array, out: Array | None) -> Array:
    # rounded once, to the model's type
    with np.errstate(all="ignore"):
        rounded: Array = value.astype(model.dtype)
        if out is None:
            return rounded
        check_like("out", out, "the result", rounded)
        check_writable("out", out)
        out[...] = rounded
    return out


def _check_reduction(name: str) -> None:
    if name not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {name!r}")


def _channel_shape(x: Array, axis: int) -> tuple[int, ...]:
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return tuple(shape)


def _other_axes(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis % x.ndim)


def _channels(values: Array | None, default: float, shape: tuple[int, ...]) -> Any:
    return default if values is None else values.astype(np.float64).reshape(shape)
