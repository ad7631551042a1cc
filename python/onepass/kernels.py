"""The kernels as functions on NumPy arrays: in place or with ``out=``, float32 and float64, any number of threads.

Everything is checked before the first byte is written. A wrong type raises TypeError, a wrong shape, layout or value
ValueError; the message names the argument. Results have the same bits with any ``threads`` and at any instruction-set
level. Subnormal numbers count as zero. :mod:`onepass.reference` has the same functions in plain NumPy.

The optimizer updates are made from the registry :data:`UPDATES`, one function each::

    kernels.adam(param, grad, exp_avg, exp_avg_sq, *, step, lr=1e-3, beta1=0.9, ..., threads=None)

A positional argument is an array, or a sequence of arrays of any shapes (one parallel region for all of them).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass import _blas, _core
from onepass._types import BatchNormSaved, Update
from onepass._update_functions import Call, UpdateFunction, make_update_function

Array = NDArray[Any]
Reduction = Literal["mean", "sum", "none"]

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}

UPDATES: dict[str, Update] = {
    name: Update(name, states, dict(fields), bytes_moved, positive)
    for name, states, fields, positive, bytes_moved in _core.update_registry()
}
"""Every optimizer update: its states, its hyperparameters with their defaults, and the bytes that it moves for a
float32 parameter."""


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
    """Softmax cross-entropy and its gradient with respect to the logits, in one pass.

    For a row with target distribution t (one-hot, or the given probabilities, smoothed to
    ``(1 - label_smoothing) t + label_smoothing / C``), class weights w and ``lse = log sum_j exp(x_j)``::

        loss = sum_j t_j w_j (lse - x_j) + z_loss lse^2

    Smoothing: Szegedy et al. 2016; z_loss: Chowdhery et al. 2022 (PaLM).

    Args:
        logits: (N, C) or (N, C, d1, ...), float32 or float64, any strides.
        targets: class indices (N, d1, ...) of any integer type, or probabilities of the logits' shape and type.
        weight: (C,) of the logits' type; None: all ones.
        ignore_index: rows with this target have no loss and a zero gradient.
        reduction: "mean" divides by the summed weights of the rows that count (by N for probabilities), as PyTorch
            does (nan if no row counts); "sum"; "none" returns each row's loss, and the gradient of their sum.
        grad: None: a new array; an array like logits: written there; the logits themselves: in place; False: not
            computed. Bytes moved: 8 for each float32 logit in place, 12 otherwise, 4 for the loss alone.

    Returns:
        ``(loss, grad)``: a float, or for "none" an array (N, d1, ...); the gradient, or None.

    Raises:
        ValueError: also for a label out of range; it names the row, and nothing was written.

    >>> loss, grad = softmax_cross_entropy(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    >>> round(loss, 4), grad.round(3).tolist()
    (0.41, [[-0.06, 0.06], [0.25, -0.25]])
    """
    code = _reduction(reduction)
    gradient = _gradient_buffer("grad", grad, logits, "logits")
    losses = None
    if code == 0:
        shape = _shape(logits, "logits")
        losses = np.empty(shape[:1] + shape[2:], logits.dtype)
    total = _core.softmax_cross_entropy(
        logits,
        targets,
        weight,
        _integer("ignore_index", ignore_index),
        _real("label_smoothing", label_smoothing),
        _real("z_loss", z_loss),
        code,
        losses,
        gradient,
        _threads(threads),
    )
    return (total if losses is None else losses), gradient


def softmax(x: Array, axis: int = -1, out: Array | None = None, *, threads: int | None = None) -> Array:
    """``exp(x) / sum(exp(x))`` along an axis; out may be x. 8 bytes for each float32 element in place, 12 otherwise.

    x less the largest is rounded to x's type, so that the error of a result is within 4 + abs(x - max) / 2 units in the
    last place: probabilities near 1 are exact to a few units, very small ones to fewer digits.

    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    result = _like(x, "x") if out is None else out
    _core.softmax(x, _integer("axis", axis), result, _threads(threads))
    return result


def log_softmax(x: Array, axis: int = -1, out: Array | None = None, *, threads: int | None = None) -> Array:
    """``x - log sum(exp(x))`` along an axis, without cancellation; out may be x. Bytes as for :func:`softmax`.

    >>> log_softmax(np.array([0.0, 0.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    result = _like(x, "x") if out is None else out
    _core.log_softmax(x, _integer("axis", axis), result, _threads(threads))
    return result


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
    shape = _shape(x, "x")
    y = np.empty(shape, x.dtype) if out is None else out
    axis = _integer("channel_axis", channel_axis)
    channels = shape[axis] if -len(shape) <= axis < len(shape) else 0
    mean = np.empty(channels)
    invstd = np.empty(channels)
    _core.batch_norm(
        x, gamma, beta, running_mean, running_var, residual,
        _flag("training", training), _real("momentum", momentum), _real("eps", eps), axis, _flag("relu", relu),
        y, mean, invstd, _threads(threads),
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
    dx = _like(x, "x") if out is None else out
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
        saved.training, saved.channel_axis, saved.relu, dx, dgamma, dbeta, dresidual, _threads(threads),
    )  # fmt: skip
    return (dx, dgamma, dbeta) if dresidual is None else (dx, dgamma, dbeta, dresidual)


def global_norm(arrays: Iterable[Array], *, threads: int | None = None) -> float:
    """Square root of the sum of squares over all arrays, accumulated in float64; inf or nan if an element is.

    Squares neither scale nor saturate: float64 elements below 1.5e-154 count as 0, and a norm above 1.3e154 is inf.
    4 bytes for each float32 element.

    >>> global_norm([np.array([3.0]), np.array([[4.0]])])
    5.0
    """
    return _core.global_norm(list(arrays), _threads(threads))


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    relu: bool = False,
    out: Array | None = None,
    *,
    threads: int | None = None,
) -> Array:
    """``relu(x @ weight.T + bias)``: x (N, K), weight (O, K), bias (O,) -> (N, O).

    The product is SciPy's BLAS, called single-threaded by each thread of the package's own team, so that two pools of
    threads never fight; bias and ReLU are applied while the tile is in cache.

    Raises:
        ImportError: SciPy is not installed.

    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5])).tolist()
    [[11.5]]
    """
    _blas.connect()
    if out is None:
        out = np.empty((*_shape(x, "x")[:1], *_shape(weight, "weight")[:1]), x.dtype)
    _core.linear(x, weight, bias, _flag("relu", relu), out, _threads(threads))
    return out


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
    """``dx = dy @ weight``, ``dweight = dy.T @ x``, ``dbias = dy.sum(0)``, in one parallel region.

    Args:
        dx, dweight, dbias: None: a new array; an array: written there; False: not computed, returned as None.

    >>> dx, dweight, dbias = linear_backward(np.ones((2, 1)), np.eye(2), np.array([[3.0, 4.0]]))
    >>> dx.tolist(), dweight.tolist(), dbias.tolist()
    ([[3.0, 4.0], [3.0, 4.0]], [[1.0, 1.0]], [2.0])
    """
    _blas.connect()
    dx = _gradient_buffer("dx", dx, x, "x")
    dweight = _gradient_buffer("dweight", dweight, weight, "weight")
    db = (
        np.empty(weight.shape[:1], weight.dtype)
        if dbias is None
        else _gradient_buffer("dbias", dbias, weight, "weight")
    )
    _core.linear_backward(dy, x, weight, dx, dweight, db, _threads(threads))
    return dx, dweight, db


def relu(x: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """``max(x, 0)``, NaN stays NaN; C-contiguous; out may be x. 8 bytes for each float32 element.

    >>> relu(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    result = _like(x, "x") if out is None else out
    _core.relu(x, result, _threads(threads))
    return result


def relu_backward(dy: Array, y: Array, out: Array | None = None, *, threads: int | None = None) -> Array:
    """dy where y, the ReLU's output, is positive, else 0; out may be dy. 12 bytes for each float32 element.

    >>> relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0])).tolist()
    [0.0, 5.0]
    """
    result = _like(dy, "dy") if out is None else out
    _core.relu_backward(dy, y, result, _threads(threads))
    return result


def mean_squared_error(
    prediction: Array,
    target: Array,
    reduction: Reduction = "mean",
    grad: Array | Literal[False] | None = None,
    *,
    threads: int | None = None,
) -> tuple[Any, Array | None]:
    """``(prediction - target)^2``, reduced over all elements, and its gradient with respect to prediction.

    Args:
        prediction, target: of one shape and type, C-contiguous.
        reduction: "mean", "sum", or "none" (each element's error; the gradient is that of their sum).
        grad: as in :func:`softmax_cross_entropy`; it may be prediction.

    12 bytes for each float32 element.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    code = _reduction(reduction)
    gradient = _gradient_buffer("grad", grad, prediction, "prediction")
    losses = _like(prediction, "prediction") if code == 0 else None
    total = _core.mean_squared_error(prediction, target, code, losses, gradient, _threads(threads))
    return (total if losses is None else losses), gradient


def _reduction(name: str) -> int:
    try:
        return _REDUCTIONS[name]
    except (KeyError, TypeError):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {name!r}") from None


def _integer(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name}: expected an integer of 64 bits, got {value!r}")
    return number


def _threads(threads: int | None) -> int:
    number = 0 if threads is None else _integer("threads", threads)
    if not 0 <= number <= 4096:
        raise ValueError(f"threads: expected 1 to 4096, or None for the default, got {threads!r}")
    return number


def _real(name: str, value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_ | int):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def _shape(x: Array, name: str) -> tuple[int, ...]:
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(x).__name__}; make one with numpy.asarray first")
    return x.shape


def _like(x: Array, name: str) -> Array:
    # C-contiguous, even where x is a view with gaps
    return np.empty(_shape(x, name), x.dtype)


def _gradient_buffer(name: str, given: Array | bool | None, model: Array, model_name: str) -> Array | None:
    if given is None:
        return _like(model, model_name)
    if given is False:
        return None
    if given is True:
        raise TypeError(f"{name}: expected an array, None (a new array) or False (not computed), got True")
    return given


def _update_function(update: Update) -> UpdateFunction:
    def run(call: Call) -> None:
        param, grad, *states = call.arrays
        hyper = call.hyper
        by_tensor: Sequence[Sequence[Array]] = list(zip(*states, strict=True)) if states else [()] * len(param)
        plan = _core.Plan(update.name, list(param), by_tensor, [0] * len(param))
        plan.set_storage(call.stochastic_rounding, call.seed, True)
        plan.steps = [hyper["step"] - 1] * len(param)
        values = (hyper["maximize"], *[hyper[name] for name in update.hyperparameters])
        scale = _real("grad_scale", hyper["grad_scale"])
        plan.step(list(grad), [values], scale, hyper["max_value"], _threads(call.threads))

    return make_update_function(update, run, __name__)


for _update in UPDATES.values():
    globals()[_update.name] = _update_function(_update)


def __getattr__(name: str) -> UpdateFunction:  # tells type checkers of the functions made above
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
