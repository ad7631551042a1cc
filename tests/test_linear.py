"""Linear layers, ReLU, mean squared error, global norm: against the float64 oracle, torch and finite differences.

A dot product of K terms is off by at most K / 2 units in the last place of the sum of its terms' magnitudes; BLAS adds
in several accumulators, so far less: the bound is 4 units and one more for each 256 terms.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from measure import assert_same_bits, numeric_gradient, ulps

from onepass import kernels, reference

SHAPES = [(1, 1, 1), (1, 64, 10), (3, 5, 7), (32, 64, 128), (33, 129, 65), (256, 128, 10), (5, 1000, 3), (700, 31, 90)]


def bound(terms):
    return 4 + terms / 256


def make(rng, dtype, n, k, o):
    return [rng.normal(size=shape).astype(dtype) for shape in ((n, k), (o, k), (o,), (n, o))]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_against_the_oracle(shape, with_bias, relu, dtype, rng):
    x, weight, bias, _ = make(rng, dtype, *shape)
    bias = bias if with_bias else None
    y = kernels.linear(x, weight, bias, relu)
    scale = np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64)).T + (np.abs(bias) if with_bias else 0)
    assert y.dtype == dtype
    assert ulps(y, reference.linear(x, weight, bias, relu), scale) <= bound(shape[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_backward_against_the_oracle(shape, dtype, rng):
    x, weight, _, dy = make(rng, dtype, *shape)
    results = kernels.linear_backward(dy, x, weight)
    expected = reference.linear_backward(dy, x, weight)
    a, b, c = (np.abs(v.astype(np.float64)) for v in (dy, x, weight))
    scales, terms = (a @ c, a.T @ b, a.sum(0)), (shape[2], shape[0], shape[0])
    for result, oracle, scale, count in zip(results, expected, scales, terms, strict=True):
        assert result.dtype == dtype
        assert ulps(result, oracle, scale) <= bound(count)


@pytest.mark.parametrize("relu", [False, True])
def test_linear_against_torch(functions, relu, rng):
    torch = pytest.importorskip("torch")
    x, weight, bias, dy = make(rng, np.float64, 9, 6, 4)
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, weight, bias))
    expected = torch.nn.functional.linear(tx, tw, tb)
    expected = expected.relu() if relu else expected
    expected.backward(torch.tensor(dy))
    y = functions.linear(x, weight, bias, relu)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-13, atol=1e-14)
    cut = functions.relu_backward(dy, y) if relu else dy
    for result, tensor in zip(functions.linear_backward(cut, x, weight), (tx, tw, tb), strict=True):
        np.testing.assert_allclose(result, tensor.grad.numpy(), rtol=1e-13, atol=1e-14)


def test_linear_backward_by_finite_differences(functions, rng):
    x, weight, bias, dy = make(rng, np.float64, 4, 3, 2)
    results = functions.linear_backward(dy, x, weight)
    for result, variable in zip(results, (x, weight, bias), strict=True):
        slope = numeric_gradient(lambda: float((functions.linear(x, weight, bias) * dy).sum()), variable)
        np.testing.assert_allclose(result, slope, rtol=1e-7, atol=1e-8)


def test_linear_writes_where_it_is_told(functions, dtype, rng):
    x, weight, bias, dy = make(rng, dtype, 40, 30, 20)
    y = functions.linear(x, weight, bias)
    memory = np.full((40, 25), 5.0, dtype)
    assert functions.linear(x, weight, bias, out=memory[:, 2:22]).base is memory
    assert_same_bits(np.ascontiguousarray(memory[:, 2:22]), y)
    memory[:, 2:22] = 5.0
    assert (memory == 5.0).all()
    all_three = functions.linear_backward(dy, x, weight)
    names = ("dx", "dweight", "dbias")
    for i, name in enumerate(names):
        out = np.full_like(all_three[i], np.nan)
        others = {other: False for other in names if other != name}
        results = functions.linear_backward(dy, x, weight, **{name: out}, **others)
        assert results[i] is out
        assert_same_bits(out, all_three[i])
        assert [r is None for r in results] == [j != i for j in range(3)]


def test_linear_of_rows_with_gaps_between_them(functions, dtype, rng):
    x, weight, bias, dy = make(rng, dtype, 12, 8, 5)
    wide_x, wide_w, wide_dy = (np.zeros((a.shape[0], a.shape[1] + 3), dtype) for a in (x, weight, dy))
    vx, vw, vdy = wide_x[:, 1:9], wide_w[:, 2:10], wide_dy[:, :5]
    vx[...], vw[...], vdy[...] = x, weight, dy
    assert ulps(functions.linear(vx, vw, bias), functions.linear(x, weight, bias), 30.0) <= 4
    for a, b in zip(functions.linear_backward(vdy, vx, vw), functions.linear_backward(dy, x, weight), strict=True):
        assert ulps(a, b, 30.0) <= 4


def test_linear_leaves_the_threads_of_blas_as_they_were(rng):
    from threadpoolctl import threadpool_info

    x, weight, bias, _ = make(rng, np.float32, 64, 64, 64)
    kernels.linear(x, weight, bias)
    before = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    kernels.linear(x, weight, bias, threads=2)
    after = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert before
    assert after == before


def test_linear_without_scipy_says_what_to_install():
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['scipy.linalg'] = None\n"
        "import numpy as np\nfrom onepass import kernels\n"
        "try:\n    kernels.linear(np.ones((1, 1)), np.ones((1, 1)))\n"
        "except ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'onepass[train]'" in run.stdout


# ---- ReLU


def test_relu(functions, dtype):
    x = np.array([-2.0, -0.0, 0.0, 3.0, np.inf, -np.inf, np.nan], dtype)
    y = functions.relu(x)
    np.testing.assert_array_equal(y, [0, 0, 0, 3, np.inf, 0, np.nan])
    dy = np.arange(1, 8).astype(dtype)
    np.testing.assert_array_equal(functions.relu_backward(dy, y), [0, 0, 0, 4, 5, 0, 7])  # NaN: as in torch


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 1000, 100_001])
def test_relu_against_the_oracle(n, dtype, rng):
    x, dy = rng.normal(size=n).astype(dtype), rng.normal(size=n).astype(dtype)
    y = kernels.relu(x)
    assert_same_bits(y, reference.relu(x))
    assert_same_bits(kernels.relu_backward(dy, y), reference.relu_backward(dy, y))


def test_relu_in_place(functions, dtype, rng):
    x, dy = rng.normal(size=(3, 50)).astype(dtype), rng.normal(size=(3, 50)).astype(dtype)
    y = functions.relu(x)
    dx = functions.relu_backward(dy, y)
    assert functions.relu(x, out=x) is x
    assert functions.relu_backward(dy, y, out=dy) is dy
    assert_same_bits(x, y)
    assert_same_bits(dy, dx)


# ---- mean squared error


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(1,), (17,), (5, 3), (2, 3, 4), (70_001,)], ids=str)
def test_mean_squared_error_against_the_oracle(shape, reduction, dtype, rng):
    """Each difference, square and scaling rounds once; the sum has blocks of 64 a lane: 16 units."""
    prediction, target = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    loss, grad = kernels.mean_squared_error(prediction, target, reduction)
    expected, expected_grad = reference.mean_squared_error(prediction, target, reduction)
    assert ulps(loss, expected, None, dtype) <= (2 if reduction == "none" else 16)
    assert ulps(grad, expected_grad) <= 2


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mean_squared_error_against_torch(functions, reduction, rng):
    torch = pytest.importorskip("torch")
    prediction, target = rng.normal(size=(2, 5, 3))
    x = torch.tensor(prediction, requires_grad=True)
    expected = torch.nn.functional.mse_loss(x, torch.tensor(target), reduction=reduction)
    expected.sum().backward()
    loss, grad = functions.mean_squared_error(prediction, target, reduction)
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mean_squared_error_by_finite_differences(functions, reduction, rng):
    prediction, target = rng.normal(size=(2, 3, 4))
    _, grad = functions.mean_squared_error(prediction, target, reduction)
    slope = numeric_gradient(
        lambda: functions.mean_squared_error(prediction, target, reduction, grad=False)[0], prediction
    )
    np.testing.assert_allclose(grad, slope, rtol=1e-7, atol=1e-8)


def test_mean_squared_error_in_place(functions, dtype, rng):
    prediction, target = rng.normal(size=(2, 40)).astype(dtype)
    loss, grad = functions.mean_squared_error(prediction, target)
    only, nothing = functions.mean_squared_error(prediction, target, grad=False)
    assert nothing is None
    again, same = functions.mean_squared_error(prediction, target, grad=prediction)
    assert same is prediction
    assert_same_bits(prediction, grad)
    assert loss == only == again


# ---- global norm


@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 0, 70], [100_003, 17]], ids=str)
def test_global_norm_against_the_oracle(functions, sizes, dtype, rng):
    """Squares and sums are double: rounding of up to n terms in sixteen lanes."""
    arrays = [rng.normal(size=n).astype(dtype) for n in sizes]
    expected = math.sqrt(math.fsum(float(v) ** 2 for a in arrays for v in a))
    assert functions.global_norm(arrays) == pytest.approx(expected, rel=1e-14)


def test_global_norm_of_mixed_types_and_strides(functions, rng):
    arrays = [
        rng.normal(size=(40, 30)).astype(np.float32)[::2, 3::3],
        rng.normal(size=(5, 2000)).T,
        np.float64([[2.0]]),
    ]
    expected = math.sqrt(math.fsum(float(v) ** 2 for a in arrays for v in a.flat))
    assert functions.global_norm(arrays) == pytest.approx(expected, rel=1e-14)


def test_global_norm_neither_overflows_nor_underflows_in_float32(functions):
    assert functions.global_norm([np.full(4, 1e30, np.float32)]) == pytest.approx(2e30, rel=1e-6)
    assert functions.global_norm([np.full(4, 1e-30, np.float32)]) == pytest.approx(2e-30, rel=1e-6)


@pytest.mark.parametrize(("bad", "norm"), [(np.nan, np.nan), (np.inf, np.inf), (-np.inf, np.inf)])
def test_global_norm_shows_what_is_not_finite(functions, bad, norm, dtype):
    for at in (0, 7, 40, 99):
        a = np.ones(100, dtype)
        a[at] = bad
        np.testing.assert_equal(functions.global_norm([np.ones(3, dtype), a]), norm)
