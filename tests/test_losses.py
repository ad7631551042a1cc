"""Losses against their formulas in float64, torch and one another; gradients by finite differences in float64.

Bounds are in units in the last place of the sum of the terms' magnitudes.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measure import assert_same_bits, numeric_gradient, ulps
from scipy import special

from onepass import kernels, losses, reference


def test_cross_entropy_formula():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]))
    loss, grad = losses.CrossEntropy()(logits, np.array([0, 2]))
    assert isinstance(loss, float)
    assert loss == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2, rel=1e-12)
    np.testing.assert_allclose(grad, [[-0.15, 0.1, 0.05], [0.05, 0.4, -0.45]], atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"weight": np.array([1.0, 0.5, 2.0, 0.1, 3.0])},
        {"ignore_index": 2},
        {"weight": np.array([1.0, 0.5, 2.0, 0.1, 3.0]), "label_smoothing": 0.2, "ignore_index": 1},
    ],
)
def test_cross_entropy_gradient(options):
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    loss = losses.CrossEntropy(**options)
    _, grad = loss(logits, target)
    slope = numeric_gradient(lambda: loss(logits, target, False)[0], logits)
    np.testing.assert_allclose(grad, slope, atol=1e-8)


def test_mean_squared_error_gradient():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    loss = losses.MeanSquaredError()
    value, grad = loss(prediction, target)
    assert value == pytest.approx(((prediction - target) ** 2).mean(), rel=1e-12)
    slope = numeric_gradient(lambda: loss(prediction, target, False)[0], prediction)
    np.testing.assert_allclose(grad, slope, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["CrossEntropy", "MeanSquaredError"])
def test_where_the_gradient_goes(name, dtype):
    loss = getattr(losses, name)()
    rng = np.random.default_rng(1)
    prediction = rng.normal(size=(6, 4)).astype(dtype)
    target = rng.integers(0, 4, 6) if name == "CrossEntropy" else prediction[::-1].copy()
    value, new = loss(prediction, target)
    assert new.dtype == dtype
    assert loss(prediction, target, False) == (value, None)
    buffer = np.empty_like(prediction)
    again, grad = loss(prediction, target, buffer)
    assert grad is buffer
    assert again == value
    np.testing.assert_array_equal(grad, new)
    again, grad = loss(prediction, target, prediction)
    assert grad is prediction
    assert again == value
    np.testing.assert_array_equal(grad, new)


def test_correct_counts_rows():
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    loss = losses.CrossEntropy()
    assert loss.correct(logits, np.array([0, 1, 1])) == 2
    assert loss.correct(logits, np.array([0, -100, 1])) == 1
    assert loss.correct(logits, np.eye(2, dtype=np.float32)[[0, 1, 0]]) == 3
    assert losses.MeanSquaredError().correct(logits, logits) is None


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_label_smoothing_is_checked(value):
    with pytest.raises(ValueError, match="label_smoothing"):
        losses.CrossEntropy(label_smoothing=value)


def test_a_label_out_of_range_names_its_row():
    with pytest.raises(ValueError, match=r"targets\[3\] is 12"):
        losses.CrossEntropy()(np.zeros((5, 10)), np.array([0, 1, 2, 12, 4]))


# ---- the kernels


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EPS = {np.dtype(np.float16): 2.0**-10, BFLOAT16: 2.0**-7}
REDUCTIONS = ["mean", "sum", "none"]


def softplus(x):
    return np.logaddexp(0.0, x)


def oracle(name, x, t, weight=1.0, pos_weight=1.0, width=1.0):
    """Losses and gradients of elements in float64, and the sums of their terms' magnitudes: formulas of torch's
    documentation, with SciPy's functions."""
    x, t = np.asarray(x, np.float64), np.asarray(t, np.float64)
    d = x - t
    if name == "mean_squared_error":
        return d * d, 2 * d, d * d, np.abs(d)
    if name in ("huber_loss", "smooth_l1_loss"):
        small = np.abs(d) < width
        loss, slope = np.where(small, d * d / 2, width * (np.abs(d) - width / 2)), np.clip(d, -width, width)
        if name == "smooth_l1_loss":
            loss, slope = (loss / width, slope / width) if width else (np.abs(d), np.sign(d))
        return loss, slope, np.abs(loss) + np.abs(d), np.abs(slope)
    no, yes = weight * (1 - t), weight * t * pos_weight
    loss = no * softplus(x) + yes * softplus(-x)
    slope = no * special.expit(x) - yes * special.expit(-x)
    terms = np.abs(no) * special.expit(x) + np.abs(yes) * special.expit(-x)
    return loss, slope, np.abs(no) * softplus(x) + np.abs(yes) * softplus(-x), terms


CALLS = {  # name: options of the kernel, options of the oracle
    "mean_squared_error": [({}, {})],
    "huber_loss": [({}, {}), ({"delta": 0.3}, {"width": 0.3}), ({"delta": 5.0}, {"width": 5.0})],
    "smooth_l1_loss": [({}, {}), ({"beta": 0.3}, {"width": 0.3}), ({"beta": 0.0}, {"width": 0.0})],
    "binary_cross_entropy_with_logits": [({}, {})],
}
GRID = [(name, *options) for name, all_options in CALLS.items() for options in all_options]


def problem(rng, name, shape, dtype=np.float64):
    x, t = rng.normal(size=(2, *shape)) * 3
    if name == "binary_cross_entropy_with_logits":
        t = rng.random(shape)
        t[rng.random(shape) < 0.3], t[rng.random(shape) < 0.3] = 0.0, 1.0
    return np.asarray(x).astype(dtype), np.asarray(t).astype(dtype)


def reduced(losses, gradient, reduction, scale=None):
    share = 1 / losses.size if reduction == "mean" else 1.0
    return (losses if reduction == "none" else losses.sum() * share), gradient * share


@pytest.mark.parametrize(("name", "options", "given_options"), GRID)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_of_elements_against_float64(functions, name, options, given_options, reduction, dtype, rng):
    x, t = problem(rng, name, (37, 101), dtype)
    loss, grad = getattr(functions, name)(x, t, **options, reduction=reduction)
    losses, gradient, terms, slopes = oracle(name, x, t, **given_options)
    expected, gradient = reduced(losses, gradient, reduction)
    _, slopes = reduced(losses, slopes, reduction)
    assert grad.dtype == dtype
    assert ulps(grad, gradient, slopes) <= 6
    if reduction == "none":
        assert loss.dtype == dtype
        assert ulps(loss, expected, terms) <= 6
    else:
        assert isinstance(loss, float)
        scale = terms.sum() / (terms.size if reduction == "mean" else 1)
        assert ulps(loss, expected, scale, dtype) <= 6
    assert getattr(functions, name)(x, t, **options, reduction="sum", grad=False)[1] is None


@pytest.mark.parametrize(("name", "options", "given_options"), GRID)
@pytest.mark.parametrize("kind", EPS, ids=str)
@pytest.mark.parametrize("beside", ["own", "float32"])
def test_losses_of_16_bits_are_computed_in_float32(functions, name, options, given_options, kind, beside, rng):
    x, t = problem(rng, name, (13, 70), kind)
    t = t if beside == "own" else t.astype(np.float32)
    losses, gradient, terms, slopes = oracle(name, x, t, **given_options)
    each, grad = getattr(functions, name)(x, t, **options, reduction="none")
    assert (each.dtype, grad.dtype) == (np.float32, kind)
    assert ulps(each, losses, terms) <= 6
    tiny = 2.0**-24 if kind != BFLOAT16 else 1e-37
    assert (np.abs(grad.astype(np.float64) - gradient) <= EPS[kind] / 2 * np.abs(gradient) + slopes * 2e-6 + tiny).all()
    total, _ = getattr(functions, name)(x, t, **options, grad=False)
    assert ulps(total, losses.mean(), terms.mean(), np.float32) <= 6
    if kind == BFLOAT16 and beside == "own":
        arrays = [a.view(np.uint16) for a in (x, t)]
        bits = getattr(functions, name)(*arrays, **options, reduction="none", dtype="bfloat16")
        np.testing.assert_array_equal(bits[0], each)
        np.testing.assert_array_equal(bits[1], grad.view(np.uint16))
        with pytest.raises(TypeError, match="dtype='bfloat16'"):
            getattr(functions, name)(*arrays, **options)


@pytest.mark.parametrize(("name", "options", "given_options"), GRID)
def test_gradients_of_losses_of_elements_by_finite_differences(name, options, given_options, rng):
    x, t = problem(rng, name, (6, 5))
    function = getattr(kernels, name)
    for reduction in ("mean", "sum"):
        slope = numeric_gradient(lambda r=reduction: function(x, t, **options, reduction=r, grad=False)[0], x)
        np.testing.assert_allclose(function(x, t, **options, reduction=reduction)[1], slope, rtol=1e-6, atol=1e-8)


# ---- torch


def of_torch(function, x, t, **options):
    torch = pytest.importorskip("torch")
    a = torch.tensor(x, requires_grad=True)
    known = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    loss = getattr(torch.nn.functional, function)(a, torch.tensor(t), **known)
    loss.sum().backward()
    return loss.detach().numpy(), a.grad.numpy()


def agree(found, there, dtype, scale):
    """Elementwise, in units in the last place of the sums of the terms' magnitudes."""
    loss, grad = found
    magnitude, slopes = scale
    assert ulps(np.asarray(loss, np.float64), np.asarray(there[0], np.float64), magnitude, dtype) <= 16
    assert ulps(grad, there[1], slopes) <= 16


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_torch(reduction, dtype, rng):
    for name, own, theirs, options in [
        ("mean_squared_error", {}, "mse_loss", {}),
        ("huber_loss", {"delta": 0.4}, "huber_loss", {"delta": 0.4}),
        ("smooth_l1_loss", {"beta": 0.4}, "smooth_l1_loss", {"beta": 0.4}),
        ("smooth_l1_loss", {"beta": 0.0}, "smooth_l1_loss", {"beta": 0.0}),
    ]:
        x, t = problem(rng, name, (11, 40), dtype)
        found = getattr(kernels, name)(x, t, **own, reduction=reduction)
        _, _, terms, slopes = oracle(name, x, t, width=next(iter(own.values()), 1.0))
        share = 1 / x.size if reduction == "mean" else 1.0
        scale = terms if reduction == "none" else terms.sum() * share
        agree(found, of_torch(theirs, x, t, **options, reduction=reduction), dtype, (scale, slopes * share))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weight", [None, (11, 40), (40,), (11, 1), (1,)])
@pytest.mark.parametrize("pos_weight", [None, (40,)])
def test_binary_cross_entropy_equal_to_torch(reduction, dtype, weight, pos_weight, rng):
    name = "binary_cross_entropy_with_logits"
    x, t = problem(rng, name, (11, 40), dtype)
    weights = {
        key: None if shape is None else rng.random(shape).astype(dtype)
        for key, shape in (("weight", weight), ("pos_weight", pos_weight))
    }
    found = kernels.binary_cross_entropy_with_logits(x, t, **weights, reduction=reduction)
    given = {key: w for key, w in weights.items() if w is not None}
    losses, slope, terms, slopes = oracle(name, x, t, **given)
    share = 1 / x.size if reduction == "mean" else 1.0
    scale = terms if reduction == "none" else terms.sum() * share
    # torch's gradient is a difference of what may be nearly equal
    there = of_torch(name, x, t, **weights, reduction=reduction)
    agree(found, there, dtype, (scale + (np.abs(x) if reduction == "none" else np.abs(x).sum() * share), share * 2.0))
    expected, gradient = reduced(losses, slope, reduction)
    agree(found, (expected, gradient), dtype, (scale, slopes * share))
    other = reference.binary_cross_entropy_with_logits(x, t, **weights, reduction=reduction)
    agree(other, (expected, gradient), dtype, (scale, slopes * share))


@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (4, 3, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [-100, 1])
def test_nll_equal_to_torch(functions, shape, reduction, weighted, ignored, rng, dtype):
    x = -rng.random(shape).astype(dtype) * 5
    labels = rng.integers(0, shape[1], shape[:1] + shape[2:])
    labels.reshape(-1)[::4] = ignored if ignored < shape[1] else 0
    weight = rng.random(shape[1]).astype(dtype) if weighted else None
    found = functions.nll_loss(x, labels, weight, ignored, reduction)
    magnitude = 5.0 * labels.size if reduction == "sum" else 5.0
    there = of_torch("nll_loss", x, labels, weight=weight, ignore_index=ignored, reduction=reduction)
    assert ulps(np.asarray(found[0], np.float64), np.asarray(there[0], np.float64), magnitude, dtype) <= 8
    assert ulps(found[1], there[1]) <= 8
    if reduction == "none":
        assert found[0].shape == labels.shape
        assert found[0].dtype == dtype


@pytest.mark.parametrize("kind", EPS, ids=str)
def test_nll_of_16_bits(functions, kind, rng):
    x, labels = (-rng.random((9, 6)) * 5).astype(kind), rng.integers(0, 6, 9)
    for weight in (None, rng.random(6).astype(kind), rng.random(6).astype(np.float32)):
        wide = None if weight is None else weight.astype(np.float64)
        each, grad = functions.nll_loss(x, labels, weight, reduction="none")
        expected = reference.nll_loss(x.astype(np.float64), labels, wide, reduction="none")
        assert (each.dtype, grad.dtype) == (np.float32, kind)
        assert ulps(each, expected[0]) <= 2
        assert (np.abs(grad.astype(np.float64) - expected[1]) <= EPS[kind] / 2 * np.abs(expected[1])).all()
        loss, grad = functions.nll_loss(x, labels, weight)
        expected = reference.nll_loss(x.astype(np.float64), labels, wide)
        assert ulps(loss, expected[0], dtype=np.float32) <= 4
        # in float32 before it is rounded
        bound = (EPS[kind] / 2 + 2.0**-23) * np.abs(expected[1])
        assert (np.abs(grad.astype(np.float64) - expected[1]) <= bound).all()
    if kind == BFLOAT16:
        bits = functions.nll_loss(x.view(np.uint16), labels.astype(np.uint16), dtype="bfloat16")
        assert bits[0] == functions.nll_loss(x, labels)[0]


def test_nll_of_log_softmax_is_cross_entropy(rng, dtype):
    logits, labels = rng.normal(size=(30, 9)).astype(dtype), rng.integers(0, 9, 30)
    weight = rng.random(9).astype(dtype)
    loss, _ = kernels.nll_loss(kernels.log_softmax(logits), labels, weight)
    assert ulps(loss, kernels.softmax_cross_entropy(logits, labels, weight)[0], dtype=dtype) <= 8


def test_two_class_softmax_cross_entropy_is_binary_cross_entropy(functions, rng, dtype):
    """softmax of (0, x) is (1 - sigmoid(x), sigmoid(x)): the same loss, and the gradient of the second logit."""
    x, labels = (rng.normal(size=400) * 6).astype(dtype), rng.integers(0, 2, 400)
    pair = np.stack([np.zeros_like(x), x], axis=1)
    for reduction in REDUCTIONS:
        two, grad_two = functions.softmax_cross_entropy(pair, labels, reduction=reduction)
        one, grad_one = functions.binary_cross_entropy_with_logits(x, labels, reduction=reduction)
        assert ulps(np.asarray(one), np.asarray(two), dtype=dtype) <= 8
        assert ulps(grad_one, grad_two[:, 1]) <= 12
        assert ulps(-grad_one, grad_two[:, 0]) <= 12


# ---- ends of the range


def test_binary_cross_entropy_neither_overflows_nor_cancels(functions, dtype):
    x = np.array([0.0, -80.0, 80.0, 700.0, -700.0, 1e30, -1e30]).astype(dtype)
    for target in (0, 1):
        t = np.full(x.shape, target)
        loss, grad = functions.binary_cross_entropy_with_logits(x, t, reduction="none")
        sign = -1 if target else 1
        with np.errstate(all="ignore"):
            wide = sign * x.astype(np.float64)
            exact = np.where(wide > 40, wide, np.log1p(np.exp(np.minimum(wide, 40))))
        assert ulps(loss, exact.astype(dtype)) <= 4
        assert ulps(grad, sign * special.expit(wide)) <= 4


def test_infinities_and_nan_as_in_torch(dtype):
    values = np.array([np.nan, np.inf, -np.inf, 1.0], dtype)
    x, t = (np.ascontiguousarray(a.reshape(-1)) for a in np.meshgrid(values, np.array([0.0, 0.25, 1.0], dtype)))
    for name, theirs in [("mean_squared_error", "mse_loss"), ("huber_loss", "huber_loss"),
                         ("smooth_l1_loss", "smooth_l1_loss")]:  # fmt: skip
        loss, grad = getattr(kernels, name)(x, t, reduction="none")
        there = of_torch(theirs, x, t, reduction="none")
        np.testing.assert_array_equal(loss, there[0])
        np.testing.assert_array_equal(grad, there[1])
    loss, grad = kernels.binary_cross_entropy_with_logits(x, t, reduction="none")
    there = of_torch("binary_cross_entropy_with_logits", x, t, reduction="none")
    sure = ~np.isnan(there[0]) | np.isnan(x)  # between 0 and 1 torch has inf - inf where the loss is infinite
    np.testing.assert_allclose(loss[sure], there[0][sure], rtol=1e-6)
    np.testing.assert_allclose(grad, there[1], rtol=1e-6)
    own = reference.binary_cross_entropy_with_logits(x, t, reduction="none")
    np.testing.assert_allclose(loss, own[0], rtol=1e-6)
    np.testing.assert_allclose(grad, own[1], rtol=1e-6)


def test_smooth_l1_without_a_corner_has_no_slope_at_zero(functions):
    np.testing.assert_array_equal(functions.smooth_l1_loss(np.zeros(3), np.zeros(3), 0.0)[1], np.zeros(3))


def test_nll_reads_nothing_where_the_row_is_ignored(functions):
    x = np.array([[np.nan, np.inf], [-1.0, -2.0]])
    loss, grad = functions.nll_loss(x, np.array([-100, 1]), np.array([1.0, 0.5]))
    assert loss == 2.0
    np.testing.assert_array_equal(grad, [[0.0, 0.0], [0.0, -1.0]])
    loss, grad = functions.nll_loss(x, np.array([-100, -100]))
    assert math.isnan(loss)
    np.testing.assert_array_equal(grad, np.zeros((2, 2)))


# ---- layouts, threads


def layouts(a):
    return {"gaps": np.repeat(a, 2, axis=-1)[..., ::2], "F": np.asfortranarray(a),
            "backwards": np.ascontiguousarray(a[::-1])[::-1]}  # fmt: skip


@pytest.mark.parametrize(("name", "options", "given_options"), GRID)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16], ids=str)
def test_strides_and_where_the_gradient_goes(name, options, given_options, kind, rng):
    x, t = problem(rng, name, (6, 7, 201), kind)
    function = getattr(kernels, name)
    for reduction in REDUCTIONS:
        loss, grad = function(x, t, **options, reduction=reduction)
        for how in layouts(x):
            for other in layouts(t):
                found, slope = function(layouts(x)[how], layouts(t)[other], **options, reduction=reduction)
                assert_same_bits(slope, grad, how)
                if how != "F" or reduction == "none":  # sums are made in the order of memory
                    assert_same_bits(np.asarray(found), np.asarray(loss), how)
                else:
                    assert found == pytest.approx(loss, rel=1e-6)
        own = x.copy()
        assert function(own, t, **options, reduction=reduction, grad=own)[1] is own
        assert_same_bits(own, grad)
        out = layouts(np.zeros_like(x))["gaps"]
        assert function(x, t, **options, reduction=reduction, grad=out)[1] is out
        assert_same_bits(out, grad)


@pytest.mark.parametrize("kind", [np.float32, np.float16], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_strides_and_where_the_gradient_goes(kind, reduction, rng):
    x, labels = (-rng.random((6, 5, 300)) * 4).astype(kind), rng.integers(0, 5, (6, 300))
    loss, grad = kernels.nll_loss(x, labels, reduction=reduction)
    for how in layouts(x):
        for other in layouts(labels):
            found, slope = kernels.nll_loss(layouts(x)[how], layouts(labels)[other], reduction=reduction)
            assert_same_bits(np.asarray(found), np.asarray(loss), how)
            assert_same_bits(slope, grad, how)
    moved = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    assert_same_bits(kernels.nll_loss(moved, labels, reduction=reduction)[1], grad)
    own = x.copy()
    assert kernels.nll_loss(own, labels, reduction=reduction, grad=own)[1] is own
    assert_same_bits(own, grad)


@pytest.mark.parametrize("name", [*CALLS, "nll_loss"])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 1023, 1024, 1025, 16_384, 16_385, 300_007])
def test_tails_and_threads(name, n, rng):
    function = getattr(kernels, name)
    x, t = problem(rng, name, (n,), np.float32)
    if name == "nll_loss":
        x, t = -np.abs(np.stack([x, x[::-1]], axis=1)), (t > 0).astype(np.int8)
    loss, grad = function(x, t, threads=1)
    for threads in (2, 3, 8):
        found, slope = function(x, t, threads=threads)
        assert found == loss
        assert_same_bits(slope, grad)
    each, _ = function(x, t, reduction="none")
    assert ulps(loss, each.astype(np.float64).mean(), dtype=np.float32) <= 8
    half = max(1, n // 2)
    assert_same_bits(function(x[:half], t[:half], reduction="none")[0], each[:half])


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_of_every_type_are_targets(functions, kind, rng):
    x, t = rng.normal(size=(5, 40)), rng.integers(0, 2, (5, 40))
    expected = functions.binary_cross_entropy_with_logits(x, t.astype(np.float64))
    found = functions.binary_cross_entropy_with_logits(x, np.asfortranarray(t.astype(kind)))
    assert found[0] == pytest.approx(expected[0], rel=1e-15)
    np.testing.assert_array_equal(found[1], expected[1])
    assert functions.nll_loss(x, t[:, 0].astype(kind))[0] == functions.nll_loss(x, t[:, 0])[0]


@pytest.mark.parametrize("value", [2, -1, 255])
def test_an_integer_target_that_is_no_answer_is_named(functions, value):
    t = np.zeros((3, 50), np.int16)
    t[2, 7] = value
    with pytest.raises(ValueError, match=rf"targets\[2, 7\] is {value}, expected 0 or 1"):
        functions.binary_cross_entropy_with_logits(np.zeros((3, 50)), t)


@given(
    name=st.sampled_from(list(CALLS)),
    shape=st.lists(st.integers(1, 6), min_size=0, max_size=4),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_is_the_reference(name, shape, reduction, seed):
    x, t = problem(np.random.default_rng(seed), name, (*shape, 1))
    x, t = np.asarray(x[..., 0]), np.asarray(t[..., 0])
    found, expected = (getattr(m, name)(x, t, reduction=reduction) for m in (kernels, reference))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.huber_loss(np.ones(3), np.ones(3), 0.0), "delta: expected a finite number > 0"),
        (lambda m: m.huber_loss(np.ones(3), np.ones(3), np.nan), "delta: expected a finite number > 0"),
        (lambda m: m.smooth_l1_loss(np.ones(3), np.ones(3), -1.0), "beta: expected a finite number >= 0"),
        (lambda m: m.binary_cross_entropy_with_logits(np.ones(3), np.ones(4)), r"targets: expected shape \(3,\)"),
        (lambda m: m.binary_cross_entropy_with_logits(np.ones(0), np.ones(0)), "logits: is empty"),
        (lambda m: m.nll_loss(np.ones((2, 3)), np.array([0, 3])), r"targets\[1\] is 3, expected 0 <= target < 3"),
        (lambda m: m.nll_loss(np.ones((2, 3)), np.array([0])), r"targets: expected shape \(2,\)"),
        (lambda m: m.nll_loss(np.ones(3), np.array(0)), "log_probabilities: expected"),
        (lambda m: m.nll_loss(np.ones((2, 3)), np.zeros(2, int), np.ones(2)), r"weight: expected shape \(3,\)"),
    ],
)
def test_refused_by_name(functions, call, message):
    with pytest.raises(ValueError, match=message):
        call(functions)


def test_weights_must_broadcast():
    with pytest.raises(
        ValueError, match=r"weight: expected a shape that broadcasts to \(2, 3\) like logits, got \(2,\)"
    ):
        kernels.binary_cross_entropy_with_logits(np.ones((2, 3)), np.ones((2, 3)), np.ones(2))


# ---- the classes of the kernels


OBJECTS = {
    "BinaryCrossEntropyWithLogits": losses.BinaryCrossEntropyWithLogits(pos_weight=np.array([0.5, 1.0, 2.0])),
    "Huber": losses.Huber(0.7),
    "SmoothL1": losses.SmoothL1(0.7),
    "NegativeLogLikelihood": losses.NegativeLogLikelihood(np.array([0.5, 1.0, 2.0]), ignore_index=0),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_classes_by_finite_differences(name, rng):
    loss, prediction = OBJECTS[name], rng.normal(size=(8, 3))
    target = {
        "BinaryCrossEntropyWithLogits": rng.integers(0, 2, (8, 3)),
        "NegativeLogLikelihood": rng.integers(0, 3, 8),
    }.get(name, rng.normal(size=(8, 3)))
    _, grad = loss(prediction, target)
    slope = numeric_gradient(lambda: loss(prediction, target, False)[0], prediction)
    np.testing.assert_allclose(grad, slope, atol=1e-8)
    own = prediction.copy()
    assert loss(own, target, own)[1] is own
    np.testing.assert_array_equal(own, grad)


def test_classes_count_what_is_right():
    logits = np.array([[1.0, -1.0], [2.0, 2.0], [-1.0, -1.0]])
    loss = losses.BinaryCrossEntropyWithLogits()
    assert loss.correct(logits, np.array([[1, 0], [1, 0], [0, 0]])) == 2
    assert losses.NegativeLogLikelihood().correct(logits, np.array([0, 1, -100])) == 1
    assert losses.Huber().correct(logits, logits) is None


def test_classes_refuse_options_by_name():
    with pytest.raises(ValueError, match="delta is 0"):
        losses.Huber(0)
    with pytest.raises(ValueError, match="beta is -1"):
        losses.SmoothL1(-1)


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "probabilities"])
@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4), (2, 5, 3, 2), (1, 1), (0, 3)])
def test_correct_rows_are_numpys(shape, kind, rng, dtype):
    """Equal values among them: the first of the largest is the prediction. One object counts all sizes of batches."""
    places = (shape[0], *shape[2:])
    counting = losses.CrossEntropy(), losses.NegativeLogLikelihood(), losses.CrossEntropy(ignore_index=1)
    for rows in (slice(None), slice(0, 1), slice(None)):
        prediction = rng.integers(0, 3, shape).astype(dtype)[rows]
        target = (rng.random(shape).astype(dtype) if kind == "probabilities" else rng.integers(0, 3, places, kind))[
            rows
        ]
        wanted = target.argmax(axis=1) if kind == "probabilities" else target
        right = prediction.argmax(axis=1) == wanted
        counts = right.sum(), right.sum(), (right if kind == "probabilities" else right & (wanted != 1)).sum()
        assert tuple(loss.correct(prediction, target) for loss in counting) == counts
        strided = np.repeat(prediction, 2, axis=0)[::2]
        assert counting[0].correct(strided, target) == counts[0]


@pytest.mark.parametrize("kind", ["int64", "int8", "uint8", "own"])
@pytest.mark.parametrize("shape", [(9,), (9, 3), (3, 2, 2), (0, 3)])
def test_correct_answers_are_numpys(shape, kind, rng, dtype):
    loss = losses.BinaryCrossEntropyWithLogits()
    for rows in (slice(None), slice(0, 1), slice(None)):
        prediction = rng.integers(-1, 2, shape).astype(dtype)[rows]
        target = rng.choice([0.0, 0.5, 0.75], shape).astype(dtype) if kind == "own" else rng.integers(0, 2, shape, kind)
        target = target[rows]
        right = (prediction > 0) == (target > 0.5)
        assert loss.correct(prediction, target) == right.reshape(len(right), math.prod(shape[1:])).all(axis=1).sum()
