"""Softmax, log-softmax and softmax cross-entropy: within stated bounds of the float64 oracle, equal to torch, gradients
by finite differences, and every awkward row.

Bounds are in units in the last place of what each number is made of. exp(x - max) is off by |x - max| / 2 units, since
x - max is rounded before exp sees it, and by a few more for exp itself and the sum; so a probability's unit is
``p (1 + max - x)``, a log-probability's ``1 + max - x + log sum``, a gradient's that of the probabilities and targets
in it. The bound is 4 of those up to 128 classes; a lane sums up to 64 numbers in the array's own type before they are
added in double, so it is 16 for longer rows. In float64 the oracle is off by as much, so it is twice that.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from measure import assert_same_bits, numeric_gradient, ulps

from onepass import kernels, reference


def bound(classes, dtype):
    return (4 if classes <= 128 else 16) * (2 if dtype == np.float64 else 1)


OPTIONS = [
    {"weighted": weighted, "label_smoothing": smoothing, "z_loss": z_loss, "reduction": reduction}
    for weighted, smoothing, z_loss, reduction in itertools.product(
        [False, True], [0.0, 0.1, 1.0], [0.0, 1e-2], ["mean", "sum", "none"]
    )
]


def ids(options):
    return ",".join(f"{k}={v}" for k, v in options.items())


def inputs(rng, dtype, rows, classes, spread=3.0, ignored=0.2):
    logits = (rng.normal(size=(rows, classes)) * spread).astype(dtype)
    targets = rng.integers(0, classes, rows)
    targets[rng.random(rows) < ignored] = -100
    targets[0] = 0
    return logits, targets


def probabilities(rng, dtype, rows, classes):
    p = rng.random((rows, classes)) + 0.01
    return (p / p.sum(1, keepdims=True)).astype(dtype)


def split(options, rng, classes, dtype):
    """(weight, options for the function)"""
    rest = {k: v for k, v in options.items() if k != "weighted"}
    return ((rng.random(classes) + 0.1).astype(dtype) if options["weighted"] else None), rest


def one_hot(targets, classes):
    kept = targets != -100
    t = np.zeros((targets.size, classes))
    t[np.arange(targets.size)[kept], targets[kept]] = 1.0
    return t


def scales(logits, targets, weight, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    """Units of (each row's loss, each element of the gradient), before the reduction's factor, and that factor."""
    x = logits.astype(np.float64)
    classes = x.shape[1]
    given = one_hot(targets, classes) if targets.ndim == 1 else targets.astype(np.float64)
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    t = ((1 - label_smoothing) * given + label_smoothing / classes) * w
    t[given.sum(1) == 0] = 0.0
    depth = x.max(1, keepdims=True) - x
    e = np.exp(-depth)
    p = e / e.sum(1, keepdims=True)
    others = e.copy()
    others[np.arange(len(x)), x.argmax(1)] = 0.0
    log_sum = np.log1p(others.sum(1))
    lse = x.max(1) + log_sum
    loss = t.sum(1) * log_sum * (1 + depth.max(1)) + (t * depth).sum(1) + z_loss * lse**2
    slope = t.sum(1, keepdims=True) + 2 * z_loss * np.abs(lse)[:, None]
    grad = slope * p * (1 + depth)
    exact = (t > 0) & (label_smoothing == 0) & (targets.ndim == 1)  # p - 1 is computed as minus the others
    rest = p.copy()
    rest[exact] = 0.0
    grad = np.where(
        exact,
        t * (rest * (1 + depth)).sum(1, keepdims=True) + 2 * z_loss * np.abs(lse)[:, None] * p * (1 + depth),
        grad + t,
    )
    if reduction != "mean":
        factor = 1.0
    elif targets.ndim == 1:
        factor = 1 / w[targets[targets != -100]].sum()
    else:
        factor = 1 / len(x)
    return loss, grad, factor


# ---- against the oracle


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (13, 10), (35, 32), (6, 67), (3, 1025), (2, 5003)])
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_labels_against_the_oracle(options, shape, dtype, rng):
    logits, targets = inputs(rng, dtype, *shape)
    weight, rest = split(options, rng, shape[1], dtype)
    compare(logits, targets, weight, rest)


@pytest.mark.parametrize("shape", [(1, 1), (13, 10), (3, 1025)])
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_probabilities_against_the_oracle(options, shape, dtype, rng):
    logits, _ = inputs(rng, dtype, *shape)
    weight, rest = split(options, rng, shape[1], dtype)
    compare(logits, probabilities(rng, dtype, *shape), weight, rest)


@pytest.mark.parametrize("spread", [1e-3, 30.0, 300.0])
def test_flat_and_confident_rows_against_the_oracle(spread, dtype, rng):
    """A confident row's loss and gradient are the sum of tiny probabilities, not 1 - 1."""
    logits, targets = inputs(rng, dtype, 200, 12, spread)
    targets[:150] = logits[:150].argmax(1)
    compare(logits, targets, None, {"reduction": "none"})


def compare(logits, targets, weight, options):
    loss, grad = kernels.softmax_cross_entropy(logits, targets, weight, **options)
    expected_loss, expected_grad = reference.softmax_cross_entropy(logits, targets, weight, **options)
    loss_scale, grad_scale, factor = scales(logits, targets, weight, **options)
    if options["reduction"] == "none":
        assert loss.dtype == logits.dtype
        assert ulps(loss, expected_loss, loss_scale + np.abs(expected_loss)) <= bound(logits.shape[1], logits.dtype)
    else:
        assert type(loss) is float
        assert ulps(loss, expected_loss, loss_scale.sum() * factor, logits.dtype) <= bound(
            logits.shape[1], logits.dtype
        )
    assert grad.dtype == logits.dtype
    assert ulps(grad, expected_grad, grad_scale * factor) <= bound(logits.shape[1], logits.dtype)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("spread", [0.1, 5.0, 200.0])
def test_softmax_against_the_oracle(axis, spread, dtype, rng):
    for shape in [(1, 1, 1), (3, 4, 5), (2, 70, 3), (33, 2, 1030)]:
        x = (rng.normal(size=shape) * spread).astype(dtype)
        depth = x.astype(np.float64).max(axis, keepdims=True) - x
        p = reference.softmax(x.astype(np.float64), axis)
        assert ulps(kernels.softmax(x, axis), reference.softmax(x, axis), p * (1 + depth)) <= bound(shape[axis], dtype)
        log_sum = np.log(np.exp(-depth).sum(axis, keepdims=True))
        assert ulps(kernels.log_softmax(x, axis), reference.log_softmax(x, axis), 1 + depth + log_sum) <= 4


# ---- against torch


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 6), (2, 3, 2, 5)])
@pytest.mark.parametrize("options", [o for o in OPTIONS if o["z_loss"] == 0.0], ids=ids)
def test_against_torch(functions, options, shape, kind, rng):
    torch = pytest.importorskip("torch")
    classes = shape[1]
    logits = rng.normal(size=shape) * 3
    weight, rest = split(options, rng, classes, np.float64)
    if kind == "labels":
        targets = rng.integers(0, classes, shape[:1] + shape[2:])
        targets.reshape(-1)[::5] = -100
    else:
        targets = np.moveaxis(rng.dirichlet(np.ones(classes), shape[:1] + shape[2:]), -1, 1).copy()
    x = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        x,
        torch.tensor(targets),
        None if weight is None else torch.tensor(weight),
        reduction=rest["reduction"],
        label_smoothing=rest["label_smoothing"],
    )
    expected.sum().backward()
    loss, grad = functions.softmax_cross_entropy(logits, targets, weight, **rest)
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_z_loss_against_torch(functions, kind, rng):
    torch = pytest.importorskip("torch")
    logits = rng.normal(size=(7, 5)) * 3
    targets = rng.integers(0, 5, 7) if kind == "labels" else rng.dirichlet(np.ones(5), 7)
    x = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(x, torch.tensor(targets)) + 0.3 * x.logsumexp(1).square().mean()
    expected.backward()
    loss, grad = functions.softmax_cross_entropy(logits, targets, z_loss=0.3)
    assert loss == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-12, atol=1e-14)


# ---- finite differences


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("options", [o for o in OPTIONS if o["reduction"] != "none"], ids=ids)
def test_gradient_by_finite_differences(functions, options, kind, rng):
    logits, targets = inputs(rng, np.float64, 5, 4, spread=1.0)
    if kind == "probabilities":
        targets = probabilities(rng, np.float64, 5, 4)
    weight, rest = split(options, rng, 4, np.float64)
    _, grad = functions.softmax_cross_entropy(logits, targets, weight, **rest)
    expected = numeric_gradient(
        lambda: functions.softmax_cross_entropy(logits, targets, weight, grad=False, **rest)[0], logits, 1e-5
    )
    np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-8)


# ---- where the result goes, and what it is read from


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_new_array_given_array_and_in_place_are_the_same_bits(functions, smoothing, dtype, rng):
    logits, targets = inputs(rng, dtype, 21, 37)
    original = logits.copy()
    loss, grad = functions.softmax_cross_entropy(logits, targets, label_smoothing=smoothing)
    assert_same_bits(logits, original)
    given = np.full_like(logits, np.nan)
    other_loss, same = functions.softmax_cross_entropy(logits, targets, label_smoothing=smoothing, grad=given)
    assert same is given
    assert_same_bits(given, grad)
    loss_only, nothing = functions.softmax_cross_entropy(logits, targets, label_smoothing=smoothing, grad=False)
    assert nothing is None
    in_place_loss, same = functions.softmax_cross_entropy(logits, targets, label_smoothing=smoothing, grad=logits)
    assert same is logits
    assert_same_bits(logits, grad)
    assert loss == other_loss == loss_only == in_place_loss


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_in_place_and_out_are_the_same_bits(functions, name, dtype, rng):
    function = getattr(functions, name)
    for axis in (0, 1, 2):
        x = rng.normal(size=(3, 19, 5)).astype(dtype)
        y = function(x, axis)
        given = np.full_like(x, np.nan)
        assert function(x, axis, out=given) is given
        assert function(x, axis, out=x) is x
        assert_same_bits(given, y)
        assert_same_bits(x, y)


def test_strided_logits_and_gradients(functions, dtype, rng):
    dense, targets = inputs(rng, dtype, 9, 6)
    loss, grad = functions.softmax_cross_entropy(dense, targets)
    memory, out_memory = np.full((20, 40), 5.0, dtype), np.full((30, 30), 5.0, dtype)
    for logits, out in [
        (memory[:18:2, 3:39:6], out_memory[:6, :27:3].T),
        (memory[:6, :9].T, out_memory[8::-1, 5::-1]),
    ]:
        logits[...], out[...] = dense, np.nan
        strided_loss, same = functions.softmax_cross_entropy(logits, targets, grad=out)
        assert strided_loss == loss
        assert same is out
        assert_same_bits(np.ascontiguousarray(out), grad)
        out[...] = 5.0
        assert (out_memory == 5.0).all()


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_every_integer_type(functions, kind, rng):
    logits, targets = inputs(rng, np.float32, 15, 10, ignored=0)
    expected = functions.softmax_cross_entropy(logits, targets)
    loss, grad = functions.softmax_cross_entropy(logits, targets.astype(kind))
    assert loss == expected[0]
    assert_same_bits(grad, expected[1])
    _, strided = functions.softmax_cross_entropy(logits, np.repeat(targets.astype(kind), 2)[::2])
    assert_same_bits(strided, grad)


def test_three_axes_are_rows_moved_aside(functions, dtype, rng):
    logits = rng.normal(size=(3, 5, 4)).astype(dtype)
    targets = rng.integers(0, 5, (3, 4))
    loss, grad = functions.softmax_cross_entropy(logits, targets, reduction="none")
    flat_loss, flat_grad = functions.softmax_cross_entropy(
        np.ascontiguousarray(np.moveaxis(logits, 1, 2).reshape(12, 5)), targets.reshape(12), reduction="none"
    )
    assert_same_bits(loss, flat_loss.reshape(3, 4))
    assert_same_bits(grad, np.ascontiguousarray(np.moveaxis(flat_grad.reshape(3, 4, 5), 2, 1)))


# ---- awkward rows


@pytest.mark.parametrize("ignore_index", [-100, -1, 2, 255])
def test_ignored_rows_have_no_loss_and_a_zero_gradient(functions, ignore_index, dtype, rng):
    """Their weight is never looked up (ONNX Runtime reads weight[label] first)."""
    logits, _ = inputs(rng, dtype, 6, 5)
    targets = np.array([0, ignore_index, 3, ignore_index, 4, 1])
    kept = targets != ignore_index
    weight = (rng.random(5) + 0.5).astype(dtype)
    logits[1] = np.nan
    losses, grad = functions.softmax_cross_entropy(logits, targets, weight, ignore_index, reduction="none")
    assert (losses[~kept] == 0).all()
    assert (grad[~kept] == 0).all()
    alone, alone_grad = functions.softmax_cross_entropy(logits[kept], targets[kept], weight)
    mean, mean_grad = functions.softmax_cross_entropy(logits, targets, weight, ignore_index)
    assert mean == pytest.approx(alone, rel=1e-15)
    assert_same_bits(mean_grad[kept], alone_grad)


def test_all_rows_ignored(functions, dtype):
    """The mean over nothing is nan, as in torch; the sum is 0; no gradient flows."""
    logits, targets = np.ones((3, 4), dtype), np.full(3, -100)
    loss, grad = functions.softmax_cross_entropy(logits, targets)
    assert math.isnan(loss)
    assert not grad.any()
    assert functions.softmax_cross_entropy(logits, targets, reduction="sum")[0] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}], ids=ids)
def test_nan_and_infinity_poison_their_own_row_only(functions, bad, options, dtype, rng):
    for at in (0, 3, 18):
        logits, targets = inputs(rng, dtype, 5, 19, ignored=0)
        targets[2] = 7
        clean, clean_grad = functions.softmax_cross_entropy(logits, targets, reduction="none", **options)
        logits[2, at] = bad
        losses, grad = functions.softmax_cross_entropy(logits, targets, reduction="none", **options)
        others = np.arange(5) != 2
        assert not np.isfinite(losses[2])
        assert np.isnan(grad[2]).all()
        assert_same_bits(losses[others], clean[others])
        assert_same_bits(grad[others], clean_grad[others])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_softmax_of_nan_and_infinity_is_a_row_of_nan(functions, name, bad, dtype, rng):
    for at in (0, 3, 18):
        x = rng.normal(size=(3, 19)).astype(dtype)
        clean = getattr(functions, name)(x)
        x[1, at] = bad
        y = getattr(functions, name)(x)
        assert np.isnan(y[1]).all()
        assert_same_bits(y[[0, 2]], clean[[0, 2]])


def test_minus_infinity_is_a_class_that_cannot_be(functions, dtype, rng):
    logits, targets = inputs(rng, dtype, 4, 20, ignored=0)
    logits[:, 5:17] = -np.inf
    targets[:] = [0, 1, 18, 19]
    possible = np.r_[0:5, 17:20]
    losses, grad = functions.softmax_cross_entropy(logits, targets, reduction="none")
    expected, expected_grad = functions.softmax_cross_entropy(
        np.ascontiguousarray(logits[:, possible]), np.searchsorted(possible, targets), reduction="none"
    )
    assert ulps(losses, expected, 1 + np.abs(expected)) <= 4
    assert ulps(grad[:, possible], expected_grad, 1.0) <= 4
    assert (grad[:, 5:17] == 0).all()
    p = functions.softmax(logits)
    assert (p[:, 5:17] == 0).all()
    assert (functions.log_softmax(logits)[:, 5:17] == -np.inf).all()


def test_target_class_at_minus_infinity(functions, dtype):
    logits = np.array([[0.0, -np.inf, 0.0]], dtype)
    losses, grad = functions.softmax_cross_entropy(logits, np.array([1]), reduction="none")
    assert losses[0] == np.inf
    np.testing.assert_allclose(grad, [[0.5, -1.0, 0.5]], rtol=4 * np.finfo(dtype).eps)


def test_row_of_minus_infinity_only(functions, dtype):
    logits = np.full((1, 3), -np.inf, dtype)
    losses, grad = functions.softmax_cross_entropy(logits, np.array([1]), reduction="none")
    assert np.isnan(losses).all()
    assert np.isnan(grad).all()
    assert np.isnan(functions.softmax(logits)).all()


def test_huge_logits_neither_overflow_nor_lose_the_answer(functions, dtype):
    logits = np.array([[1e30, 0.0, -1e30], [-1e30, -1e30, -1e30]], dtype)
    losses, grad = functions.softmax_cross_entropy(logits, np.array([0, 2]), reduction="none")
    np.testing.assert_allclose(losses, [0.0, math.log(3)], rtol=1e-6)
    np.testing.assert_allclose(grad, [[0, 0, 0], [1 / 3, 1 / 3, -2 / 3]], rtol=1e-6)
    losses, grad = functions.softmax_cross_entropy(logits, np.array([1, 0]), reduction="none")
    np.testing.assert_allclose(losses, [1e30, math.log(3)], rtol=1e-6)
    np.testing.assert_allclose(grad[0], [1, -1, 0])


def test_loss_of_a_confident_row_is_not_rounded_to_zero(functions, dtype):
    logits = np.array([[60.0, 0.0, 0.0]], dtype)
    losses, grad = functions.softmax_cross_entropy(logits, np.array([0]), reduction="none")
    tail = 2 * math.exp(-60)
    np.testing.assert_allclose(losses, [tail], rtol=60 * np.finfo(dtype).eps)
    np.testing.assert_allclose(grad, [[-tail, tail / 2, tail / 2]], rtol=60 * np.finfo(dtype).eps)


def test_one_class_has_no_loss_and_no_gradient(functions, dtype):
    loss, grad = functions.softmax_cross_entropy(np.array([[3.0], [-2.0]], dtype), np.array([0, 0]))
    assert loss == 0.0
    assert not grad.any()


def test_weights_that_sum_to_zero(functions, dtype):
    """0 / 0, as in torch."""
    loss, _ = functions.softmax_cross_entropy(np.ones((2, 2), dtype), np.array([0, 0]), np.array([0, 1], dtype))
    assert math.isnan(loss)


def test_class_of_no_weight_may_be_impossible(functions, dtype):
    logits = np.array([[0.0, 1.0, -np.inf]], dtype)
    weight = np.array([1.0, 1.0, 0.0], dtype)
    loss, grad = functions.softmax_cross_entropy(logits, np.array([0]), weight, label_smoothing=0.3)
    assert math.isfinite(loss)
    assert np.isfinite(grad).all()
    assert grad[0, 2] == 0
