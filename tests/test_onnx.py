"""Exported models give in onnxruntime what they give here."""

from __future__ import annotations

import numpy as np
import onnx as onnx_package
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from onepass import kernels, losses, nn, onnx, optim
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
ACTIVATIONS = [nn.ReLU(), nn.LeakyReLU(0.2), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid(), nn.Tanh()]


def run(model, x, *arguments, **options):
    proto = onnx.export(model, None, x.shape[1:], *arguments, **options)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def assert_same(model, x, **options):
    expected = model.forward(x, False).copy()
    result = run(model, x, **options)
    assert result.dtype == expected.dtype
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        result, expected, rtol=64 * np.finfo(x.dtype).eps, atol=64 * np.finfo(x.dtype).eps * scale
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_activations(activation, dtype):
    x = (3 * RNG.normal(size=(7, 5))).astype(dtype)
    model = nn.Sequential(nn.Linear(5, 6, dtype=dtype), activation)
    if dtype == "float64" and isinstance(activation, nn.GELU) and activation.approximate == "none":
        with pytest.raises(Exception, match="Erf"):  # the runtime has it in float32 only
            run(model, x)
        return
    assert_same(model, x)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_trained_model(rows, dtype):
    x = RNG.normal(size=(200, 9)).astype(dtype)
    y = (x[:, 0] > 0).astype(np.int64)
    inner = nn.Sequential(nn.BatchNorm(12, dtype=dtype, population=True), nn.Tanh(), nn.Dropout(0.5))
    model = nn.Sequential(
        nn.Linear(9, 12, bias=False, dtype=dtype), inner, nn.Linear(12, 8, dtype=dtype),
        nn.BatchNorm(8, dtype=dtype, affine=False, relu=True, eps=1e-3), nn.Linear(8, 2, dtype=dtype), seed=1,
    )  # fmt: skip
    Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.01)).fit(x, y, epochs=3)
    assert np.abs(inner.layers[0].running_mean).max() > 0.01
    assert_same(model, x[:rows])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("shape", [5, (4, 5)], ids=str)
def test_normalization_of_rows(kind, shape, affine, dtype):
    x = (3 * RNG.normal(size=(7, 4, 5)) + 1).astype(dtype)
    layer = kind(shape, affine=affine, dtype=dtype)
    for parameter in layer.parameters():
        parameter[...] = RNG.normal(size=parameter.shape)
    assert_same(nn.Sequential(layer, nn.Flatten(), nn.Linear(20, 3, dtype=dtype)), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shortcut", [False, True])
def test_residual_blocks(shortcut, dtype):
    around = nn.Linear(5, 6, dtype=dtype) if shortcut else None
    block = nn.Residual(nn.Linear(5, 6 if shortcut else 5, dtype=dtype), nn.ReLU(), shortcut=around)
    assert_same(nn.Sequential(block, nn.ReLU()), RNG.normal(size=(7, 5)).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_embedding_takes_integers(dtype):
    inner = nn.Sequential(nn.Embedding(11, 4, dtype=dtype), nn.Flatten())
    model = nn.Sequential(inner, nn.Linear(12, 2, dtype=dtype))
    x = RNG.integers(0, 11, (7, 3))
    expected = model.forward(x, False).copy()
    np.testing.assert_allclose(run(model, x), expected, rtol=64 * np.finfo(dtype).eps, atol=64 * np.finfo(dtype).eps)


def test_images_and_batch_norm_of_planes():
    x = RNG.normal(size=(4, 3, 5, 6)).astype(np.float32)
    model = nn.Sequential(nn.BatchNorm(3), nn.ReLU())
    model.forward(x)
    assert_same(model, x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolution_and_pooling(dtype):
    x = RNG.normal(size=(4, 3, 11, 9)).astype(dtype)
    model = nn.Sequential(
        nn.Conv2d(3, 5, (3, 2), stride=(1, 2), padding=(2, 1), dtype=dtype), nn.BatchNorm(5, dtype=dtype), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1), nn.Conv2d(5, 4, 1, bias=False, dtype=dtype), nn.ReLU(), nn.AvgPool2d(2, 1, 1),
        nn.Flatten(), nn.Linear(4 * 8 * 4, 2, dtype=dtype), seed=0,
    )  # fmt: skip
    model.forward(x)
    if dtype == "float32":
        assert_same(model, x)
        return
    # the runtime has Conv and pooling in float32 only; onnx's own evaluator in both
    (result,) = ReferenceEvaluator(onnx.export(model, None, x.shape[1:])).run(None, {"x": x})
    np.testing.assert_allclose(result, model.forward(x, False), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options", [{}, {"eps": 0.1}, {"affine": False}, {"normalized_shape": (3, 4)}], ids=["", "eps", "plain", "two axes"]
)
def test_rms_norm(options, dtype):
    layer = nn.RMSNorm(**{"normalized_shape": 4, "dtype": dtype, **options})
    for gamma in layer.parameters():
        gamma[...] = RNG.normal(size=gamma.shape)
    x = (RNG.normal(size=(5, 3, 4)) * 10.0 ** RNG.integers(-3, 3, (5, 1, 1))).astype(dtype)
    assert_same(nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2, dtype=dtype)), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_of_words(dtype):
    x = RNG.integers(0, 9, (4, 6))
    model = nn.Sequential(
        nn.Embedding(9, 5, padding_idx=0, dtype=dtype), nn.RMSNorm(5, dtype=dtype), nn.Flatten(),
        nn.Linear(30, 3, dtype=dtype),
    )  # fmt: skip
    proto = onnx.export(model, None, (6,))
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx_package.TensorProto.INT64
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = model.forward(x, False)
    (result,) = session.run(None, {"x": x})
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-6)
    table = nn.Sequential(nn.Flatten(), nn.Embedding(9, 5, dtype=dtype))  # integers through a layer; the same bits
    np.testing.assert_array_equal(run(table, x.reshape(4, 2, 3)), table.forward(x, False))


def test_numbers_that_a_layer_rounds():
    """A layer of one's own may make integers of numbers: then numbers are what the graph takes."""

    class Round(nn.Layer):
        keeps_shape = True

        def forward(self, x, training=True):
            return x.astype(np.int64)

    @onnx.register(Round)
    def convert(layer, graph, x):
        return graph.node("Cast", x, to=onnx_package.TensorProto.INT64)

    x = RNG.uniform(0, 9, (4, 2)).astype(np.float32)
    model = nn.Sequential(Round(), nn.Embedding(9, 5))
    np.testing.assert_array_equal(run(model, x), model.forward(x, False))


def test_softmax_names_and_file(tmp_path):
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 5))
    path = tmp_path / "model.onnx"
    proto = onnx.export(model, path, (4,), softmax=True, names=("features", "probabilities"))
    assert onnx_package.load(path) == proto
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ((name, shape),) = [(i.name, i.shape) for i in session.get_inputs()]
    assert (name, shape) == ("features", ["N", 4])
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("probabilities", ["N", 5])]
    expected = kernels.softmax(model.forward(x, False))
    np.testing.assert_allclose(session.run(None, {"features": x})[0], expected, rtol=1e-5)


def test_a_model_that_does_nothing():
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    assert (run(nn.Sequential(nn.Dropout(0.5)), x) == x).all()


def test_a_layer_of_ones_own():
    class Shift(nn.Layer):
        def forward(self, x, training=True):
            return x + 3

    model = nn.Sequential(nn.Linear(4, 4), Shift())
    with pytest.raises(TypeError, match=r"has no ONNX form; give it one with onepass\.onnx\.register\(Shift\)"):
        onnx.export(model, None, (4,))

    @onnx.register(Shift)
    def convert(layer, graph, x):
        return graph.node("Add", x, graph.constant(3.0))

    assert_same(model, RNG.normal(size=(3, 4)).astype(np.float32))


def test_errors():
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, dtype="float64"))
    with pytest.raises(ValueError, match="parameters of types float32, float64, expected one"):
        onnx.export(mixed, None, (4,))
    with pytest.raises(ValueError, match="channel_axis -1; ONNX normalizes axis 1 only"):
        onnx.export(nn.Sequential(nn.BatchNorm(3, channel_axis=-1)), None, (5, 3))
