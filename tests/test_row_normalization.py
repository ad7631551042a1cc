"""Layer, RMS, group and instance normalization and their backward passes: within stated bounds of the float64 oracle,
equal to torch, gradients by finite differences, statistics, storage formats, strides, threads, and what is refused.

Bounds are in units in the last place. A kernel sums pieces of a row in the array's own type and merges them in double,
so a mean is off by a few units of the mean magnitude of what is averaged; everything after that rounds a handful of
times. The bound is 4 units of: |gamma| (1 + |xhat|) + |beta| for y, and invstd (|g| + mean |g| + (1 + |xhat|)
mean |g xhat|) with g = dy gamma for dx. In float64 the oracle is off by as much, so it is 8. float16 and bfloat16 are
computed in float32 and rounded once, by half a unit: the bound is 1.
"""

from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from measure import assert_same_bits, bits, numeric_gradient, ulps

from onepass import kernels, reference

BOUND = {np.dtype(np.float32): 4, np.dtype(np.float64): 8}
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EPS = {np.dtype(np.float16): 2.0**-10, BFLOAT16: 2.0**-7}
CASES = [  # kind, shape, axes or groups; one piece and several, blocks of sixteen and tails, short and long runs
    ("layer", (1, 1), 1), ("layer", (9, 1), 1), ("layer", (7, 3), 1), ("layer", (5, 16), 1), ("layer", (300, 65), 1),
    ("layer", (3, 2049), 1), ("layer", (2, 3, 5, 7), 2), ("layer", (6, 35), 2), ("layer", (12_289,), 1),
    ("rms", (9, 1), 1), ("rms", (70, 33), 1), ("rms", (3, 4, 600), 2), ("rms", (2, 5001), 1),
    ("group", (4, 6), 2), ("group", (3, 6, 5), 3), ("group", (2, 8, 4, 4), 4), ("group", (70, 4, 3), 1),
    ("group", (3, 6, 9, 7), 2), ("group", (2, 4, 2500), 2), ("group", (130, 2, 17), 1),
    ("instance", (3, 4, 2), 0), ("instance", (2, 3, 5, 7), 0), ("instance", (2, 3, 4099), 0),
]  # fmt: skip
FEW = [
    ("layer", (6, 33), 1), ("layer", (3, 4, 5), 2), ("rms", (6, 33), 1), ("group", (4, 6, 3), 2),
    ("group", (3, 4, 5, 7), 2), ("instance", (2, 3, 20), 0),
]  # fmt: skip
AFFINE = list(itertools.product([False, True], repeat=2))  # gamma, beta


def name_of(value):
    return "-".join(str(v).replace(" ", "") for v in value) if isinstance(value, tuple) else None


class Case:
    """Inputs of one call."""

    def __init__(self, rng, case, dtype, gamma=True, beta=True):
        self.kind, self.shape, self.how = case
        self.dtype = np.dtype(dtype)
        wide = np.float64 if self.dtype == np.float64 else np.float32
        self.own = self.shape[1:2] if self.grouped else self.shape[-self.how :]
        self.x = (rng.normal(size=self.shape) * 2 + 0.5).astype(dtype)
        self.dy = rng.normal(size=self.shape).astype(dtype)
        self.gamma = (rng.normal(size=self.own) + 0.2).astype(wide) if gamma else None
        self.beta = rng.normal(size=self.own).astype(wide) if beta and self.kind != "rms" else None

    @property
    def grouped(self):
        return self.kind in ("group", "instance")

    def rows(self, a):
        """(rows, elements of a row)"""
        if self.grouped:
            return a.reshape(self.shape[0] * (self.how or self.shape[1]), -1)
        return a.reshape(-1, math.prod(self.own))

    def beside(self, parameter, default):
        """gamma or beta against x"""
        if parameter is None:
            return np.float64(default)
        wide = np.asarray(parameter, np.float64)
        return wide.reshape(-1, *[1] * (len(self.shape) - 2)) if self.grouped else wide

    def others(self):
        """The axes that dgamma and dbeta are summed over."""
        return (0, *range(2, len(self.shape))) if self.grouped else tuple(range(len(self.shape) - self.how))

    def forward(self, functions, x=None, **more):
        x = self.x if x is None else x
        if self.kind == "layer":
            return functions.layer_norm(x, self.gamma, self.beta, self.how, **more)
        if self.kind == "rms":
            return functions.rms_norm(x, self.gamma, self.how, **more)
        if self.kind == "group":
            return functions.group_norm(x, self.how, self.gamma, self.beta, **more)
        return functions.instance_norm(x, self.gamma, self.beta, **more)

    def backward(self, functions, saved, dy=None, x=None, **more):
        function = getattr(functions, f"{self.kind}_norm_backward")
        return function(self.dy if dy is None else dy, self.x if x is None else x, self.gamma, saved, **more)

    def torch(self, torch, eps):
        """y, dx, dgamma, dbeta of torch."""
        x, gamma, beta = (
            None if v is None else torch.tensor(v, requires_grad=True) for v in (self.x, self.gamma, self.beta)
        )
        if self.grouped and beta is not None and gamma is None:  # torch 2.13's group_norm then has no backward
            gamma = torch.ones(self.own, dtype=beta.dtype)
        functional = torch.nn.functional
        y = {
            "layer": lambda: functional.layer_norm(x, self.own, gamma, beta, eps),
            "rms": lambda: functional.rms_norm(x, self.own, gamma, eps),
            "group": lambda: functional.group_norm(x, self.how, gamma, beta, eps),
            "instance": lambda: functional.instance_norm(x, None, None, gamma, beta, True, 0.1, eps),
        }[self.kind]()
        y.backward(torch.tensor(self.dy))
        grads = [None if v is None else v.grad for v in (x, gamma, beta)]
        return [None if v is None else v.detach().numpy() for v in (y, *grads)]

    def scales(self, saved):
        """What y, dx, dgamma and dbeta are measured in."""
        rows, dy = self.rows(self.x.astype(np.float64)), np.abs(self.dy.astype(np.float64))
        mean = 0.0 if saved.mean is None else saved.mean[:, None]
        xhat = np.abs((rows - mean) * saved.invstd[:, None])
        gamma, beta = np.abs(self.beside(self.gamma, 1.0)), np.abs(self.beside(self.beta, 0.0))
        g = self.rows(dy * gamma)
        slope = (g * xhat).mean(1, keepdims=True)
        dx = saved.invstd[:, None] * (g + g.mean(1, keepdims=True) + (1 + xhat) * slope)
        over = xhat.reshape(self.shape)
        y = gamma * (1 + over) + beta
        return y, dx.reshape(self.shape), (dy * (1 + over)).sum(self.others()), dy.sum(self.others())


def assert_close(actual, expected, scale, bound):
    """In units of the type of actual; bfloat16 in those of its own eps."""
    assert actual.shape == expected.shape
    eps = EPS.get(actual.dtype)
    if eps is None:
        assert ulps(actual, expected, scale) <= bound
    else:
        assert (np.abs(actual.astype(np.float64) - expected) <= bound * eps * scale).all()


def compare(case):
    bound = BOUND.get(case.dtype, 1)
    y, saved = case.forward(kernels)
    wide = case_in_double(case)
    expected, expected_saved = wide.forward(reference)
    scales = case.scales(expected_saved)
    assert y.dtype == case.dtype
    assert_close(y, expected, scales[0], bound)
    computed = np.float64 if case.dtype == np.float64 else np.float32
    assert saved.invstd.dtype == np.float64
    assert ulps(saved.invstd, expected_saved.invstd, None, computed) <= BOUND[np.dtype(computed)]
    if case.kind != "rms":
        magnitude = np.abs(case.rows(wide.x)).mean(1)
        assert ulps(saved.mean, expected_saved.mean, magnitude, computed) <= BOUND[np.dtype(computed)]
    results, oracles = case.backward(kernels, saved), wide.backward(reference, expected_saved)
    assert len(results) == len(oracles) == (2 if case.kind == "rms" else 3)
    assert_close(results[0], oracles[0], scales[1], bound)
    for result, oracle, scale in zip(results[1:], oracles[1:], scales[2:], strict=False):
        assert result.dtype == computed
        assert ulps(result, oracle, scale) <= BOUND[np.dtype(computed)]


def case_in_double(case):
    """The same numbers; the oracle then rounds nothing. RMS: with the eps of the type that the kernel computes in."""
    wide = object.__new__(Case)
    wide.__dict__.update(case.__dict__)
    for name in ("x", "dy", "gamma", "beta"):
        value = getattr(case, name)
        setattr(wide, name, None if value is None else value.astype(np.float64))
    if case.kind == "rms":
        eps = float(np.finfo(np.float64 if case.dtype == np.float64 else np.float32).eps)
        wide.forward = lambda functions: Case.forward(wide, functions, eps=eps)
    return wide


# ---- against the oracle


@pytest.mark.parametrize("case", CASES, ids=name_of)
@pytest.mark.parametrize(("gamma", "beta"), AFFINE)
def test_against_the_oracle(case, gamma, beta, dtype, rng):
    compare(Case(rng, case, dtype, gamma, beta))


@pytest.mark.parametrize("case", [*FEW, ("layer", (40, 2049), 1), ("group", (2, 4, 2500), 2)], ids=name_of)
@pytest.mark.parametrize("kind", [np.float16, BFLOAT16], ids=["float16", "bfloat16"])
def test_against_the_oracle_in_sixteen_bits(case, kind, rng):
    compare(Case(rng, case, kind))
    compare(Case(rng, case, kind, gamma=False))


@pytest.mark.parametrize("case", FEW, ids=name_of)
@pytest.mark.parametrize("kind", [np.float16, BFLOAT16], ids=["float16", "bfloat16"])
def test_reference_takes_what_the_kernels_take(case, kind, rng):
    """Storage included: the oracle's own rounding to sixteen bits."""
    case = Case(rng, case, kind)
    (y, saved), (expected, expected_saved) = case.forward(kernels), case.forward(reference)
    scales = case.scales(expected_saved)
    pairs = [(y, expected), *zip(case.backward(kernels, saved), case.backward(reference, expected_saved), strict=True)]
    for (result, oracle), scale in zip(pairs, scales, strict=False):
        assert result.dtype == oracle.dtype
        eps = EPS.get(oracle.dtype, 4 * 2.0**-23)
        assert (np.abs(result.astype(np.float64) - oracle.astype(np.float64)) <= eps * scale).all()


@pytest.mark.parametrize("case", FEW, ids=name_of)
def test_bfloat16_as_bits(functions, case, rng):
    case = Case(rng, case, BFLOAT16)
    y, saved = case.forward(functions)
    as_bits, saved_bits = case.forward(functions, case.x.view(np.uint16), dtype="bfloat16")
    assert as_bits.dtype == np.uint16
    np.testing.assert_array_equal(as_bits, y.view(np.uint16))
    np.testing.assert_array_equal(saved.invstd, saved_bits.invstd)
    dx, *rest = case.backward(functions, saved)
    dx_bits, *rest_bits = case.backward(
        functions, saved, case.dy.view(np.uint16), case.x.view(np.uint16), dtype="bfloat16"
    )
    np.testing.assert_array_equal(dx_bits, dx.view(np.uint16))
    for a, b in zip(rest, rest_bits, strict=True):
        assert_same_bits(a, b)


# ---- statistics


@pytest.mark.parametrize(
    "case",
    [("layer", (64, 768), 1), ("layer", (3, 100_003), 1), ("group", (2, 6, 49), 2), ("instance", (2, 3, 5000), 0)],
    ids=name_of,
)
def test_mean_of_ten_thousand_and_variance_of_one(case, rng):
    """E[x^2] - E[x]^2 in float32 would have no correct digit. x itself is spaced 2^-10 there, so y is compared exactly
    for the x that was stored."""
    case = Case(rng, case, np.float32, gamma=False, beta=False)
    case.x = (10_000 + rng.normal(size=case.shape)).astype(np.float32)
    y, saved = case.forward(kernels)
    expected, expected_saved = case.forward(reference)
    assert ulps(saved.invstd, expected_saved.invstd, None, np.float32) <= 4
    # the mean's error, in units of x's spread, is what y sees
    assert np.abs(saved.mean - expected_saved.mean).max() <= 4 * np.finfo(np.float32).eps
    assert ulps(y, expected, 1 + np.abs(expected)) <= 4


@pytest.mark.parametrize("place", [0, 1, 2047, 2048, 4999])
def test_an_outlier_costs_the_others_no_digit(place, rng):
    """Squares about a value that is far from the rest, such as the first, would."""
    x = rng.normal(size=(2, 5000)).astype(np.float32)
    x[:, place] = 1e4
    y, saved = kernels.layer_norm(x)
    expected, expected_saved = reference.layer_norm(x)
    assert ulps(saved.invstd, expected_saved.invstd, None, np.float32) <= 4
    # what a lane adds behind the outlier is rounded to its magnitude: of the mean's error, in y
    magnitude = 4 * np.abs(x).mean(1) * expected_saved.invstd
    assert ulps(y, expected, np.abs(expected) + magnitude[:, None]) <= 4


@pytest.mark.parametrize("value", [0.0, 3.0, 1e4, 0.1])
def test_constant_row_is_normalized_to_beta(functions, value, dtype):
    x, beta = np.full((50, 70), value, dtype), np.linspace(-1, 1, 70).astype(dtype)
    y, saved = functions.layer_norm(x, None, beta)
    np.testing.assert_allclose(saved.invstd, 1 / np.sqrt(1e-5), rtol=1e-6)
    exact = functions is kernels  # the oracle's mean is rounded, and 1 / sqrt(eps) makes that seen
    np.testing.assert_allclose(y, np.broadcast_to(beta, x.shape), rtol=0 if exact else 1e-11, atol=0 if exact else 1e-9)


def test_large_numbers_have_a_root_mean_square(functions):
    """Their squares overflow float32."""
    y, _ = functions.rms_norm(np.array([[3e25, 4e25]], np.float32))
    np.testing.assert_allclose(y, np.array([[3, 4]]) / np.sqrt(12.5), rtol=1e-6)


def test_what_is_saved(functions, rng):
    x = rng.normal(size=(3, 4, 6))
    layer, rms = functions.layer_norm(x, axes=2)[1], functions.rms_norm(x)[1]
    group, instance = functions.group_norm(x, 2)[1], functions.instance_norm(x)[1]
    assert [len(s.invstd) for s in (layer, rms, group, instance)] == [3, 12, 6, 12]
    assert [(s.axes, s.groups) for s in (layer, rms, group, instance)] == [(2, 0), (1, 0), (0, 2), (0, 4)]
    assert rms.mean is None
    np.testing.assert_allclose(layer.mean, x.mean((1, 2)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(group.mean, x.reshape(6, -1).mean(1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(instance.invstd, 1 / np.sqrt(x.reshape(12, -1).var(1) + 1e-5), rtol=1e-12)


@pytest.mark.parametrize("case", [("layer", (5, 2060), 1), ("rms", (5, 9), 1), ("group", (5, 4, 20), 2)], ids=name_of)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(functions, case, value, dtype, rng):
    case = Case(rng, case, dtype)
    clean, clean_saved = case.forward(functions)
    dx_clean = case.backward(functions, clean_saved)[0]
    case.rows(case.x)[3, 1] = value
    y, saved = case.forward(functions)
    dx = case.backward(functions, saved)[0]
    others = [r for r in range(len(saved.invstd)) if r != 3]
    for result, expected in ((y, clean), (dx, dx_clean)):
        assert_same_bits(case.rows(result)[others], case.rows(expected)[others])
        assert np.isnan(case.rows(result)[3]).any()
    if case.kind != "rms":
        assert np.isnan(case.rows(y)[3]).all()
        assert np.isnan(case.rows(dx)[3]).all()


# ---- against torch


@pytest.mark.parametrize("case", [c for c in CASES if c[1] not in ((1, 1), (12_289,))], ids=name_of)
@pytest.mark.parametrize(("gamma", "beta"), AFFINE)
def test_against_torch(case, gamma, beta, dtype, rng):
    """The bound is twice that of the kernels against the oracle, in the same units, and torch's mean may be off by as
    many of the magnitude of what is averaged: in float32, that is seen in rows of two numbers that are close."""
    torch = pytest.importorskip("torch")
    case = Case(rng, case, dtype, gamma, beta)
    expected = case.torch(torch, 1e-3)
    y, saved = case.forward(kernels, eps=1e-3)
    y_scale, dx_scale, *others = case.scales(saved)
    off = np.ones_like(case.rows(y_scale)) * (case.rows(np.abs(case.x)).mean(1) * saved.invstd)[:, None]
    off = off.reshape(case.shape) * (case.kind != "rms")
    scales = [y_scale + off * np.abs(case.beside(case.gamma, 1.0)), dx_scale * (1 + off), *others]
    scales[2] = scales[2] + (np.abs(case.dy) * off).sum(case.others())
    results = [y, *case.backward(kernels, saved)]
    for result, theirs, scale in zip(results, expected, scales, strict=False):
        if theirs is not None:
            assert ulps(result, theirs, scale) <= 2 * BOUND[dtype]


@pytest.mark.parametrize("case", FEW, ids=name_of)
@pytest.mark.parametrize(("gamma", "beta"), AFFINE)
def test_oracle_against_torch(case, gamma, beta, rng):
    torch = pytest.importorskip("torch")
    case = Case(rng, case, np.float64, gamma, beta)
    y, saved = case.forward(reference, eps=1e-3)
    for result, theirs in zip([y, *case.backward(reference, saved)], case.torch(torch, 1e-3), strict=False):
        if theirs is not None:
            np.testing.assert_allclose(result, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_default_eps_of_rms_norm_is_torchs(functions, name):
    torch = pytest.importorskip("torch")
    x = np.full((1, 4), 2.0**-13 if name != "float64" else 2.0**-27)
    theirs = torch.nn.functional.rms_norm(torch.tensor(x, dtype=getattr(torch, name)), (4,))
    y, _ = functions.rms_norm(x.astype(BFLOAT16 if name == "bfloat16" else name))
    np.testing.assert_array_equal(y.astype(np.float64), theirs.double().numpy())


@pytest.mark.parametrize("kind", [np.float16, BFLOAT16], ids=["float16", "bfloat16"])
def test_sixteen_bits_against_torch(kind, rng):
    torch = pytest.importorskip("torch")
    case = Case(rng, ("layer", (6, 333), 1), kind)
    x = torch.tensor(case.x.astype(np.float32)).to(torch.float16 if kind == np.float16 else torch.bfloat16)
    gamma, beta = torch.tensor(case.gamma), torch.tensor(case.beta)
    theirs = torch.nn.functional.layer_norm(x, (333,), gamma, beta).double().numpy()
    y, saved = case.forward(kernels)
    assert (np.abs(y.astype(np.float64) - theirs) <= EPS[np.dtype(kind)] * case.scales(saved)[0]).all()


# ---- finite differences


@pytest.mark.parametrize(
    "case", [("layer", (3, 5), 1), ("layer", (2, 3, 4), 2), ("rms", (3, 5), 1), ("group", (2, 4, 3), 2),
             ("group", (2, 2, 17), 1), ("instance", (2, 3, 4), 0)], ids=name_of,
)  # fmt: skip
def test_gradient_by_finite_differences(functions, case, rng):
    case = Case(rng, case, np.float64)

    def objective():
        return float((case.forward(functions)[0] * case.dy).sum())

    results = case.backward(functions, case.forward(functions)[1])
    for result, variable in zip(results, (case.x, case.gamma, case.beta), strict=False):
        np.testing.assert_allclose(result, numeric_gradient(objective, variable), rtol=1e-6, atol=1e-8)


# ---- where the result goes


@pytest.mark.parametrize("case", FEW, ids=name_of)
def test_out_is_written_and_has_the_same_bits(functions, case, dtype, rng):
    case = Case(rng, case, dtype)
    y, saved = case.forward(functions)
    out = np.full(case.shape, np.nan, dtype)
    assert case.forward(functions, out=out)[0] is out
    assert_same_bits(out, y)
    x = case.x.copy()
    assert case.forward(functions, x, out=x)[0] is x
    assert_same_bits(x, y)
    dx, *rest = case.backward(functions, saved)
    dy = case.dy.copy()
    same, *others = case.backward(functions, saved, dy, out=dy)
    assert same is dy
    assert_same_bits(dy, dx)
    for a, b in zip(others, rest, strict=True):
        assert_same_bits(a, b)
    outs = {"dgamma": np.empty(case.own, dtype), "dbeta": np.empty(case.own, dtype)}
    outs = dict(list(outs.items())[: len(rest)])
    given = case.backward(functions, saved, **outs)
    assert all(a is b for a, b in zip(given[1:], outs.values(), strict=True))
    for a, b in zip(given, (dx, *rest), strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("case", FEW, ids=name_of)
@pytest.mark.parametrize("gamma", [False, True])
def test_gradients_that_are_not_wanted(functions, case, gamma, dtype, rng):
    case = Case(rng, case, dtype, gamma)
    _, saved = case.forward(functions)
    dx, *rest = case.backward(functions, saved)
    names = ["dgamma", "dbeta"][: len(rest)]
    without, *none = case.backward(functions, saved, **dict.fromkeys(names, False))
    assert none == [None] * len(rest)
    scale = case.scales(saved)[1]
    assert ulps(without, dx, scale) <= (2 if functions is kernels else 0)  # rows may be cut otherwise
    for i, name in enumerate(names):
        given = case.backward(functions, saved, **{name: False})
        assert given[1 + i] is None
        for j, other in enumerate(rest):
            if i != j:
                assert_same_bits(given[1 + j], other)


def strided(a, how):
    """The same elements elsewhere in memory."""
    if how == "gaps":
        memory = np.full((*a.shape[:-1], 2 * a.shape[-1]), 99, a.dtype)
        view = memory[..., 1::2]
    elif how == "transposed":
        view = np.full(a.shape[::-1], 99, a.dtype).T
    elif how == "reversed":
        view = np.full(a.shape, 99, a.dtype)[(slice(None, None, -1),) * a.ndim]
    else:  # rows apart
        view = np.full((*a.shape[:-1], a.shape[-1] + 3), 99, a.dtype)[..., 1:-2]
    view[...] = a
    return view


@pytest.mark.parametrize("case", [*FEW, ("layer", (3, 5000), 1), ("group", (2, 4, 2500), 2)], ids=name_of)
@pytest.mark.parametrize("how", ["gaps", "transposed", "reversed", "rows apart"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16], ids=["float32", "float64", "float16"])
def test_strides_change_no_bit(case, how, kind, rng):
    case = Case(rng, case, kind)
    y, saved = case.forward(kernels)
    x, dy, out = strided(case.x, how), strided(case.dy, how), strided(case.x, how)
    case.forward(kernels, x, out=out)
    assert_same_bits(np.ascontiguousarray(out), y)
    expected = case.backward(kernels, saved)
    results = case.backward(kernels, saved, dy, x, out=dy)
    for a, b in zip(results, expected, strict=True):
        assert_same_bits(np.ascontiguousarray(a), b)
    assert (np.ascontiguousarray(x) == case.x).all()


# ---- threads


@pytest.mark.parametrize(
    "case",
    [
        ("layer", (3, 300_001), 1), ("layer", (1, 500_000), 1), ("layer", (999, 1025), 1), ("layer", (70, 9001), 1),
        ("rms", (3, 200_003), 1), ("rms", (4097, 130), 1), ("group", (1, 6, 100_003), 2),
        ("group", (67, 4, 4, 1000), 2),
        ("group", (67, 40, 3, 41), 1), ("group", (333, 96, 3, 3), 3), ("instance", (1, 3, 300_007), 0),
    ],
    ids=name_of,
)  # fmt: skip
@pytest.mark.parametrize("kind", [np.float32, BFLOAT16], ids=["float32", "bfloat16"])
def test_threads_change_no_bit(case, kind, rng):
    case = Case(rng, case, kind)

    def run(threads):
        y, saved = case.forward(kernels, threads=threads)
        return [a for a in (y, *saved[:2], *case.backward(kernels, saved, threads=threads)) if a is not None]

    expected = run(1)
    for threads in (2, 3, 8, 48):
        for a, b in zip(run(threads), expected, strict=True):
            np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


# ---- any shape, strides and values


@st.composite
def calls(draw):
    kind = draw(st.sampled_from(["layer", "rms", "group", "instance"]))
    small = st.integers(1, 7)
    if kind in ("layer", "rms"):
        shape = tuple(draw(st.lists(small, min_size=1, max_size=4)))
        shape = (*shape[:-1], draw(st.sampled_from([1, 2, 15, 16, 17, 33, 100])))
        how = draw(st.integers(1, len(shape)))
    else:
        how, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        spatial = [*draw(st.lists(small, min_size=1, max_size=2)), draw(st.sampled_from([2, 3, 8, 20]))]
        shape = (draw(small), how * each, *spatial)
        how = 0 if kind == "instance" else how
    values = {
        "mean": draw(st.sampled_from([0.0, 1.0, -300.0, 1e4])),
        "spread": draw(st.sampled_from([1e-3, 1.0, 50.0])),
    }
    layout = draw(st.sampled_from(["gaps", "transposed", "reversed", "rows apart"]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    affine = draw(st.booleans()), draw(st.booleans())
    return (kind, shape, how), values, layout, dtype, affine, draw(st.integers(0, 2**32 - 1))


@given(calls())
def test_any_call_is_near_the_oracle_and_writes_nothing_else(call):
    case, values, layout, dtype, affine, seed = call
    rng = np.random.default_rng(seed)
    case = Case(rng, case, dtype, *affine)
    case.x = (values["mean"] + values["spread"] * rng.normal(size=case.shape)).astype(dtype)
    x, dy, out = strided(case.x, layout), strided(case.dy, layout), strided(case.x, layout)
    y, saved = case.forward(kernels, x, out=out)
    expected, expected_saved = case.forward(reference)
    scales = list(case.scales(expected_saved))
    # a mean is known to a few units of the magnitude of what is averaged about the row's first guess of it
    off = case.rows(np.abs(case.x.astype(np.float64))).mean(1) * expected_saved.invstd
    known = 8 * np.finfo(np.float64).eps * off  # in y; what the oracle itself may be wrong by
    gamma = np.abs(case.beside(case.gamma, 1.0))
    allowed = BOUND[np.dtype(dtype)] * np.finfo(dtype).eps * scales[0]
    slack = np.broadcast_to(known[:, None], case.rows(case.x).shape).reshape(case.shape) * gamma
    assert (np.abs(y.astype(np.float64) - expected.astype(np.float64)) <= allowed + slack).all()
    base = out.base if out.base is not None else out
    out[...] = 99
    assert (base == 99).all()
    dx = case.backward(kernels, saved, dy, x, out=out)[0]
    oracle = case.backward(reference, expected_saved)[0]
    allowed = 2 * BOUND[np.dtype(dtype)] * np.finfo(dtype).eps * scales[1]
    rows_slack = (4 * known * (1 + known))[:, None] * np.ones_like(case.rows(scales[1]))
    slack = rows_slack.reshape(case.shape) * scales[1]
    assert (np.abs(dx.astype(np.float64) - oracle.astype(np.float64)) <= allowed + slack).all()
    out[...] = 99
    assert (base == 99).all()
    assert (bits(x) == bits(case.x)).all()


# ---- what is refused


def f32(*shape):
    return ((np.arange(math.prod(shape)) % 11 + 1) / 8).astype(np.float32).reshape(shape)


def f64(*shape):
    return f32(*shape).astype(np.float64)


def read_only(a):
    a.flags.writeable = False
    return a


def partly(shape, first, second):
    memory = f32(math.prod(shape) + 1)
    return {first: memory[:-1].reshape(shape), second: memory[1:].reshape(shape)}


def layer(**kwargs):
    return "layer_norm", {"x": f32(6, 4), "gamma": f32(4), "beta": f32(4), **kwargs}


def group(**kwargs):
    return "group_norm", {"x": f32(6, 4, 3), "groups": 2, "gamma": f32(4), "beta": f32(4), **kwargs}


def back(kind="layer", **kwargs):
    x = f32(6, 4) if kind in ("layer", "rms") else f32(6, 4, 3)
    saved = {
        "layer": lambda: kernels.layer_norm(x),
        "rms": lambda: kernels.rms_norm(x),
        "group": lambda: kernels.group_norm(x, 2),
        "instance": lambda: kernels.instance_norm(x),
    }[kind]()[1]
    return f"{kind}_norm_backward", {"dy": x + 1, "x": x, "gamma": f32(4), "saved": saved, **kwargs}


def back_sharing(first, second):
    name, arguments = back(**{first: f32(6, 4) if first == "out" else f32(4)})
    return name, {**arguments, first: arguments[second] if arguments[second].ndim == arguments[first].ndim else None}


REFUSED = [  # name: error, call, what the message begins with, what it says, whether the oracle refuses it too
    ("list", TypeError, lambda: layer(x=[[1.0, 2.0]]), "x", "asarray", True),
    ("integers", TypeError, lambda: layer(x=np.ones((6, 4), int)), "x", "convert", True),
    ("uint16 that nobody called bfloat16", TypeError, lambda: layer(x=np.ones((6, 4), np.uint16)), "x", "dtype=", True),
    ("unknown dtype", ValueError, lambda: layer(dtype="float16"), "dtype", "bfloat16", True),
    ("gamma of another type", TypeError, lambda: layer(gamma=f64(4)), "gamma", "float32", True),
    ("gamma of sixteen bits", TypeError, lambda: layer(x=f32(6, 4).astype(np.float16),
                                                       gamma=f32(4).astype(np.float16)), "gamma", "float32", True),
    ("beta of another type", TypeError, lambda: group(beta=f64(4)), "beta", "float32", True),
    ("out of another type", TypeError, lambda: layer(out=f64(6, 4)), "out", "convert", True),
    ("axes a fraction", TypeError, lambda: layer(axes=1.0), "axes", "integer", False),
    ("groups a fraction", TypeError, lambda: group(groups=2.0), "groups", "integer", False),
    ("eps a text", TypeError, lambda: layer(eps="x"), "eps", "number", False),
    ("threads a fraction", TypeError, lambda: layer(threads=1.5), "threads", "integer", False),
    ("threads below zero", ValueError, lambda: layer(threads=-1), "threads", "4096", False),
    ("eps below zero", ValueError, lambda: layer(eps=-1e-9), "eps", ">= 0", True),
    ("eps not a number", ValueError, lambda: group(eps=np.nan), "eps", ">= 0", True),
    ("no axes", ValueError, lambda: layer(axes=0), "axes", "1", True),
    ("too many axes", ValueError, lambda: layer(axes=3, gamma=None, beta=None), "axes", "1 to 2", True),
    ("a number without axes", ValueError, lambda: layer(x=np.array(1.0)), "x", "1 axis", False),
    ("empty", ValueError, lambda: layer(x=f32(0, 4)), "x", "empty", True),
    ("empty rows", ValueError, lambda: layer(x=f32(6, 0)), "x", "empty", True),
    ("empty groups", ValueError, lambda: group(x=f32(0, 4, 3)), "x", "empty", True),
    ("one axis in groups", ValueError, lambda: group(x=f32(6)), "x", "(N, C)", True),
    ("groups no divisor", ValueError, lambda: group(groups=3), "groups", "divisor of the 4", True),
    ("no groups", ValueError, lambda: group(groups=0), "groups", "divisor", True),
    ("groups below zero", ValueError, lambda: group(groups=-2), "groups", "divisor", True),
    ("one value a group", ValueError, lambda: group(x=f32(6, 4), groups=4), "x", "more than one value", True),
    ("one value an instance", ValueError, lambda: ("instance_norm", {"x": f32(6, 4)}), "x", "more than one", True),
    ("gamma of another length", ValueError, lambda: layer(gamma=f32(5)), "gamma", "(4,)", True),
    ("gamma of the row's size, flat", ValueError, lambda: layer(axes=2, gamma=f32(24), beta=None), "gamma", "(6, 4)",
     True),
    ("beta of another length", ValueError, lambda: group(beta=f32(3)), "beta", "(4,)", True),
    ("gamma with gaps", ValueError, lambda: layer(gamma=f32(8)[::2]), "gamma", "ascontiguousarray", True),
    ("out of another shape", ValueError, lambda: layer(out=f32(4, 6)), "out", "(6, 4)", True),
    ("out read-only", ValueError, lambda: layer(out=read_only(f32(6, 4))), "out", "copy", True),
    ("out with several elements in one place", ValueError,
     lambda: layer(out=np.lib.stride_tricks.as_strided(f32(6, 4), (6, 4), (16, 0))), "out", "copy", False),
    ("out overlaps x in part", ValueError, lambda: layer(**partly((6, 4), "x", "out")), "out", "copy", True),
    ("dy of another type", TypeError, lambda: back(dy=f64(6, 4)), "dy", "convert", True),
    ("dy of another shape", ValueError, lambda: back(dy=f32(4, 6)), "dy", "(6, 4)", True),
    ("dx is x", ValueError, lambda: back_sharing("out", "x"), "out", "copy", True),
    ("dx overlaps dy in part", ValueError, lambda: back(**partly((6, 4), "dy", "out")), "out", "copy", True),
    ("dgamma is gamma", ValueError, lambda: back_sharing("dgamma", "gamma"), "dgamma", "copy", False),
    ("dgamma is dbeta", ValueError, lambda: back(**partly((4,), "dgamma", "dbeta")), "dgamma", "copy", False),
    ("dgamma of another type", TypeError, lambda: back(dgamma=f64(4)), "dgamma", "float32", True),
    ("dbeta of another length", ValueError, lambda: back("group", dbeta=f32(3)), "dbeta", "(4,)", True),
    ("dgamma is True", TypeError, lambda: back("rms", dgamma=True), "dgamma", "False", True),
    ("dgamma read-only", ValueError, lambda: back(dgamma=read_only(f32(4))), "dgamma", "copy", False),
    ("saved of other rows", ValueError, lambda: back(saved=kernels.layer_norm(f32(5, 4))[1]), "saved", "(6,)", True),
    ("saved of rms_norm", ValueError, lambda: back(saved=kernels.rms_norm(f32(6, 4))[1]), "saved", "another", False),
    ("saved of group_norm", ValueError, lambda: back(saved=kernels.group_norm(f32(6, 4), 1)[1]), "saved", "another",
     False),
    ("saved of layer_norm", ValueError, lambda: back("group", saved=kernels.layer_norm(f32(6, 4))[1]), "saved",
     "another", False),
    ("saved a tuple", TypeError, lambda: back(saved=(1, 2)), "saved", "tuple", False),
]  # fmt: skip


@pytest.mark.parametrize(("error", "make", "begins", "says"), [pytest.param(*c[1:5], id=c[0]) for c in REFUSED])
def test_refused_by_name_and_nothing_is_written(error, make, begins, says):
    name, arguments = make()
    before = {key: a.tobytes() for key, a in arguments.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error) as caught:
        getattr(kernels, name)(**arguments)
    assert str(caught.value).startswith(begins)
    assert says in str(caught.value)
    assert {key: a.tobytes() for key, a in arguments.items() if isinstance(a, np.ndarray)} == before


@pytest.mark.parametrize(("error", "make"), [pytest.param(*c[1:3], id=c[0]) for c in REFUSED if c[5]])
def test_the_oracle_refuses_it_too(error, make):
    name, arguments = make()
    with pytest.raises(error):
        getattr(reference, name)(**arguments)


def test_the_calls_above_are_right_before_something_is_replaced():
    for name, arguments in (layer(), group(), *(back(kind) for kind in ("layer", "rms", "group", "instance"))):
        getattr(kernels, name)(**arguments)
        getattr(reference, name)(**arguments)


@pytest.mark.parametrize("kind", ["layer", "rms", "group", "instance"])
def test_statistics_go_where_they_are_wanted(functions, kind, rng):
    x = rng.normal(size=(5, 4, 3))
    name, options = f"{kind}_norm", {"groups": 2} if kind == "group" else {}
    y, expected = getattr(functions, name)(x, **options)
    names = ["invstd"] if kind == "rms" else ["mean", "invstd"]
    given = {statistic: np.full_like(expected.invstd, np.nan) for statistic in names}
    again, saved = getattr(functions, name)(x, **options, **given)
    for statistic, array in given.items():
        assert getattr(saved, statistic) is array
        np.testing.assert_array_equal(array, getattr(expected, statistic))
    assert (saved.mean is None) == (kind == "rms")
    np.testing.assert_array_equal(again, y)


@pytest.mark.parametrize("kind", ["layer", "rms", "group", "instance"])
@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (np.zeros(2), ValueError, "invstd: expected shape"),
        (np.zeros(20, np.float32), TypeError, "invstd: expected float64"),
        (np.broadcast_to(np.zeros(1), 20), ValueError, "invstd: "),
        ([0.0] * 20, TypeError, "invstd: expected a NumPy array"),
    ],
)
def test_statistics_cannot_go_everywhere(functions, kind, bad, error, match):
    x, out = np.ones((5, 4, 3)), np.full((5, 4, 3), 7.0)
    options = {"groups": 4} if kind == "group" else {}
    with pytest.raises(error, match=match):
        getattr(functions, f"{kind}_norm")(x, **options, out=out, invstd=bad)
    assert (out == 7).all()
