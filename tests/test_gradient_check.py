"""nn.check_gradients: right layers pass, each way of being wrong is named, and the layer is left as it was."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import nn

F64 = np.float64
RIGHT = {
    "model": lambda d: (
        nn.Sequential(nn.Linear(4, 6, dtype=d), nn.BatchNorm(6, dtype=d), nn.GELU(), nn.Linear(6, 2, dtype=d)), (7, 4),
    ),
    "batch norm of planes": lambda d: (nn.BatchNorm(3, dtype=d), (4, 3, 2, 2)),
    "layer norm": lambda d: (nn.LayerNorm((3, 2), dtype=d), (4, 3, 2)),
    "RMS norm": lambda d: (nn.RMSNorm(5, dtype=d), (4, 5)),
    "embedding": lambda d: (nn.Embedding(5, 3, padding_idx=None, dtype=d), np.array([[0, 4, 4], [1, 0, 4]])),
    "residual": lambda d: (nn.Residual(nn.Linear(3, 3, dtype=d), nn.Tanh()), (4, 3)),
    "flatten": lambda d: (nn.Flatten(), np.ones((2, 3, 2), d)),
    "dropout": lambda d: (nn.Sequential(nn.Linear(6, 6, dtype=d), nn.Dropout(0.4), nn.SiLU()), (5, 6)),
    **{
        type(a).__name__: lambda d, a=a: (a, np.array([[-2.0, -0.7, 0.3, 1.5]], d))
        for a in (nn.ReLU(), nn.LeakyReLU(0.2), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.GELU("tanh"))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_layers_pass_and_are_left_alone(name, dtype):
    layer, x = RIGHT[name](dtype)
    before = {key: array.tobytes() for key, array in layer.state().items()}
    given = x.copy() if isinstance(x, np.ndarray) else x
    for seed in range(3):
        nn.check_gradients(layer, x, seed=seed)
    assert {key: array.tobytes() for key, array in layer.state().items()} == before
    assert np.array_equal(given, x)


class Scale(nn.Layer):
    """y = scale x + shift; its methods are made wrong below."""

    in_place = keeps_shape = True

    def __init__(self, dtype=F64):
        self.scale, self.shift = np.linspace(1, 2, 4).astype(dtype), np.zeros(4, dtype)
        self.dscale, self.dshift = np.zeros(4, dtype), np.zeros(4, dtype)

    def forward(self, x, training=True):
        self.x = x
        return self.scale * x + self.shift

    def backward(self, dy, out=None):
        self.dscale[:] = (dy * self.x).sum(axis=0)
        self.dshift[:] = dy.sum(axis=0)
        return None if out is False else np.multiply(dy, self.scale, out=out)

    def parameters(self):
        return [self.scale, self.shift]

    def gradients(self):
        return [self.dscale, self.dshift]

    def state(self):
        return {"scale": self.scale}  # shift has no name


def test_the_layer_is_right_before_it_is_made_wrong(dtype):
    nn.check_gradients(Scale(dtype), (5, 4))


class OneElement(Scale):
    def backward(self, dy, out=None):
        dx = super().backward(dy, out)
        self.dscale[2] *= 1.05
        return dx


class Unnamed(Scale):
    def backward(self, dy, out=None):
        dx = super().backward(dy, out)
        self.dshift[1] = np.nan
        return dx


class Input(Scale):
    def backward(self, dy, out=None):
        dx = super().backward(dy, out)
        if dx is not None:
            dx[3, 1] += 0.5
        return dx


class WritesToDy(Scale):
    def backward(self, dy, out=None):
        return super().backward(dy, dy if out is None else out)


class LeavesOutAlone(Scale):
    def backward(self, dy, out=None):
        return super().backward(dy, None)


class NotInPlace(Scale):
    def backward(self, dy, out=None):
        dx = super().backward(dy, out)
        self.dscale[:] = (dy * self.x).sum(axis=0)  # dy may be dx by now
        return dx


class NoGradient(Scale):
    def backward(self, dy, out=None):
        return None


class OneGradient(Scale):
    def gradients(self):
        return [self.dscale]


class Counting(Scale):
    """Its forward depends on something that is not in its state."""

    calls = 0

    def forward(self, x, training=True):
        self.calls += 1
        return super().forward(x) * self.calls


@pytest.mark.parametrize(
    ("layer", "error", "match"),
    [
        (OneElement(), AssertionError, r"OneElement.backward: gradient of scale\[2\] is .*; 1 of 4 elements are off"),
        (OneElement(np.float32), AssertionError, r"gradient of scale\[2\]"),
        (Unnamed(), AssertionError, r"gradient of parameters\(\)\[1\]\[1\] is nan, central differences say"),
        (Input(), AssertionError, r"gradient of x\[3, 1\] is .*; 1 of 20 elements are off"),
        (WritesToDy(), AssertionError, r"backward\(dy\) wrote to dy"),
        (LeavesOutAlone(), AssertionError, r"backward\(dy, out=an array\) did not return out"),
        (NotInPlace(), AssertionError, r"backward\(dy, out=dy\) has another gradient of scale"),
        (NoGradient(), ValueError, r"returned None, expected the gradient of x, \(5, 4\)"),
        (OneGradient(), ValueError, r"gradients\(\) has shapes \[\(4,\)\], expected those of parameters\(\)"),
        (Counting(), AssertionError, "Counting.backward: gradient of"),
        (Scale(np.float16), TypeError, "are float16, expected all float64 or all float32"),
        (nn.Sequential(Scale(), Scale(np.float32)), TypeError, "are float32, float64, expected"),
        ("layer", TypeError, "layer is 'layer', expected an object of nn.Layer"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Layer) else None,
)
def test_wrong_layers_are_named(layer, error, match):
    with pytest.raises(error, match=match):
        nn.check_gradients(layer, (5, 4))


def test_a_wrong_layer_is_left_alone():
    model = nn.Sequential(nn.BatchNorm(4, dtype=F64), OneElement(), nn.Dropout(0.5))
    before = {key: array.tobytes() for key, array in model.state().items()}
    with pytest.raises(AssertionError, match=r"gradient of 1\.scale\[2\]"):
        nn.check_gradients(model, (5, 4))
    assert {key: array.tobytes() for key, array in model.state().items()} == before


def test_a_model_of_two_types_of_input():
    with pytest.raises(TypeError, match="are float32, float64"):
        nn.check_gradients(Scale(), np.ones((2, 4), np.float32))
