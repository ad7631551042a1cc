"""Layers: gradients by finite differences in float64, seeds, buffers, state."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

import onepass
from onepass import nn

F64 = np.float64


def numeric(function, x, h=1e-6):
    """d function / d x by central differences."""
    slope = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = function()
        x[index] = kept - h
        slope[index] = (above - function()) / (2 * h)
        x[index] = kept
    return slope


LAYERS = {
    "linear": (lambda: nn.Linear(4, 3, dtype=F64), (5, 4)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False, dtype=F64), (5, 4)),
    "batch norm": (lambda: nn.BatchNorm(4, dtype=F64), (6, 4)),
    "batch norm, images": (lambda: nn.BatchNorm(2, eps=1e-3, dtype=F64), (3, 2, 2, 3)),
    "batch norm, channels last": (lambda: nn.BatchNorm(3, channel_axis=-1, relu=True, dtype=F64), (3, 2, 2, 3)),
    "relu": (nn.ReLU, (5, 4)),
    "convolution": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=1, dtype=F64), (3, 2, 4, 5)),
    "convolution without bias": (lambda: nn.Conv2d(2, 3, 3, bias=False, padding="same", dtype=F64), (2, 2, 4, 5)),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1), (2, 2, 5, 6)),
    "average pool": (lambda: nn.AvgPool2d((2, 3)), (2, 2, 5, 6)),
    "convolutional network": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, bias=False, dtype=F64),
            nn.BatchNorm(2, dtype=F64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2, 3, 2, dtype=F64),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(3, 2, dtype=F64),
        ),
        (3, 1, 6, 6),
    ),
    "network": (
        lambda: nn.Sequential(
            nn.Linear(4, 6, dtype=F64),
            nn.BatchNorm(6, dtype=F64),
            nn.ReLU(),
            nn.Linear(6, 3, dtype=F64),
        ),
        (7, 4),
    ),
    "network within a network": (
        lambda: nn.Sequential(
            nn.ReLU(),
            nn.Sequential(nn.Linear(4, 5, bias=False, dtype=F64), nn.BatchNorm(5, dtype=F64)),
            nn.Sequential(nn.ReLU(), nn.Linear(5, 4, dtype=F64), nn.ReLU()),
            nn.BatchNorm(4, dtype=F64),
            nn.ReLU(),
        ),
        (7, 4),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    layer, x = make(), rng.normal(size=shape)
    for parameter in layer.parameters():
        parameter += rng.normal(size=parameter.shape) * 0.3
    dy = rng.normal(size=layer.forward(x).shape)

    def value():
        return float((layer.forward(x) * dy).sum())

    slopes = [numeric(value, array) for array in (x, *layer.parameters())]
    layer.forward(x)
    given = dy.copy()
    dx = layer.backward(given)
    np.testing.assert_array_equal(given, dy)  # the caller's array is left alone
    for computed, slope in zip((dx, *layer.gradients()), slopes, strict=True):
        np.testing.assert_allclose(computed, slope, rtol=1e-6, atol=1e-8)

    gradients = [gradient.copy() for gradient in layer.gradients()]
    layer.forward(x)
    assert layer.backward(given, False) is None or name.startswith("batch norm")
    for computed, before in zip(layer.gradients(), gradients, strict=True):
        np.testing.assert_array_equal(computed, before)


def test_network_computes_no_gradient_of_its_input():
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 3), nn.ReLU())
    x = np.ones((5, 4), dtype=np.float32)
    dy = np.ones_like(model.forward(x))
    assert model.backward(dy, False) is None
    assert model.layers[1]._dx._storage.size == 0


@pytest.mark.parametrize("shape", [(9, 3), (4, 3, 5)])
def test_batch_norm_statistics(shape):
    layer = nn.BatchNorm(3, momentum=0.25, dtype=F64)
    x = np.random.default_rng(0).normal(2, 3, shape)
    axes = (0, *range(2, x.ndim))
    y = layer.forward(x).copy()
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axes), 1, rtol=1e-4)
    np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean(axes), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * x.var(axes, ddof=1), rtol=1e-12)

    before = {name: array.copy() for name, array in layer.state().items()}
    y = layer.forward(x, training=False)
    channels = (3,) + (1,) * (x.ndim - 2)
    mean, var = layer.running_mean.reshape(channels), layer.running_var.reshape(channels)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-10, atol=1e-10)
    for name, array in layer.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_initial_parameters():
    model = nn.Sequential(nn.Linear(25, 100), nn.Linear(100, 100), nn.Linear(100, 25), nn.Linear(25, 4))
    _, _, first, _, second, _, third, bias = model.parameters()
    assert abs(first).max() <= 0.1
    assert first.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    assert abs(third).max() <= 0.2
    assert abs(bias).max() <= 0.2
    assert not np.array_equal(first[:25], second)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_seed_repeats_to_the_bit(dtype):
    def parameters(seed):
        layers = (nn.Linear(5, 4, dtype=dtype), nn.BatchNorm(4, dtype=dtype))
        model = nn.Sequential(*layers, nn.Linear(4, 3, dtype=dtype), seed=seed)
        assert all(parameter.dtype == dtype for parameter in model.parameters())
        return [parameter.tobytes() for parameter in model.parameters()]

    assert parameters(1) == parameters(1)
    assert parameters(1)[0] != parameters(2)[0]
    assert parameters(1)[4] != parameters(2)[4]


def test_without_a_seed_a_network_keeps_its_layers_parameters():
    layer = nn.Linear(3, 2, seed=7)
    before = layer.weight.copy()
    nn.Sequential(layer, seed=None)
    np.testing.assert_array_equal(layer.weight, before)
    np.testing.assert_array_equal(nn.Linear(3, 2, seed=7).weight, before)


def small(seed=0, dtype=np.float32):
    return nn.Sequential(
        nn.Linear(64, 128, dtype=dtype),
        nn.BatchNorm(128, dtype=dtype),
        nn.ReLU(),
        nn.Linear(128, 10, dtype=dtype),
        seed=seed,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [2, 31, 300])
def test_threads_change_no_bit(rows, dtype):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(rows, 64)).astype(dtype), rng.normal(size=(rows, 10)).astype(dtype)
    threads = onepass.get_threads()
    results = []
    try:
        for count in (1, 2, 3):
            onepass.set_threads(count)
            model = small(dtype=dtype)
            y = model.forward(x).tobytes()
            dx = model.backward(dy).tobytes()
            arrays = (*model.gradients(), *model.state().values())
            results.append([y, dx, *(array.tobytes() for array in arrays)])
    finally:
        onepass.set_threads(threads)
    assert results[0] == results[1] == results[2]


def test_batch_norm_refuses_to_train_on_one_row():
    layer = nn.BatchNorm(3)
    with pytest.raises(ValueError, match="x"):
        layer.forward(np.ones((1, 3), dtype=np.float32))
    assert layer.forward(np.ones((1, 3), dtype=np.float32), training=False).shape == (1, 3)
    np.testing.assert_array_equal(layer.running_mean, 0)


def test_steady_state_allocates_no_arrays():
    model = small()
    x, dy = np.ones((256, 64), dtype=np.float32), np.ones((256, 10), dtype=np.float32)

    def step():
        model.forward(x)
        model.backward(dy, False)

    step()
    tracemalloc.start()
    step()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for _ in range(5):
        step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - before < 16_000  # one buffer (256, 128) is 131 kB


def test_buffers_serve_smaller_batches_too():
    model = small()
    rng = np.random.default_rng(0)
    large, little = (rng.normal(size=(rows, 64)).astype(np.float32) for rows in (50, 7))
    first = model.forward(large, False)
    values = first.copy()
    second = model.forward(little, False)
    assert np.shares_memory(first, second)
    np.testing.assert_array_equal(second, small().forward(little, False))
    np.testing.assert_array_equal(model.forward(large, False), values)


def test_state_round_trip():
    model, other = small(seed=1), small(seed=2)
    model.forward(np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32))
    arrays = other.state()
    other.load_state({name: array.copy() for name, array in model.state().items()})
    assert list(arrays) == [
        "0.weight",
        "0.bias",
        "1.gamma",
        "1.beta",
        "1.running_mean",
        "1.running_var",
        "3.weight",
        "3.bias",
    ]
    for name, array in other.state().items():
        assert array is arrays[name]  # copied into, not replaced: the optimizer writes there
        np.testing.assert_array_equal(array, model.state()[name])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("3.bias"), "lacks 3.bias"),
        (lambda state: state.update(more=np.zeros(1)), "holds more"),
        (lambda state: state.update({"3.bias": np.zeros(3)}), r"'3.bias'.*float64 \(3,\)"),
    ],
)
def test_state_is_checked_before_anything_changes(change, match):
    model = small(seed=1)
    before = model.layers[0].weight.copy()
    state = {name: array + 1 for name, array in model.state().items()}
    change(state)
    with pytest.raises(ValueError, match=match):
        model.load_state(state)
    np.testing.assert_array_equal(model.layers[0].weight, before)


def test_errors():
    with pytest.raises(ValueError, match="inputs is 0"):
        nn.Linear(0, 3)
    with pytest.raises(ValueError, match="channels"):
        nn.BatchNorm(0)
    with pytest.raises(ValueError, match="at least one layer"):
        nn.Sequential()
    with pytest.raises(ValueError, match="twice"):
        nn.Sequential(*[nn.ReLU()] * 2)
    for layer in (nn.Linear(2, 2), nn.BatchNorm(2), nn.ReLU()):
        with pytest.raises(RuntimeError, match="before forward"):
            layer.backward(np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(TypeError):
        nn.Linear(2, 2).forward(np.zeros((1, 2)))  # float64 for a float32 layer
    with pytest.raises(ValueError, match="x"):
        nn.Linear(2, 2).forward(np.zeros((1, 3), dtype=np.float32))


def test_layers_that_do_not_fit_are_refused_when_built():
    misfit = r"Linear\(4, 8\) gives 8 features, but Linear\(9, 3\) after it takes 9"
    with pytest.raises(ValueError, match=misfit):
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(ValueError, match=misfit):
        nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Linear(9, 3)))
    with pytest.raises(ValueError, match=r"Linear\(4, 8\) gives 8 features, but BatchNorm\(7\) after it takes 7"):
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm(7))

    class Flatten(nn.Layer):  # its sizes are not known
        pass

    nn.Sequential(nn.BatchNorm(2), Flatten(), nn.Linear(18, 3))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: nn.Sequential(3), r"layers\[0\] is 3, expected an object of nn.Layer"),
        (lambda: nn.Sequential([nn.ReLU()]), r"layers\[0\] is .*pass layers one by one"),
        (lambda: nn.Sequential(nn.ReLU(), seed="a"), "seed is 'a', expected an integer"),
        (lambda: nn.Linear(3.5, 3), "inputs is 3.5, expected an integer"),
        (lambda: nn.Linear(3, None), "outputs is None, expected an integer"),
        (lambda: nn.Linear(3, 3, seed="a"), "seed is 'a', expected an integer"),
        (lambda: nn.BatchNorm(2.0), "channels is 2.0, expected an integer"),
    ],
)
def test_arguments_of_another_type(make, match):
    with pytest.raises(TypeError, match=match):
        make()
