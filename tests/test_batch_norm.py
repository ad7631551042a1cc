"""Batch normalization and its backward pass: within stated bounds of the float64 oracle, equal to torch, gradients by
finite differences, statistics, and where the result goes.

Bounds are in units in the last place. The kernel sums blocks in the array's own type and merges them in double, so a
mean is off by a few units of the mean magnitude of what is averaged; everything after that rounds a handful of times.
The bound is 4 units of: |xhat gamma| + |beta| + |residual| for y (plus gamma for the statistics' own error), and
gamma invstd (|dy| + mean |dy| (1 + |xhat|)) for dx. In float64 the oracle is off by as much, so it is 8.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from measure import assert_same_bits, numeric_gradient, ulps

from onepass import kernels, reference

BOUND = {np.dtype(np.float32): 4, np.dtype(np.float64): 8}
SHAPES = [  # N x C, N x C x spatial; short and long runs, few and many channels, blocks and tails
    (2, 1), (7, 3), (64, 33), (1000, 5), (9001, 2), (3, 700),
    (2, 3, 1), (4, 5, 7), (3, 2, 16), (5, 4, 100), (2, 3, 5000), (4, 3, 5, 5), (3, 40, 9, 11), (1, 2, 70000),
]  # fmt: skip
OPTIONS = [
    {"affine": affine, "training": training, "relu": relu, "residual": residual}
    for affine, training, relu, residual in itertools.product([False, True], repeat=4)
]


def ids(options):
    return ",".join(k for k, v in options.items() if v) or "plain"


class Case:
    """Inputs of one call."""

    def __init__(self, rng, shape, dtype, affine=True, training=True, relu=False, residual=False, axis=1):
        channels = shape[axis]
        self.x = (rng.normal(size=shape) * 2 + 0.5).astype(dtype)
        self.dy = rng.normal(size=shape).astype(dtype)
        self.gamma = (rng.normal(size=channels) + 0.2).astype(dtype) if affine else None
        self.beta = rng.normal(size=channels).astype(dtype) if affine else None
        self.mean = rng.normal(size=channels).astype(dtype)
        self.var = (rng.random(channels) + 0.5).astype(dtype)
        self.residual = rng.normal(size=shape).astype(dtype) if residual else None
        self.options = {"training": training, "relu": relu, "residual": self.residual, "channel_axis": axis}
        self.axis = axis

    def forward(self, functions, x=None, **more):
        self.running = self.mean.copy(), self.var.copy()
        x = self.x if x is None else x
        return functions.batch_norm(x, self.gamma, self.beta, *self.running, **{**self.options, **more})

    def per_channel(self, values):
        return np.asarray(values, np.float64).reshape([-1 if i == self.axis else 1 for i in range(self.x.ndim)])

    def other_axes(self):
        return tuple(i for i in range(self.x.ndim) if i != self.axis)


# ---- against the oracle


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_against_the_oracle(options, shape, dtype, rng):
    compare(Case(rng, shape, dtype, **options))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_channel_axis(axis, dtype, rng):
    case = Case(rng, (3, 4, 5, 6), dtype, relu=True, axis=axis % 4)
    compare(case)
    y, saved = case.forward(kernels, channel_axis=axis)
    assert saved.mean.shape == (case.x.shape[axis],)
    assert_same_bits(y, case.forward(kernels)[0])


def compare(case):
    y, saved = case.forward(kernels)
    running = case.running
    expected, expected_saved = case.forward(reference)
    dtype, x = case.x.dtype, case.x.astype(np.float64)
    mean, invstd = case.per_channel(expected_saved.mean), case.per_channel(expected_saved.invstd)
    gamma = np.abs(case.per_channel(1.0 if case.gamma is None else case.gamma))
    beta = np.abs(case.per_channel(0.0 if case.beta is None else case.beta))
    xhat = np.abs((x - mean) * invstd)
    y_scale = (1 + xhat) * gamma + beta + (0 if case.residual is None else np.abs(case.residual))
    assert y.dtype == dtype
    assert ulps(y, expected, y_scale) <= BOUND[dtype]
    assert ulps(saved.mean, expected_saved.mean, np.abs(x).mean(case.other_axes()), dtype) <= BOUND[dtype]
    assert ulps(saved.invstd, expected_saved.invstd, None, dtype) <= BOUND[dtype]
    magnitude = np.abs(x).mean(case.other_axes()) + np.abs(case.mean)
    assert ulps(running[0], case.running[0], magnitude) <= BOUND[dtype]
    assert ulps(running[1], case.running[1]) <= BOUND[dtype]

    results = kernels.batch_norm_backward(case.dy, case.x, case.gamma, saved)
    oracles = reference.batch_norm_backward(case.dy, case.x, case.gamma, expected_saved)
    assert len(results) == len(oracles) == 3 + (case.residual is not None)
    dy = np.abs(case.dy.astype(np.float64))
    dy_mean = case.per_channel(dy.mean(case.other_axes()))
    dyx_mean = case.per_channel((dy * xhat).mean(case.other_axes()))
    dx_scale = gamma * invstd * (dy + dy_mean + xhat * dyx_mean + dyx_mean)
    assert ulps(results[0], oracles[0], dx_scale) <= BOUND[dtype]
    assert ulps(results[1], oracles[1], (dy * (1 + xhat)).sum(case.other_axes())) <= BOUND[dtype]
    assert ulps(results[2], oracles[2], dy.sum(case.other_axes())) <= BOUND[dtype]
    if case.residual is not None:
        assert_same_bits(results[3], oracles[3])


@pytest.mark.parametrize("shape", [(4096, 3), (50, 3, 81), (2, 3, 2048), (1, 3, 100_003)], ids=str)
def test_mean_of_ten_thousand_and_variance_of_one(shape, rng):
    """E[x^2] - E[x]^2 in float32 would have no correct digit. x itself is spaced 2^-10 there, so y is compared exactly
    for the x that was stored."""
    x = (10_000 + rng.normal(size=shape)).astype(np.float32)
    y, saved = kernels.batch_norm(x)
    expected, expected_saved = reference.batch_norm(x)
    assert ulps(saved.invstd, expected_saved.invstd, None, np.float32) <= BOUND[x.dtype]
    # the mean's error, in units of x's spread, is what y sees
    assert np.abs(saved.mean - expected_saved.mean).max() <= BOUND[x.dtype] * np.finfo(np.float32).eps
    assert ulps(y, expected, 1 + np.abs(expected)) <= BOUND[x.dtype]


def test_constant_channel_is_normalized_to_beta(functions, dtype):
    for value in (0.0, 3.0, 1e4, 0.1):
        x = np.full((50, 3, 7), value, dtype)
        beta = np.array([1.0, -2.0, 0.5], dtype)
        y, saved = functions.batch_norm(x, None, beta)
        np.testing.assert_allclose(saved.invstd, 1 / np.sqrt(1e-5), rtol=1e-6)
        exact = functions is kernels  # the oracle's mean is rounded, and 1 / sqrt(eps) makes that seen
        np.testing.assert_allclose(y, np.broadcast_to(beta[:, None], x.shape), rtol=0 if exact else 1e-12)


# ---- against torch


@pytest.mark.parametrize("shape", [(16, 3), (6, 3, 5), (4, 3, 6, 7)], ids=str)
@pytest.mark.parametrize("momentum", [0.1, 1.0])
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_against_torch(functions, options, momentum, shape, rng):
    torch = pytest.importorskip("torch")
    case = Case(rng, shape, np.float64, **options)
    x = torch.tensor(case.x, requires_grad=True)
    gamma = None if case.gamma is None else torch.tensor(case.gamma, requires_grad=True)
    beta = None if case.beta is None else torch.tensor(case.beta, requires_grad=True)
    residual = None if case.residual is None else torch.tensor(case.residual, requires_grad=True)
    mean, var = torch.tensor(case.mean), torch.tensor(case.var)
    expected = torch.nn.functional.batch_norm(x, mean, var, gamma, beta, options["training"], momentum, 1e-3)
    if residual is not None:
        expected = expected + residual
    if options["relu"]:
        expected = expected.relu()
    expected.backward(torch.tensor(case.dy))

    y, saved = case.forward(functions, momentum=momentum, eps=1e-3)
    results = functions.batch_norm_backward(case.dy, case.x, case.gamma, saved)
    close = {"rtol": 1e-11, "atol": 1e-13}
    np.testing.assert_allclose(y, expected.detach().numpy(), **close)
    np.testing.assert_allclose(case.running[0], mean.numpy(), **close)
    np.testing.assert_allclose(case.running[1], var.numpy(), **close)
    np.testing.assert_allclose(results[0], x.grad.numpy(), **close)
    if gamma is not None:
        np.testing.assert_allclose(results[1], gamma.grad.numpy(), **close)
        np.testing.assert_allclose(results[2], beta.grad.numpy(), **close)
    if residual is not None:
        np.testing.assert_allclose(results[3], residual.grad.numpy(), **close)


# ---- finite differences


@pytest.mark.parametrize("options", [o for o in OPTIONS if o["affine"]], ids=ids)
@pytest.mark.parametrize("shape", [(5, 2), (3, 2, 4)], ids=str)
def test_gradient_by_finite_differences(functions, options, shape, rng):
    case = Case(rng, shape, np.float64, **options)

    def objective():
        return float((case.forward(functions)[0] * case.dy).sum())

    _, saved = case.forward(functions)
    results = functions.batch_norm_backward(case.dy, case.x, case.gamma, saved)
    variables = [case.x, case.gamma, case.beta, case.residual][: len(results)]
    for result, variable in zip(results, variables, strict=True):
        np.testing.assert_allclose(result, numeric_gradient(objective, variable), rtol=1e-6, atol=1e-8)


# ---- statistics and what is saved


def test_running_statistics_use_the_unbiased_variance(functions, dtype):
    x = np.array([[1.0], [3.0], [8.0]], dtype)
    mean, var = np.array([10.0], dtype), np.array([20.0], dtype)
    _, saved = functions.batch_norm(x, None, None, mean, var, momentum=0.25)
    assert mean[0] == pytest.approx(0.75 * 10 + 0.25 * 4, rel=1e-6)
    assert var[0] == pytest.approx(0.75 * 20 + 0.25 * 13, rel=1e-6)
    assert saved.mean[0] == pytest.approx(4, rel=1e-6)
    assert saved.invstd[0] == pytest.approx(1 / np.sqrt(26 / 3 + 1e-5), rel=1e-6)


def test_only_one_running_statistic(functions, dtype, rng):
    case = Case(rng, (9, 4), dtype)
    mean, var = case.mean.copy(), case.var.copy()
    functions.batch_norm(case.x, running_mean=mean)
    functions.batch_norm(case.x, running_var=var)
    case.forward(functions)
    assert_same_bits(mean, case.running[0])
    assert_same_bits(var, case.running[1])


def test_inference_leaves_running_statistics_alone(functions, dtype, rng):
    case = Case(rng, (9, 4), dtype, training=False)
    case.mean.flags.writeable = case.var.flags.writeable = False
    functions.batch_norm(case.x, case.gamma, case.beta, case.mean, case.var, training=False)


def test_saved_holds_y_only_where_the_backward_needs_it(functions, rng):
    for options in OPTIONS:
        case = Case(rng, (6, 4), np.float32, **options)
        y, saved = case.forward(functions)
        assert saved.mean.dtype == saved.invstd.dtype == np.float64
        assert (saved.relu, saved.residual, saved.training) == (
            options["relu"],
            options["residual"],
            options["training"],
        )
        assert saved.y is (y if options["relu"] and options["residual"] else None)
        assert saved.beta is (case.beta if options["relu"] else None)


def test_nan_poisons_its_own_channel_only(functions, dtype, rng):
    for shape in [(40, 5), (4, 5, 33)]:
        case = Case(rng, shape, dtype)
        clean, _ = case.forward(functions)
        case.x[(2, 3, *[0] * (len(shape) - 2))] = np.nan
        y, saved = case.forward(functions)
        others = [0, 1, 2, 4]
        assert np.isnan(y[:, 3]).all()
        assert np.isnan(saved.mean[3])
        assert_same_bits(np.ascontiguousarray(y[:, others]), np.ascontiguousarray(clean[:, others]))


def test_nan_passes_the_relu(functions, dtype):
    mean, var = np.zeros(2, dtype), np.ones(2, dtype)
    y, _ = functions.batch_norm(np.array([[np.nan, -1.0]], dtype), None, None, mean, var, training=False, relu=True)
    assert np.isnan(y[0, 0])
    assert y[0, 1] == 0


# ---- where the result goes


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("shape", [(33, 5), (3, 4, 50)], ids=str)
def test_out_is_written_and_has_the_same_bits(functions, options, shape, dtype, rng):
    case = Case(rng, shape, dtype, **options)
    y, saved = case.forward(functions)
    out = np.full(shape, np.nan, dtype)
    assert case.forward(functions, out=out)[0] is out
    assert_same_bits(out, y)
    dx, *rest = functions.batch_norm_backward(case.dy, case.x, case.gamma, saved)
    dy = case.dy.copy()
    same, *others = functions.batch_norm_backward(dy, case.x, case.gamma, saved, out=dy)
    assert same is dy
    assert_same_bits(dy, dx)
    for a, b in zip(others, rest, strict=True):
        assert_same_bits(a, b)
    outs = {"dgamma": np.empty(shape[1], dtype), "dbeta": np.empty(shape[1], dtype)}
    if options["residual"]:
        outs["dresidual"] = np.empty(shape, dtype)
    given = functions.batch_norm_backward(case.dy, case.x, case.gamma, saved, **outs)
    assert all(a is b for a, b in zip(given[1:], outs.values(), strict=True))
    for a, b in zip(given, (dx, *rest), strict=True):
        assert_same_bits(a, b)
    if not options["training"]:
        x = case.x.copy()
        assert case.forward(functions, x, out=x)[0] is x
        assert_same_bits(x, y)


@pytest.mark.parametrize("training", [True, False])
def test_statistics_go_where_they_are_wanted(functions, rng, training):
    x = rng.normal(size=(6, 3, 2)).astype(np.float32)
    running = np.zeros(3, np.float32), np.ones(3, np.float32)
    y, expected = functions.batch_norm(x, None, None, *running, training)
    mean, invstd = np.full(3, np.nan), np.full((3, 2), np.nan)[:, 0].copy()
    running = np.zeros(3, np.float32), np.ones(3, np.float32)
    again, saved = functions.batch_norm(x, None, None, *running, training, mean=mean, invstd=invstd)
    assert saved.mean is mean
    assert saved.invstd is invstd
    np.testing.assert_array_equal(mean, expected.mean)
    np.testing.assert_array_equal(invstd, expected.invstd)
    np.testing.assert_array_equal(again, y)


def read_only(a):
    a.flags.writeable = False
    return a


BOTH = np.zeros(5)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"mean": np.zeros(3, np.float32)}, TypeError, "mean: expected float64"),
        ({"invstd": [0.0] * 3}, TypeError, "invstd: expected a NumPy array"),
        ({"invstd": np.zeros(4)}, ValueError, r"invstd: expected .*\(3,\)"),
        ({"mean": np.zeros(6)[::2]}, ValueError, "mean: expected"),
        ({"mean": read_only(np.zeros(3))}, ValueError, "mean: is read-only"),
        ({"invstd": read_only(np.zeros(3))}, ValueError, "invstd: is read-only"),
        ({"mean": BOTH[:3], "invstd": BOTH[2:]}, ValueError, "invstd: shares memory with mean"),
    ],
)
def test_statistics_cannot_go_everywhere(functions, given, error, match):
    running, out = np.zeros(3, np.float32), np.full((4, 3), 7, np.float32)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    with pytest.raises(error, match=match):
        functions.batch_norm(x, running_mean=running, out=out, **given)
    assert (out == 7).all()
    assert (running == 0).all()


@pytest.mark.parametrize("name", ["mean", "invstd"])
@pytest.mark.parametrize("other", ["x", "out", "gamma", "beta", "running_mean", "running_var", "residual"])
def test_statistics_share_no_memory_with_anything(name, other):
    arrays = {key: np.ones((4, 3)) for key in ("x", "out", "residual")}
    arrays |= {key: np.ones(3) for key in ("gamma", "beta", "running_mean", "running_var")}
    with pytest.raises(ValueError, match=rf"({name}: shares memory with {other}|{other}: shares memory with {name})"):
        kernels.batch_norm(**arrays, **{name: arrays[other].reshape(-1)[-3:]})
    assert all((array == 1).all() for array in arrays.values())
