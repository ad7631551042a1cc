"""Dropout: the mask of the reference to the bit, at any strides and number of threads; its share, its independence of
neighbours, seeds and steps; what is stored in 16 bits; the layer."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, strategies as st
from measure import assert_same_bits

from onepass import checkpoint, kernels, losses, nn, optim, reference
from onepass.trainer import Trainer

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BFLOAT16]


def mask(shape, p, seed, step=0):
    return kernels.dropout(np.ones(shape, np.float32), p, seed, step) != 0


# ---- the oracle


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.875, 1.0])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (70,), (9, 31), (3, 0, 2), (2, 3, 5, 17)])
def test_the_reference_to_the_bit(dtype, p, shape, rng):
    x = np.asarray(rng.normal(size=shape) * 4).astype(dtype)
    for name in ("dropout", "dropout_backward"):
        y = getattr(kernels, name)(x, p, 7, 3)
        expected = getattr(reference, name)(x, p, 7, 3)
        # x is multiplied with 1 / (1 - p) rounded to the type that is computed in: both roundings are within an eps
        assert y.dtype == expected.dtype == dtype
        assert y.shape == x.shape
        np.testing.assert_array_equal(y == 0, expected == 0)
        wide = expected.astype(np.float64)
        eps = {2: 2.0**-10 if dtype == np.float16 else 2.0**-7}.get(dtype.itemsize) or float(np.finfo(dtype).eps)
        assert (np.abs(y.astype(np.float64) - wide) <= eps * np.abs(wide)).all()


@pytest.mark.parametrize("p", [0.0, 0.5, 0.75])
def test_what_is_kept_is_scaled_exactly_by_powers_of_two(p, rng, dtype):
    x = rng.normal(size=999).astype(dtype)
    y = kernels.dropout(x, p, 11)
    kept = y != 0
    assert_same_bits(y[kept], x[kept] / np.asarray(1 - p, dtype))


@given(
    p=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**62),
    shape=st.lists(st.integers(0, 6), min_size=1, max_size=4),
)
def test_any_mask_is_the_references(p, seed, step, shape):
    x = np.ones(shape)
    np.testing.assert_array_equal(kernels.dropout(x, p, seed, step) == 0, reference.dropout(x, p, seed, step) == 0)


def test_backward_is_the_derivative(rng):
    """Linear in x with a mask that does not change: the same function of dy."""
    x, dy = rng.normal(size=(2, 40, 50))
    y = kernels.dropout(x, 0.3, 5, 2)
    dx = kernels.dropout_backward(dy, 0.3, 5, 2)
    kept = y != 0
    np.testing.assert_array_equal(dx != 0, kept)
    np.testing.assert_allclose(dx[kept], dy[kept] / 0.7, rtol=1e-15)
    # <dropout(x), dy> = <x, dropout_backward(dy)>
    assert (y * dy).sum() == pytest.approx((x * dx).sum(), rel=1e-13)


# ---- layouts and threads


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_mask_counts_in_c_order_whatever_the_strides(dtype, rng):
    x = rng.normal(size=(7, 9, 11)).astype(dtype)
    y = kernels.dropout(x, 0.4, 3, 1)
    flat = kernels.dropout(x.reshape(-1), 0.4, 3, 1)
    assert_same_bits(flat.reshape(x.shape).astype(np.float64), y.astype(np.float64))
    views = {
        "F": np.asfortranarray(x),
        "gaps": np.repeat(x, 3, axis=2)[..., ::3],
        "backwards": np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
        "moved": np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 2, 0)), 0, 2),
    }
    for how, view in views.items():
        np.testing.assert_array_equal(view, x)
        assert_same_bits(kernels.dropout(view, 0.4, 3, 1).astype(np.float64), y.astype(np.float64), how)
        out = np.zeros((7, 9, 22), dtype)[..., ::2]
        assert kernels.dropout_backward(view, 0.4, 3, 1, out) is out
        assert_same_bits(out.astype(np.float64), y.astype(np.float64), how)
        own = view.copy(order="K")
        kernels.dropout(own, 0.4, 3, 1, own)
        assert_same_bits(own.astype(np.float64), y.astype(np.float64), how)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_bits_over_threads_and_tails(dtype, rng):
    x = rng.normal(size=200_003).astype(dtype)
    y = kernels.dropout(x, 0.2, 9, threads=1)
    for threads in (2, 3, 8):
        assert_same_bits(kernels.dropout(x, 0.2, 9, threads=threads).view(np.uint8), y.view(np.uint8))
        turned = x[:200_000].reshape(400, 500)
        found = kernels.dropout(np.asfortranarray(turned), 0.2, 9, threads=threads)
        np.testing.assert_array_equal(found.reshape(-1), y[:200_000])
    for n in range(70):
        np.testing.assert_array_equal(kernels.dropout(x[:n], 0.2, 9), y[:n])


def test_bits_of_bfloat16_are_bfloat16(rng):
    x = rng.normal(size=(5, 30)).astype(BFLOAT16)
    y = kernels.dropout(x.view(np.uint16), 0.5, 1, dtype="bfloat16")
    np.testing.assert_array_equal(y, kernels.dropout(x, 0.5, 1).view(np.uint16))
    np.testing.assert_array_equal(y, reference.dropout(x.view(np.uint16), 0.5, 1, dtype="bfloat16"))


# ---- ends


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_p_0_keeps_and_p_1_drops_everything(dtype, rng):
    x = rng.normal(size=333).astype(dtype)
    np.testing.assert_array_equal(kernels.dropout(x, 0.0, 1), x)
    np.testing.assert_array_equal(kernels.dropout(x, 1.0, 1), np.zeros_like(x))
    np.testing.assert_array_equal(kernels.dropout(x, np.nextafter(1.0, 0.0), 1)[:5].astype(np.float64), np.zeros(5))


def test_what_is_dropped_is_zero_also_where_it_is_not_finite():
    x = np.tile(np.array([np.nan, np.inf, -np.inf], np.float32), 400)
    y = kernels.dropout(x, 0.5, 4)
    kept = mask(1200, 0.5, 4)
    assert 400 < kept.sum() < 800
    np.testing.assert_array_equal(y[~kept], 0)
    np.testing.assert_array_equal(y[kept], x[kept])
    np.testing.assert_array_equal(kernels.dropout(x, 1.0, 4), np.zeros_like(x))


# ---- the generator


@pytest.mark.parametrize("p", [1e-3, 0.1, 0.5, 0.9])
def test_the_share_of_what_is_dropped(p):
    """Within five standard deviations of the binomial distribution, for each seed."""
    n = 200_000
    for seed in range(10):
        dropped = n - np.count_nonzero(mask(n, p, seed))
        assert abs(dropped - n * p) < 5 * math.sqrt(n * p * (1 - p))


def agreement(a, b):
    """Standard deviations between how often two masks agree and how often independent coins would."""
    return abs(np.count_nonzero(a == b) - a.size / 2) / math.sqrt(a.size / 4)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 7, 8, 16, 31, 32, 64, 100, 128, 256, 1000, 1024, 4096])
def test_neighbours_are_independent(distance):
    m = mask(1 << 18, 0.5, 21)
    assert agreement(m[:-distance], m[distance:]) < 5


def test_seeds_and_steps_are_independent():
    masks = [mask(1 << 16, 0.5, seed, step) for seed in (0, 1, 2, 2**32, 2**63) for step in (0, 1, 2, 1000)]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert agreement(a, b) < 5.5


def test_the_same_call_gives_the_same_mask_and_a_larger_p_drops_more():
    np.testing.assert_array_equal(mask(1000, 0.3, 6, 2), mask(1000, 0.3, 6, 2))
    assert not (mask(1000, 0.6, 6, 2) & ~mask(1000, 0.3, 6, 2)).any()


# ---- what is refused


@pytest.mark.parametrize("function", ["dropout", "dropout_backward"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"p": -0.1}, ValueError, r"p: expected a number in \[0, 1\]"),
        ({"p": 1.5}, ValueError, r"p: expected a number in \[0, 1\]"),
        ({"p": float("nan")}, ValueError, r"p: expected a number in \[0, 1\]"),
        ({"seed": -1}, ValueError, "seed: expected"),
        ({"seed": 2**64}, ValueError, "seed: expected"),
        ({"seed": 0.5}, TypeError, "seed: expected"),
        ({"step": -1}, ValueError, "step: expected 0 or more"),
        ({"step": 0.5}, TypeError, "step: expected an integer"),
    ],
)
def test_refused(function, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(kernels, function)(np.ones(3), **{"p": 0.5, "seed": 1, **arguments})


# ---- the layer


def test_the_layer_draws_another_mask_for_every_batch_and_the_same_one_backwards(rng):
    layer = nn.Dropout(0.5, seed=8)
    x = rng.normal(size=(30, 20))
    first = layer.forward(x).copy()
    dx = layer.backward(np.ones_like(x)).copy()
    np.testing.assert_array_equal(dx, np.where(first != 0, 2.0, 0.0))
    second = layer.forward(x).copy()
    assert ((first != 0) != (second != 0)).sum() > 200
    own = np.ones_like(x)
    assert layer.backward(own, own) is own
    np.testing.assert_array_equal(own, np.where(second != 0, 2.0, 0.0))
    assert layer.backward(own, False) is None


def test_the_layer_is_the_identity_in_inference(rng):
    layer = nn.Dropout(0.5, seed=8)
    x, dy = rng.normal(size=(2, 4, 5))
    layer.forward(x)
    before = layer.state()["generator"].copy()
    np.testing.assert_array_equal(layer.forward(x, training=False), x)
    np.testing.assert_array_equal(layer.backward(dy), dy)
    np.testing.assert_array_equal(layer.backward(dy, dy), dy)
    np.testing.assert_array_equal(layer.state()["generator"], before)


def test_the_layers_state_resumes_its_masks(rng):
    x = rng.normal(size=(6, 7))
    layer, other = nn.Dropout(0.5, seed=3), nn.Dropout(0.5, seed=4)
    layer.forward(x)
    layer.forward(x)
    other.load_state(layer.state())
    np.testing.assert_array_equal(other.forward(x), layer.forward(x))
    np.testing.assert_array_equal(other.backward(x), layer.backward(x))


def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(tmp_path, rng):
    pytest.importorskip("safetensors")
    x, y = rng.normal(size=(48, 5)).astype(np.float32), rng.integers(0, 2, 48)

    def make(seed):
        model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Dropout(0.4), nn.Linear(8, 2), seed=seed)
        return Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.01), seed=3)

    whole, first, second = make(0), make(0), make(9)
    whole.fit(x, y, epochs=4, batch_size=16)
    first.fit(x, y, epochs=2, batch_size=16)
    checkpoint.save(tmp_path, first.model, first.optimizer, {"epoch": first.epoch, "step": first.step})
    loaded = checkpoint.load(tmp_path, second.model, second.optimizer)
    second.epoch, second.step = loaded.meta["epoch"], loaded.meta["step"]
    second.fit(x, y, epochs=2, batch_size=16)
    for name, array in whole.model.state().items():
        np.testing.assert_array_equal(second.model.state()[name], array)
    assert whole.model.state()["2.generator"][1] == 12


def test_a_network_draws_the_seeds():
    def seeds(seed):
        model = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.1), nn.Dropout(0.1, seed=5), seed=seed)
        return [int(array[0]) for array in model.state().values()]

    assert seeds(0) == seeds(0)
    assert len({*seeds(0)[:2], *seeds(1)[:2]}) == 4
    assert seeds(0)[2] == seeds(1)[2] == 5


def test_the_layer_refuses_by_name():
    with pytest.raises(ValueError, match=r"p is 1\.5"):
        nn.Dropout(1.5)
    with pytest.raises(TypeError, match=r"seed is 0\.5"):
        nn.Dropout(seed=0.5)
    with pytest.raises(RuntimeError, match=r"Dropout\.backward was called before forward"):
        nn.Dropout().backward(np.ones(3))
