"""A model in another type: the same network, with arrays of its own."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from onepass import losses, nn, optim
from onepass.trainer import Trainer


def network(dtype):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same", dtype=dtype),
        nn.BatchNorm(4, dtype=dtype),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Residual(nn.Linear(36, 36, dtype=dtype), nn.LayerNorm(36, dtype=dtype), nn.GELU()),
        nn.RMSNorm(36, dtype=dtype),
        nn.Linear(36, 3, dtype=dtype),
        seed=5,
    )


def gradients(model, x):
    model.backward(np.ones_like(model.forward(x)), False)
    return model.gradients()


def test_the_copy_is_the_same_network(rng):
    """Output and gradients of the copy are those of a network that was made in float64 with the same numbers."""
    x = rng.standard_normal((8, 1, 6, 6))
    single, double = network(np.float32), network(np.float64)
    for array in single.state().values():
        array += rng.uniform(0, 0.1, array.shape).astype(np.float32)
    double.load_state({name: array.astype(np.float64) for name, array in single.state().items()})
    single.forward(x.astype(np.float32))
    single.load_state({name: array.astype(np.float32) for name, array in double.state().items()})
    copy = single.astype(np.float64)
    for training in (False, True):
        assert np.array_equal(copy.forward(x, training), double.forward(x, training))
    for ours, made in zip(gradients(copy, x), gradients(double, x), strict=True):
        assert ours.dtype == np.float64
        assert np.array_equal(ours, made)
    assert {str(array.dtype) for array in copy.state().values()} == {"float64"}
    assert {str(array.dtype) for array in single.state().values()} == {"float32"}
    back = copy.astype("float32")
    assert back.forward(x.astype(np.float32), False).dtype == np.float32


def test_the_copy_shares_no_memory():
    model = network(np.float32)
    model.forward(np.ones((4, 1, 6, 6), np.float32))
    for twin in (model.astype(np.float32), model.astype(np.float64)):
        before = {name: array.copy() for name, array in model.state().items()}
        for array in (*twin.state().values(), *twin.gradients()):
            array.fill(7)
        assert all(np.array_equal(array, before[name]) for name, array in model.state().items())


def test_the_copy_trains(rng):
    x = rng.standard_normal((60, 4))
    y = (x[:, 0] > 0).astype(np.int64)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)).astype(
        "float64"
    )
    trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.02))
    assert trainer.fit(x, y, epochs=20, batch_size=20)[-1]["accuracy"] > 0.9


def test_shared_parameters_stay_shared():
    class Tied(nn.Layer):
        def __init__(self):
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

        def children(self):
            return [("first", self.first), ("second", self.second)]

        def parameters(self):
            return [*self.first.parameters(), self.second.bias]

    copy = Tied().astype(np.float64)
    assert copy.first.weight is copy.second.weight
    assert copy.second.bias.dtype == np.float64


def test_integers_and_counters_stay(rng):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Dropout(0.5, seed=3), nn.BatchNorm(8, momentum=None))
    model.forward(rng.integers(0, 5, (6, 2)))
    copy = model.astype(np.float64)
    types = {name: str(array.dtype) for name, array in copy.state().items()}
    assert types["2.generator"] == "uint64"
    assert types["3.num_batches_tracked"] == "int64"
    assert types["0.weight"] == types["3.running_var"] == "float64"


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex128"])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match=f"dtype is {dtype}, expected float32 or float64"):
        nn.Linear(2, 2).astype(dtype)


def test_parameters_that_cannot_be_reached_are_named():
    class Hidden(nn.Layer):
        def __init__(self):
            self.arrays = {"weight": np.ones(3, np.float32)}

        def parameters(self):
            return list(self.arrays.values())

    with pytest.raises(TypeError, match=r"parameters\(\)\[0\] of .*Hidden.* is float32 .* make the model with dtype"):
        Hidden().astype(np.float64)


def test_a_deep_copy_computes_into_memory_of_its_own(rng):
    layer = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = rng.standard_normal((4, 3)).astype(np.float32)
    y = layer.forward(x).copy()
    twin = copy.deepcopy(layer)
    twin.forward(-x)
    assert np.array_equal(layer.forward(x), y)
