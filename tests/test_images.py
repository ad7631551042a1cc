"""Convolution and pooling: against the float64 oracle, torch and finite differences.

A sum of K terms is off by at most K / 2 units in the last place of the sum of its terms' magnitudes; BLAS adds in
several accumulators, so far less: the bound is that of tests/test_linear.py, 4 units and one more for each 256 terms.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from measure import assert_same_bits, numeric_gradient, ulps

from onepass import kernels, reference

# images, channels, height, width, outputs, kernel, stride, padding
CONVOLUTIONS = [
    (1, 1, 1, 1, 1, 1, 1, 0),
    (2, 1, 28, 28, 16, 3, 1, 1),
    (3, 5, 9, 7, 4, (3, 2), (2, 1), (0, 1)),
    (2, 3, 8, 8, 6, 1, 1, 0),  # the columns are the image
    (2, 3, 8, 9, 6, 1, 2, 0),
    (2, 3, 8, 9, 6, 1, 1, (1, 0)),
    (4, 2, 5, 6, 3, (5, 6), 1, 0),  # one window
    (2, 2, 4, 3, 3, 3, 4, 2),  # windows that reach beyond both sides, and skip
    (1, 2, 3, 3, 2, (1, 7), 1, (0, 5)),  # windows in the padding alone
    (70, 2, 5, 5, 3, 3, 1, 1),  # blocks of several images
    (2, 40, 40, 40, 5, 3, 1, 1),  # strips of rows
    (1, 130, 31, 33, 3, 3, 2, 1),
]
POOLS = [  # images, channels, height, width, kernel, stride, padding
    (1, 1, 1, 1, 1, None, 0),
    (2, 3, 8, 8, 2, None, 0),
    (2, 3, 9, 7, 2, None, 0),  # a last row and column that no window sees
    (2, 3, 9, 7, 3, 2, 1),  # windows that overlap
    (1, 2, 7, 11, (2, 3), (1, 2), (1, 0)),
    (2, 2, 5, 5, 5, 1, 2),
    (3, 4, 6, 6, 2, 3, 0),  # gaps between windows
    (1, 1, 3, 700, (1, 3), 1, (0, 1)),  # longer than a tile of outputs
    (9, 37, 14, 14, 2, 2, 0),
]


def bound(terms):
    return 4 + terms / 256


def make(rng, dtype, case):
    n, c, h, w, o, kernel, stride, padding = case
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x, weight, bias = (rng.normal(size=shape).astype(dtype) for shape in ((n, c, h, w), (o, c, *kernel), (o,)))
    dy = rng.normal(size=kernels.conv2d(x, weight, bias, stride, padding).shape).astype(dtype)
    return x, weight, bias, dy, stride, padding


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d_against_the_oracle(case, with_bias, relu, dtype, rng):
    x, weight, bias, _, stride, padding = make(rng, dtype, case)
    bias = bias if with_bias else None
    y = kernels.conv2d(x, weight, bias, stride, padding, relu)
    size = np.abs(bias).astype(np.float64) if with_bias else None
    scale = reference.conv2d(np.abs(x).astype(np.float64), np.abs(weight).astype(np.float64), size, stride, padding)
    assert y.dtype == dtype
    expected = reference.conv2d(
        *(None if a is None else a.astype(np.float64) for a in (x, weight, bias)), stride, padding
    )
    assert ulps(y, np.maximum(expected, 0) if relu else expected, scale) <= bound(weight[0].size)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d_backward_against_the_oracle(case, dtype, rng):
    x, weight, _, dy, stride, padding = make(rng, dtype, case)
    results = kernels.conv2d_backward(dy, x, weight, stride, padding)
    wide = [a.astype(np.float64) for a in (dy, x, weight)]
    expected = reference.conv2d_backward(*wide, stride, padding)
    scales = reference.conv2d_backward(*(np.abs(a) for a in wide), stride, padding)
    terms = (weight[:, 0].size, dy[:, 0].size, dy[:, 0].size)
    for result, oracle, scale, count in zip(results, expected, scales, terms, strict=True):
        assert result.dtype == dtype
        assert ulps(result, oracle, scale) <= bound(count)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d_against_torch(functions, case, rng):
    torch = pytest.importorskip("torch")
    x, weight, bias, dy, stride, padding = make(rng, np.float64, case)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    expected = torch.nn.functional.conv2d(*tensors, stride=stride, padding=padding)
    expected.backward(torch.tensor(dy))
    y = functions.conv2d(x, weight, bias, stride, padding)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    for result, tensor in zip(functions.conv2d_backward(dy, x, weight, stride, padding), tensors, strict=True):
        np.testing.assert_allclose(result, tensor.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", [CONVOLUTIONS[2], (2, 2, 5, 4, 3, 3, 2, 1)], ids=str)
def test_conv2d_backward_by_finite_differences(functions, case, rng):
    x, weight, bias, dy, stride, padding = make(rng, np.float64, case)
    results = functions.conv2d_backward(dy, x, weight, stride, padding)
    for result, variable in zip(results, (x, weight, bias), strict=True):
        slope = numeric_gradient(
            lambda: float((functions.conv2d(x, weight, bias, stride, padding) * dy).sum()), variable
        )
        np.testing.assert_allclose(result, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CONVOLUTIONS[1:4], ids=str)
def test_conv2d_writes_where_it_is_told(functions, case, dtype, rng):
    x, weight, bias, dy, stride, padding = make(rng, dtype, case)
    y = functions.conv2d(x, weight, bias, stride, padding)
    out = np.full_like(y, np.nan)
    assert functions.conv2d(x, weight, bias, stride, padding, out=out) is out
    assert_same_bits(out, y)
    relu = functions.conv2d(x, weight, bias, stride, padding, True)
    assert_same_bits(relu, functions.relu(y))
    all_three = functions.conv2d_backward(dy, x, weight, stride, padding)
    names = ("dx", "dweight", "dbias")
    for wanted in itertools.product([False, True], repeat=3):
        outs = [np.full_like(a, np.nan) if want else False for a, want in zip(all_three, wanted, strict=True)]
        results = functions.conv2d_backward(dy, x, weight, stride, padding, **dict(zip(names, outs, strict=True)))
        for result, given, expected in zip(results, outs, all_three, strict=True):
            if given is False:
                assert result is None
            else:
                assert result is given
                assert_same_bits(result, expected)


def test_conv2d_adds_many_images_without_drift(rng):
    """Weight and bias gradients are sums over all images; those of float32 stay near those of float64."""
    x, weight = rng.normal(size=(3000, 1, 4, 4)).astype(np.float32), rng.normal(size=(2, 1, 3, 3)).astype(np.float32)
    x += 3
    dy = np.abs(rng.normal(size=(3000, 2, 4, 4))).astype(np.float32)
    results = kernels.conv2d_backward(dy, x, weight, padding=1)[1:]
    expected = reference.conv2d_backward(*(a.astype(np.float64) for a in (dy, x, weight)), padding=1)[1:]
    scales = reference.conv2d_backward(*(np.abs(a).astype(np.float64) for a in (dy, x, weight)), padding=1)[1:]
    for result, oracle, scale in zip(results, expected, scales, strict=True):
        assert ulps(result, oracle, scale) <= 16


# ---- pooling


def special(rng, dtype, shape):
    """Numbers with ties, NaN and infinities."""
    x = rng.integers(-2, 3, shape).astype(dtype)
    flat = x.reshape(-1)
    for value in (np.nan, -np.inf, np.inf, -0.0):
        flat[rng.random(flat.size) < 0.07] = value
    return x


@pytest.mark.parametrize("values", ["normal", "special"])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_max_pool2d_against_the_oracle_and_torch(case, values, dtype, rng):
    torch = pytest.importorskip("torch")
    *shape, kernel, stride, padding = case
    x = special(rng, dtype, shape) if values == "special" else rng.normal(size=shape).astype(dtype)
    y = kernels.max_pool2d(x, kernel, stride, padding)
    np.testing.assert_array_equal(y, reference.max_pool2d(x, kernel, stride, padding))
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.max_pool2d(tensor, kernel, stride, padding)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    dy = rng.normal(size=y.shape).astype(dtype)
    expected.backward(torch.tensor(dy))
    for functions in (kernels, reference):
        dx = functions.max_pool2d_backward(dy, x, kernel, stride, padding)
        scale = functions.max_pool2d_backward(np.abs(dy), x, kernel, stride, padding)
        assert dx.dtype == dtype
        assert ulps(dx, tensor.grad.numpy(), scale) <= 4  # a few terms, in another order


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_avg_pool2d_against_the_oracle_and_torch(case, dtype, rng):
    torch = pytest.importorskip("torch")
    *shape, kernel, stride, padding = case
    x = rng.normal(size=shape).astype(dtype)
    y = kernels.avg_pool2d(x, kernel, stride, padding)
    scale = reference.avg_pool2d(np.abs(x), kernel, stride, padding)
    assert ulps(y, reference.avg_pool2d(x, kernel, stride, padding), scale) <= 4
    tensor = torch.tensor(x.astype(np.float64), requires_grad=True)
    expected = torch.nn.functional.avg_pool2d(tensor, kernel, stride, padding)
    assert ulps(y, expected.detach().numpy(), scale) <= 4
    dy = rng.normal(size=y.shape).astype(dtype)
    expected.backward(torch.tensor(dy.astype(np.float64)))
    for functions in (kernels, reference):
        dx = functions.avg_pool2d_backward(dy, tuple(shape), kernel, stride, padding)
        scale = functions.avg_pool2d_backward(np.abs(dy), tuple(shape), kernel, stride, padding)
        assert dx.dtype == dtype
        assert ulps(dx, tensor.grad.numpy(), scale) <= 8


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_pooling_by_finite_differences(functions, name, rng):
    x = rng.permutation(2 * 2 * 5 * 6).reshape(2, 2, 5, 6).astype(np.float64)  # no ties
    forward = getattr(functions, name)
    dy = rng.normal(size=forward(x, 3, 2, 1).shape)
    backward = getattr(functions, f"{name}_backward")
    dx = backward(dy, x if name == "max_pool2d" else x.shape, 3, 2, 1)
    slope = numeric_gradient(lambda: float((forward(x, 3, 2, 1) * dy).sum()), x)
    np.testing.assert_allclose(dx, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_pooling_writes_where_it_is_told(functions, name, dtype, rng):
    x = rng.normal(size=(2, 3, 6, 5)).astype(dtype)
    y = getattr(functions, name)(x, (3, 2), 1, (1, 1))
    out = np.full_like(y, np.nan)
    assert getattr(functions, name)(x, (3, 2), 1, (1, 1), out) is out
    assert_same_bits(out, y)
    given = x if name == "max_pool2d" else x.shape
    dx = getattr(functions, f"{name}_backward")(y, given, (3, 2), 1, (1, 1))
    out = np.full_like(dx, np.nan)
    assert getattr(functions, f"{name}_backward")(y, given, (3, 2), 1, (1, 1), out) is out
    assert_same_bits(out, dx)


# ---- what is refused


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


REFUSED = {  # name: function, arguments, error, words of the message
    "a list": ("conv2d", ([[1.0]], ones(1, 1, 1, 1)), TypeError, ["x: ", "asarray"]),
    "three axes": ("conv2d", (ones(2, 5, 5), ones(1, 2, 3, 3)), ValueError, ["x: ", "(2, 5, 5)"]),
    "other channels": ("conv2d", (ones(1, 2, 5, 5), ones(1, 3, 3, 3)), ValueError, ["x: ", "3 channels", "axis 1"]),
    "weight of two axes": ("conv2d", (ones(1, 2, 5, 5), ones(3, 3)), ValueError, ["weight: ", "(3, 3)"]),
    "weight of another type": (
        "conv2d", (ones(1, 2, 5, 5), ones(1, 2, 3, 3, dtype=np.float64)), TypeError, ["x: ", "like weight", "convert"],
    ),
    "integers": ("conv2d", (ones(1, 2, 5, 5, dtype=np.int64), ones(1, 2, 3, 3)), TypeError, ["x: ", "convert"]),
    "16 bits": ("max_pool2d", (ones(1, 2, 5, 5, dtype=np.float16), 2), TypeError, ["x: ", "convert"]),
    "bias of another length": (
        "conv2d", (ones(1, 2, 5, 5), ones(4, 2, 3, 3), ones(3)), ValueError, ["bias: ", "(4,)", "(3,)"],
    ),
    "bias of one element": (
        "conv2d", (ones(1, 2, 5, 5), ones(4, 2, 3, 3), ones(1)), ValueError, ["bias: ", "(4,)", "(1,)"],
    ),
    "bias of another type": (
        "conv2d", (ones(1, 2, 5, 5), ones(4, 2, 3, 3), ones(4, dtype=np.float64)), TypeError, ["bias: ", "convert"],
    ),
    "weight of no outputs": ("conv2d", (ones(1, 2, 5, 5), ones(0, 2, 3, 3)), ValueError, ["weight: ", "empty"]),
    "dy of conv2d of another shape": (
        "conv2d_backward", (ones(1, 4, 3, 2), ones(1, 2, 5, 5), ones(4, 2, 3, 3)), ValueError,
        ["dy: ", "(1, 4, 3, 3)"],
    ),
    "dy of one output": (
        "conv2d_backward", (ones(1, 1, 3, 3), ones(1, 2, 5, 5), ones(4, 2, 3, 3)), ValueError,
        ["dy: ", "(1, 4, 3, 3)"],
    ),
    "dy of another type": (
        "conv2d_backward", (ones(1, 4, 3, 3, dtype=np.float64), ones(1, 2, 5, 5), ones(4, 2, 3, 3)), TypeError,
        ["dy: ", "convert"],
    ),
    "dx is True": (
        "conv2d_backward", (ones(1, 4, 3, 3), ones(1, 2, 5, 5), ones(4, 2, 3, 3), 1, 0, True), TypeError,
        ["dx: ", "False"],
    ),
    "dbias of another shape, after dx": (
        "conv2d_backward",
        (ones(1, 4, 3, 3), ones(1, 2, 5, 5), ones(4, 2, 3, 3), 1, 0, ones(1, 2, 5, 5), False, ones(3)), ValueError,
        ["dbias: ", "(4,)", "(3,)"],
    ),
    "window larger than the image": ("conv2d", (ones(1, 2, 5, 2), ones(1, 2, 3, 3)), ValueError, ["width 2", "3"]),
    "gaps": ("conv2d", (ones(1, 2, 5, 10)[..., ::2], ones(1, 2, 3, 3)), ValueError, ["x: ", "ascontiguousarray"]),
    "channels last": (
        "max_pool2d", (ones(1, 5, 5, 2).transpose(0, 3, 1, 2), 2), ValueError, ["x: ", "ascontiguousarray"],
    ),
    "empty": ("conv2d", (ones(0, 2, 5, 5), ones(1, 2, 3, 3)), ValueError, ["x: ", "empty"]),
    "stride 0": ("conv2d", (ones(1, 2, 5, 5), ones(1, 2, 3, 3), None, 0), ValueError, ["stride: ", "0"]),
    "stride below 0": ("max_pool2d", (ones(1, 2, 5, 5), 2, -1), ValueError, ["stride: ", "-1"]),
    "stride of one axis 0": ("avg_pool2d", (ones(1, 2, 5, 5), 2, (1, 0)), ValueError, ["stride: ", "0"]),
    "stride below 0 backward": (
        "max_pool2d_backward", (ones(1, 2, 4, 4), ones(1, 2, 5, 5), 2, -1), ValueError, ["stride: ", "-1"],
    ),
    "stride too large": ("max_pool2d", (ones(1, 2, 5, 5), 2, 2**62), ValueError, ["stride: ", str(2**62)]),
    "stride a word": ("conv2d", (ones(1, 2, 5, 5), ones(1, 2, 3, 3), None, "two"), TypeError, ["stride: ", "'two'"]),
    "padding below 0": ("conv2d", (ones(1, 2, 5, 5), ones(1, 2, 3, 3), None, 1, -1), ValueError, ["padding: ", "-1"]),
    "three strides": ("max_pool2d", (ones(1, 2, 5, 5), 2, (1, 1, 1)), TypeError, ["stride: ", "pair"]),
    "pool larger than the image": ("avg_pool2d", (ones(1, 2, 3, 5), 4), ValueError, ["x: ", "height 3", "4"]),
    "kernel 0": ("avg_pool2d", (ones(1, 2, 5, 5), 0), ValueError, ["kernel_size: ", "0"]),
    "kernel half": ("avg_pool2d", (ones(1, 2, 5, 5), 2.5), TypeError, ["kernel_size: ", "2.5"]),
    "padding as large as the kernel": (
        "max_pool2d", (ones(1, 2, 5, 5), 2, 2, 2), ValueError, ["padding: ", "half", "2 of 2"],
    ),
    "much padding backward": (
        "avg_pool2d_backward", (ones(1, 2, 7, 7), (1, 2, 5, 5), 3, 1, 2), ValueError, ["padding: ", "half", "2 of 3"],
    ),
    "much padding": ("max_pool2d", (ones(1, 2, 5, 5), 3, 1, 2), ValueError, ["padding: ", "half", "2 of 3"]),
    "out of another shape": (
        "max_pool2d", (ones(1, 2, 6, 6), 2, None, 0, ones(1, 2, 6, 6)), ValueError, ["out: ", "(1, 2, 3, 3)"],
    ),
    "dy of another shape": (
        "max_pool2d_backward", (ones(1, 2, 2, 3), ones(1, 2, 6, 6), 2), ValueError, ["dy: ", "(1, 2, 3, 3)"],
    ),
    "out of another shape than input_shape": (
        "avg_pool2d_backward", (ones(1, 2, 3, 3), (1, 2, 6, 6), 2, None, 0, ones(1, 2, 7, 6)), ValueError,
        ["out: ", "(1, 2, 6, 6)"],
    ),
    "numbers beyond 64 bits": ("max_pool2d", (ones(1, 2, 5, 5), 2**64), ValueError, ["kernel_size: "]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_written(functions, name):
    function, arguments, error, words = REFUSED[name]
    kept = [a.copy() if isinstance(a, np.ndarray) else None for a in arguments]
    with pytest.raises(error) as raised:
        getattr(functions, function)(*arguments)
    assert [word for word in words if word not in str(raised.value)] == [], raised.value
    for argument, before in zip(arguments, kept, strict=True):
        if before is not None:
            np.testing.assert_array_equal(argument, before)


X = np.arange(72, dtype=np.float32).reshape(1, 2, 6, 6)
OVERLAPPING = {
    "out is x": lambda functions, x, weight: functions.conv2d(x, weight, padding=1, out=x),
    "dx is dy": lambda functions, x, weight: functions.conv2d_backward(x, x.copy(), weight, padding=1, dx=x),
    "dweight is weight": lambda functions, x, weight: functions.conv2d_backward(
        x, x, weight, padding=1, dweight=weight
    ),
    "dx is dweight": lambda functions, x, weight: functions.conv2d_backward(
        ones(1, 1, 1, 1), ones(1, 2, 3, 3), weight[:1], dx=weight[1:], dweight=weight[1:]
    ),
    "out of pooling is x": lambda functions, x, weight: functions.avg_pool2d(x, 1, out=x),
    "dx of pooling is x": lambda functions, x, weight: functions.max_pool2d_backward(
        X[:, :, ::2, ::2].copy(), x, 2, out=x
    ),
}


@pytest.mark.parametrize("name", OVERLAPPING)
def test_overlap_is_refused(functions, name):
    x, weight = X.copy(), ones(2, 2, 3, 3)
    with pytest.raises(ValueError, match=r"^(out|dx|dweight): .*copy"):
        OVERLAPPING[name](functions, x, weight)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(weight, 1)


def test_images_with_channels_last_are_told_what_to_do():
    with pytest.raises(ValueError, match=r"^x: expected 3 channels.*channels last: numpy\.ascontig"):
        kernels.conv2d(ones(5, 28, 28, 3), ones(8, 3, 3, 3))


def test_more_elements_than_blas_can_count_are_refused():
    weight = np.zeros((2**31, 1, 1, 1), np.float32)  # memory that nobody touches
    with pytest.raises(ValueError, match=r"^weight: .* is too large for BLAS"):
        kernels.conv2d(ones(1, 1, 1, 1), weight, out=ones(1, 1, 1, 1))


def test_read_only_memory_is_refused(functions):
    out = np.zeros((1, 2, 6, 6), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: .*read-only"):
        functions.avg_pool2d(X, 1, out=out)
    assert not out.any()
