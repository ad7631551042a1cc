"""Batch normalization of arrays with any strides and of data in 16 bits, against what the same numbers give densely and
in float32: layout changes no bit, and 16-bit results are the float32 results rounded once."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as npst
from measure import assert_same_bits, ulps

from onepass import kernels, reference
from onepass.reference._results import give

BF16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BF16]
WHOLES = ("x", "dy", "residual", "out", "dx", "dresidual")


def gaps(a):
    """The same numbers every other element of every axis."""
    wide = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def rows_with_gaps(a):
    """Dense lines, some elements apart."""
    view = np.full((*a.shape[:-1], a.shape[-1] + 3), np.nan, a.dtype)[..., : a.shape[-1]]
    view[...] = a
    return view


def backwards(a):
    return np.ascontiguousarray(a[::-1, ..., ::-1])[::-1, ..., ::-1]


def channels_last(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


def transposed(a):
    return np.ascontiguousarray(a.T).T


VIEWS = [gaps, rows_with_gaps, backwards, channels_last, transposed]
SHAPES = [(40, 3), (9, 600), (5, 3, 50), (3, 4, 5), (4, 3, 9, 11), (2, 1, 6, 7), (2, 3, 5000)]
OPTIONS = [dict(zip(("training", "relu", "residual"), o, strict=True)) for o in itertools.product([0, 1], repeat=3)]


def ids(options):
    return ",".join(k for k, v in options.items() if v) or "plain"


def inputs(rng, shape, dtype=np.float32, axis=1):
    kind = np.float64 if dtype == np.float64 else np.float32
    arrays = {name: (2 * rng.normal(size=shape) + 0.5).astype(dtype) for name in ("x", "dy", "residual")}
    vectors = {name: rng.normal(size=shape[axis]).astype(kind) for name in ("gamma", "beta", "mean")}
    return {**arrays, **vectors, "var": (rng.random(shape[axis]) + 0.5).astype(kind)}


def both_ways(functions, a, options, view=None, placed=WHOLES, axis=1, **more):
    """Forward and backward; the arrays named in `placed` lie as `view` makes them."""

    def place(name, array):
        return view(array) if view is not None and name in placed else array

    x, dy = place("x", a["x"]), place("dy", a["dy"])
    empty = np.zeros_like(a["x"])
    outs = {name: place(name, empty.copy()) for name in ("out", "dx", "dresidual")}
    running = a["mean"].copy(), a["var"].copy()
    y, saved = functions.batch_norm(
        x, a["gamma"], a["beta"], *running, bool(options["training"]), relu=bool(options["relu"]), channel_axis=axis,
        residual=place("residual", a["residual"]) if options["residual"] else None, out=outs["out"], **more,
    )  # fmt: skip
    assert y is outs["out"]
    to = {"out": outs["dx"], **({"dresidual": outs["dresidual"]} if options["residual"] else {})}
    gradients = functions.batch_norm_backward(dy, x, a["gamma"], saved, **to, **more)
    assert gradients[0] is outs["dx"]
    return [y, saved.mean, saved.invstd, *running, *gradients]


def assert_all_same(actual, expected):
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b), f"result {i}")


# ---- strides


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_arrays_layout_changes_no_bit(view, shape, dtype, rng):
    """x decides the order of sums; where the others lie is nothing to the result."""
    for options in OPTIONS[1::2]:
        a = inputs(rng, shape, dtype)
        assert_all_same(both_ways(kernels, a, options, view, WHOLES[1:]), both_ways(kernels, a, options))


@pytest.mark.parametrize("view", [gaps, rows_with_gaps, backwards], ids=lambda v: v.__name__)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] > 1], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_gaps_in_every_array_change_no_bit(options, view, shape, dtype, rng):
    a = inputs(rng, shape, dtype)
    assert_all_same(both_ways(kernels, a, options, view), both_ways(kernels, a, options))


@pytest.mark.parametrize("shape", [(4, 3, 9, 11), (2, 600, 2, 3), (6, 5, 40)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_channels_last_in_memory_is_channels_last(options, shape, dtype, rng):
    """(N, C, H, W) whose memory is (N, H, W, C) gives the bits of channel_axis=-1."""
    a = inputs(rng, shape, dtype)
    last = {name: np.ascontiguousarray(np.moveaxis(v, 1, -1)) if v.ndim > 1 else v for name, v in a.items()}
    expected = both_ways(kernels, last, options, axis=-1)
    actual = both_ways(kernels, a, options, channels_last)
    assert_all_same([np.moveaxis(v, 1, -1) if v.ndim > 1 else v for v in actual], expected)


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_strided_x_against_the_oracle(view, shape, dtype, rng):
    options = {"training": True, "relu": False, "residual": True}
    a = inputs(rng, shape, dtype)
    actual, expected = both_ways(kernels, a, options, view), both_ways(reference, a, options, view)
    per_channel = (slice(None), *[None] * (len(shape) - 2))
    invstd = expected[2][per_channel]
    xhat = np.abs(a["x"] - expected[1][per_channel]) * invstd
    gamma, dy = np.abs(a["gamma"][per_channel]), np.abs(a["dy"])
    room = 8 * (2 if dtype == np.float32 else 4)
    scale = (1 + xhat) * gamma + np.abs(a["beta"][per_channel]) + np.abs(a["residual"])
    assert ulps(actual[0], expected[0], scale) <= room
    assert ulps(actual[5], expected[5], gamma * invstd * (dy + (1 + xhat) * (1 + dy.mean()) * 2)) <= room
    assert_same_bits(np.ascontiguousarray(actual[8]), np.ascontiguousarray(expected[8]))


def test_a_new_array_has_its_axes_in_the_order_of_x(rng):
    x = channels_last(rng.normal(size=(3, 4, 5, 6)))
    y, saved = kernels.batch_norm(x)
    assert y.strides == x.strides
    assert kernels.batch_norm_backward(x, x, None, saved)[0].strides == x.strides
    assert kernels.batch_norm(gaps(x))[0].flags.c_contiguous


def test_in_place_on_strided_views(rng, dtype):
    a = inputs(rng, (4, 3, 9, 11), dtype)
    for view in VIEWS:
        x = view(a["x"])
        expected, saved = kernels.batch_norm(x, a["gamma"], a["beta"], a["mean"], a["var"], False, relu=True)
        dx = kernels.batch_norm_backward(view(a["dy"]), x, a["gamma"], saved)[0]
        dy = view(a["dy"])
        assert_all_same([kernels.batch_norm_backward(dy, x, a["gamma"], saved, out=dy)[0]], [dx])
        kernels.batch_norm(x, a["gamma"], a["beta"], a["mean"], a["var"], False, relu=True, out=x)
        assert_all_same([x], [expected])


def test_broadcast_x(rng):
    """Strides of zero, which an input may have."""
    x = np.broadcast_to(rng.normal(size=(1, 3, 20)), (8, 3, 20))
    y, saved = kernels.batch_norm(x)
    np.testing.assert_allclose(y, kernels.batch_norm(x.copy())[0], rtol=0, atol=1e-13)
    residual = np.broadcast_to(rng.normal(size=(1, 3, 1)), x.shape)
    assert_all_same(
        [kernels.batch_norm(x.copy(), residual=residual)[0]],
        [kernels.batch_norm(x.copy(), residual=residual.copy())[0]],
    )
    dy = np.broadcast_to(np.float64(1.0), x.shape)
    assert np.abs(kernels.batch_norm_backward(dy, x.copy(), None, saved)[0]).max() <= 1e-12


@given(st.data())
def test_any_view_gives_the_bits_of_any_other(data):
    dtype = data.draw(st.sampled_from([np.dtype(np.float32), np.dtype(np.float64), *HALVES]))
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    if np.prod(shape) // shape[axis] < 2:
        return
    numbers = npst.arrays(np.int16, shape, elements=st.integers(-400, 400))
    a = {name: (data.draw(numbers) / 16).astype(dtype) for name in ("x", "dy", "residual")}
    kind = np.float64 if dtype == np.float64 else np.float32
    a |= {name: np.arange(1, shape[axis] + 1).astype(kind) for name in ("gamma", "beta", "mean", "var")}
    options = data.draw(st.sampled_from(OPTIONS))
    view = data.draw(st.sampled_from(VIEWS))
    assert_all_same(
        both_ways(kernels, a, options, view, WHOLES[1:], axis=axis), both_ways(kernels, a, options, axis=axis)
    )


# ---- 16 bits


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_16_bits_are_float32_rounded_once(options, shape, half, rng):
    a = inputs(rng, shape, half)
    if options["relu"] and options["residual"]:  # the mask is that of the stored y
        a["residual"] = np.where(a["residual"] > 0, a["residual"] + 20, a["residual"] - 20).astype(half)
    wide = {name: v.astype(np.float32) for name, v in a.items()}
    expected = both_ways(kernels, wide, options)
    actual = both_ways(kernels, a, options)
    for result, exact in zip(actual, expected, strict=True):
        assert result.dtype == (half if result.ndim > 1 else exact.dtype)
        assert_same_bits(result.astype(exact.dtype), exact.astype(result.dtype).astype(exact.dtype))


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_16_bits_against_the_oracle(options, half, rng):
    """Half a unit in the last place for the rounding, and the float32 arithmetic's own error, far below one."""
    a = inputs(rng, (30, 5, 9), half)
    actual, expected = both_ways(kernels, a, options), both_ways(reference, a, options)
    eps = float(ml_dtypes.finfo(half).eps)
    for result, oracle in zip(actual, expected, strict=True):
        assert result.dtype == oracle.dtype
        wide, exact = result.astype(np.float64), oracle.astype(np.float64)
        if result.ndim == 1:
            np.testing.assert_allclose(wide, exact, rtol=1e-5, atol=1e-4)
        else:  # both rounded: one unit at most, where float32 falls on the other side
            assert (np.abs(wide - exact) <= eps * np.abs(exact) * 1.01 + 1e-5).all()
            assert (wide == exact).mean() > 0.97


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.__name__)
def test_16_bits_in_any_layout(view, half, rng):
    for shape, options in itertools.product([(40, 3), (5, 3, 50)], OPTIONS[::3]):
        a = inputs(rng, shape, half)
        assert_all_same(both_ways(kernels, a, options, view, WHOLES[1:]), both_ways(kernels, a, options))


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_bits_in_uint16_are_bfloat16(functions, options, rng):
    a = inputs(rng, (30, 5), BF16)
    expected = both_ways(functions, a, options)
    bits = {name: v.view(np.uint16) if v.dtype == BF16 else v for name, v in a.items()}
    actual = both_ways(functions, bits, options, dtype="bfloat16")
    assert_all_same([v.view(BF16) if v.dtype == np.uint16 else v for v in actual], expected)
    assert functions.batch_norm(bits["x"], dtype="bfloat16")[0].dtype == np.uint16


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_16_bits_against_torch(half, rng):
    torch = pytest.importorskip("torch")
    kind = torch.float16 if half == np.float16 else torch.bfloat16
    a = inputs(rng, (16, 5, 6, 7), half)
    x = torch.tensor(a["x"].astype(np.float32)).to(kind).requires_grad_()
    gamma, beta = (torch.tensor(a[name], requires_grad=True) for name in ("gamma", "beta"))
    mean, var = torch.tensor(a["mean"]), torch.tensor(a["var"])
    y = torch.nn.functional.batch_norm(x, mean, var, gamma, beta, True, 0.1)
    y.backward(torch.tensor(a["dy"].astype(np.float32)).to(kind))
    actual = both_ways(kernels, a, {"training": 1, "relu": 0, "residual": 0})
    eps = float(ml_dtypes.finfo(half).eps)
    theirs = [t.detach().float().numpy() for t in (y, mean, var, x.grad, gamma.grad, beta.grad)]
    for ours, other in zip([actual[i] for i in (0, 3, 4, 5, 6, 7)], theirs, strict=True):
        room = 2 * eps * (np.abs(other) + 1) if ours.ndim > 1 else 1e-4 * (np.abs(other) + 1)
        assert (np.abs(ours.astype(np.float32) - other) <= room).all()


def test_infinities_and_nan_in_16_bits(functions):
    x = np.array([[np.nan, 1, 1e4], [1, np.inf, -1e4]], np.float16)
    var = np.full(3, 1e-8, np.float32)
    y, _ = functions.batch_norm(x, None, None, np.zeros(3, np.float32), var, False, eps=0.0)
    assert np.isnan(y[0, 0])
    np.testing.assert_array_equal(y[:, 1], [1e4, np.inf])
    np.testing.assert_array_equal(y[:, 2], [np.inf, -np.inf])  # 1e8 is beyond float16


def test_oracle_rounds_to_bfloat16_once():
    """1 + 2^-8 + 2^-40 lies above the middle of two neighbours; in float32 it falls on it, and then to even."""
    x = np.zeros((2, 1), BF16)
    mean, var = np.zeros(1, np.float32), np.ones(1, np.float32)
    values = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 3 * 2.0**-8 - 2.0**-40, -1 - 2.0**-8 - 2.0**-40])
    np.testing.assert_array_equal(
        give(values[:, None], x, None)[:, 0].astype(np.float64),
        [1 + 2.0**-7, 1.0, 1 + 2.0**-7, -1 - 2.0**-7],
    )
    assert reference.batch_norm(x, None, None, mean, var, False)[0].dtype == BF16


# ---- threads


@pytest.mark.parametrize("shape", [(70_001, 3), (3, 70_001), (2, 3, 40_001), (3, 700, 61), (5, 4001, 7)], ids=str)
def test_three_channels_and_three_rows_have_the_same_bits_on_any_threads(shape, rng):
    for dtype, view in ((np.float32, None), (BF16, None), (np.float32, rows_with_gaps)):
        a = inputs(rng, shape, np.dtype(dtype))
        options = {"training": 1, "relu": 1, "residual": 0}
        first, *others = [both_ways(kernels, a, options, view, threads=n) for n in (1, 2, 3, 7)]
        for other in others:
            assert_all_same(other, first)
