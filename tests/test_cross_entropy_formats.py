"""Softmax cross-entropy beyond dense float32 and float64: logits of 16 bits, padded vocabularies, log-probabilities,
long rows that threads share, and rows with infinities.

Logits of 16 bits are exact in float32, so the loss is held to the bounds of float32. What is stored in 16 bits is held
to half a unit in its last place of the float64 oracle before rounding, and the float32 error on top.
"""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measure import assert_same_bits, numeric_gradient, ulps

from onepass import kernels, reference

BF16 = np.dtype(ml_dtypes.bfloat16)
HALVES = [np.dtype(np.float16), BF16]
EPS = {HALVES[0]: 2.0**-10, BF16: 2.0**-7}
SMALLEST = {HALVES[0]: 2.0**-24, BF16: 1e-37}
OPTIONS = [
    {"label_smoothing": smoothing, "z_loss": z_loss, "reduction": reduction}
    for smoothing, z_loss, reduction in itertools.product([0.0, 0.1], [0.0, 1e-2], ["mean", "sum", "none"])
]


def ids(value):
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def rounded_once(stored, exact, slack=2.0**-18):
    """Is every element the nearest of its type to the exact one, but for float32's own error before rounding?"""
    kind = stored.dtype
    half_unit = EPS[kind] / 2 * np.abs(exact) + SMALLEST[kind]
    return bool((np.abs(stored.astype(np.float64) - exact) <= half_unit + slack * np.abs(exact).max()).all())


def problem(rng, kind, rows=9, classes=70, given=False):
    logits = (rng.normal(size=(rows, classes)) * 3).astype(kind)
    targets = rng.integers(0, classes, rows)
    targets[2] = -100
    if given:
        targets = rng.dirichlet(np.ones(classes), rows)
    return logits, targets


# ---- 16 bits


@pytest.mark.parametrize("kind", HALVES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("given_rows", [False, True])
@pytest.mark.parametrize("beside", ["own", "float32"])
def test_half_logits_against_the_float64_oracle(functions, kind, options, given_rows, beside, rng):
    logits, targets = problem(rng, kind, given=given_rows)
    other = kind if beside == "own" else np.dtype(np.float32)
    weight = (rng.random(70) + 0.1).astype(other)
    if given_rows:
        targets = targets.astype(other)
    loss, grad = functions.softmax_cross_entropy(logits, targets, weight, **options)
    exact_targets = targets.astype(np.float64) if given_rows else targets
    expected, slope = reference.softmax_cross_entropy(
        logits.astype(np.float64), exact_targets, weight.astype(np.float64), **options
    )
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    if options["reduction"] == "none":
        assert loss.dtype == np.float32
    assert grad.dtype == kind
    assert rounded_once(grad, slope)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("kind", HALVES, ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_half_softmax_against_the_float64_oracle(functions, name, kind, axis, rng):
    x = (rng.normal(size=(5, 67, 3)) * 4).astype(kind)
    y = getattr(functions, name)(x, axis)
    assert y.dtype == kind
    assert rounded_once(y, getattr(reference, name)(x.astype(np.float64), axis))
    assert getattr(functions, name)(x, axis, out=x) is x
    assert_same_bits(x.view(np.uint16), y.view(np.uint16))


@pytest.mark.parametrize("kind", HALVES, ids=str)
@pytest.mark.parametrize("given_rows", [False, True])
@pytest.mark.parametrize("shape", [(6, 9), (2, 5, 7)])
def test_half_logits_against_torch(kind, given_rows, shape, rng):
    """torch computes in float32 from the same numbers when it is told to; both round the gradient once."""
    torch = pytest.importorskip("torch")
    logits = (rng.normal(size=shape) * 3).astype(kind)
    targets = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    if given_rows:
        targets = rng.random(shape).astype(np.float32)
    x = torch.tensor(logits.astype(np.float32), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(x, torch.tensor(targets), label_smoothing=0.1)
    expected.backward()
    loss, grad = kernels.softmax_cross_entropy(logits, targets, label_smoothing=0.1)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert rounded_once(grad, x.grad.numpy().astype(np.float64))


@pytest.mark.parametrize("kind", [np.dtype(np.float32), np.dtype(np.float64), *HALVES], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 10, 31, 32, 33])
def test_rows_of_few_classes_do_not_know_their_neighbours(kind, classes, rng):
    """They are taken sixteen at once, whatever their strides; an ignored one is not read."""
    logits, targets = problem(rng, kind, 35, classes)
    weight = (rng.random(classes) + 0.1).astype(kind)
    logits[2] = np.nan  # ignored
    options = {"reduction": "none", "z_loss": 1e-2}
    memory = np.zeros((2 * classes, 70), kind)
    strided, out, logs = memory[::2, ::2].T, np.ones((35, classes + 3), kind)[:, :classes], np.empty_like(logits)
    strided[...] = logits
    loss, grad = kernels.softmax_cross_entropy(strided, targets, weight, grad=out, log_probabilities=logs, **options)
    assert not grad[2].astype(np.float32).any()
    assert loss[2] == 0.0
    bits = f"u{kind.itemsize}"
    for r in range(35):
        row, label = logits[r : r + 1], targets[r : r + 1]
        own, slope = kernels.softmax_cross_entropy(row, label, weight, **options)
        assert_same_bits(loss[r : r + 1], own)
        assert_same_bits(np.ascontiguousarray(grad[r : r + 1]).view(bits), slope.view(bits))
    assert np.array_equal(logs.astype(np.float32), kernels.log_softmax(logits).astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("kind", HALVES, ids=str)
def test_half_logits_strided_in_place_and_given_are_the_same_bits(functions, kind, rng):
    logits, targets = problem(rng, kind, 5, 600)
    loss, grad = functions.softmax_cross_entropy(logits, targets)
    memory = np.zeros((600, 10), kind)
    strided = memory[:, ::2].T
    strided[...] = logits
    out = np.zeros((5, 1200), kind)
    for x, place in [(logits, np.zeros_like(logits)), (strided, out[:, ::2]), (strided, strided), (logits, logits)]:
        other, same = functions.softmax_cross_entropy(x, targets, grad=place)
        assert same is place
        assert other == loss
        assert_same_bits(np.ascontiguousarray(place).view(np.uint16), grad.view(np.uint16))
    assert not out[:, 1::2].astype(np.float32).any()
    assert not memory[:, 1::2].astype(np.float32).any()


def test_bits_in_uint16_are_bfloat16_when_the_caller_says_so(functions, rng):
    logits, given_rows = problem(rng, BF16, given=True)
    given_rows, weight = given_rows.astype(BF16), rng.random(70).astype(BF16)
    labels = np.arange(9, dtype=np.uint16)
    for targets in (labels, given_rows):
        log_p, log_bits = np.zeros_like(logits), np.zeros(logits.shape, np.uint16)
        loss, grad = functions.softmax_cross_entropy(logits, targets, weight, log_probabilities=log_p)
        bits = targets if targets is labels else targets.view(np.uint16)
        same, grad_bits = functions.softmax_cross_entropy(
            logits.view(np.uint16), bits, weight.view(np.uint16), log_probabilities=log_bits, dtype="bfloat16"
        )
        assert same == loss
        assert grad_bits.dtype == np.uint16
        assert_same_bits(grad_bits, grad.view(np.uint16))
        assert_same_bits(log_bits, log_p.view(np.uint16))
    y = functions.softmax(logits.view(np.uint16), dtype="bfloat16")
    assert_same_bits(y, functions.softmax(logits).view(np.uint16))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_cross_entropy"])
def test_bits_in_uint16_are_refused_without_a_word(functions, name):
    x = np.zeros((2, 3), np.uint16)
    arguments = (x, np.zeros(2, int)) if name == "softmax_cross_entropy" else (x,)
    with pytest.raises(TypeError, match=r"is uint16; .* dtype='bfloat16'"):
        getattr(functions, name)(*arguments)
    with pytest.raises(ValueError, match="dtype"):
        getattr(functions, name)(*arguments, dtype="float16")


# ---- padded vocabulary


@pytest.mark.parametrize("kind", [np.dtype(np.float32), np.dtype(np.float64), *HALVES], ids=str)
@pytest.mark.parametrize("options", [o for o in OPTIONS if o["reduction"] != "sum"], ids=ids)
@pytest.mark.parametrize("given_rows", [False, True])
def test_padding_may_hold_anything_and_changes_no_bit(functions, kind, options, given_rows, rng):
    logits, targets = problem(rng, kind, given=given_rows)
    targets = targets.astype(kind) if given_rows else targets
    weight = (rng.random(70) + 0.1).astype(kind)
    log_p, padded_log = np.zeros_like(logits), np.zeros((9, 75), kind)
    loss, grad = functions.softmax_cross_entropy(logits, targets, weight, log_probabilities=log_p, **options)
    padded = np.concatenate([logits, np.tile(np.array([np.nan, np.inf, -np.inf, 1e4, 0], kind), (9, 1))], 1)
    if given_rows:
        targets = np.concatenate([targets, np.full((9, 5), np.nan, kind)], 1)
    for place in (None, padded):
        other, padded_grad = functions.softmax_cross_entropy(
            padded, targets, weight, n_classes=70, log_probabilities=padded_log, grad=place, **options
        )
        assert_same_bits(np.asarray(other), np.asarray(loss))
        unsigned = f"u{kind.itemsize}"
        assert_same_bits(np.ascontiguousarray(padded_grad[:, :70]).view(unsigned), grad.view(unsigned))
        assert (padded_grad[:, 70:] == 0).all()
        assert_same_bits(np.ascontiguousarray(padded_log[:, :70]).view(unsigned), log_p.view(unsigned))
        assert (padded_log[:, 70:].astype(np.float64) == -np.inf).all()


def test_labels_are_held_against_n_classes(functions):
    grad = np.full((2, 5), 7.0)
    with pytest.raises(ValueError, match=r"targets\[1\] is 4, expected 0 <= target < 4"):
        functions.softmax_cross_entropy(np.zeros((2, 5)), np.array([3, 4]), n_classes=4, grad=grad)
    assert (grad == 7).all()


@pytest.mark.parametrize("wrong", [0, -1, 6])
def test_n_classes_out_of_range(functions, wrong):
    with pytest.raises(ValueError, match="n_classes"):
        functions.softmax_cross_entropy(np.zeros((2, 5)), np.array([0, 1]), n_classes=wrong)


# ---- log-probabilities


@pytest.mark.parametrize("kind", [np.dtype(np.float32), np.dtype(np.float64), *HALVES], ids=str)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("shape", [(6, 33), (3, 8, 5)])
def test_log_probabilities_are_log_softmax_to_the_bit(functions, kind, in_place, shape, rng):
    logits = (rng.normal(size=shape) * 5).astype(kind)
    targets = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    targets.reshape(-1)[1] = -100  # also of ignored rows
    expected = functions.log_softmax(logits, 1)
    loss, grad = functions.softmax_cross_entropy(logits, targets)
    log_p = np.zeros_like(logits)
    other, same = functions.softmax_cross_entropy(
        logits, targets, log_probabilities=log_p, grad=logits if in_place else None
    )
    unsigned = f"u{kind.itemsize}"
    assert_same_bits(log_p.view(unsigned), expected.view(unsigned))
    assert other == loss
    assert_same_bits(same.view(unsigned), grad.view(unsigned))


def test_log_probabilities_of_half_logits_in_float32(functions, rng):
    logits, targets = problem(rng, BF16)
    log_p = np.zeros(logits.shape, np.float32)
    functions.softmax_cross_entropy(logits, targets, log_probabilities=log_p, grad=False)
    assert_same_bits(log_p, functions.log_softmax(logits.astype(np.float32)))


# ---- long rows


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}], ids=ids)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [np.dtype(np.float32), np.dtype(np.float64), BF16], ids=str)
def test_one_long_row_against_the_oracle_on_any_number_of_threads(kind, weighted, options, rng):
    """16 units for sums of up to 64 numbers a lane in float32, as for other rows; the pieces are added in double."""
    classes = 100_003
    logits, targets = (rng.normal(size=(1, classes)) * 3).astype(kind), np.array([99_000])
    weight = (rng.random(classes) + 0.1).astype(np.float64 if kind == np.float64 else np.float32) if weighted else None
    loss, grad = kernels.softmax_cross_entropy(logits, targets, weight, threads=1, **options)
    expected, slope = reference.softmax_cross_entropy(logits, targets, weight, **options)
    assert loss == pytest.approx(expected, rel=1e-14 if kind == np.float64 else 1e-6)
    if kind == BF16:
        assert rounded_once(grad, slope.astype(np.float64), 2.0**-8)
    else:
        depth = 1 + (logits.max() - logits).astype(np.float64)
        assert ulps(grad, slope, np.abs(slope) * depth + float(np.abs(grad).mean())) <= 32
    unsigned = f"u{kind.itemsize}"
    for threads, place, x in [
        (2, None, logits),
        (3, np.zeros_like(logits), np.repeat(logits, 2, 1)[:, ::2]),
        (8, "in place", logits.copy()),
    ]:
        where = x if isinstance(place, str) else place
        other, same = kernels.softmax_cross_entropy(x, targets, weight, grad=where, threads=threads, **options)
        assert other == loss
        assert_same_bits(same.view(unsigned), grad.view(unsigned))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_long_row_of_softmax_is_what_its_pieces_say(name, dtype, rng):
    x = rng.normal(size=(2, 120_001)).astype(dtype)
    y = getattr(kernels, name)(x, threads=1)
    expected = getattr(reference, name)(x)
    depth = (x.max(1, keepdims=True) - x).astype(np.float64)
    scale = 1 + depth + 12 if name == "log_softmax" else expected * (1 + depth)
    assert ulps(y, expected, scale) <= (32 if dtype == np.float64 else 16)
    for threads in (2, 3, 8):
        assert_same_bits(getattr(kernels, name)(x, threads=threads), y)
        assert_same_bits(getattr(kernels, name)(np.repeat(x, 2, 1)[:, ::2], threads=threads), y)
    x[0, 70_000] = np.inf
    spoiled = getattr(kernels, name)(x, threads=2)
    assert np.isnan(spoiled[0]).all()
    assert_same_bits(spoiled[1], y[1])


# ---- infinities


PATHS = {
    "labels": {},
    "smoothing": {"label_smoothing": 0.2},
    "weights": {"weight": True},
    "weights and smoothing": {"weight": True, "label_smoothing": 0.2},
    "probabilities": {"given_rows": True},
    "weighted probabilities": {"given_rows": True, "weight": True},
    "z_loss": {"z_loss": 0.1},
    "no weight": {"weight": 0.0},
}


def call(functions, kind, path, spoil, classes=37, threads=1, rng=None):
    options = dict(PATHS[path])
    logits = (rng.normal(size=(4, classes)) * 2).astype(kind)
    targets = np.array([0, 5, 7, classes - 1])
    other = np.float64 if kind == np.float64 else np.float32
    if options.pop("given_rows", False):
        targets = rng.dirichlet(np.ones(classes), 4).astype(other)
    weight = options.pop("weight", None)
    if weight is not None:
        weight = (rng.random(classes) + 0.1).astype(other) * other(weight)
    if spoil is not None:
        spoil(logits)
    return functions.softmax_cross_entropy(logits, targets, weight, reduction="none", threads=threads, **options)


@pytest.mark.parametrize("kind", [np.dtype(np.float32), np.dtype(np.float64), *HALVES], ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_make_their_row_nan_and_no_other(functions, kind, path, bad, rng):
    clean = call(functions, kind, path, None, rng=np.random.default_rng(3))
    others = [0, 2, 3]
    for at in (0, 5, 20, 36):  # the label's place among them

        def spoil(logits, at=at):
            logits[1, at] = bad

        losses, grad = call(functions, kind, path, spoil, rng=np.random.default_rng(3))
        assert np.isnan(losses[1])
        assert np.isnan(grad[1].astype(np.float64)).all()
        assert_same_bits(losses[others], clean[0][others])
        unsigned = f"u{kind.itemsize}"
        assert_same_bits(grad[others].view(unsigned), clean[1][others].view(unsigned))


@pytest.mark.parametrize("path", ["labels", "weights", "z_loss", "probabilities", "weights and smoothing"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_in_rows_that_threads_share(path, bad):
    def spoil(logits):
        logits[1, 54_321] = bad

    losses, grad = call(kernels, np.float64, path, spoil, 60_000, 4, np.random.default_rng(3))
    clean, clean_grad = call(kernels, np.float64, path, None, 60_000, 4, np.random.default_rng(3))
    assert np.isnan(losses[1])
    assert np.isnan(grad[1]).all()
    assert_same_bits(losses[[0, 2, 3]], clean[[0, 2, 3]])
    assert_same_bits(grad[[0, 2, 3]], clean_grad[[0, 2, 3]])


@pytest.mark.parametrize("kind", [np.dtype(np.float32), np.dtype(np.float64), *HALVES], ids=str)
@pytest.mark.parametrize("path", ["labels", "weights", "z_loss", "probabilities", "weighted probabilities"])
def test_minus_infinity_is_a_class_of_probability_zero(functions, kind, path, rng):
    """As if the class were not there."""
    options = dict(PATHS[path])
    other = np.float64 if kind == np.float64 else np.float32
    logits = (rng.normal(size=(3, 20)) * 2).astype(kind)
    possible = np.r_[0:5, 9:20]
    targets = np.array([0, 3, 19])
    small = np.searchsorted(possible, targets)
    if options.pop("given_rows", False):
        targets = np.zeros((3, 20), other)
        targets[:, possible] = rng.dirichlet(np.ones(possible.size), 3)
        small = np.ascontiguousarray(targets[:, possible])
    weight = (rng.random(20) + 0.1).astype(other) if options.pop("weight", False) else None
    logits[:, 5:9] = -np.inf
    losses, grad = functions.softmax_cross_entropy(logits, targets, weight, reduction="none", **options)
    expected, slope = functions.softmax_cross_entropy(
        np.ascontiguousarray(logits[:, possible]),
        small,
        None if weight is None else np.ascontiguousarray(weight[possible]),
        reduction="none",
        **options,
    )
    tolerance = 1e-14 if kind == np.float64 else 1e-6
    np.testing.assert_allclose(losses, expected, rtol=tolerance)
    precision = EPS.get(kind, tolerance)
    np.testing.assert_allclose(
        grad[:, possible].astype(np.float64), slope.astype(np.float64), rtol=precision, atol=precision / 8
    )
    assert (grad[:, 5:9] == 0).all()


def test_minus_infinity_where_the_target_has_mass(functions, dtype):
    """The loss is infinite, the gradient is not."""
    logits = np.array([[0.0, -np.inf, 0.0]], dtype)
    for options in ({"label_smoothing": 0.3}, {"z_loss": 0.0}):
        losses, grad = functions.softmax_cross_entropy(logits, np.array([1]), reduction="none", **options)
        assert losses[0] == np.inf
        assert np.isfinite(grad).all()
    losses, _ = functions.softmax_cross_entropy(logits, np.array([1]), np.array([1, 0, 1], dtype), reduction="none")
    assert losses[0] == 0  # of no weight


@pytest.mark.parametrize("kind", [np.dtype(np.float32), np.dtype(np.float64), *HALVES], ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}], ids=ids)
def test_an_ignored_row_is_not_read(functions, kind, options, rng):
    logits, _ = problem(rng, kind, 4, 50)
    targets = np.array([1, -1, 2, -1])
    logits[1], logits[3] = np.nan, np.inf
    for place in (None, logits):
        loss, grad = functions.softmax_cross_entropy(logits.copy(), targets, ignore_index=-1, **options)
        inner, same = functions.softmax_cross_entropy(logits, targets, ignore_index=-1, grad=place, **options)
        assert np.isfinite(loss)
        assert inner == loss
        assert (grad[[1, 3]] == 0).all()
        assert_same_bits(same.astype(np.float64), grad.astype(np.float64))


# ---- properties


@pytest.mark.parametrize("options", [{"label_smoothing": 0.2, "z_loss": 0.05}, {"reduction": "sum"}], ids=ids)
def test_padded_gradient_by_finite_differences(functions, options, rng):
    logits, targets = rng.normal(size=(3, 6)), np.array([0, -100, 3])
    weight = rng.random(4) + 0.5
    _, grad = functions.softmax_cross_entropy(logits, targets, weight, n_classes=4, **options)
    expected = numeric_gradient(
        lambda: functions.softmax_cross_entropy(logits, targets, weight, n_classes=4, grad=False, **options)[0],
        logits,
        1e-5,
    )
    np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-8)


@given(
    st.integers(1, 40),
    st.integers(1, 90),
    st.integers(0, 20),
    st.sampled_from(HALVES),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 2**32 - 1),
)
def test_half_logits_are_their_float32_numbers(rows, classes, padding, kind, smoothing, seed):
    """The loss has the bits of the same numbers in float32, the gradient that one's bits rounded to nearest even."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, classes + padding)) * 10).astype(kind)
    targets = rng.integers(0, classes, rows)
    options = {"label_smoothing": smoothing, "n_classes": classes}
    loss, grad = kernels.softmax_cross_entropy(logits, targets, **options)
    wide_loss, wide = kernels.softmax_cross_entropy(logits.astype(np.float32), targets, **options)
    assert loss == wide_loss
    np.testing.assert_array_equal(grad.view(np.uint16), wide.astype(kind).view(np.uint16))
