"""Layer, RMS, group and instance normalization, forward and backward, in NumPy."""

from __future__ import annotations

import math
import operator
from typing import Any, Literal

import numpy as np

from onepass._checks import (
    check_apart,
    check_array,
    check_contiguous,
    check_filled,
    check_in_place,
    check_like,
    check_statistics,
    check_storage,
)
from onepass._storage import computed_type, decode
from onepass._types import RowNormSaved
from onepass.reference._results import Array, give, keep

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
    """See :func:`onepass.kernels.layer_norm`.

    >>> y, saved = layer_norm(np.array([[1.0, 3.0], [5.0, 5.0]]), beta=np.array([0.0, 10.0]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0, 11.0], [0.0, 10.0]], [2.0, 5.0])
    """
    _check_last_axes(x, axes, dtype)
    return _forward(x, gamma, beta, axes, 0, eps, out, mean, invstd)


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
    """See :func:`onepass.kernels.layer_norm_backward`.

    >>> x = np.array([[1.0, 3.0, 8.0]])
    >>> _, saved = layer_norm(x)
    >>> dx, dgamma, dbeta = layer_norm_backward(np.array([[1.0, 0.0, 0.0]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [1.0, 0.0, 0.0])
    """
    return _backward(dy, x, gamma, saved, out, dgamma, dbeta, dtype)


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
    """See :func:`onepass.kernels.rms_norm`.

    >>> y, saved = rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), eps=0.0)
    >>> (y / saved.invstd[0]).round(9).tolist()
    [[3.0, 40.0]]
    """
    _check_last_axes(x, axes, dtype)
    if eps is None:
        eps = float(np.finfo(computed_type(x)).eps)
    return _forward(x, gamma, None, axes, 0, eps, out, None, invstd, centered=False)


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
    """See :func:`onepass.kernels.rms_norm_backward`.

    >>> x = np.array([[3.0, 4.0]])
    >>> _, saved = rms_norm(x)
    >>> dx, dgamma = rms_norm_backward(np.array([[3.0, 4.0]]), x, None, saved)
    >>> bool(abs(dx).max() < 1e-12)  # along x nothing changes
    True
    """
    return _backward(dy, x, gamma, saved, out, dgamma, False, dtype)[:2]


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
    """See :func:`onepass.kernels.group_norm`.

    >>> y, saved = group_norm(np.array([[1.0, 3.0, 5.0, 7.0]]), 2)
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[-1.0, 1.0, -1.0, 1.0]], [2.0, 6.0])
    """
    _check_x(x, dtype)
    if x.ndim < 2:
        raise ValueError(f"x: expected (N, C) or (N, C, d1, ...), got {x.shape}")
    if operator.index(groups) < 1 or x.shape[1] % groups:
        raise ValueError(f"groups: expected a divisor of the {x.shape[1]} channels of x, got {groups}")
    if x.size == x.shape[0] * groups:
        raise ValueError(f"x: expected more than one value to normalize by, got one: {x.shape}, {groups} groups")
    return _forward(x, gamma, beta, 0, groups, eps, out, mean, invstd)


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
    """See :func:`onepass.kernels.group_norm_backward`.

    >>> x = np.array([[1.0, 3.0, 5.0, 8.0]])
    >>> _, saved = group_norm(x, 2)
    >>> dx, dgamma, dbeta = group_norm_backward(np.array([[1.0, 0.0, 0.0, 2.0]]), x, None, saved)
    >>> bool(abs(dx).max() < 1e-5), dbeta.tolist()  # of two values nothing but the order is left
    (True, [1.0, 0.0, 0.0, 2.0])
    """
    return _backward(dy, x, gamma, saved, out, dgamma, dbeta, dtype)


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
    """See :func:`onepass.kernels.instance_norm`.

    >>> y, saved = instance_norm(np.array([[[1.0, 3.0], [5.0, 5.0]]]))
    >>> y.round(3).tolist(), saved.mean.tolist()
    ([[[-1.0, 1.0], [0.0, 0.0]]], [2.0, 5.0])
    """
    check_array("x", x)
    groups = x.shape[1] if x.ndim > 1 else 1
    return group_norm(x, groups, gamma, beta, eps, out, mean=mean, invstd=invstd, dtype=dtype)


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
    """See :func:`onepass.kernels.instance_norm_backward`.

    >>> x = np.array([[[1.0, 3.0, 8.0]]])
    >>> _, saved = instance_norm(x)
    >>> dx, dgamma, dbeta = instance_norm_backward(np.array([[[1.0, 0.0, 2.0]]]), x, None, saved)
    >>> bool(abs(dx.sum()) < 1e-15), dbeta.tolist()
    (True, [3.0])
    """
    return _backward(dy, x, gamma, saved, out, dgamma, dbeta, dtype)


def _forward(
    x: Array,
    gamma: Array | None,
    beta: Array | None,
    axes: int,
    groups: int,
    eps: float,
    out: Array | None,
    mean: Array | None,
    invstd: Array | None,
    centered: bool = True,
) -> tuple[Array, RowNormSaved]:
    shape = _parameter_shape(x, axes)
    for name, parameter in (("gamma", gamma), ("beta", beta)):
        _check_parameter(name, parameter, shape, x)
    if not eps >= 0 or not math.isfinite(eps):
        raise ValueError(f"eps: expected a finite number >= 0, got {eps}")
    if out is not None:
        check_like("out", out, "x", x)
        check_in_place("out", out, "x", x)
    rows = _rows(x, axes, groups)
    check_statistics(len(rows), mean=mean, invstd=invstd)
    with np.errstate(all="ignore"):
        center = rows.mean(1) if centered else np.zeros(len(rows))
        scale = 1 / np.sqrt(((rows - center[:, None]) ** 2).mean(1) + eps)
        xhat = ((rows - center[:, None]) * scale[:, None]).reshape(x.shape)
        y = xhat * _beside(gamma, 1.0, x, axes) + _beside(beta, 0.0, x, axes)
    saved = RowNormSaved(keep(center, mean) if centered else None, keep(scale, invstd), axes, groups)
    return give(y, x, out), saved


def _backward(
    dy: Array,
    x: Array,
    gamma: Array | None,
    saved: RowNormSaved,
    out: Array | None,
    dgamma: Wanted,
    dbeta: Wanted,
    dtype: str | None,
) -> tuple[Array, Array | None, Array | None]:
    _check_x(x, dtype)
    check_like("dy", dy, "x", x)
    shape = _parameter_shape(x, saved.axes)
    _check_parameter("gamma", gamma, shape, x)
    for name, given in (("dgamma", dgamma), ("dbeta", dbeta)):
        _check_gradient(name, given, shape, x)
    if out is not None:
        check_like("out", out, "x", x)
        check_in_place("out", out, "dy", dy)
        check_apart("out", out, "x", x)
    rows, invstd = _rows(x, saved.axes, saved.groups), saved.invstd[:, None]
    if len(rows) != len(invstd):
        raise ValueError(f"saved.invstd: expected shape ({len(rows)},), got {saved.invstd.shape}")
    with np.errstate(all="ignore"):
        mean = 0.0 if saved.mean is None else saved.mean[:, None]
        xhat = (rows - mean) * invstd
        wide = decode(dy, np.float64)
        g = (wide * _beside(gamma, 1.0, x, saved.axes)).reshape(rows.shape)
        g_mean = 0.0 if saved.mean is None else g.mean(1, keepdims=True)
        dx = invstd * (g - g_mean - xhat * (g * xhat).mean(1, keepdims=True))
        others = tuple(range(x.ndim - saved.axes)) if saved.axes else (0, *range(2, x.ndim))
        sums = (wide * xhat.reshape(x.shape)).sum(others), wide.sum(others)
    return (
        give(dx.reshape(x.shape), x, out),
        _give_parameter("dgamma", sums[0], dgamma, x),
        _give_parameter("dbeta", sums[1], dbeta, x),
    )


def _rows(x: Array, axes: int, groups: int) -> Array:
    """(rows, elements of a row) in float64."""
    rows = math.prod(x.shape[: x.ndim - axes]) if axes else x.shape[0] * groups
    wide: Array = decode(x, np.float64).reshape(rows, -1)
    return wide


def _parameter_shape(x: Array, axes: int) -> tuple[int, ...]:
    return x.shape[x.ndim - axes :] if axes else x.shape[1:2]


def _beside(parameter: Array | None, default: float, x: Array, axes: int) -> Any:
    """gamma or beta, to be broadcast against x."""
    if parameter is None:
        return default
    wide = parameter.astype(np.float64)
    return wide if axes else wide.reshape(-1, *[1] * (x.ndim - 2))


def _give_parameter(name: str, values: Array, given: Wanted, x: Array) -> Array | None:
    return None if given is False else give(values, np.empty(0, computed_type(x)), given, name)


def _check_x(x: Array, dtype: str | None) -> None:
    check_storage("x", x, dtype)
    check_filled("x", x)


def _check_last_axes(x: Array, axes: int, dtype: str | None) -> None:
    _check_x(x, dtype)
    if not 1 <= operator.index(axes) <= x.ndim:
        raise ValueError(f"axes: expected 1 to {x.ndim}, the number of x's axes, got {axes}")


def _check_parameter(name: str, parameter: Array | None, shape: tuple[int, ...], x: Array) -> None:
    if parameter is None:
        return
    check_array(name, parameter)
    if parameter.dtype != computed_type(x):
        raise TypeError(f"{name}: expected {np.dtype(computed_type(x))}, got {parameter.dtype}; convert it first")
    if parameter.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {parameter.shape}")
    check_contiguous(name, parameter)


def _check_gradient(name: str, given: Array | bool | None, shape: tuple[int, ...], x: Array) -> None:
    if given is True:
        raise TypeError(f"{name}: expected an array, None (a new array) or False (not computed), got True")
    _check_parameter(name, None if given is False else given, shape, x)
