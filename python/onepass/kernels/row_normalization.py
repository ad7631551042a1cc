"""Layer, RMS, group and instance normalization, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from onepass import _core
from onepass._storage import computed_type
from onepass._types import RowNormSaved
from onepass.kernels._arguments import Array, array_shape, bfloat16_bits, integer, new_like, real, thread_count

Wanted = Array | Literal[False] | None


def layer_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    axes: int = 1,
    eps: float = 1e-5,
    out: Array | None = None,
    *,
    mean: Array | None = None,
    invstd: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, RowNormSaved]:
    """Layer normalization (Ba, Kiros and Hinton 2016) of the rows that the last ``axes`` axes make up::

        y = (x - mean) / sqrt(var + eps) * gamma + beta

    PyTorch's ``normalized_shape`` is ``x.shape[-axes:]``. The variance is biased. A row of one value becomes beta.

    Args:
        x: float32, float64, float16 or bfloat16 (of ml_dtypes, or its bits in uint16 if dtype says so), any strides.
        gamma, beta: ``x.shape[-axes:]``, C-contiguous, of x's type, float32 beside float16 and bfloat16; None: ones and
            zeros.
        axes: how many last axes make up a row, from 1 to all.
        out: like x; None: a new array. It may be x, whose values the backward pass then lacks.
        mean, invstd: where those of ``saved`` go, float64, one for each row; None: new arrays.
        dtype: "bfloat16": x and out in uint16 are the bits of bfloat16.

    Returns:
        ``(y, saved)``; ``saved`` goes to :func:`layer_norm_backward` and holds ``mean`` and ``invstd``, float64, one
        for each row.

    float16 and bfloat16 are computed in float32 and rounded once. 8 bytes for each float32 element.

    Raises:
        TypeError: a type that is not supported, or two that must agree and do not.
        ValueError: x is empty, axes is out of range, a shape does not fit, out is read-only or overlaps something.

    >>> y, saved = layer_norm(np.array([[1.0, 3.0], [5.0, 5.0]]), beta=np.array([0.0, 10.0]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0, 11.0], [0.0, 10.0]], [2.0, 5.0])
    """
    number = _last_axes(axes)
    rows = _rows_of(x, number)
    return _forward(x, gamma, beta, _saved(mean, invstd, rows, number, 0), eps, out, dtype, threads)


def layer_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: RowNormSaved,
    out: Array | None = None,
    *,
    dgamma: Wanted = None,
    dbeta: Wanted = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Gradients of :func:`layer_norm`, from what it was given (x, gamma) and what it saved.

    With ``xhat = (x - mean) invstd`` and ``g = dy gamma``, means over each row, sums over all rows::

        dx = invstd (g - mean(g) - xhat mean(g xhat))      dgamma = sum(dy xhat)      dbeta = sum(dy)

    Args:
        dy: like x.
        out: where dx goes, like x; it may be dy. None: a new array.
        dgamma, dbeta: like gamma; where those go. None: new arrays; False: not computed, returned as None.
        dtype: "bfloat16": dy, x and out in uint16 are the bits of bfloat16.

    Returns:
        ``(dx, dgamma, dbeta)``

    12 bytes for each float32 element while a row of dy and x fits into cache; 20 where all threads share few rows.

    Raises:
        TypeError: a type that is not supported, or two that must agree and do not.
        ValueError: a shape does not fit, saved is of something else, an output is read-only or overlaps something.

    >>> x = np.array([[1.0, 3.0, 8.0]])
    >>> _, saved = layer_norm(x)
    >>> dx, dgamma, dbeta = layer_norm_backward(np.array([[1.0, 0.0, 0.0]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [1.0, 0.0, 0.0])
    """
    _check_saved("layer_norm", saved, grouped=False, centered=True)
    return _backward(dy, x, gamma, saved, out, dgamma, dbeta, dtype, threads)


def rms_norm(
    x: Array,
    gamma: Array | None = None,
    axes: int = 1,
    eps: float | None = None,
    out: Array | None = None,
    *,
    invstd: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, RowNormSaved]:
    """Root mean square normalization (Zhang and Sennrich 2019) of the rows that the last ``axes`` axes make up::

        y = x / sqrt(mean(x^2) + eps) * gamma

    Args:
        x, gamma, axes, out, invstd, dtype: as for :func:`layer_norm`.
        eps: None: the spacing of numbers at 1 of what is computed in, as in PyTorch (2^-52 for float64, else 2^-23).

    Returns:
        ``(y, saved)``; ``saved`` goes to :func:`rms_norm_backward` and holds ``invstd``, one float64 a row.

    Squares are added up in double. 8 bytes for each float32 element. Raises what :func:`layer_norm` does.

    >>> y, saved = rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), eps=0.0)
    >>> (y / saved.invstd[0]).round(9).tolist()
    [[3.0, 40.0]]
    """
    number = _last_axes(axes)
    saved = RowNormSaved(None, np.empty(_rows_of(x, number)) if invstd is None else invstd, number, 0)
    if eps is None:
        eps = float(np.finfo(computed_type(x)).eps)
    return _forward(x, gamma, None, saved, eps, out, dtype, threads)


def rms_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: RowNormSaved,
    out: Array | None = None,
    *,
    dgamma: Wanted = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, Array | None]:
    """Gradients of :func:`rms_norm`, from what it was given (x, gamma) and what it saved.

    With ``xhat = x invstd`` and ``g = dy gamma``::

        dx = invstd (g - xhat mean(g xhat))      dgamma = sum(dy xhat)

    Arguments, bytes and errors are those of :func:`layer_norm_backward`.

    Returns:
        ``(dx, dgamma)``

    >>> x = np.array([[3.0, 4.0]])
    >>> _, saved = rms_norm(x)
    >>> dx, dgamma = rms_norm_backward(np.array([[3.0, 4.0]]), x, None, saved)
    >>> bool(abs(dx).max() < 1e-12)  # along x nothing changes
    True
    """
    _check_saved("rms_norm", saved, grouped=False, centered=False)
    return _backward(dy, x, gamma, saved, out, dgamma, False, dtype, threads)[:2]


def group_norm(
    x: Array,
    groups: int,
    gamma: Array | None = None,
    beta: Array | None = None,
    eps: float = 1e-5,
    out: Array | None = None,
    *,
    mean: Array | None = None,
    invstd: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, RowNormSaved]:
    """Group normalization (Wu and He 2018): mean and variance of C / groups channels of a sample together::

        y = (x - mean) / sqrt(var + eps) * gamma + beta

    Args:
        x: (N, C) or (N, C, d1, ...); types and strides as for :func:`layer_norm`.
        groups: a divisor of C; 1 normalizes whole samples, C is :func:`instance_norm`.
        gamma, beta: (C,), C-contiguous, of x's type, float32 beside float16 and bfloat16; None: ones and zeros.
        out, mean, invstd, dtype: as for :func:`layer_norm`.

    Returns:
        ``(y, saved)``; ``saved`` goes to :func:`group_norm_backward` and holds ``mean`` and ``invstd``, (N groups,)
        float64.

    8 bytes for each float32 element while a group of a sample fits into cache, else 12. Raises what :func:`layer_norm`
    does, and ValueError where a group of a sample is a single value.

    >>> y, saved = group_norm(np.array([[1.0, 3.0, 5.0, 7.0]]), 2)
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0, 1.0, -1.0, 1.0]], [2.0, 6.0])
    """
    number = integer("groups", groups)
    rows = array_shape(x, "x")[0] * max(number, 0) if x.ndim else 0
    return _forward(x, gamma, beta, _saved(mean, invstd, rows, 0, number), eps, out, dtype, threads)


def group_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: RowNormSaved,
    out: Array | None = None,
    *,
    dgamma: Wanted = None,
    dbeta: Wanted = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Gradients of :func:`group_norm`, from what it was given (x, gamma) and what it saved.

    The formulas, arguments, bytes and errors are those of :func:`layer_norm_backward`; a row is a group of a sample,
    and dgamma and dbeta are (C,): sums over samples and the axes behind C.

    Returns:
        ``(dx, dgamma, dbeta)``

    >>> x = np.array([[1.0, 3.0, 5.0, 8.0]])
    >>> _, saved = group_norm(x, 2)
    >>> dx, dgamma, dbeta = group_norm_backward(np.array([[1.0, 0.0, 0.0, 2.0]]), x, None, saved)
    >>> bool(abs(dx).max() < 1e-5), dbeta.tolist()  # of two values nothing but the order is left
    (True, [1.0, 0.0, 0.0, 2.0])
    """
    _check_saved("group_norm", saved, grouped=True, centered=True)
    return _backward(dy, x, gamma, saved, out, dgamma, dbeta, dtype, threads)


def instance_norm(
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    eps: float = 1e-5,
    out: Array | None = None,
    *,
    mean: Array | None = None,
    invstd: Array | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, RowNormSaved]:
    """Instance normalization (Ulyanov, Vedaldi and Lempitsky 2016): each channel of each sample by itself.

    It is :func:`group_norm` with a group for each channel, and takes and gives the same; x is (N, C, d1, ...). There
    are no running statistics: torch.nn.functional.instance_norm with ``use_input_stats=True``.

    >>> y, saved = instance_norm(np.array([[[1.0, 3.0], [5.0, 5.0]]]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[[-1.0, 1.0], [0.0, 0.0]]], [2.0, 5.0])
    """
    shape = array_shape(x, "x")
    rows, groups = (shape[0] * shape[1], shape[1]) if len(shape) > 1 else (0, 1)
    return _forward(x, gamma, beta, _saved(mean, invstd, rows, 0, groups), eps, out, dtype, threads)


def instance_norm_backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: RowNormSaved,
    out: Array | None = None,
    *,
    dgamma: Wanted = None,
    dbeta: Wanted = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """Gradients of :func:`instance_norm`: :func:`group_norm_backward`, with what instance_norm saved.

    >>> x = np.array([[[1.0, 3.0, 8.0]]])
    >>> _, saved = instance_norm(x)
    >>> dx, dgamma, dbeta = instance_norm_backward(np.array([[[1.0, 0.0, 2.0]]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [3.0])
    """
    _check_saved("instance_norm", saved, grouped=True, centered=True)
    return _backward(dy, x, gamma, saved, out, dgamma, dbeta, dtype, threads)


def _last_axes(axes: int) -> int:
    number = integer("axes", axes)
    if number < 1:
        raise ValueError(f"axes: expected 1 or more of x's last axes, got {axes}")
    return min(number, 2**31 - 1)


def _rows_of(x: Array, axes: int) -> int:
    shape = array_shape(x, "x")
    return math.prod(shape[: max(len(shape) - axes, 0)])


def _saved(mean: Array | None, invstd: Array | None, rows: int, axes: int, groups: int) -> RowNormSaved:
    """With the arrays given, and new ones where none were."""
    rows = rows if rows < 2**40 else 0  # groups that are no divisor are refused by their number, later
    mean = np.empty(rows) if mean is None else mean
    return RowNormSaved(mean, np.empty(rows) if invstd is None else invstd, axes, groups)


def _forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    saved: RowNormSaved,
    eps: float,
    out: Array | None,
    dtype: str | None,
    threads: int | None,
) -> tuple[Array, RowNormSaved]:
    y = new_like(x, "x") if out is None else out
    bits = bfloat16_bits(dtype)
    _core.row_norm(
        x, gamma, beta, saved.axes, saved.groups, real("eps", eps), y, saved.mean, saved.invstd, bits,
        thread_count(threads),
    )  # fmt: skip
    return y, saved


def _backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: RowNormSaved,
    out: Array | None,
    dgamma: Wanted,
    dbeta: Wanted,
    dtype: str | None,
    threads: int | None,
) -> tuple[Array, Array | None, Array | None]:
    shape = array_shape(x, "x")
    dx = new_like(x, "x") if out is None else out
    own = shape[len(shape) - saved.axes :] if saved.axes else shape[1:2]
    bits = bfloat16_bits(dtype)
    dgamma = _gradient("dgamma", dgamma, own, x)
    dbeta = _gradient("dbeta", dbeta, own, x)
    _core.row_norm_backward(
        dy, x, gamma, saved.mean, saved.invstd, saved.axes, saved.groups, dx, dgamma, dbeta, bits,
        thread_count(threads),
    )  # fmt: skip
    return dx, dgamma, dbeta


def _gradient(name: str, given: Array | bool | None, shape: Sequence[int], x: Array) -> Array | None:
    if given is True:
        raise TypeError(f"{name}: expected an array, None (a new array) or False (not computed), got True")
    if given is None:
        return np.empty(shape, computed_type(x))
    return None if given is False else given


def _check_saved(forward: str, saved: RowNormSaved, grouped: bool, centered: bool) -> None:
    if not isinstance(saved, RowNormSaved):
        raise TypeError(f"saved: expected what {forward} saved, got {type(saved).__name__}")
    if (saved.groups > 0) != grouped or (saved.mean is not None) != centered:
        raise ValueError(f"saved: expected what {forward} saved, got that of another normalization")
