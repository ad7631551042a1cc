"""onepass.torch.linear_cross_entropy against torch's linear and cross_entropy in float64.

A logit is a sum of K products; results are compared relative to their largest element, as in test_linear_cross_entropy.
"""

from __future__ import annotations

import importlib
import itertools

import pytest
from cross_entropy_options import OPTIONS, ids

from onepass import kernels

pytest.importorskip("scipy")
torch = pytest.importorskip("torch")
ours = importlib.import_module("onepass.torch")
F = torch.nn.functional


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(20240607)


def make(rows, dtype=torch.float64, kind="labels", features=6, classes=11):
    x, weight = torch.randn(*rows, features).to(dtype), torch.randn(classes, features).to(dtype)
    bias = torch.randn(classes).to(dtype)
    target = torch.rand(*rows, classes).softmax(-1).to(dtype)
    if kind == "labels":
        target = torch.randint(0, classes, rows)
        target.reshape(-1)[1::4] = -100
    return [t.requires_grad_() for t in (x, weight, bias)], target


def reference(x, linear_weight, target, *, linear_bias=None, **options):
    logits = F.linear(x, linear_weight, linear_bias).reshape(-1, linear_weight.shape[0])
    flat = target.reshape(logits.shape) if target.is_floating_point() else target.reshape(-1)
    loss = F.cross_entropy(logits, flat, **options)
    return loss.reshape(x.shape[:-1]) if options.get("reduction") == "none" else loss


def close(actual, expected, units=64):
    for a, e in zip(actual, expected, strict=True):
        if e is None:
            assert a is None
            continue
        assert a.shape == e.shape
        bound = units * torch.finfo(a.dtype).eps * (e.abs().max().item() if e.numel() else 1)
        torch.testing.assert_close(a.double(), e.double(), rtol=0, atol=bound)


def gradients(function, leaves, target, factor, with_bias=True, **options):
    for leaf in leaves:
        leaf.grad = None
    x, weight, bias = leaves
    loss = function(x, weight, target, linear_bias=bias if with_bias else None, **options)
    (loss * factor).sum().backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_against_torch(dtype, options, kind):
    rest = {name: value for name, value in options.items() if name != "weighted"}
    for rows, with_bias in itertools.product([(), (1,), (140,), (4, 5)], [True, False]):
        leaves, target = make(rows, dtype, kind)
        exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
        target_exact = target.double() if target.is_floating_point() else target
        weight = (torch.rand(11) + 0.5).to(dtype) if options["weighted"] else None
        exact_weight = None if weight is None else weight.double()
        factor = torch.rand(rows if options["reduction"] == "none" else ()).to(dtype) + 0.5
        results = gradients(ours.linear_cross_entropy, leaves, target, factor, with_bias, weight=weight, **rest)
        expected = gradients(reference, exact, target_exact, factor.double(), with_bias, weight=exact_weight, **rest)
        close(results, expected)


def test_z_loss_as_cross_entropy_has_it():
    (x, weight, bias), target = make((9,))
    options = {"z_loss": 0.1, "label_smoothing": 0.1}
    logits = F.linear(x, weight, bias)
    for reduction in ("mean", "none"):
        joined = ours.linear_cross_entropy(x, weight, target, linear_bias=bias, reduction=reduction, **options)
        torch.testing.assert_close(joined, ours.cross_entropy(logits, target, reduction=reduction, **options))


def test_a_long_batch_in_several_chunks(monkeypatch):
    monkeypatch.setattr(importlib.import_module("onepass.torch.linear_cross_entropy"), "_CHUNK", 0)
    leaves, target = make((300,))
    factor = torch.rand(300, dtype=torch.float64)
    results = gradients(ours.linear_cross_entropy, leaves, target, factor, reduction="none")
    close(results, gradients(reference, leaves, target, factor, reduction="none"))


@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_the_gradients_that_are_needed(reduction, needed, monkeypatch):
    made = []
    kernel = kernels.linear_cross_entropy

    def spy(*args):
        made.append([a is not False for a in args[9:12]])
        return kernel(*args)

    monkeypatch.setattr(kernels, "linear_cross_entropy", spy)
    leaves, target = make((7,))
    expected = gradients(reference, leaves, target, 2.0, reduction=reduction)
    leaves = [leaf.detach().requires_grad_(need) for leaf, need in zip(leaves, needed, strict=True)]
    x, weight, bias = leaves
    loss = ours.linear_cross_entropy(x, weight, target, linear_bias=bias, reduction=reduction)
    if any(needed):
        (loss * 2).sum().backward()
    assert made == [list(needed) if reduction == "mean" else [False] * 3]
    close([leaf.grad for leaf in leaves], [e if need else None for e, need in zip(expected[1:], needed, strict=True)])


def test_strides():
    leaves, target = make((12,))
    expected = gradients(reference, leaves, target, 1.0)
    x, weight, bias = (leaf.detach() for leaf in leaves)
    wide = torch.zeros(24, 20, dtype=torch.float64)
    wide[::2, 3:9] = x
    for laid_out in [(wide[::2, 3:9], weight), (x.T.contiguous().T, weight.T.contiguous().T)]:
        others = [t.requires_grad_() for t in (*(t.detach() for t in laid_out), bias.clone())]
        close(gradients(ours.linear_cross_entropy, others, target, 1.0), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty_batches_as_torch(reduction):
    leaves, target = make((0,))
    results = gradients(ours.linear_cross_entropy, leaves, target, 1.0, reduction=reduction)
    expected = gradients(reference, leaves, target, 1.0, reduction=reduction)
    torch.testing.assert_close(results[0], expected[0], equal_nan=True)
    for result, other in zip(results[1:], expected[1:], strict=True):
        assert result.shape == other.shape
        assert not result.any()


def test_autocast_in_float32():
    (x, weight, bias), target = make((9,), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours.linear_cross_entropy(x.bfloat16(), weight, target, linear_bias=bias)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference(x.bfloat16().float(), weight, target, linear_bias=bias))


def test_a_graph_that_is_kept_keeps_its_gradients():
    (x, weight, bias), target = make((9,))
    loss = ours.linear_cross_entropy(x, weight, target, linear_bias=bias)
    loss.backward(retain_graph=True)
    once = [t.grad.clone() for t in (x, weight, bias)]
    (loss * 2).backward()
    torch.testing.assert_close([t.grad for t in (x, weight, bias)], [3 * g for g in once])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck_and_opcheck(reduction):
    (x, weight, bias), target = make((4,), features=2, classes=3)
    assert torch.autograd.gradcheck(
        lambda x, w, b: ours.linear_cross_entropy(x, w, target, linear_bias=b, reduction=reduction),
        (x, weight, bias),
        check_batched_grad=True,
    )
    options = (-100, reduction, 0.1, 0.0)
    operators = torch.ops.onepass
    for keep in [(reduction == "mean",) * 3, (False,) * 3]:
        arguments = (x, weight, bias, target, None, *options, *keep)
        torch.library.opcheck(operators.linear_cross_entropy, arguments)
    plain = [t.detach() for t in (x, weight, bias)]
    arguments = (torch.rand(4).double(), *plain, target, None, *options, True, False, True)
    torch.library.opcheck(operators.linear_cross_entropy_backward, arguments)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled(reduction):
    def function(x, weight, bias):
        return ours.linear_cross_entropy(x, weight, target, linear_bias=bias, reduction=reduction).sum() * 2

    torch._dynamo.reset()
    leaves, target = make((4,))
    same = [leaf.detach().requires_grad_() for leaf in leaves]
    loss, expected = torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves), function(*same)
    loss.backward()
    expected.backward()
    torch.testing.assert_close([loss, *(t.grad for t in leaves)], [expected, *(t.grad for t in same)])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_func_as_torch(reduction):
    (x, weight, bias), target = make((3, 4))
    x, weight, bias = x.detach(), weight.detach(), bias.detach()
    results = []
    for function in (ours.linear_cross_entropy, reference):

        def loss(x, weight, bias, target, function=function):
            return function(x, weight, target, linear_bias=bias, reduction=reduction).square().sum()

        derive = torch.func.grad(loss, argnums=(0, 1, 2))
        results.append(
            [*derive(x, weight, bias, target), *torch.vmap(derive, (0, None, None, 0))(x, weight, bias, target)]
        )
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives_are_refused(reduction):
    (x, weight, bias), target = make((4,))
    loss = ours.linear_cross_entropy(x, weight, target, linear_bias=bias, reduction=reduction).sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(NotImplementedError, match="linear_cross_entropy: second derivatives"):
        first.square().sum().backward()


X, W, LABELS = torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f(X.bfloat16(), W, LABELS), TypeError, "input: is torch.bfloat16, expected one of float32, float64"),
        (lambda f: f(X, W.double(), LABELS), TypeError, "linear_weight: is torch.float64 beside an input of"),
        (lambda f: f(X, W[:, 1:], LABELS), ValueError, r"linear_weight: has shape \(5, 2\), expected \(C, 3\)"),
        (lambda f: f(X[:, :0], W, LABELS), ValueError, r"input: has shape \(4, 0\), expected features"),
        (lambda f: f(X, W, LABELS[1:]), ValueError, r"target: has shape \(3,\), expected one class a row"),
        (
            lambda f: f(X, W, X),
            ValueError,
            r"target: has shape \(4, 3\), expected probabilities like the logits, \(4, 5\)",
        ),
        (lambda f: f(X, W, LABELS + 5), ValueError, r"targets\[0\] is 5"),
        (lambda f: f(X, W, LABELS, linear_bias=W[0]), ValueError, r"linear_bias: has shape \(3,\), expected \(5,\)"),
        (lambda f: f(X, W, LABELS, weight=W[0]), ValueError, r"weight: has shape \(3,\), expected one weight a class"),
        (lambda f: f(X, W.to("meta"), LABELS), ValueError, "linear_weight: is on meta"),
        (lambda f: f(X, W, LABELS, reduction=None), ValueError, "reduction: expected 'mean'"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call(ours.linear_cross_entropy)
