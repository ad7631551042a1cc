"""onepass.torch's modules against torch's: outputs, statistics, state dicts, trainings; how a model gets them."""

from __future__ import annotations

import copy
import importlib
import io
import warnings

import pytest

torch = pytest.importorskip("torch")
ours = importlib.import_module("onepass.torch")
nn = torch.nn

SHAPES = {"BatchNorm1d": (6, 4, 3), "BatchNorm2d": (3, 4, 5, 2), "BatchNorm3d": (2, 4, 2, 3, 2)}
NAMES = list(SHAPES)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20240607)


def pair(name, *args, **options):
    layers = getattr(ours, name)(*args, **options), getattr(nn, name)(*args, **options)
    for parameters in zip(*(layer.parameters() for layer in layers), strict=True):
        start = torch.rand_like(parameters[0]) + 0.5
        for parameter in parameters:
            parameter.data.copy_(start)
    return layers


def step(layer, x):
    x = x.detach().requires_grad_()
    y = layer(x)
    (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
    results = [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]
    return [*results, *(buffer.clone() for buffer in layer.buffers())]


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1}, {"dtype": torch.float64}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_as_torchs(name, options, momentum):
    """Three steps of training, evaluation, and one of training again."""
    layers = pair(name, 4, momentum=momentum, **options)
    for training in (True, True, True, False, True):
        x = torch.randn(SHAPES[name], dtype=options.get("dtype", torch.float32)) * 2 + 1
        results = [step(layer.train(training), x) for layer in layers]
        torch.testing.assert_close(*results, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_without_statistics_in_evaluation(name):
    """Somebody took the buffers away: the batch's statistics are used, as torch does."""
    layers = pair(name, 4)
    for layer in layers:
        layer.running_mean = layer.running_var = None
        layer.eval()
    x = torch.randn(SHAPES[name])
    torch.testing.assert_close(*(layer(x) for layer in layers))


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_that_stops_tracking(name):
    """Its statistics stay, and still normalize in evaluation."""
    layers = pair(name, 4)
    for training in (True, False):
        for layer in layers:
            layer.track_running_stats = False
        x = torch.randn(SHAPES[name])
        results = [step(layer.train(training), x) for layer in layers]
        torch.testing.assert_close(*results, rtol=2e-5, atol=1e-5)
        assert not layers[0].running_mean.any()


@pytest.mark.parametrize("parameters", [torch.bfloat16, torch.float32], ids=str)
def test_batch_norm_in_bfloat16(parameters):
    layers = [layer.to(parameters) for layer in pair("BatchNorm2d", 4)]
    for _ in range(3):
        x = torch.randn(3, 4, 5, 2, dtype=torch.bfloat16)
        results = [step(layer, x) for layer in layers]
        assert [r.dtype for r in results[0]] == [r.dtype for r in results[1]]
        torch.testing.assert_close(*results, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_are_torchs(name):
    layer, other = pair(name, 4)
    layer(torch.randn(SHAPES[name]))
    state = layer.state_dict()
    assert list(state) == list(other.state_dict())
    assert state._metadata == other.state_dict()._metadata
    other.load_state_dict(state)
    again = getattr(ours, name)(4)
    again.load_state_dict(other.state_dict())
    torch.testing.assert_close(dict(again.state_dict()), dict(state), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_torchs_kind(name):
    layer, other = pair(name, 4)
    assert isinstance(layer, getattr(nn, name))
    assert repr(layer) == repr(other)
    with pytest.raises(ValueError, match="expected"):
        layer(torch.zeros(4))
    for converted in (copy.deepcopy(layer), _saved_and_loaded(layer)):
        assert type(converted) is getattr(ours, name)
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(layer)) is nn.SyncBatchNorm


def _saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_mean_over_all_batches():
    layer = ours.BatchNorm1d(2, momentum=None, dtype=torch.float64)
    batches = [torch.randn(5, 2, dtype=torch.float64) for _ in range(3)]
    for batch in batches:
        layer(batch)
    torch.testing.assert_close(
        layer.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), rtol=1e-14, atol=1e-14
    )
    torch.testing.assert_close(
        layer.running_var, torch.stack([b.var(0) for b in batches]).mean(0), rtol=1e-14, atol=1e-14
    )


@pytest.mark.parametrize("momentum", [0.1, None])
def test_compiled_training_step(momentum):
    """momentum=None, too, on which torch's own breaks off."""
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), ours.BatchNorm2d(4, momentum=momentum), nn.Flatten())
    same = copy.deepcopy(model)
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    criterion, target = ours.CrossEntropyLoss(), torch.tensor([0, 5, 3])
    for _ in range(2):
        x = torch.randn(3, 2, 5, 4)
        losses = [criterion(m(x), target) for m in (traced, same)]
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(*losses)
    for name, tensor in same.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)
    torch.testing.assert_close(*([p.grad for p in m.parameters()] for m in (model, same)))


# ---- losses


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_loss_as_torchs(reduction):
    options = {"weight": torch.rand(5) + 0.5, "ignore_index": 2, "reduction": reduction, "label_smoothing": 0.1}
    criteria = ours.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)
    x, target = torch.randn(6, 5), torch.tensor([0, 2, 4, 1, 2, 3])
    torch.testing.assert_close(*(criterion(x, target) for criterion in criteria))
    assert repr(criteria[0]) == repr(criteria[1])
    assert list(criteria[0].state_dict()) == list(criteria[1].state_dict()) == ["weight"]


def test_z_loss_of_the_module():
    x, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    expected = nn.functional.cross_entropy(x, target) + 0.1 * x.logsumexp(1).square().mean()
    torch.testing.assert_close(ours.CrossEntropyLoss(z_loss=0.1)(x, target), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_cross_entropy_loss(bias):
    criterion = ours.LinearCrossEntropyLoss(6, 5, bias=bias, weight=torch.rand(5) + 0.5, label_smoothing=0.1)
    x, target = torch.randn(7, 6), torch.randint(0, 5, (7,))
    expected = nn.functional.cross_entropy(criterion.linear(x), target, criterion.weight, label_smoothing=0.1)
    torch.testing.assert_close(criterion(x, target), expected)
    assert set(criterion.state_dict()) == {"weight", "linear.weight", *(["linear.bias"] if bias else [])}
    assert "label_smoothing=0.1" in repr(criterion)
    if hasattr(nn, "LinearCrossEntropyLoss"):
        torchs = nn.LinearCrossEntropyLoss(6, 5, bias=bias, weight=torch.rand(5), label_smoothing=0.1)
        torchs.load_state_dict(criterion.state_dict())
        torch.testing.assert_close(criterion(x, target), torchs(x, target))


# ---- in a model


def model_of_torchs():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Linear(8, 10),
    )


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = model_of_torchs()
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, x, target):
        return self.criterion(self.body(x), target)


def trained(model, steps=12):
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        x, target = torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 10, (16,), generator=generator)
        x[range(16), 0, 0, 0] += target
        optimizer.zero_grad()
        loss = model(x.to(memory_format=torch.channels_last), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_training_as_torchs():
    model = WithLoss()
    other = copy.deepcopy(model)
    assert ours.replace_modules(model) == ["body.1", "body.3.2", "criterion"]
    losses, expected = trained(model), trained(other)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < 0.9 * losses[0]
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_replaced_and_restored():
    model, x, target = WithLoss(), torch.randn(4, 1, 8, 8), torch.randint(0, 10, (4,))
    seen = []
    model.body[1].register_forward_hook(lambda module, args, y: seen.append(type(module)))
    model.body[1].eval()
    model.body[1].weight.requires_grad_(False)
    parts, tensors = list(model.modules()), [*model.parameters(), *model.buffers()]
    kinds = [type(part) for part in parts]
    expected = copy.deepcopy(model)(x, target)
    names = ours.replace_modules(model)
    assert names == ["body.1", "body.3.2", "criterion"]
    torch.testing.assert_close(copy.deepcopy(model)(x, target), expected)
    assert ours.replace_modules(model) == []
    assert [type(model.get_submodule(name)) for name in names] == [
        ours.BatchNorm2d,
        ours.BatchNorm1d,
        ours.CrossEntropyLoss,
    ]
    assert all(a is b for a, b in zip(model.modules(), parts, strict=True))
    assert all(a is b for a, b in zip([*model.parameters(), *model.buffers()], tensors, strict=True))
    assert not model.body[1].training
    assert model.body[3][2].training
    assert not model.body[1].weight.requires_grad
    assert ours.restore_modules(model) == names
    assert [type(part) for part in model.modules()] == kinds
    assert torch.equal(copy.deepcopy(model)(x, target), expected)
    assert seen == [nn.BatchNorm2d, ours.BatchNorm2d, nn.BatchNorm2d]


def test_the_model_itself_and_shared_layers():
    layer = nn.BatchNorm1d(3)
    assert ours.replace_modules(layer) == [""]
    assert type(layer) is ours.BatchNorm1d
    shared = nn.BatchNorm1d(3)
    assert ours.replace_modules(nn.Sequential(shared, nn.Linear(3, 3), shared)) == ["0"]
    assert type(shared) is ours.BatchNorm1d


def test_subclasses_are_left_alone():
    class Own(nn.BatchNorm1d):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules are said to be new
        model = nn.Sequential(Own(3), nn.SyncBatchNorm(3), nn.LazyBatchNorm1d(), nn.LayerNorm(3))
    assert ours.replace_modules(model) == []
    assert type(model[0]) is Own


def test_what_cannot_be_exchanged():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, device="meta"))
    with pytest.raises(ValueError, match="1: is on meta, expected the CPU"):
        ours.replace_modules(model)
    assert type(model[0]) is nn.BatchNorm1d
    model = nn.ModuleList([ours.BatchNorm1d(3), ours.CrossEntropyLoss(z_loss=0.1)])
    with pytest.raises(ValueError, match=r"1: has z_loss=0\.1, which torch's has not"):
        ours.restore_modules(model)
    assert type(model[0]) is ours.BatchNorm1d
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got dict"):
        ours.replace_modules({})
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got dict"):
        ours.restore_modules({})
