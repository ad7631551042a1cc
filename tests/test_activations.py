"""Activations and their derivatives, alone and with a bias, against float64 oracles that are not the package's own:
SciPy's special functions for float32 and 16 bits, mpmath's fifty digits for float64, torch, finite differences.

Bounds are in units in the last place. A derivative that changes its sign is held to the sum of its terms' magnitudes.
float16 and bfloat16 are computed in float32 and rounded once: half a unit, and what float32 may be off.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measure import assert_same_bits, numeric_gradient, ulps
from scipy import special

from onepass import kernels, nn, reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BFLOAT16]
EPS = {HALVES[0]: 2.0**-10, BFLOAT16: 2.0**-7}
NAMES = ["relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]
FROM_OUTPUT = ("relu", "sigmoid", "tanh")
SLOPE = 0.125
ROOT = np.sqrt(8 / np.pi)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 3e38, -3e38, 88.0, -88.0, 104.0, -104.0]


def function(module, name, backward=False):
    """f(x) or backward(dy, saved) with the options filled in."""
    own = getattr(module, ("gelu" if name == "gelu_tanh" else name) + ("_backward" if backward else ""))
    more = {"gelu_tanh": ("tanh",), "gelu": ("none",), "leaky_relu": (SLOPE,)}.get(name, ())
    if backward:
        return lambda dy, saved, out=None, **options: own(dy, saved, *more, out, **options)
    return lambda x, out=None, **options: own(x, *more, out, **options)


def cubic(x):
    return ROOT * (x + 0.044715 * x**3)


def value(name, x):
    """In float64, without cancellation."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        near = np.maximum(x, -1e3)
        return {
            "relu": lambda: np.where(x < 0, 0.0, x),
            "leaky_relu": lambda: np.where(x > 0, x, SLOPE * x),
            "gelu": lambda: near * special.ndtr(near),
            "gelu_tanh": lambda: near * special.expit(cubic(near)),
            "silu": lambda: near * special.expit(near),
            "sigmoid": lambda: special.expit(x),
            "tanh": lambda: np.tanh(x),
        }[name]()


def slope(name, x):
    """f'(x), and the sum of its terms' magnitudes."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        near = np.clip(x, -1e3, 1e3)
        if name == "gelu":
            first, second = special.ndtr(near), near * np.exp(-near * near / 2) / np.sqrt(2 * np.pi)
        elif name in ("silu", "gelu_tanh"):
            v, dv = (near, 1.0) if name == "silu" else (cubic(near), ROOT * (1 + 3 * 0.044715 * near**2))
            first, second = special.expit(v), near * dv * special.expit(v) * special.expit(-v)
        elif name == "sigmoid":
            first, second = special.expit(x) * special.expit(-x), 0.0
        elif name == "tanh":
            first, second = 4 * special.expit(2 * x) * special.expit(-2 * x), 0.0
        else:
            first, second = np.where(x <= 0, SLOPE if name == "leaky_relu" else 0.0, 1.0), 0.0
        return first + second, np.abs(first) + np.abs(second)


def bound(name, x):
    """gelu_tanh: v is rounded to x's type, and exp(v) is off by as much."""
    v = np.minimum(np.abs(cubic(np.clip(np.asarray(x, np.float64), -50, 50))), 800)
    return 4 + 2 * v if name == "gelu_tanh" else np.full(np.shape(x), 5.0)


def points(rng, dtype):
    spread = np.concatenate([rng.normal(size=700) * s for s in (1e-4, 0.1, 0.6, 2.0, 6.0, 30.0, 1e3)])
    return np.concatenate([spread, np.linspace(-14, 14, 2001), [-0.0, 0.0]]).astype(dtype)


# ---- accuracy


@pytest.mark.parametrize("name", NAMES)
def test_values_against_scipy(name, rng):
    x = points(rng, np.float32)
    assert ulps(function(kernels, name)(x), value(name, x), np.abs(value(name, x)) * bound(name, x)) <= 1
    y = function(reference, name)(x)
    assert ulps(y, value(name, x), np.abs(value(name, x)) * bound(name, x)) <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
def test_derivatives_against_scipy(name, module, rng):
    x, dy = points(rng, np.float32), rng.normal(size=points(rng, np.float32).size).astype(np.float32)
    dx = function(module, name, True)
    if name in FROM_OUTPUT:
        y = function(module, name)(x)
        wide = y.astype(np.float64)
        exact = {"relu": np.where(wide <= 0, 0, 1), "sigmoid": wide * (1 - wide), "tanh": (1 - wide) * (1 + wide)}[name]
        assert ulps(dx(dy, y), dy * exact) <= 3
        return
    exact, scale = slope(name, x)
    assert ulps(dx(dy, x), dy * exact, np.abs(dy) * scale * bound(name, x)) <= 1


def exact_value(name, x):
    v = mpmath.sqrt(8 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)
    return {
        "relu": lambda: max(x, mpmath.mpf(0)),
        "leaky_relu": lambda: x if x > 0 else x * SLOPE,
        "gelu": lambda: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
        "gelu_tanh": lambda: x / (1 + mpmath.exp(-v)),
        "silu": lambda: x / (1 + mpmath.exp(-x)),
        "sigmoid": lambda: 1 / (1 + mpmath.exp(-x)),
        "tanh": lambda: mpmath.tanh(x),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_float64_against_fifty_digits(name, rng):
    x = np.concatenate([rng.normal(size=60) * s for s in (1e-3, 0.5, 2.0, 8.0, 30.0)] + [np.array([-37.0, -700.0])])
    with mpmath.workdps(50):
        exact = [exact_value(name, mpmath.mpf(float(v))) for v in x]
        slopes = [mpmath.diff(lambda v: exact_value(name, v), mpmath.mpf(float(v))) for v in x]
        y, found = function(kernels, name)(x), np.array([float(v) for v in exact])
        # the oracle rounds to float64 too: half a unit more
        assert ulps(y, found, np.abs(found) * (bound(name, x) + 1)) <= 1
        if name not in FROM_OUTPUT:
            dx = function(kernels, name, True)(np.ones_like(x), x)
            scale = slope(name, x)[1]
            assert ulps(dx, np.array([float(s) for s in slopes]), scale * (bound(name, x) + 1)) <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", HALVES, ids=str)
def test_16_bits_are_rounded_once(name, kind, rng):
    x, dy = (rng.normal(size=(2, 999)) * 3).astype(kind)
    y = function(kernels, name)(x)
    wide = value(name, x)
    slack = 2.0**-18
    tiny = 2.0**-24 if kind != BFLOAT16 else 1e-37
    assert y.dtype == kind
    assert (np.abs(y.astype(np.float64) - wide) <= (EPS[kind] / 2 + slack) * np.abs(wide) + tiny).all()
    saved = y if name in FROM_OUTPUT else x
    dx = function(kernels, name, True)(dy, saved).astype(np.float64)
    oracle = function(reference, name, True)(dy.astype(np.float64), saved.astype(np.float64))
    scale = np.abs(dy.astype(np.float64)) * np.maximum(slope(name, x)[1], np.abs(slope(name, x)[0]))
    assert (np.abs(dx - oracle) <= EPS[kind] / 2 * np.abs(oracle) + slack * scale + tiny).all()


@pytest.mark.parametrize("name", NAMES)
def test_bits_of_bfloat16_are_bfloat16(name, rng):
    x, dy = (rng.normal(size=(2, 77)) * 3).astype(BFLOAT16)
    y = function(kernels, name)(x.view(np.uint16), dtype="bfloat16")
    assert_same_bits(y, function(kernels, name)(x).view(np.uint16))
    saved = y if name in FROM_OUTPUT else x.view(np.uint16)
    dx = function(kernels, name, True)(dy.view(np.uint16), saved, dtype="bfloat16")
    assert_same_bits(dx, function(kernels, name, True)(dy, saved.view(BFLOAT16)).view(np.uint16))
    for module in (kernels, reference):
        with pytest.raises(TypeError, match="dtype='bfloat16'"):
            function(module, name)(x.view(np.uint16))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "relu"])
def test_derivatives_by_finite_differences(name, rng):
    x, dy = rng.normal(size=(2, 40)) * 2
    found = numeric_gradient(lambda: float((function(kernels, name)(x) * dy).sum()), x)
    saved = function(kernels, name)(x) if name in FROM_OUTPUT else x
    np.testing.assert_allclose(function(kernels, name, True)(dy, saved), found, rtol=1e-6, atol=1e-8)


# ---- torch


def torch_function(torch, name):
    f = torch.nn.functional
    return {
        "relu": f.relu, "leaky_relu": lambda t: f.leaky_relu(t, SLOPE), "gelu": f.gelu, "silu": f.silu,
        "gelu_tanh": lambda t: f.gelu(t, approximate="tanh"), "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_torch(name, dtype, rng):
    torch = pytest.importorskip("torch")
    # where torch itself is accurate: its GELUs compute 1 + erf and 1 + tanh, which cancel below zero
    x, dy = rng.normal(size=(2, 3000)).astype(dtype) * 2
    t = torch.tensor(x, requires_grad=True)
    result = torch_function(torch, name)(t)
    result.backward(torch.tensor(dy))
    y, there = function(kernels, name)(x), result.detach().numpy()
    saved = y if name in FROM_OUTPUT else x
    dx = function(kernels, name, True)(dy, saved)
    cancels = name.startswith("gelu")
    assert ulps(y, there, np.abs(x) if cancels else None) <= 8
    # torch's sigmoid and tanh derivatives come from its own rounded outputs, near 1 an eps off
    scale = np.abs(dy) * (1 + np.abs(x)) if cancels or name in FROM_OUTPUT else np.abs(dy) * slope(name, x)[1]
    assert ulps(dx, t.grad.numpy(), scale) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_special_values(name):
    """Infinities have their limits and zeros their signs; NaN stays. torch gives NaN for GELU and SiLU of some
    infinities and for the largest numbers, where these have limits too; everywhere else it agrees."""
    torch = pytest.importorskip("torch")
    x = np.array(SPECIAL, np.float32)
    t = torch.tensor(x, requires_grad=True)
    result = torch_function(torch, name)(t)
    result.sum().backward()
    y = function(kernels, name)(x)
    dx = function(kernels, name, True)(np.ones_like(x), y if name in FROM_OUTPUT else x)
    for found, there, limits in [
        (y, result.detach().numpy(), value(name, x)),
        (dx, t.grad.numpy(), slope(name, x)[0]),
    ]:
        usable = np.isfinite(there) | np.isnan(x)
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(found[usable], there[usable], rtol=1e-5, atol=1e-30)
            expected = np.where(np.isnan(x), there, limits).astype(np.float32)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)
    # torch's GELU of -0 is -0 or 0, as the CPU has AVX-512 or not; x P(X < x) has the sign of x
    signs = x if name == "gelu" else result.detach().numpy()
    np.testing.assert_array_equal(np.signbit(y[3:5]), np.signbit(signs[3:5]))


# ---- layouts


def views(a):
    """The same numbers, laid out differently."""
    gaps = np.repeat(a, 2, axis=-1)[..., ::2]
    wide = np.empty((*a.shape[:-1], a.shape[-1] + 5), a.dtype)
    wide[..., 2:-3] = a
    return {
        "gaps": gaps, "F": np.asfortranarray(a), "backwards": np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
        "rows": wide[..., 2:-3], "moved": np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, 0)), 0, 1)
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [np.float32, np.float64, BFLOAT16], ids=str)
def test_bits_do_not_depend_on_strides(name, kind, rng):
    x, dy = (rng.normal(size=(2, 9, 7, 21)) * 2).astype(kind)
    y = function(kernels, name)(x)
    saved = y if name in FROM_OUTPUT else x
    dx = function(kernels, name, True)(dy, saved)
    for how, view in views(x).items():
        assert_same_bits(function(kernels, name)(view), y, how)
        out = np.zeros_like(views(y)[how])
        assert function(kernels, name)(view, out) is out
        assert_same_bits(out, y, how)
        other = views(dy)["gaps"]
        assert_same_bits(function(kernels, name, True)(other, views(saved)[how]), dx, how)


@pytest.mark.parametrize("name", NAMES)
def test_in_place_and_out(name, rng):
    x, dy = rng.normal(size=(2, 1000)).astype(np.float32)
    y = function(kernels, name)(x)
    own = x.copy()
    assert function(kernels, name)(own, own) is own
    assert_same_bits(own, y)
    saved = y if name in FROM_OUTPUT else x
    dx = function(kernels, name, True)(dy, saved)
    own = dy.copy()
    assert function(kernels, name, True)(own, saved, own) is own
    assert_same_bits(own, dx)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_tails_and_sizes(name, dtype, rng):
    x, dy = (rng.normal(size=(2, 70)) * 2).astype(dtype)
    y = function(kernels, name)(x)
    saved = y if name in FROM_OUTPUT else x
    dx = function(kernels, name, True)(dy, saved)
    for n in range(70):
        assert_same_bits(function(kernels, name)(x[:n]), y[:n], n)
        assert_same_bits(function(kernels, name, True)(dy[:n], saved[:n]), dx[:n], n)
    for shape in ((), (0,), (3, 0), (1,), (1, 1, 1)):
        empty = np.ones(shape, dtype)
        assert function(kernels, name)(empty).shape == shape
        assert function(kernels, name, True)(empty, empty).shape == shape


@given(
    name=st.sampled_from(NAMES),
    shape=st.lists(st.integers(0, 7), min_size=0, max_size=4),
    dtype=st.sampled_from([np.float32, np.float64, np.float16, BFLOAT16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_is_the_reference(name, shape, dtype, seed):
    x = np.asarray(np.random.default_rng(seed).normal(size=shape) * 4).astype(dtype)
    y, expected = function(kernels, name)(x), function(reference, name)(x)
    assert y.dtype == expected.dtype == np.dtype(dtype)
    eps = EPS.get(np.dtype(dtype)) or float(np.finfo(dtype).eps)
    wide = expected.astype(np.float64)
    tiny = 2.0**-24 if dtype == np.float16 else 1e-37
    assert (np.abs(y.astype(np.float64) - wide) <= bound(name, x) * eps * np.abs(wide) + tiny).all()


# ---- with a bias


BIASED = [
    ((7, 5), -1), ((3, 4, 33), 1), ((3, 4, 33), 2), ((2, 3, 5, 7), 1), ((1, 6, 4100), 1), ((3000, 3), -1),
    ((40, 1100), 1), ((5, 3), 0), ((6,), 0), ((0, 3), 1), ((3, 2, 0), 1), ((2, 0, 3), 1), ((1, 1), -1),
]  # fmt: skip


def along(bias, shape, axis):
    return bias.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


@pytest.mark.parametrize(("shape", "axis"), BIASED)
@pytest.mark.parametrize("name", ["relu", "gelu", "sigmoid"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bias_then_activation(shape, axis, name, dtype, rng):
    x, dy = rng.normal(size=(2, *shape)).astype(dtype)
    bias = rng.normal(size=shape[axis]).astype(dtype)
    h = x + along(bias, shape, axis)
    y = kernels.bias_activation(x, bias, name, channel_axis=axis)
    assert_same_bits(y, function(kernels, name)(h))
    dx, dbias = kernels.bias_activation_backward(dy, x, bias, name, channel_axis=axis)
    exact, scale = slope(name, h)
    assert ulps(dx, dy * exact, np.abs(dy) * scale) <= 6
    others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    # a sum of n numbers in dtype, 64 at a time
    assert ulps(dbias, dx.astype(np.float64).sum(others), np.abs(dx.astype(np.float64)).sum(others)) <= 16
    own, other = reference.bias_activation_backward(dy, x, bias, name, channel_axis=axis)
    assert ulps(dx, own, np.abs(dy) * (scale + np.abs(h))) <= 8
    assert ulps(dbias, other, np.abs(dy).sum(others) + 1) <= 16
    np.testing.assert_allclose(y, reference.bias_activation(x, bias, name, channel_axis=axis), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "axis"), [((60_000, 1, 2), 1), ((300_000, 3), -1)])
def test_bias_gradients_of_many_rows_do_not_drift(shape, axis):
    """0.1 again and again in float32 alone would be off by hundreds of units."""
    dy = np.full(shape, 0.1, np.float32)
    _, dbias = kernels.bias_activation_backward(dy, dy, np.ones(shape[axis], np.float32), "relu", channel_axis=axis)
    exact = dy.size / shape[axis] * np.float64(np.float32(0.1))
    assert ulps(dbias, np.full(dbias.shape, exact)) <= 16


@pytest.mark.parametrize("name", NAMES)
def test_bias_activation_is_a_sum_and_an_activation(name, rng):
    x, dy = rng.normal(size=(2, 33, 20)).astype(np.float32)
    bias = rng.normal(size=20).astype(np.float32)
    options = {"negative_slope": SLOPE}
    y = kernels.bias_activation(x, bias, name, **options)
    assert_same_bits(y, function(kernels, name)(x + bias))
    dx, dbias = kernels.bias_activation_backward(dy, x, bias, name, **options)
    exact, scale = slope(name, x + bias)
    assert ulps(dx, dy * exact, np.abs(dy) * scale * bound(name, x + bias)) <= 1
    # in place, into views, threads
    assert_same_bits(kernels.bias_activation(x.T.copy().T, bias, name, **options), y)
    own = x.copy()
    assert kernels.bias_activation(own, bias, name, own, **options) is own
    assert_same_bits(own, y)
    own, sums = dy.copy(), np.empty_like(bias)
    kernels.bias_activation_backward(own, x, bias, name, own, sums, threads=3, **options)
    assert_same_bits(own, dx)
    assert_same_bits(sums, dbias)
    found = kernels.bias_activation_backward(np.repeat(dy, 2, 1)[:, ::2], np.asfortranarray(x), bias, name, **options)
    assert_same_bits(found[0], dx)
    assert_same_bits(found[1], dbias)


@pytest.mark.parametrize("beside", ["own", "float32"])
@pytest.mark.parametrize("kind", HALVES, ids=str)
def test_bias_beside_16_bits(kind, beside, rng):
    x, dy = rng.normal(size=(2, 50, 9)).astype(kind)
    bias = rng.normal(size=9).astype(kind if beside == "own" else np.float32)
    y = kernels.bias_activation(x, bias, "silu")
    wide = value("silu", x.astype(np.float64) + bias.astype(np.float64))
    assert (np.abs(y.astype(np.float64) - wide) <= EPS[kind] / 2 * np.abs(wide) + 2.0**-19).all()
    dx, dbias = kernels.bias_activation_backward(dy, x, bias, "silu")
    assert (dx.dtype, dbias.dtype) == (kind, bias.dtype)
    expected = reference.bias_activation_backward(
        dy.astype(np.float64), x.astype(np.float64), bias.astype(np.float64), "silu"
    )
    rounded = EPS.get(bias.dtype, 0.0)
    for found, exact, eps in ((dx, expected[0], EPS[kind]), (dbias, expected[1], rounded)):
        assert (np.abs(found.astype(np.float64) - exact) <= eps / 2 * np.abs(exact) + 2.0**-16).all()
    if kind == BFLOAT16 and beside == "own":
        bits = kernels.bias_activation(x.view(np.uint16), bias.view(np.uint16), "silu", dtype="bfloat16")
        assert_same_bits(bits, y.view(np.uint16))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "relu"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3), -1), ((2, 3, 2), 1)])
def test_bias_gradients_by_finite_differences(name, shape, axis, rng):
    x, dy = rng.normal(size=(2, *shape)) + 0.3
    bias = rng.normal(size=3)

    def total():
        return float((kernels.bias_activation(x, bias, name, channel_axis=axis) * dy).sum())

    dx, dbias = kernels.bias_activation_backward(dy, x, bias, name, channel_axis=axis)
    np.testing.assert_allclose(dx, numeric_gradient(total, x), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(dbias, numeric_gradient(total, bias), rtol=1e-6, atol=1e-8)


# ---- layers


LAYERS = [nn.LeakyReLU(0.2), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid(), nn.Tanh()]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers_by_finite_differences(layer, rng):
    x, dy = rng.normal(size=(2, 5, 4))
    found = numeric_gradient(lambda: float((layer.forward(x) * dy).sum()), x)
    layer.forward(x)
    dx = layer.backward(dy).copy()
    np.testing.assert_allclose(dx, found, rtol=1e-6, atol=1e-8)
    assert layer.backward(dy, False) is None
    own = dy.copy()
    assert layer.backward(own, own) is own
    np.testing.assert_array_equal(own, dx)
    assert layer.state() == {}


@pytest.mark.parametrize("make", [nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh])
def test_layers_need_forward_first(make):
    with pytest.raises(RuntimeError, match=f"{make.__name__}.backward was called before forward"):
        make().backward(np.ones((2, 2)))


def test_layers_refuse_options_by_name():
    with pytest.raises(ValueError, match="approximate is 'erf'"):
        nn.GELU("erf")
    with pytest.raises(ValueError, match="negative_slope is nan"):
        nn.LeakyReLU(float("nan"))


@pytest.mark.parametrize(("layer", "name"), list(itertools.product(LAYERS, ["before", "behind"])), ids=str)
def test_layers_within_a_network(layer, name, rng):
    """Gradients may be written over those of the layer above: the network's is the same as by hand."""
    model = nn.Sequential(nn.Linear(4, 4, dtype=np.float64), layer, nn.Linear(4, 2, dtype=np.float64), nn.Tanh())
    x, dy = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))
    weight = model.parameters()[0 if name == "before" else 2]
    found = numeric_gradient(lambda: float((model.forward(x) * dy).sum()), weight)
    model.forward(x)
    model.backward(dy, False)
    np.testing.assert_allclose(model.gradients()[0 if name == "before" else 2], found, rtol=1e-6, atol=1e-8)
