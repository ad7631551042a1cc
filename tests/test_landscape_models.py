"""onepass.landscape.from_model and from_torch: the same loss, gradient and Hessian, whoever computes them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from onepass import landscape, losses, nn


def data(rows=24, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 5)), rng.integers(0, classes, rows)


def network(dtype=np.float32):
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm(6), nn.Tanh(), nn.Linear(6, 3), seed=4)
    return model if dtype == np.float32 else model.astype(dtype)


# ---- from_model


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
def test_loss_and_gradient_are_the_models_in_float64(dtype, training):
    x, y = data()
    model, loss = network(dtype), losses.CrossEntropy()
    f = landscape.from_model(model, loss, x, y, training=training)
    twin = model.astype(np.float64)
    expected, grad = loss(twin.forward(x, training), y)
    twin.backward(grad, False)
    found, gradient = f(f.theta)
    assert found == expected
    assert gradient.tolist() == np.concatenate([g.ravel() for g in twin.gradients()]).tolist()
    assert f.theta.tolist() == np.concatenate([p.ravel() for p in model.parameters()]).astype(np.float64).tolist()
    assert f.shapes == [(6, 5), (6,), (6,), (6,), (3, 6), (3,)]
    assert (f.theta.dtype, gradient.dtype, f.theta.shape) == (np.float64, np.float64, (69,))
    assert f.loss(f.theta) == found
    assert landscape.gradient_check(f, f.theta)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_same_theta_has_the_same_loss_and_the_callers_model_is_left_alone(momentum):
    x, y = data()
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm(6, momentum=momentum), nn.ReLU(), nn.Linear(6, 3))
    model.forward(x.astype(np.float32))  # so that the running statistics are not those of the start
    before = {name: array.copy() for name, array in model.state().items()}
    for training in (True, False):
        f = landscape.from_model(model, losses.CrossEntropy(), x, y, training=training)
        first, other = f(f.theta), f.loss(f.theta + 0.5)
        assert other != first[0]
        f.gauss_newton_vector(f.theta, np.ones(f.theta.size))
        again = f(f.theta)
        assert (again[0], again[1].tolist()) == (first[0], first[1].tolist())
    for name, array in model.state().items():
        assert (array == before[name]).all(), name


def test_running_statistics_do_not_drift_in_training():
    """They are put back before every pass: after many the copy is one batch from the start, not many."""
    x, y = data()
    model = network()
    f = landscape.from_model(model, losses.CrossEntropy(), 10 + x, y)
    once = {name: array.copy() for name, array in f._model.state().items() if "running" in name}
    assert once
    for _ in range(5):
        f(f.theta)
    for name, array in once.items():
        assert (f._model.state()[name] == array).all(), name


def test_assign_writes_into_the_callers_model():
    x, y = data()
    for dtype in (np.float32, np.float64):
        model = network(dtype)
        f = landscape.from_model(model, losses.CrossEntropy(), x, y)
        theta = np.arange(69.0) / 7
        arrays = model.parameters()
        f.assign(theta)
        assert all(a is b for a, b in zip(arrays, model.parameters(), strict=True))
        written = np.concatenate([p.ravel() for p in arrays])
        assert written.tolist() == theta.astype(dtype).tolist()
    with pytest.raises(ValueError, match=r"theta has shape \(3,\), expected \(69,\)"):
        f.assign(np.zeros(3))


def test_a_theta_may_come_in_an_object():
    x, y = data()
    f = landscape.from_model(network(), losses.CrossEntropy(), x, y)
    assert f.loss(f) == f.loss(f.theta)  # f has a theta itself


def test_targets_and_weights_of_every_kind():
    x, y = data()
    weight = np.array([1.0, 2.0, 0.5], np.float32)
    f = landscape.from_model(network(), losses.CrossEntropy(weight=weight), x.astype(np.float32), y.astype(np.int32))
    assert landscape.gradient_check(f, f.theta)
    assert weight.dtype == np.float32
    soft = np.random.default_rng(0).dirichlet(np.ones(3), 24).astype(np.float32)
    assert landscape.gradient_check(f := landscape.from_model(network(), losses.CrossEntropy(), x, soft), f.theta)
    real = np.random.default_rng(0).random((24, 3)).astype(np.float32)
    for loss in (losses.MeanSquaredError(), losses.Huber(), losses.BinaryCrossEntropyWithLogits()):
        f = landscape.from_model(network(), loss, x, real)
        assert landscape.gradient_check(f, f.theta), loss


def test_integers_go_in_as_they_are():
    words, y = np.random.default_rng(0).integers(0, 7, (10, 4)), np.arange(10) % 2
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 2))
    f = landscape.from_model(model, losses.CrossEntropy(), words, y)
    assert landscape.gradient_check(f, f.theta)


def test_images():
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    f = landscape.from_model(model, losses.CrossEntropy(), rng.random((5, 1, 6, 6)), rng.integers(0, 2, 5))
    assert landscape.gradient_check(f, f.theta)


def test_copies_of_a_function_are_independent():
    x, y = data()
    f = landscape.from_model(network(), losses.CrossEntropy(), x, y)
    g = copy.deepcopy(f)
    g(np.zeros(69))
    assert f.loss(f.theta) == g.loss(f.theta)
    assert not np.shares_memory(f._parameters[0], g._parameters[0])
    assert g._parameters[0] is g._model.parameters()[0]


def test_dropout_is_refused_in_training_and_fine_in_inference():
    x, y = data()
    model = nn.Sequential(nn.Residual(nn.Linear(5, 5), nn.Dropout(0.5)), nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"holds Dropout\(0\.5\), whose loss in training.*pass training=False"):
        landscape.from_model(model, losses.CrossEntropy(), x, y)
    f = landscape.from_model(model, losses.CrossEntropy(), x, y, training=False)
    assert f.loss(f.theta) == f.loss(f.theta)
    landscape.from_model(nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.0)), losses.CrossEntropy(), x, y)


def test_shared_parameters_are_refused():
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.weight = first.weight
    with pytest.raises(ValueError, match="two layers of the model share a parameter"):
        landscape.from_model(nn.Sequential(first, second), losses.CrossEntropy(), *data())


def test_other_random_layers_are_found_out():
    class Noise(nn.Layer):
        keeps_shape = True
        rng = np.random.default_rng(0)

        def forward(self, x, training=True):
            return x + self.rng.standard_normal(x.shape) if training else x

        def backward(self, dy, out=None):
            return None if out is False else dy

    x, y = data()
    model = nn.Sequential(nn.Linear(5, 3, dtype=np.float64), Noise())
    with pytest.raises(ValueError, match=r"the loss at the same theta is .* and then .*pass training=False"):
        landscape.from_model(model, losses.CrossEntropy(), x, y)
    landscape.from_model(model, losses.CrossEntropy(), x, y, training=False)


class Old:
    """A model that cannot be converted."""

    def __init__(self):
        self.layer = nn.Linear(5, 3)

    def __getattr__(self, name):
        if name in ("forward", "backward", "parameters", "gradients", "state"):
            return getattr(self.layer, name)
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"model": 3}, TypeError, "model is 3, expected an nn.Layer"),
        ({"model": nn.Linear}, TypeError, "expected an nn.Layer"),
        ({"model": nn.Sequential(nn.Tanh())}, ValueError, "has no parameters"),
        ({"model": Old()}, TypeError, "parameters are float32, expected float64; build its layers with dtype"),
        ({"loss": losses.CrossEntropy}, TypeError, r"make one with CrossEntropy\(\)"),
        ({"loss": "mse"}, TypeError, "loss is 'mse', expected a loss"),
        ({"x": np.ones((3, 5))}, ValueError, "x has 3 rows and y 24, expected as many"),
        ({"x": np.full((24, 5), np.nan)}, ValueError, "x holds NaN or inf in row 0"),
        ({"x": np.full((24, 5), "a")}, TypeError, "x is <U1, expected numbers"),
        ({"x": np.ones((24, 5)) * 1j}, TypeError, "x is complex128, expected numbers"),
        ({"x": 3.0}, ValueError, "x is 3.0, expected an array with at least one row"),
        ({"x": np.ones((0, 5)), "y": np.ones(0, int)}, ValueError, "with at least one row"),
    ],
)
def test_from_model_refuses(arguments, error, text):
    x, y = data()
    with pytest.raises(error, match=text):
        landscape.from_model(**{"model": network(), "loss": losses.CrossEntropy(), "x": x, "y": y, **arguments})


@pytest.mark.parametrize(
    ("theta", "error", "text"),
    [
        (np.zeros(3), ValueError, r"theta has shape \(3,\), expected \(69,\)"),
        (np.zeros(69, np.float32), TypeError, r"theta is float32, expected a flat float64 array \(69,\)"),
        ([np.zeros(69)], TypeError, "expected a flat float64 array"),
    ],
)
def test_thetas_that_a_models_function_refuses(theta, error, text):
    x, y = data()
    f = landscape.from_model(network(), losses.CrossEntropy(), x, y)
    for call in (f, f.loss, f.assign, lambda t: f.gauss_newton_vector(f.theta, t)):
        with pytest.raises(error, match=text.replace("theta ", ".* ")):
            call(theta)


# ---- from_torch


def torch_twin(torch, activation="Tanh"):
    module = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), getattr(torch.nn, activation)(), torch.nn.Linear(6, 3)
    )
    ours = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm(6), getattr(nn, activation)(), nn.Linear(6, 3), seed=4)
    return module, ours


@pytest.mark.parametrize("activation", ["Tanh", "ReLU", "SiLU"])
@pytest.mark.parametrize("training", [True, False])
def test_torchs_double_backward_agrees(activation, training):
    torch = pytest.importorskip("torch")
    x, y = data()
    module, model = torch_twin(torch, activation)
    module.train(training)
    g = landscape.from_torch(module, torch.nn.functional.cross_entropy, torch.tensor(x, dtype=torch.float32), y)
    f = landscape.from_model(model, losses.CrossEntropy(), x.astype(np.float32), y, training=training)
    assert g.shapes == f.shapes
    assert g.theta.dtype == np.float64
    rng = np.random.default_rng(0)
    theta = f.theta + 0.1 * rng.standard_normal(69)
    assert g.loss(theta) == pytest.approx(f.loss(theta), rel=1e-12)
    np.testing.assert_allclose(g(theta)[1], f(theta)[1], atol=1e-13)
    for v in (*rng.standard_normal((4, 69)), *np.eye(69)[::20]):
        true = g.hessian_vector(theta, v)
        found = landscape.hessian_vector_product(f, theta, v)
        assert np.linalg.norm(found.value - true) < 3 * found.error
        assert found.error < 1e-6 * max(1.0, np.linalg.norm(true))
        exact = landscape.hessian_vector_product(g, theta, v)
        assert exact.exact
        np.testing.assert_allclose(exact.value, true, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(f.gauss_newton_vector(theta, v), g.gauss_newton_vector(theta, v), atol=1e-7)
    # and differences of torch's own gradient say the same as its double backward
    h, error = landscape.hessian(g, theta, return_error=True)
    differences, other = landscape.hessian(lambda t: g(t), theta, return_error=True)
    assert np.linalg.norm(h - differences) < 3 * (error + other)


def test_torchs_gauss_newton_is_its_jacobians_product():
    torch = pytest.importorskip("torch")
    x, y = data()
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    g = landscape.from_torch(module, torch.nn.functional.cross_entropy, x, y)
    names = [name for name, _ in module.named_parameters()]

    def predict(*parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, given, (torch.from_numpy(x),)).ravel()

    columns = torch.autograd.functional.jacobian(predict, tuple(module.parameters()))
    j = torch.cat([c.reshape(72, -1) for c in columns], dim=1).numpy()
    p = torch.softmax(module(torch.from_numpy(x)), 1).detach().numpy()
    middle = np.zeros((72, 72))
    for row in range(24):
        middle[3 * row : 3 * row + 3, 3 * row : 3 * row + 3] = (np.diag(p[row]) - np.outer(p[row], p[row])) / 24
    found = landscape.gauss_newton_operator(g, g.theta) @ np.eye(g.theta.size)
    np.testing.assert_allclose(found, j.T @ middle @ j, atol=1e-13)


def test_a_torch_module_is_left_alone_and_written_to_when_asked():
    torch = pytest.importorskip("torch")
    x, y = data()
    module, _ = torch_twin(torch)
    module[0].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    g = landscape.from_torch(module, torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3])), x, y)
    assert g.theta.size == 63
    first = g(g.theta)
    g.hessian_vector(g.theta + 1, np.ones(63))
    assert (g(g.theta)[0], g(g.theta)[1].tolist()) == (first[0], first[1].tolist())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert landscape.gradient_check(g, g.theta)
    g.assign(np.arange(63.0))
    assert module[0].weight.dtype == torch.float32
    assert module[0].weight.ravel().tolist() == list(range(30))
    assert torch.equal(module[0].bias, before["0.bias"])
    assert module[3].bias.tolist() == [60.0, 61.0, 62.0]


def test_what_a_torch_module_counts_in_a_buffer_starts_anew():
    torch = pytest.importorskip("torch")

    class Counting(torch.nn.Linear):
        def __init__(self):
            super().__init__(5, 1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.calls * super().forward(x)

    x, y = data()
    g = landscape.from_torch(Counting(), lambda p, y: (p**2).mean(), x, y)
    assert g.loss(g.theta) == g.loss(g.theta) == g(g.theta)[0]


def test_a_torch_loss_that_is_linear_has_no_curvature():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(5, 1)
    g = landscape.from_torch(module, lambda p, y: (p.ravel() * y).mean(), *data())
    assert not g.hessian_vector(g.theta, np.ones(6)).any()
    assert not g.gauss_newton_vector(g.theta, np.ones(6)).any()


def test_from_torch_refuses():
    torch = pytest.importorskip("torch")
    x, y = data()
    mse = torch.nn.functional.mse_loss
    with pytest.raises(TypeError, match=r"module is .*expected a torch\.nn\.Module; an nn.Layer goes to from_model"):
        landscape.from_torch(network(), mse, x, y)
    with pytest.raises(TypeError, match="a torch module goes to from_torch"):
        landscape.from_model(torch.nn.Linear(5, 1), losses.MeanSquaredError(), x, y)
    dropping = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Dropout(0.1))
    with pytest.raises(ValueError, match=r"1 is Dropout.*in training; call module\.eval\(\)"):
        landscape.from_torch(dropping, torch.nn.functional.cross_entropy, x, y)
    landscape.from_torch(dropping.eval(), torch.nn.functional.cross_entropy, x, y)
    with pytest.raises(ValueError, match=r"expected a scalar tensor; take the mean"):
        landscape.from_torch(torch.nn.Linear(5, 3), lambda p, y: p, x, y)
    with pytest.raises(TypeError, match="loss is 'mse', expected a function"):
        landscape.from_torch(torch.nn.Linear(5, 3), "mse", x, y)
    with pytest.raises(ValueError, match="x holds NaN or inf"):
        landscape.from_torch(torch.nn.Linear(5, 3), mse, np.full((24, 5), np.inf), y)
    words = torch.nn.Embedding(5, 3)
    assert landscape.from_torch(words, torch.nn.functional.cross_entropy, y, y.astype(np.int32)).theta.size == 15
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        landscape.from_torch(torch.nn.Linear(5, 3).requires_grad_(False), mse, x, y)


@pytest.mark.parametrize("guard", ["no_grad", "inference_mode"])
def test_a_torch_function_has_derivatives_inside_no_grad_too(guard):
    torch = pytest.importorskip("torch")
    x, y = np.random.default_rng(0).standard_normal((9, 3)), np.arange(9) % 2
    module = torch.nn.Linear(3, 2)
    with getattr(torch, guard)():
        f = landscape.from_torch(module, torch.nn.functional.cross_entropy, x, y)
        inside = (*f(f.theta), f.hessian_vector(f.theta, f.theta), f.gauss_newton_vector(f.theta, f.theta))
        assert landscape.gradient_check(f, f.theta)
    outside = (*f(f.theta), f.hessian_vector(f.theta, f.theta), f.gauss_newton_vector(f.theta, f.theta))
    for a, b in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(a)


def test_a_torch_loss_that_no_gradient_comes_through_is_refused():
    torch = pytest.importorskip("torch")
    x, y = np.zeros((4, 3)), np.zeros(4, int)
    for loss in (
        lambda p, y: (p.argmax(1) == y).double().mean(),
        lambda p, y: torch.nn.functional.cross_entropy(p.detach(), y),
    ):
        with pytest.raises(ValueError, match="no derivative by the parameters"):
            landscape.from_torch(torch.nn.Linear(3, 2), loss, x, y)
