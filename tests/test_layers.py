"""Flatten, Embedding, LayerNorm, RMSNorm, Residual, initializers and summary, against torch and finite differences."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from test_nn import numeric

from onepass import losses, nn, onnx, optim
from onepass.nn import initializers
from onepass.trainer import Trainer

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)
F64 = np.float64

LAYERS = {
    "flatten": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3, dtype=F64)), (5, 2, 6)),
    "flatten after activation": (
        lambda: nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(12, 3, dtype=F64)),
        (5, 2, 6),
    ),
    "layer norm": (lambda: nn.LayerNorm(4, dtype=F64), (5, 3, 4)),
    "layer norm of two axes": (lambda: nn.LayerNorm((3, 4), eps=1e-2, dtype=F64), (5, 3, 4)),
    "layer norm without parameters": (lambda: nn.LayerNorm(4, affine=False, dtype=F64), (5, 4)),
    "RMS norm": (lambda: nn.RMSNorm(4, dtype=F64), (5, 4)),
    "RMS norm without parameters": (lambda: nn.RMSNorm(4, eps=0.1, affine=False, dtype=F64), (5, 4)),
    "residual": (lambda: nn.Residual(nn.Linear(4, 4, dtype=F64), nn.Tanh()), (5, 4)),
    "residual with shortcut": (
        lambda: nn.Residual(
            nn.LayerNorm(4, dtype=F64), nn.Linear(4, 6, dtype=F64), nn.ReLU(), shortcut=nn.Linear(4, 6, dtype=F64)
        ),
        (5, 4),
    ),
    "residual blocks": (
        lambda: nn.Sequential(
            nn.Linear(4, 6, dtype=F64),
            nn.Residual(nn.BatchNorm(6, dtype=F64), nn.ReLU(), nn.Linear(6, 6, dtype=F64)),
            nn.ReLU(),
            nn.Residual(nn.Residual(nn.Tanh()), nn.Linear(6, 6, dtype=F64)),
        ),
        (7, 4),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("where", ["own", "given", "no input gradient"])
def test_gradients(name, where):
    make, shape = LAYERS[name]
    layer, x = make(), RNG.normal(size=shape)
    for parameter in layer.parameters():
        parameter += 0.1 * RNG.normal(size=parameter.shape)
    weight = RNG.normal(size=layer.forward(x).shape)

    def loss():
        return float((layer.forward(x) * weight).sum())

    layer.forward(x)
    out = {"own": None, "given": np.full(shape, np.nan), "no input gradient": False}[where]
    dx = layer.backward(weight.copy(), out)
    gradients = [gradient.copy() for gradient in layer.gradients()]
    if where == "no input gradient":
        assert dx is None
    else:
        assert where == "own" or dx is out
        np.testing.assert_allclose(dx.copy(), numeric(loss, x), rtol=1e-6, atol=1e-8)
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        np.testing.assert_allclose(gradient, numeric(loss, parameter), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_embedding_against_torch(dtype):
    layer = nn.Embedding(9, 5, padding_idx=2, dtype=F64)
    x = RNG.integers(0, 9, (6, 7)).astype(dtype)
    x[0, 0] = 2
    twin = torch.nn.Embedding(9, 5, padding_idx=2, dtype=torch.float64)
    twin.weight.data.copy_(torch.from_numpy(layer.weight))
    y = twin(torch.from_numpy(x.astype(np.int64)))
    assert (layer.forward(x) == y.detach().numpy()).all()
    dy = RNG.normal(size=y.shape)
    y.backward(torch.from_numpy(dy))
    for _ in range(2):
        assert layer.backward(dy) is None
        np.testing.assert_allclose(layer.dweight, twin.weight.grad.numpy(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("rows", "width"), [(7, 1), (500, 3), (700, 100), (3, 40_000)])  # one piece of dy and several
@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_of_an_embedding_is_summed_in_order(rows, width, transposed, dtype):
    """To the bit: numbers of very different size show every other order."""
    layer = nn.Embedding(5, width, padding_idx=3, dtype=dtype)
    x = RNG.integers(0, 5, (rows, 2)).T if transposed else RNG.integers(0, 5, (rows, 2)).astype(np.uint16)
    dy = (RNG.normal(size=(*x.shape, width)) * 10.0 ** RNG.integers(-4, 5, (*x.shape, 1))).astype(dtype)
    layer.forward(x)
    for _ in range(2):
        layer.backward(dy)
    expected = np.zeros_like(layer.weight)
    for row, values in zip(x.reshape(-1), dy.reshape(-1, width), strict=True):
        expected[row] += values
    expected[3] = 0
    assert layer.dweight.tobytes() == expected.tobytes()


def test_a_model_of_words_learns():
    x = RNG.integers(1, 20, (200, 6))
    y = (x < 5).any(axis=1).astype(np.int64)
    model = nn.Sequential(
        nn.Embedding(20, 8, padding_idx=0), nn.LayerNorm(8), nn.Flatten(), nn.Residual(nn.Linear(48, 48), nn.GELU()),
        nn.Linear(48, 2), seed=0,
    )  # fmt: skip
    history = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.01)).fit(x, y, epochs=25)
    assert history[-1]["accuracy"] > 0.95
    assert (model.state()["0.weight"][0] == 0).all()


def test_state_of_blocks():
    make = lambda seed: nn.Sequential(  # noqa: E731
        nn.Embedding(5, 4),
        nn.Flatten(),
        nn.Residual(nn.Linear(8, 8), shortcut=nn.Linear(8, 8)),
        nn.RMSNorm(8),
        seed=seed,
    )
    one, other, x = make(1), make(2), RNG.integers(0, 5, (3, 2))
    assert (one.forward(x) != other.forward(x)).any()
    other.load_state(one.state())
    assert (one.forward(x) == other.forward(x)).all()
    assert "2.shortcut.weight" in one.state()
    assert [p.shape for p in one.parameters()] == [g.shape for g in one.gradients()]


def test_summary():
    model = nn.Sequential(
        nn.Embedding(100, 8), nn.LayerNorm(8), nn.Flatten(),
        nn.Residual(nn.Linear(48, 48), nn.ReLU(), shortcut=nn.Linear(48, 48, bias=False)),
        nn.Linear(48, 3, bias=False), nn.BatchNorm(3),
    )  # fmt: skip
    lines = model.summary((6,)).splitlines()
    cells = [[cell for cell in line.split("  ") if cell] for line in lines[1:-1]]
    found = {row[0].strip(): (row[1].strip(), int(row[-1].replace(",", ""))) for row in cells}
    assert found["0: Embedding(100, 8)"] == ("(N, 6, 8)", 800)
    assert found["2: Flatten()"] == ("(N, 48)", 0)
    assert found["3: Residual"] == ("(N, 48)", 48 * 49 + 48 * 48)
    assert found["shortcut: Linear(48, 48, bias=False)"] == ("(N, 48)", 48 * 48)
    assert found["5: BatchNorm(3)"] == ("(N, 3)", 6)
    total = sum(p.size for p in model.parameters())
    assert lines[-1] == f"{total:,} parameters, {4 * (total + 6):,} bytes of state"
    shown = model.output_shape((6,))
    assert model.forward(RNG.integers(0, 100, (2, 6))).shape[1:] == shown
    with pytest.raises(ValueError, match=r"Linear\(4, 2\) takes rows of shape \(4,\), not \(5,\)"):
        nn.Linear(4, 2).summary((5,))
    with pytest.raises(TypeError, match=r"input_shape is 4, expected the tuple of a row's sizes: \(4,\)"):
        nn.Linear(4, 2).summary(4)


# ---- initializers


@pytest.mark.parametrize("shape", [(300, 200), (64, 32, 3, 3)])
@pytest.mark.parametrize(
    ("own", "theirs"),
    [
        (initializers.kaiming_normal(), lambda w: torch.nn.init.kaiming_normal_(w)),
        (initializers.kaiming_uniform(), lambda w: torch.nn.init.kaiming_uniform_(w)),
        (initializers.kaiming_uniform("fan_out", 0.3), lambda w: torch.nn.init.kaiming_uniform_(w, 0.3, "fan_out")),
        (initializers.xavier_normal(1.7), lambda w: torch.nn.init.xavier_normal_(w, 1.7)),
        (initializers.xavier_uniform(), lambda w: torch.nn.init.xavier_uniform_(w)),
        (initializers.truncated_normal(0.1, 0.7, -1, 1), lambda w: torch.nn.init.trunc_normal_(w, 0.1, 0.7, -1, 1)),
    ],
    ids=["kaiming_normal", "kaiming_uniform", "fan_out", "xavier_normal", "xavier_uniform", "truncated_normal"],
)
def test_distributions_are_torchs(shape, own, theirs):
    from scipy.stats import ks_2samp

    torch.manual_seed(0)
    values = own(np.random.default_rng(0), shape)
    assert values.shape == shape
    expected = theirs(torch.empty(shape)).numpy()
    assert ks_2samp(values.ravel(), expected.ravel()).pvalue > 1e-3
    assert ks_2samp(1.1 * values.ravel(), expected.ravel()).pvalue < 1e-3  # it would see 10 %


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 3, 2, 2)])
def test_orthogonal(shape):
    matrix = initializers.orthogonal(2.0)(np.random.default_rng(0), shape).reshape(shape[0], -1)
    product = matrix @ matrix.T if shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-13)


def test_apply_is_seeded_and_leaves_the_rest():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm(5), nn.Linear(5, 2))
    gamma = model.state()["1.gamma"].copy()
    results = []
    for _ in range(2):
        initializers.apply(model, np.random.default_rng(3), initializers.xavier_normal(), initializers.constant(0.25))
        results.append([p.tobytes() for p in model.parameters()])
    assert results[0] == results[1]
    assert (model.state()["0.bias"] == 0.25).all()
    assert (model.state()["1.gamma"] == gamma).all()


def test_apply_leaves_the_padding_row_zero():
    model = nn.Sequential(nn.Residual(nn.Embedding(7, 4, padding_idx=2), shortcut=nn.Embedding(7, 4)))
    initializers.apply(model, np.random.default_rng(0), initializers.constant(1.0))
    assert model.state()["0.body.0.weight"].sum(axis=1).tolist() == [4, 4, 0, 4, 4, 4, 4]
    model.forward(np.array([[1, 2]]))
    assert model.backward(np.ones((1, 2, 4), np.float32), False) is None
    with pytest.raises(ValueError, match="has no gradient with respect to its input"):
        model.backward(np.ones((1, 2, 4), np.float32))


def test_an_empty_batch_is_flat_too():
    assert nn.Flatten().forward(np.zeros((0, 3, 4))).shape == (0, 12)


# ---- errors and ONNX


def _taken():
    layer = nn.Embedding(3, 2)
    layer.forward(np.array([[0, 1]]))
    return layer


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Embedding(3, 2).forward(np.array([3])), IndexError, r"x holds 3, expected 0 \.\. 2"),
        (lambda: nn.Embedding(3, 2).forward(np.array([-1])), IndexError, "x holds -1"),
        (lambda: nn.Embedding(3, 2).forward(np.array([2, -1], np.int8)), IndexError, "x holds -1"),
        (lambda: nn.Embedding(3, 2).forward(np.array([2**64 - 2], np.uint64)), IndexError, f"x holds {2**64 - 2}"),
        (lambda: nn.Embedding(3, 2).forward(np.array([1.0])), TypeError, "x has dtype float64, expected integers"),
        (lambda: nn.Embedding(3, 2).forward([1]), TypeError, "x is a list, expected a NumPy array of integers"),
        (lambda: _taken().backward(np.ones(2, np.float32)), ValueError, r"dy has shape \(2,\), expected \(1, 2, 2\)"),
        (
            lambda: nn.Residual(nn.Linear(4, 5), shortcut=nn.Linear(4, 7)).summary((4,)),
            ValueError,
            r"its body gives rows of shape \(5,\), the way around it \(7,\)",
        ),
        (lambda: nn.Embedding(3, 2, padding_idx=3), ValueError, "padding_idx is 3, expected less than"),
        (
            lambda: nn.LayerNorm(4).forward(np.zeros((2, 3))),
            ValueError,
            r"x has shape \(2, 3\), expected \(N, \.\.\., 4\)",
        ),
        (lambda: nn.LayerNorm(0), ValueError, "normalized_shape is 0"),
        (
            lambda: nn.Residual(nn.Linear(4, 3)).forward(np.zeros((2, 4), np.float32)),
            ValueError,
            r"body\(x\) has shape \(2, 3\), x \(2, 4\)",
        ),
        (lambda: nn.Residual(nn.ReLU(), shortcut=3), TypeError, "shortcut is 3"),
        (lambda: nn.Flatten().backward(np.zeros((2, 4))), RuntimeError, "before forward"),
        (lambda: initializers.xavier_normal()(RNG, (3,)), ValueError, "a vector has no fans"),
        (lambda: initializers.kaiming_normal("fan"), ValueError, "mode is 'fan'"),
        (lambda: initializers.truncated_normal(low=20, high=30), ValueError, "next to nothing"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_blocks_in_onnx():
    model = nn.Sequential(
        nn.LayerNorm((3, 4), eps=1e-3), nn.Flatten(), nn.Residual(nn.Linear(12, 12), nn.SiLU()),
        nn.Residual(nn.Linear(12, 5), shortcut=nn.Linear(12, 5)),
    )  # fmt: skip
    x = RNG.normal(size=(6, 3, 4)).astype(np.float32)
    proto = onnx.export(model, None, (3, 4))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], model.forward(x, False), rtol=1e-5, atol=1e-5)


def test_initializers_say_what_they_expect():
    model, rng = nn.Sequential(nn.Linear(4, 2)), np.random.default_rng(0)
    with pytest.raises(TypeError, match=r"rng is 0, expected a generator: numpy.random.default_rng\(seed\)"):
        initializers.apply(model, 0, weight=initializers.constant(0.0))
    with pytest.raises(TypeError, match=r"weight is the factory xavier_uniform, expected what it makes: xavier_unif"):
        initializers.apply(model, rng, weight=initializers.xavier_uniform)


def test_a_layer_without_a_method_is_told_which():
    class Empty(nn.Layer):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no forward"):
        Empty().forward(np.ones((2, 3)))
    with pytest.raises(NotImplementedError, match="Empty has no backward"):
        Empty().backward(np.ones((2, 3)))
    with pytest.raises(NotImplementedError, match="set keeps_shape = True in its class, or define output_shape"):
        Empty().summary((3,))
