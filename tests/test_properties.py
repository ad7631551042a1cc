"""What holds for any shape, strides and values (hypothesis)."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from hypothesis.extra import numpy as npst
from measure import assert_same_bits, ulps

from onepass import kernels, reference

DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])
SIDES = st.integers(0, 9)


def floats(dtype, limit=None, special=True):
    """Any number of the type, subnormals included; up to limit in magnitude if one is given."""
    width = 8 * dtype.itemsize
    if limit is not None:
        return st.floats(-limit, limit, width=width)
    return st.floats(width=width, allow_nan=special, allow_infinity=special)


@st.composite
def views(draw, shape, dtype, elements):
    """An array of this shape as a view with drawn order, gaps, direction and offset, and the memory it lies in."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    offset = draw(st.integers(0, 3))
    extents = [shape[axis] * abs(step) for axis, step in zip(order, [steps[a] for a in order], strict=True)]
    memory = np.full(offset + int(np.prod(extents, dtype=int)), 99.0, dtype)
    whole = memory[offset:].reshape(extents).transpose(np.argsort(order))
    view = whole[(*(slice(None, None, step) for step in steps), ...)]
    view = view[(*(slice(0, n) for n in shape), ...)]
    view[...] = draw(npst.arrays(dtype, shape, elements=elements))
    return memory, view


def surroundings(memory, view):
    """What lies in the memory beside the view's elements."""
    kept = view.copy()
    view[...] = 99.0
    intact = bool((memory == 99.0).all())
    view[...] = kept
    return intact


@given(st.data())
def test_updates_give_the_reference_bits_for_any_layout_and_values(data):
    rule = data.draw(st.sampled_from(sorted(kernels.UPDATES)))
    dtype = data.draw(DTYPES)
    shape = tuple(data.draw(st.lists(SIDES, max_size=4)))
    update = kernels.UPDATES[rule]
    memory, param = data.draw(views(shape, dtype, floats(dtype)))
    _, grad = data.draw(views(shape, dtype, floats(dtype)))
    states = [data.draw(views(shape, dtype, floats(dtype)))[1] for _ in update.states]
    options = {
        name: data.draw(st.booleans() if isinstance(default, bool) else st.floats(0, 1).filter(lambda v: v < 1))
        for name, default in update.hyperparameters.items()
    }
    options |= {
        "maximize": data.draw(st.booleans()),
        "grad_scale": data.draw(st.floats(1e-3, 1e3)) * data.draw(st.sampled_from([-1, 1])),
        "max_value": data.draw(st.none() | st.floats(0, exclude_min=True)),
    }
    step = data.draw(st.integers(1, 10**6))
    twin, twin_states = param.copy(), [s.copy() for s in states]
    getattr(kernels, rule)(param, grad, *states, step=step, **options)
    getattr(reference, rule)(twin, grad.copy(), *twin_states, step=step, **options)
    assert_same_bits(param, twin, f"{rule} {options}")
    for own, other in zip(states, twin_states, strict=True):
        assert_same_bits(own, other, f"{rule} {options} state")
    assert surroundings(memory, param)


@given(st.data())
def test_rows_of_softmax_sum_to_one(data):
    dtype = data.draw(DTYPES)
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    _, x = data.draw(views(shape, dtype, floats(dtype, special=False)))
    p = kernels.softmax(x, axis)
    assert ((p >= 0) & (p <= 1)).all()
    total = p.astype(np.float64).sum(axis)
    assert ulps(total.astype(dtype), np.ones_like(total)) <= shape[axis] + 1
    log_p = kernels.log_softmax(x, axis)
    assert (log_p <= 0).all()
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)), p, rtol=0, atol=8 * np.finfo(dtype).eps)


@given(st.data())
def test_cross_entropy_does_not_change_when_a_row_is_shifted(data):
    """Powers of two on a grid, so that the shift itself is exact: then not a bit changes."""
    dtype = data.draw(DTYPES)
    rows, classes = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 40)))
    logits = data.draw(npst.arrays(np.int16, (rows, classes), elements=st.integers(-400, 400))).astype(dtype) / 16
    targets = data.draw(npst.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    shift = data.draw(npst.arrays(np.int16, (rows, 1), elements=st.integers(-1000, 1000))).astype(dtype)
    smoothing = data.draw(st.sampled_from([0.0, 0.1]))
    loss, grad = kernels.softmax_cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    shifted, shifted_grad = kernels.softmax_cross_entropy(
        logits + shift, targets, label_smoothing=smoothing, reduction="none"
    )
    assert_same_bits(shifted, loss)
    assert_same_bits(shifted_grad, grad)
    assert (loss >= 0).all()
    room = 4 * classes * np.finfo(dtype).eps
    assert np.abs(grad.astype(np.float64).sum(1)).max() <= room


@given(st.data())
def test_batch_norm_output_has_mean_zero_and_variance_one(data):
    dtype = data.draw(DTYPES)
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=4)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = data.draw(npst.arrays(dtype, shape, elements=floats(dtype, 100.0)))
    others = tuple(i for i in range(len(shape)) if i != axis)
    if x.size // shape[axis] < 2:
        return
    y, saved = kernels.batch_norm(x, eps=1e-3, channel_axis=axis)
    wide = x.astype(np.float64)
    variance = wide.var(others)
    invstd = 1 / np.sqrt(variance + 1e-3)
    room = 64 * np.finfo(dtype).eps * (1 + np.abs(wide).max())
    np.testing.assert_allclose(saved.mean, wide.mean(others), rtol=0, atol=room)
    np.testing.assert_allclose(saved.invstd, invstd, rtol=room * invstd.max())
    wide_y = y.astype(np.float64)
    np.testing.assert_allclose(wide_y.mean(others), 0, atol=room * invstd.max())
    np.testing.assert_allclose(wide_y.var(others), variance * invstd**2, atol=4 * room * invstd.max())


@given(st.data())
def test_batch_norm_ignores_how_much_is_added_to_a_channel(data):
    """On a grid of powers of two: the mean moves, the output does not (up to the rounding of the mean)."""
    rows, channels = data.draw(st.tuples(st.integers(2, 40), st.integers(1, 9)))
    x = data.draw(npst.arrays(np.int16, (rows, channels), elements=st.integers(-400, 400))).astype(np.float32) / 16
    shift = data.draw(npst.arrays(np.int16, channels, elements=st.integers(-1000, 1000))).astype(np.float32)
    y, _ = kernels.batch_norm(x, eps=1.0)
    moved, _ = kernels.batch_norm(x + shift, eps=1.0)
    np.testing.assert_allclose(moved, y, rtol=0, atol=1e-4)


@given(st.data())
def test_global_norm_is_the_length_of_all_arrays_together(data):
    """Below 1e-150 a square is subnormal in double, and flushed."""
    dtype = data.draw(DTYPES)
    shapes = data.draw(st.lists(st.lists(SIDES, max_size=3).map(tuple), max_size=5))
    arrays = [data.draw(views(shape, dtype, floats(dtype, 2.0**50)))[1] for shape in shapes]
    flat = [a.reshape(-1) for a in arrays]
    joined = np.concatenate([np.zeros(1, dtype), *flat])
    np.testing.assert_allclose(kernels.global_norm(arrays), np.linalg.norm(joined.astype(np.float64)), 1e-13, 1e-150)


@given(st.data())
def test_linear_is_linear(data):
    """Small integers: every product and sum is exact, so equality is too."""
    dtype = data.draw(DTYPES)
    n, k, o = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)))
    small = st.integers(-8, 8).map(float)
    x, dy = (data.draw(npst.arrays(dtype, shape, elements=small)) for shape in ((n, k), (n, o)))
    weight, bias = (data.draw(npst.arrays(dtype, shape, elements=small)) for shape in ((o, k), o))
    np.testing.assert_array_equal(kernels.linear(x, weight, bias), x @ weight.T + bias)
    np.testing.assert_array_equal(kernels.linear(x, weight, bias, relu=True), np.maximum(x @ weight.T + bias, 0))
    dx, dweight, dbias = kernels.linear_backward(dy, x, weight)
    np.testing.assert_array_equal(dx, dy @ weight)
    np.testing.assert_array_equal(dweight, dy.T @ x)
    np.testing.assert_array_equal(dbias, dy.sum(0))
