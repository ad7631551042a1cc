"""A ReLU that runs in the pass of the layer before it changes nothing that a user sees: not a bit, not a name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import losses, nn, optim
from onepass.trainer import Trainer

LAYERS = {
    "linear": (lambda dtype: nn.Linear(7, 5, dtype=dtype), (9, 7)),
    "linear without bias": (lambda dtype: nn.Linear(7, 5, bias=False, dtype=dtype), (9, 7)),
    "convolution": (lambda dtype: nn.Conv2d(3, 4, 3, padding=1, dtype=dtype), (5, 3, 6, 7)),
    "batch norm": (lambda dtype: nn.BatchNorm(6, dtype=dtype), (33, 6)),
    "batch norm of images": (lambda dtype: nn.BatchNorm(3, dtype=dtype), (5, 3, 6, 7)),
    "batch norm without parameters": (lambda dtype: nn.BatchNorm(6, affine=False, dtype=dtype), (33, 6)),
    "batch norm that counts batches": (lambda dtype: nn.BatchNorm(6, momentum=None, dtype=dtype), (33, 6)),
}


def one_by_one(layers, x, training, dy, dx):
    """What the layers do without `Sequential`."""
    for layer in layers:
        x = layer.forward(x, training)
    y = x.copy()
    gradient = dy
    for index in reversed(range(len(layers))):
        gradient = layers[index].backward(gradient, None if dx or index else False)
    return y, None if gradient is None else gradient.copy()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("training", "dx"), [*itertools.product([True, False], repeat=2)])
def test_same_bits_with_and_without(name, training, dx, dtype, rng):
    make, shape = LAYERS[name]
    pair = [make(dtype), nn.ReLU()], [make(dtype), nn.ReLU()]
    model = nn.Sequential(*pair[0], seed=None)
    x = rng.normal(size=shape).astype(dtype)
    x.reshape(-1)[3] = -0.0
    for ours, alone in zip(model.parameters(), pair[1][0].parameters(), strict=True):
        ours += rng.normal(size=ours.shape).astype(dtype)
        alone[...] = ours
    for _ in range(3):
        y = model.forward(x, training)
        dy = rng.normal(size=y.shape).astype(dtype)
        given = dy.copy()
        gradient = model.backward(given, None if dx else False)
        assert_same_bits(given, dy, "the caller's array")
        expected, expected_gradient = one_by_one(pair[1], x, training, dy, dx)
        assert_same_bits(y, expected)
        if dx:
            assert_same_bits(gradient, expected_gradient)
        for ours, alone in zip(model.gradients(), pair[1][0].gradients(), strict=True):
            assert_same_bits(ours, alone)
        for key, array in pair[1][0].state().items():
            assert_same_bits(model.state()[f"0.{key}"], array, key)


def make_network(dtype, fused):
    relu = nn.ReLU if fused else type("ReluApart", (nn.ReLU,), {})  # a class of one's own is left alone
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, dtype=dtype), relu(), nn.BatchNorm(3, dtype=dtype), relu(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Sequential(nn.Linear(27, 12, dtype=dtype), relu()),
        nn.Residual(nn.Linear(12, 12, dtype=dtype), nn.BatchNorm(12, dtype=dtype), relu(), relu()),
        nn.Linear(12, 4, dtype=dtype), seed=3,
    )  # fmt: skip


def test_a_training_has_the_same_bits(dtype, rng):
    x, y = rng.normal(size=(50, 1, 8, 8)).astype(dtype), rng.integers(0, 4, 50)
    models = [make_network(dtype, fused) for fused in (True, False)]
    steps = [len(model._steps) for model in models]
    assert steps == [7, 9]
    histories = []
    for model in models:
        trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.01))
        histories.append(trainer.fit(x, y, epochs=3, batch_size=16))
    assert [record["loss"] for record in histories[0]] == [record["loss"] for record in histories[1]]
    for name, array in models[0].state().items():
        assert_same_bits(array, models[1].state()[name], name)
    assert_same_bits(models[0].forward(x, False), models[1].forward(x, False))


def test_layers_can_be_called_by_hand_afterwards(dtype, rng):
    """As who looks at the gradient of a feature map does."""
    x, dy = rng.normal(size=(9, 7)).astype(dtype), rng.normal(size=(9, 5)).astype(dtype)
    for make in (lambda: nn.Linear(7, 5, dtype=dtype), lambda: nn.BatchNorm(7, dtype=dtype)):
        model = nn.Sequential(make(), nn.ReLU())
        y = model.forward(x).copy()
        slope = dy if y.shape == dy.shape else np.concatenate([dy, dy[:, :2]], axis=1)
        whole = model.backward(slope).copy()
        after = model.layers[1].backward(slope)
        assert_same_bits(after, np.where(y > 0, slope, 0).astype(dtype))
        assert_same_bits(model.layers[0].backward(after), whole)


def test_a_layer_of_ones_own_is_not_fused(rng):
    class Doubled(nn.Linear):
        """Its forward is not Linear's, so that Linear's pass with a ReLU is not for it."""

        def forward(self, x, training=True):
            return 2 * super().forward(x, training)

    class Named(nn.Linear):
        """Only a name more."""

        name = "dense"

    x = rng.normal(size=(4, 3)).astype(np.float32)
    model = nn.Sequential(Doubled(3, 2), nn.ReLU(), Named(2, 2), nn.ReLU(), nn.BatchNorm(2, relu=True), nn.ReLU())
    assert [relu is not None for _, relu in model._steps] == [False, False, True, False, False]
    y = nn.Sequential(*model.layers[:2], seed=None).forward(x)
    np.testing.assert_array_equal(y, np.maximum(2 * (x @ model.layers[0].weight.T + model.layers[0].bias), 0))


def test_what_a_layer_returns_of_the_callers_array_stays_the_callers(rng):
    """Flatten's gradient is a view: neither the ReLU of a pass nor one in place may write there."""
    shape, dy = (3, 2, 4, 4), rng.normal(size=(3, 32))
    for first in (nn.Conv2d(2, 2, 3, padding=1, dtype=np.float64), nn.Tanh()):
        block = nn.Residual(first, nn.ReLU(), nn.Flatten(), shortcut=nn.Flatten())
        block.forward(rng.normal(size=shape))
        given = dy.copy()
        block.backward(given)
        np.testing.assert_array_equal(given, dy)
        nn.check_gradients(block, shape)


def test_a_layer_without_a_gradient_below_others_is_named(rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.Embedding(4, 2), seed=None)
    model.layers[2].forward(np.zeros((5, 3), int))
    with pytest.raises(ValueError, match=r"^Embedding\(4, 2\) gives no gradient to Linear\(3, 3\) before it"):
        model.backward(np.ones((5, 3, 2), np.float32))


def test_neighbours_across_a_pool_and_classes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"Conv2d\(1, 8, 3\) gives 8 features, but Conv2d\(4, 8, 3\) after it takes 4"):
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3))
    with pytest.raises(TypeError, match=r"make one with ReLU\(\.\.\.\)"):
        nn.Sequential(nn.Linear(2, 2), nn.ReLU)


def test_backward_before_forward_is_an_error():
    for layers in ([nn.Linear(3, 2), nn.ReLU()], [nn.BatchNorm(2), nn.ReLU()], [nn.Conv2d(2, 2, 1), nn.ReLU()]):
        with pytest.raises(RuntimeError, match="was called before forward"):
            nn.Sequential(*layers).backward(np.ones((4, 2), np.float32))
