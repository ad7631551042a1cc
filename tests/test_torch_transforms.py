"""onepass.torch's operators derived, traced and batched: by gradcheck, opcheck, torch.compile and torch.func."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
from cross_entropy_options import OPTIONS, ids

torch = pytest.importorskip("torch")
ours = importlib.import_module("onepass.torch")
F = torch.nn.functional


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20240607)


def targets(kind, shape, dtype=torch.float64):
    if kind == "probabilities":
        return torch.rand(shape).softmax(1).to(dtype)
    labels = torch.randint(0, shape[1], shape[:1] + shape[2:])
    labels.reshape(-1)[1::5] = -100
    return labels


@pytest.mark.parametrize("options", [*OPTIONS[::3], {**OPTIONS[2], "z_loss": 0.1}], ids=ids)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_cross_entropy_gradcheck(options, kind):
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    rest = {name: value for name, value in options.items() if name != "weighted"}
    weight = torch.rand(3).double() if options["weighted"] else None
    target = targets(kind, (4, 3, 2))
    function = lambda x: ours.cross_entropy(x, target, weight, **rest)  # noqa: E731
    assert torch.autograd.gradcheck(function, x, check_batched_grad=True)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gradcheck(training):
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mean, var = (None, None) if training else (torch.randn(3).double(), torch.rand(3).double() + 0.5)
    function = lambda x, w, b: ours.batch_norm(x, mean, var, w, b, training)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, weight, bias), check_batched_grad=True)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cross_entropy_opcheck(dtype, reduction, keep):
    x = torch.randn(2, 3, 4, 5).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    args = (x, torch.randint(0, 3, (2, 4, 5)), torch.rand(3), -100, reduction, 0.1, 0.0, keep)
    torch.library.opcheck(torch.ops.onepass.cross_entropy, args)
    loss, gradient = torch.ops.onepass.cross_entropy(*args)
    assert loss.requires_grad
    assert not gradient.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_opcheck(training):
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    weight, mean = torch.rand(3, requires_grad=True), torch.zeros(3)
    torch.library.opcheck(torch.ops.onepass.batch_norm, (x, weight, None, mean, mean + 1, training, 0.1, 1e-5))
    if training:
        torch.library.opcheck(torch.ops.onepass.batch_norm, (x, None, weight, None, None, training, 0.1, 1e-5))
    wide, number = x.detach(), torch.rand(3).double()
    for needed in (True, False):
        args = (wide, wide, weight.detach(), number, number, training, needed)
        torch.library.opcheck(torch.ops.onepass.batch_norm_backward, args)


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_cross_entropy(reduction):
    def function(x, target):
        return ours.cross_entropy(x * 2, target, reduction=reduction, label_smoothing=0.1).sum() * 3

    traced = compiled(function)
    for shape in [(4, 5, 2), (6, 5, 3)]:
        x, same = (torch.randn(shape, requires_grad=True) for _ in range(2))
        same.data.copy_(x.data)
        target = targets("labels", shape)
        loss, expected = traced(x, target), function(same, target)
        loss.backward()
        expected.backward()
        torch.testing.assert_close([loss, x.grad], [expected, same.grad])
        with torch.no_grad():
            torch.testing.assert_close(traced(x, target), expected.detach())


def test_compiled_under_autocast():
    x, target = torch.randn(4, 5, dtype=torch.bfloat16), torch.randint(0, 5, (4,))

    def function(x):
        with torch.autocast("cpu", torch.bfloat16):
            return ours.cross_entropy(x, target)

    loss = compiled(function)(x)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, function(x))


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_func_of_cross_entropy(options, kind):
    """vmap, vmap(grad) and grad(vmap) against torch's function on one element after another."""
    rest = {name: value for name, value in options.items() if name != "weighted"}
    weight = torch.rand(3).double() + 0.5 if options["weighted"] else None
    x = torch.randn(3, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    target = torch.stack([targets(kind, (4, 3, 2)) for _ in range(3)])
    moved = x.detach().movedim(0, 2).contiguous()
    loss = partial(ours.cross_entropy, weight=weight, **rest)
    expected = torch.stack([F.cross_entropy(x[i], target[i], weight, **rest) for i in range(3)])
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(torch.vmap(loss, in_dims=(2, 0))(moved, target), expected.detach())
    same_target = torch.stack([F.cross_entropy(x[i], target[0], weight, **rest) for i in range(3)])
    torch.testing.assert_close(torch.vmap(loss, in_dims=(0, None))(x.detach(), target[0]), same_target.detach())
    of_each = torch.vmap(torch.func.grad(lambda x, t: loss(x, t).square().sum()))(x.detach(), target)
    torch.testing.assert_close(of_each, gradient)
    of_all = torch.func.grad(lambda x: torch.vmap(loss)(x, target).square().sum())(x.detach())
    torch.testing.assert_close(of_all, gradient)


def test_vmap_over_weights_of_classes():
    x, target = torch.randn(4, 3), torch.randint(0, 3, (4,))
    weights = torch.rand(2, 3)
    results = [torch.vmap(lambda w, f=f: f(x, target, w))(weights) for f in (ours.cross_entropy, F.cross_entropy)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("training", [True, False])
def test_func_of_batch_norm_as_torch(training):
    x, weights = torch.randn(3, 4, 5, 2, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
    mean, var = (None, None) if training else (torch.randn(5).double(), torch.rand(5).double() + 0.5)
    results = []
    for function in (ours.batch_norm, F.batch_norm):
        loss = lambda x, w, f=function: f(x, mean, var, w, None, training).pow(3).sum()  # noqa: E731
        gradients = torch.func.grad(loss, argnums=(0, 1))
        results.append([*torch.vmap(gradients)(x, weights), *gradients(x[0], weights[0])])
        results[-1] += torch.func.grad(lambda x, w, f=loss: torch.vmap(f)(x, w).sum(), argnums=(0, 1))(x, weights)
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, of its forward mode
@pytest.mark.parametrize("name", ["cross_entropy", "batch_norm"])
def test_second_and_forward_derivatives_are_refused(name):
    target = torch.randint(0, 3, (4,))
    functions = {
        "cross_entropy": lambda x: ours.cross_entropy(x, target),
        "batch_norm": lambda x: ours.batch_norm(x, None, None, training=True).square().sum(),
    }
    function, x = functions[name], torch.randn(4, 3, requires_grad=True)
    (first,) = torch.autograd.grad(function(x), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{name}: second derivatives.*torch.nn.functional.{name}"):
        first.square().sum().backward()
    with pytest.raises(NotImplementedError, match=f"{name}: second derivatives"):
        torch.func.grad(lambda x: torch.func.grad(function)(x).square().sum())(x.detach())
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(function, (x.detach(),), (x.detach(),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x.detach(), x.detach())
        with pytest.raises(NotImplementedError, match=f"{name}: forward-mode"):
            function(dual)
