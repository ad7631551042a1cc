"""onepass.torch.cross_entropy and batch_norm against torch's functions in float64; what they read, keep and refuse.

Distances are in units in the last place of what the result is a sum of: of probability and target for a gradient of
cross-entropy, of the terms for a batch normalization.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools

import numpy as np
import pytest
from cross_entropy_options import OPTIONS, ids

from onepass import kernels

torch = pytest.importorskip("torch")
TorchDispatchMode = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode
ours = importlib.import_module("onepass.torch")
_batch_norm_eager = importlib.import_module("onepass.torch._batch_norm_eager")
_cross_entropy_eager = importlib.import_module("onepass.torch._cross_entropy_eager")
tensors = importlib.import_module("onepass.torch._threads").tensors
F = torch.nn.functional

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20240607)


def ulps(actual, expected, scale):
    """Largest elementwise distance in units of ``eps * scale``, eps that of actual's type."""
    assert actual.shape == expected.shape
    if actual.numel() == 0:
        return 0.0
    limits = torch.finfo(actual.dtype)
    distance = (actual.detach().double() - expected.detach()).abs() - limits.tiny
    return (distance.clamp_min(0) / (limits.eps * scale)).max().item()


def double(value):
    return value.detach().double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def targets(kind, shape, dtype):
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    axis = min(1, len(shape) - 1)
    if kind == "probabilities":
        return torch.rand(shape).softmax(axis).to(dtype)
    labels = torch.randint(0, shape[axis], rows)
    labels.reshape(-1)[1::5] = -100
    return labels


def truth(x, target, factor, **options):
    """Loss and gradient in float64, and what they are sums of."""
    x = double(x).requires_grad_()
    options = {name: double(value) for name, value in options.items()}
    z_loss = options.pop("z_loss", 0.0)
    axis = min(1, x.dim() - 1)
    loss = F.cross_entropy(x, double(target), **options)
    if z_loss:
        assert options["reduction"] == "none"
        loss = loss + z_loss * x.logsumexp(axis).square()
    (loss * factor).sum().backward()
    logits, rows, classes = x.detach(), x.numel() // x.shape[axis], x.shape[axis]
    weight = options.get("weight")
    weight = torch.ones(classes).double() if weight is None else weight
    if target.is_floating_point():
        distribution, divisor = double(target), rows
    else:
        distribution = F.one_hot(target.clamp_min(0), classes).movedim(-1, axis)
        divisor = weight[target.clamp_min(0)][target >= 0].sum()
    lse, log_p = logits.logsumexp(axis).abs().max(), logits.log_softmax(axis)
    term = weight.max() * factor.abs().max() * (1 + 2 * z_loss * lse)
    term = term / divisor if options["reduction"] == "mean" else term
    scale = term * (log_p.exp() * (1 - log_p) + distribution + options["label_smoothing"] / classes)
    loss_scale = weight.max() * log_p.abs().max() + z_loss * lse**2 + 1
    return loss.detach(), x.grad, loss_scale * (rows if options["reduction"] == "sum" else 1), scale


@pytest.fixture
def calls(monkeypatch):
    """What the kernel is given: (logits, targets, grad) of each call, tensors."""
    seen = []

    class Spy:
        def softmax_cross_entropy(self, logits, targets, *rest):
            seen.append((logits, targets, rest[-1]))
            return tensors.softmax_cross_entropy(logits, targets, *rest)

    monkeypatch.setattr(_cross_entropy_eager, "tensors", Spy())
    return seen


# ---- cross_entropy: values and gradients


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_entropy_against_torch(dtype, options, kind):
    rest = {name: value for name, value in options.items() if name != "weighted"}
    for shape in [(5,), (1, 3), (9, 70), (3, 4, 6), (2, 3, 2, 5)]:
        x = (torch.randn(shape) * 3).to(dtype).requires_grad_()
        target = targets(kind, shape, dtype)
        weight = (torch.rand(shape[min(1, len(shape) - 1)]) + 0.5).to(dtype) if options["weighted"] else None
        rows = (shape[:1] + shape[2:] if len(shape) > 1 else ()) if options["reduction"] == "none" else ()
        factor = torch.rand(rows, dtype=torch.float64).to(dtype) + 0.5
        loss = ours.cross_entropy(x, target, weight, **rest)
        (loss * factor).sum().backward()
        expected, gradient, loss_scale, scale = truth(x, target, factor.double(), weight=weight, **rest)
        assert loss.dtype == dtype
        assert x.grad.dtype == dtype
        assert ulps(loss, expected, loss_scale) <= 4
        assert ulps(x.grad, gradient, scale) <= 4


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_z_loss_against_torch(dtype):
    x = (torch.randn(7, 5) * 3).to(dtype).requires_grad_()
    target, factor = torch.randint(0, 5, (7,)), torch.rand(7).to(dtype) + 0.5
    options = {"z_loss": 0.3, "reduction": "none", "label_smoothing": 0.1}
    loss = ours.cross_entropy(x, target, **options)
    (loss * factor).sum().backward()
    expected, gradient, loss_scale, scale = truth(x, target, factor.double(), **options)
    assert ulps(loss, expected, loss_scale) <= 4
    assert ulps(x.grad, gradient, scale) <= 4


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64], ids=str)
def test_classes_of_every_integer_type(dtype):
    x, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    assert torch.equal(ours.cross_entropy(x, target.to(dtype)), ours.cross_entropy(x, target))


@pytest.mark.parametrize("ignore_index", [-100, -1, 2, 255])
def test_ignored_rows(ignore_index):
    target = torch.tensor([0, ignore_index, 4, ignore_index])
    x, same = (torch.randn(4, 5).requires_grad_() for _ in range(2))
    same.data.copy_(x.data)
    loss = ours.cross_entropy(x, target, ignore_index=ignore_index)
    expected = F.cross_entropy(same, target, ignore_index=ignore_index)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(x.grad, same.grad)
    assert not x.grad[1::2].any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2), (2, 3, 0)])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_empty_batches_as_torch(kind, shape, reduction):
    results = []
    for function in (ours.cross_entropy, F.cross_entropy):
        x = torch.zeros(shape, requires_grad=True)
        target = torch.zeros(shape) if kind == "probabilities" else torch.zeros(shape[:1] + shape[2:], dtype=torch.long)
        loss = function(x, target, reduction=reduction)
        loss.sum().backward()
        results.append((loss, x.grad))
    torch.testing.assert_close(*results, equal_nan=True)


def test_all_rows_ignored_as_torch():
    x, target = torch.randn(3, 4), torch.full((3,), -100)
    assert ours.cross_entropy(x, target).isnan()
    assert ours.cross_entropy(x, target, reduction="sum") == 0


# ---- cross_entropy: memory


def test_strides_reach_the_kernel_without_a_copy(calls):
    wide = torch.randn(12, 3, 4, 10)
    for x in (
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        wide[::2, :, 1:3, ::3],
        wide[:, 0, 0].T,
        torch.randn(1, 3).expand(4, 3),
        torch.randn(2, 3, 4).bfloat16()[:, :, ::2],
    ):
        x = x.detach().requires_grad_()
        target = torch.randint(0, x.shape[1], x.shape[:1] + x.shape[2:])
        ours.cross_entropy(x, target).backward()
        logits, labels, _ = calls.pop()
        assert logits.data_ptr() == x.data_ptr()
        assert logits.stride() == x.stride()
        assert labels.data_ptr() == target.data_ptr()
        same = x.detach().double().contiguous().requires_grad_()
        F.cross_entropy(same, target).backward()
        torch.testing.assert_close(x.grad.double(), same.grad, rtol=2e-2 if x.element_size() == 2 else 1e-5, atol=1e-6)


def test_the_gradient_of_channels_last_is_channels_last():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    ours.cross_entropy(x, torch.zeros(2, 4, 5, dtype=torch.long)).backward()
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_get_current_graph_task_keep_graph"), reason="this torch does not say (2.4)"
)
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_kept_gradient_is_handed_on_in_its_memory(factor, calls):
    x, target = torch.randn(6, 5, requires_grad=True), torch.randint(0, 5, (6,))
    loss = ours.cross_entropy(x, target)
    kept = calls[0][2]
    before = kept.clone()
    (loss * factor).backward()
    assert len(calls) == 1
    assert x.grad.data_ptr() == kept.data_ptr()
    assert torch.equal(x.grad, before * factor)


def test_a_graph_that_is_kept_keeps_its_gradient(calls):
    """Two backward passes add, whatever happened to the first one's result."""
    x, target = torch.randn(6, 5, requires_grad=True), torch.randint(0, 5, (6,))
    loss = ours.cross_entropy(x, target)
    kept = calls[0][2].clone()
    loss.backward(retain_graph=True)
    x.grad.mul_(3)
    (loss * 2).backward(retain_graph=True)
    torch.testing.assert_close(x.grad, 5 * kept, rtol=1e-6, atol=0)
    x.grad.zero_()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    first.zero_()
    loss.backward()
    assert torch.equal(x.grad, kept)
    assert not x.grad.requires_grad


def test_the_loss_alone_without_a_gradient(calls):
    x, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    loss = ours.cross_entropy(x, target)
    with torch.no_grad():
        ours.cross_entropy(x.requires_grad_(), target)
    with torch.inference_mode():
        assert torch.equal(ours.cross_entropy(x, target), loss)
    assert [grad for *_, grad in calls] == [None, None, None]
    assert not loss.requires_grad


def test_logits_may_be_overwritten_after_the_forward_pass():
    """The gradient is made already, so that nothing that is changed is needed."""
    start, target = torch.randn(6, 5, requires_grad=True), torch.randint(0, 5, (6,))
    x = start * 1
    loss = ours.cross_entropy(x, target)
    x.detach().zero_()
    loss.backward()
    same = start.detach().requires_grad_()
    F.cross_entropy(same, target).backward()
    torch.testing.assert_close(start.grad, same.grad)


# ---- cross_entropy: autocast


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_autocast_as_torch(kind, dtype, monkeypatch):
    read = []
    kernel = kernels.softmax_cross_entropy
    monkeypatch.setattr(
        kernels, "softmax_cross_entropy", lambda x, *a, **k: (read.append(x.dtype), kernel(x, *a, **k))[1]
    )
    x = torch.randn(6, 5).to(dtype)
    target, weight = targets(kind, (6, 5), dtype), (torch.rand(5) + 0.5).to(dtype)
    results = []
    for function in (ours.cross_entropy, F.cross_entropy):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = function(leaf, target, weight)
        (loss * 0.5).backward()
        results.append((loss, leaf.grad))
    assert results[0][0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    close = {"rtol": 1e-12, "atol": 1e-14} if dtype == torch.float64 else {}
    torch.testing.assert_close(*results, **close)
    assert read[0] == {torch.bfloat16: np.uint16, torch.float64: np.float64}.get(dtype, np.float32)


# ---- batch_norm


def layouts(x):
    """The same numbers, laid out otherwise."""
    yield x
    if x.dim() == 4:
        yield x.to(memory_format=torch.channels_last)
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    wide[..., ::2] = x
    yield wide[..., ::2]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batch_norm_against_torch(dtype, affine, training):
    for shape, mixed in itertools.product([(8, 3), (5, 4, 6), (3, 20, 5, 4), (2, 3, 2, 3, 2)], [False, True]):
        if mixed and dtype in (torch.float32, torch.float64):
            continue
        kind = torch.float32 if mixed else dtype
        weight, bias = ((torch.rand(shape[1]) + 0.5).to(kind).requires_grad_() for _ in range(2))
        weight, bias = (weight, bias) if affine else (None, None)
        x, dy = (torch.randn(shape) * 2 + 1).to(dtype), torch.randn(shape).to(dtype)
        mean, var = torch.randn(shape[1]).to(kind), (torch.rand(shape[1]) + 0.5).to(kind)
        leaves = [double(t).requires_grad_() if t is not None else None for t in (x, weight, bias)]
        statistics = [mean.double().clone(), var.double().clone()]
        y = F.batch_norm(leaves[0], *statistics, *leaves[1:], training, 0.3, 1e-3)
        y.backward(dy.double())
        xhat = F.batch_norm(leaves[0], mean.double(), var.double(), None, None, training, 0.0, 1e-3).detach()
        gain = (leaves[1].detach() if affine else torch.ones(shape[1]).double()).reshape(-1, *[1] * (len(shape) - 2))
        deviation = (x.double().var(dim=[0, *range(2, len(shape))], correction=0) if training else var.double()) + 1e-3
        count = x.numel() / shape[1]
        for laid_out, gradient in itertools.product(layouts(x), layouts(dy)):
            leaf = laid_out.detach().requires_grad_()
            own = [mean.clone(), var.clone()]
            parameters = [t.detach().clone().requires_grad_() if t is not None else None for t in (weight, bias)]
            result = ours.batch_norm(leaf, *own, *parameters, training, 0.3, 1e-3)
            result.backward(gradient)
            assert result.dtype == leaf.grad.dtype == dtype
            assert result.stride() == torch.empty_like(laid_out).stride()
            terms = gain * (xhat.abs() + 1) + 1
            assert ulps(result, y, terms) <= 4
            sums = dy.double().abs().max() * (1 + xhat.abs().max() ** 2)
            slope = gain * deviation.rsqrt().reshape(gain.shape)
            assert ulps(leaf.grad, leaves[0].grad, slope * sums) <= 4
            for p, expected in zip(parameters, leaves[1:], strict=True):
                if p is not None:
                    assert p.grad.dtype == kind
                    assert ulps(p.grad, expected.grad, count * sums) <= 2
            for statistic, expected in zip(own, statistics, strict=True):
                assert ulps(statistic, expected, 1 + expected.abs()) <= 4
                assert statistic._version == (1 if training else 0)


def test_batch_norm_reads_strides_without_a_copy(monkeypatch):
    seen = []

    class Spy:
        def batch_norm(self, x, *rest):
            seen.append(x)
            tensors.batch_norm(x, *rest)

        def batch_norm_backward(self, dy, *rest):
            seen.append(dy)
            tensors.batch_norm_backward(dy, *rest)

    monkeypatch.setattr(_batch_norm_eager, "tensors", Spy())
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    dy = torch.randn(2, 3, 5, 4).transpose(2, 3)
    y = ours.batch_norm(x, None, None, training=True)
    y.backward(dy)
    assert [(a.data_ptr(), a.stride()) for a in seen] == [(a.data_ptr(), a.stride()) for a in (x, dy)]
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False])
def test_channels_with_gaps_between_them(training):
    """Against float64 without gaps: torch's own backward pass is wrong beside such running statistics."""
    x, numbers = torch.randn(8, 3), [torch.rand(6) + 0.5 for _ in range(4)]
    found = []
    for function, dtype in ((F.batch_norm, torch.float64), (ours.batch_norm, torch.float32)):
        mean, var, weight, bias = [n.to(dtype).clone()[::2] for n in numbers]
        if dtype == torch.float64:
            mean, var, weight, bias = [t.contiguous() for t in (mean, var, weight, bias)]
        leaf = x.to(dtype).clone().requires_grad_()
        function(leaf, mean, var, weight.requires_grad_(), bias, training).square().sum().backward()
        found.append([t.double() for t in (leaf.grad, weight.grad, mean, var)])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_weight_gradients_alone(monkeypatch):
    """The first layer's input needs none: dx is not computed, and the others are the same."""
    x, dy = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    weight, bias = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    ours.batch_norm(x.clone().requires_grad_(), None, None, weight, bias, True).backward(dy)
    expected = [weight.grad, bias.grad]
    weight.grad = bias.grad = None
    monkeypatch.setattr(kernels, "batch_norm_backward", None)
    ours.batch_norm(x, None, None, weight, bias, True).backward(dy)
    torch.testing.assert_close([weight.grad, bias.grad], expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2), (2, 3, 0)])
def test_batch_norm_of_nothing_as_torch(shape, training):
    results = []
    for function in (ours.batch_norm, F.batch_norm):
        x, weight = torch.zeros(shape, requires_grad=True), torch.ones(3, requires_grad=True)
        mean, var = torch.ones(3), torch.full((3,), 2.0)
        y = function(x, mean, var, weight, None, training)
        y.sum().backward()
        results.append((y, x.grad, weight.grad, mean, var))
    torch.testing.assert_close(*results)


def test_a_saved_input_that_was_changed_is_noticed():
    start = torch.randn(4, 3, requires_grad=True)
    x = start * 1
    y = ours.batch_norm(x, None, None, training=True)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_statistics_may_change_between_the_passes():
    """What normalized is kept apart, so that evaluation before a training step derives well."""
    x = torch.randn(4, 3, requires_grad=True)
    mean, var = torch.zeros(3), torch.full((3,), 4.0)
    y = ours.batch_norm(x, mean, var, eps=0.0)
    var.fill_(100.0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((4, 3), 0.5))


# ---- errors

X, LABELS, C = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ours.cross_entropy(np.zeros((4, 3)), LABELS),
            TypeError,
            "input: expected a torch.Tensor, got ndarray",
        ),
        (lambda: ours.cross_entropy(X.to("meta"), LABELS), ValueError, "input: is on meta, expected the CPU"),
        (lambda: ours.cross_entropy(X, LABELS.to("meta")), ValueError, "target: is on meta"),
        (lambda: ours.cross_entropy(X.to_sparse(), LABELS), TypeError, "input: is torch.sparse_coo, expected a dense"),
        (lambda: ours.cross_entropy(X.long(), LABELS), TypeError, "input: is torch.int64, expected one of float32"),
        (lambda: ours.cross_entropy(X[0, 0], LABELS), ValueError, "input: has no axes"),
        (lambda: ours.cross_entropy(X[:, :0], LABELS), ValueError, r"input: has no classes, shape \(4, 0\)"),
        (
            lambda: ours.cross_entropy(X, LABELS[1:]),
            ValueError,
            r"target: has shape \(3,\), expected one class a row, \(4,\)",
        ),
        (lambda: ours.cross_entropy(X, X[1:]), ValueError, r"target: has shape \(3, 3\), expected probabilities"),
        (lambda: ours.cross_entropy(X, LABELS.float()), ValueError, "or classes .* of an integer type"),
        (lambda: ours.cross_entropy(X, LABELS.bool()), TypeError, "target: is torch.bool"),
        (
            lambda: ours.cross_entropy(X, X.double()),
            TypeError,
            "target: is torch.float64 beside logits of torch.float32",
        ),
        (lambda: ours.cross_entropy(X, LABELS + 3), ValueError, r"targets\[0\] is 3, expected 0 <= target < 3"),
        (
            lambda: ours.cross_entropy(X, LABELS, C[1:]),
            ValueError,
            r"weight: has shape \(2,\), expected one weight a class",
        ),
        (lambda: ours.cross_entropy(X, LABELS, C.double()), TypeError, "weight: is torch.float64 beside logits"),
        (lambda: ours.cross_entropy(X, LABELS, reduction="avg"), ValueError, "reduction: expected 'mean'"),
        (lambda: ours.cross_entropy(X, LABELS, label_smoothing=2.0), ValueError, "label_smoothing"),
        (lambda: ours.cross_entropy(X, LABELS, ignore_index=None), TypeError, "ignore_index: expected an integer"),
        (lambda: ours.cross_entropy(X, X.clone().requires_grad_()), ValueError, "target: requires a gradient.*detach"),
        (lambda: ours.cross_entropy(X, LABELS, C.clone().requires_grad_()), ValueError, "weight: requires a gradient"),
        (lambda: ours.batch_norm(X.to("meta"), None, None, training=True), ValueError, "input: is on meta"),
        (lambda: ours.batch_norm(X, C.to("meta"), C, training=True), ValueError, "running_mean: is on meta"),
        (lambda: ours.batch_norm(X[0], None, None, training=True), ValueError, r"input: has shape \(3,\), expected"),
        (lambda: ours.batch_norm(X, None, None, C[1:], training=True), ValueError, r"weight: has shape \(2,\)"),
        (
            lambda: ours.batch_norm(X, None, None, C.double(), training=True),
            TypeError,
            "weight: is torch.float64 beside",
        ),
        (lambda: ours.batch_norm(X, C, None, training=True), ValueError, "running_mean, running_var: expected both"),
        (lambda: ours.batch_norm(X, None, None), ValueError, "running_mean: is missing"),
        (lambda: ours.batch_norm(X[:1], None, None, training=True), ValueError, "more than one value a channel"),
        (lambda: ours.batch_norm(X, C, C, training=True, momentum=2.0), ValueError, "momentum: expected"),
        (lambda: ours.batch_norm(X, C, C, training=True, momentum=None), TypeError, "momentum: is None.*BatchNorm1d"),
        (lambda: ours.batch_norm(X, C, C.clone(), eps=-1.0), ValueError, "eps"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_nothing_is_updated_by_a_call_that_fails():
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(ValueError, match="more than one value"):
        ours.batch_norm(X[:1], mean, var, training=True)
    layer = ours.BatchNorm1d(3)
    with pytest.raises(ValueError, match="more than one value"):
        layer(X[:1])
    assert torch.equal(mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


@pytest.mark.parametrize("retain", [False, True])
def test_rows_that_weigh_differently_beginning_with_one(retain):
    """A factor that is 1 in its first row alone is not 1."""
    rng = np.random.default_rng(5)
    x, labels = torch.tensor(rng.standard_normal((6, 4))), torch.tensor([0, 1, 2, 3, 0, 1])
    factor = torch.tensor([1.0, 2.0, 0.5, 0.0, -1.0, 3.0], dtype=torch.float64)
    found = []
    for function in (ours.cross_entropy, torch.nn.functional.cross_entropy):
        leaf = x.clone().requires_grad_()
        function(leaf, labels, reduction="none").backward(factor, retain_graph=retain)
        found.append(leaf.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_lazily_negated_views_are_read_as_they_mean():
    """Gradients of complex numbers' imaginary parts come as such views."""
    rng = np.random.default_rng(6)
    x, imaginary = torch.tensor(rng.standard_normal((6, 4))), torch.tensor(rng.standard_normal((6, 4)))
    labels, found = torch.tensor([0, 1, 2, 3, 0, 1]), []
    for package in (ours, torch.nn.functional):
        leaf = x.clone().requires_grad_()
        y = package.batch_norm(torch._neg_view(leaf), None, None, training=True)
        y.backward(torch._neg_view(imaginary))
        found.append([y.detach(), leaf.grad, package.cross_entropy(torch._neg_view(x), labels)])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


# ---- the two ways to the kernels


class Watched(TorchDispatchMode):
    """A mode that changes nothing: calls go through torch.library."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_eager_calls_and_registered_operators_give_the_same_bits(dtype):
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    for shape in [(70, 3), (5, 4, 6), (3, 20, 5, 4)]:
        for x in layouts((torch.randn(shape) * 3).to(dtype)):
            target = torch.randint(shape[1], shape[:1] + shape[2:])
            weight, dy = torch.rand(shape[1], dtype=kind) + 0.5, torch.randn(shape).to(dtype)
            found = []
            for mode in (contextlib.nullcontext(), Watched()):
                leaf, scale, shift = (t.clone().requires_grad_() for t in (x, weight, weight))
                mean, var = weight.clone(), weight.clone()
                with mode:
                    losses = ours.cross_entropy(leaf, target, weight.to(dtype), reduction="none", label_smoothing=0.1)
                    loss = ours.cross_entropy(leaf, target, z_loss=1e-4)
                    loss.backward(inputs=[leaf])
                    slope, leaf.grad = leaf.grad, None
                    y = ours.batch_norm(leaf, mean, var, scale, shift, True)
                    y.backward(dy)
                    outside = ours.batch_norm(leaf.detach(), mean, var, scale.detach(), shift.detach())
                found.append([losses, loss, slope, y, leaf.grad, scale.grad, shift.grad, mean, var, outside])
            for eager, registered in zip(*found, strict=True):
                assert eager.dtype == registered.dtype
                assert eager.stride() == registered.stride()
                assert torch.equal(eager, registered)
