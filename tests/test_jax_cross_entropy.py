"""onepass.jax.softmax_cross_entropy against jax.nn and jax.grad, and against onepass.kernels to the bit."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from onepass import kernels  # noqa: E402
from onepass.jax import softmax_cross_entropy  # noqa: E402

RNG = np.random.default_rng(0)


def plain(logits, targets, weight=None, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean", axis=-1):
    """With jax.nn alone, in the logits' type."""
    logits = jnp.moveaxis(logits, axis, -1)
    classes = logits.shape[-1]
    w = jnp.ones(classes, logits.dtype) if weight is None else weight
    if jnp.issubdtype(targets.dtype, jnp.integer):
        counts = targets != ignore_index
        distribution = jax.nn.one_hot(jnp.where(counts, targets, 0), classes, dtype=logits.dtype)
        mass = jnp.where(counts, w[jnp.where(counts, targets, 0)], 0).sum()
    else:
        distribution = jnp.moveaxis(targets, axis, -1)
        counts = jnp.ones(logits.shape[:-1], bool)
        mass = counts.sum()
    distribution = (1 - label_smoothing) * distribution + label_smoothing / classes
    loss = -(distribution * w * jax.nn.log_softmax(logits)).sum(-1)
    loss = jnp.where(counts, loss + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2, 0)
    return {"none": lambda: loss, "sum": loss.sum, "mean": lambda: loss.sum() / mass}[reduction]()


def close(actual, expected, rtol=1e-11, atol=1e-12):
    np.testing.assert_allclose(np.asarray(actual, np.float64), np.asarray(expected, np.float64), rtol=rtol, atol=atol)


CASES = [
    ((7, 5), -1, "mean", {}),
    ((7, 5), -1, "none", {"weight": True, "label_smoothing": 0.1, "z_loss": 0.01}),
    ((7, 5), 0, "sum", {"z_loss": 0.1}),
    ((2, 5, 3), 1, "mean", {"weight": True}),
    ((2, 5, 3, 2), -3, "none", {}),
    ((5,), 0, "sum", {}),
]


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize(("shape", "axis", "reduction", "options"), CASES)
def test_loss_and_gradient(shape, axis, reduction, options, soft):
    with jax.enable_x64(True):
        logits = jnp.asarray(3 * RNG.standard_normal(shape))
        options = dict(options, axis=axis, reduction=reduction)
        if options.get("weight"):
            options["weight"] = jnp.asarray(RNG.uniform(0.5, 2, shape[axis]))
        if soft:
            targets = RNG.uniform(0.1, 1, shape)
            targets = jnp.asarray(targets / targets.sum(axis, keepdims=True))
        else:
            labels = RNG.integers(0, shape[axis], np.delete(shape, axis))
            if labels.size > 2:
                labels.flat[1] = -100
            targets = jnp.asarray(labels)
        factors = jnp.asarray(RNG.uniform(0.5, 2, np.delete(shape, axis) if reduction == "none" else ()))

        def both(function, x):
            def scaled(x):
                loss = function(x, targets, **options)
                return (factors * loss).sum(), loss

            return jax.grad(scaled, has_aux=True)(x)

        found, wanted = jax.jit(lambda x: (both(softmax_cross_entropy, x), both(plain, x)))(logits)
        close(found[0], wanted[0])
        close(found[1], wanted[1])
        close(softmax_cross_entropy(logits, targets, **options), wanted[1])  # the loss alone, and without jit


def test_bits_are_those_of_the_kernels():
    logits = RNG.standard_normal((64, 1000)).astype(np.float32)
    labels = RNG.integers(0, 1000, 64)
    loss, grad = jax.jit(jax.value_and_grad(softmax_cross_entropy))(logits, labels)
    wanted_loss, wanted_grad = kernels.softmax_cross_entropy(logits, labels)
    assert float(loss) == np.float32(wanted_loss)
    np.testing.assert_array_equal(grad, wanted_grad)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits(dtype):
    logits = jnp.asarray(RNG.standard_normal((6, 9)), dtype)
    labels = jnp.asarray(RNG.integers(0, 9, 6), jnp.uint8)
    loss, grad = jax.value_and_grad(softmax_cross_entropy)(logits, labels)
    wanted, wanted_grad = jax.value_and_grad(lambda x: plain(x.astype(jnp.float32), labels))(logits)
    assert loss.dtype == jnp.float32
    assert grad.dtype == logits.dtype
    close(loss, wanted, 1e-6)
    close(grad, wanted_grad, 1e-2, 1e-4)


def test_n_classes_ignores_what_pads_a_vocabulary():
    logits = jnp.asarray(RNG.standard_normal((4, 8)), jnp.float32)
    labels = jnp.array([0, 1, 4, 2])
    weight = jnp.arange(1.0, 6.0)
    loss, grad = jax.value_and_grad(lambda x: softmax_cross_entropy(x, labels, weight, n_classes=5))(logits)
    wanted, wanted_grad = jax.value_and_grad(lambda x: plain(x[:, :5], labels, weight))(logits)
    close(loss, wanted, 1e-6)
    close(grad, wanted_grad, 1e-5, 1e-7)


@pytest.mark.parametrize(("reduction", "weighted"), [("mean", False), ("mean", True), ("none", False), ("none", True)])
def test_vmap(reduction, weighted):
    logits = jnp.asarray(RNG.standard_normal((3, 6, 5)), jnp.float32)
    labels = jnp.asarray(RNG.integers(0, 5, (3, 6)))
    weights = jnp.asarray(RNG.uniform(0.5, 2, (3, 5)), jnp.float32) if weighted else None
    axes = (0, 0, 0 if weighted else None)

    def both(function):
        def one(x, t, w):
            loss, pull = jax.vjp(lambda x: function(x, t, w, reduction=reduction), x)
            return loss, pull(2 * jnp.ones_like(loss))[0]

        return one

    each = [
        jax.jit(both(softmax_cross_entropy))(logits[i], labels[i], weights[i] if weighted else None) for i in range(3)
    ]
    loss, grad = jax.jit(jax.vmap(both(softmax_cross_entropy), axes))(logits, labels, weights)
    np.testing.assert_array_equal(loss, jnp.stack([loss for loss, _ in each]))
    np.testing.assert_array_equal(grad, jnp.stack([grad for _, grad in each]))
    wanted_loss, wanted_grad = jax.jit(jax.vmap(both(plain), axes))(logits, labels, weights)
    close(loss, wanted_loss, 1e-5)
    close(grad, wanted_grad, 1e-5, 1e-6)


def test_vmap_over_nothing():
    labels = jnp.arange(6) % 5
    logits = jnp.ones((0, 6, 5))
    assert jax.vmap(lambda x: softmax_cross_entropy(x, labels))(logits).shape == (0,)
    assert jax.vmap(lambda x: softmax_cross_entropy(x, labels, reduction="none"))(logits).shape == (0, 6)


def test_vmap_over_logits_alone():
    logits, labels = jnp.asarray(RNG.standard_normal((3, 6, 5)), jnp.float32), jnp.arange(6) % 5
    found = jax.vmap(lambda x: softmax_cross_entropy(x, labels))(logits)
    close(found, jnp.stack([softmax_cross_entropy(x, labels) for x in logits]), 0.0, 0.0)


def test_gradient_takes_the_memory_of_the_logits():
    def loss(w, x, labels):
        return softmax_cross_entropy(x @ w, labels)

    compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((64, 512)), jnp.ones((128, 64)), jnp.zeros(128, int)).compile()
    text = compiled.as_text()
    (call,) = [line for line in text.splitlines() if "onepass_cpu_cross_entropy" in line and "custom-call(" in line]
    assert "output_to_operand_aliasing={{1}: (0, {})}" in call
    assert [line for line in text.splitlines() if "= f32[128,512]" in line and " copy(" in line] == []
    logits, rest = 128 * 512 * 4, 2 * 64 * 512 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < logits + rest


def test_a_label_that_is_no_class_is_an_error_when_it_runs():
    run = jax.jit(softmax_cross_entropy)
    with pytest.raises(Exception, match=r"targets\[1\] is 5, expected 0 <= target < 5"):
        jax.block_until_ready(run(jnp.zeros((2, 5)), jnp.array([0, 5])))


def test_targets_and_weights_have_no_gradient():
    logits, probabilities, weight = jnp.ones((2, 3)), jnp.full((2, 3), 1 / 3), jnp.ones(3)
    with pytest.raises(ValueError, match=r"targets: has no gradient here; pass jax\.lax\.stop_gradient"):
        jax.grad(lambda t: softmax_cross_entropy(logits, t))(probabilities)
    with pytest.raises(ValueError, match="weight: has no gradient"):
        jax.grad(lambda w: softmax_cross_entropy(logits, probabilities, w))(weight)
    stopped = jax.grad(lambda t: softmax_cross_entropy(t, jax.lax.stop_gradient(jax.nn.softmax(t))))(logits)
    close(stopped, np.zeros((2, 3)), atol=1e-7)


@pytest.mark.parametrize(
    ("logits", "targets", "options", "error", "message"),
    [
        (np.zeros((2, 3), int), np.zeros(2, int), {}, TypeError, "logits: expected float32"),
        (np.zeros((2, 3), "f"), np.zeros(3, int), {}, ValueError, r"targets: expected shape \(2,\)"),
        (np.zeros((2, 3), "f"), np.zeros((2, 4), "f"), {}, ValueError, r"targets: expected shape \(2, 3\)"),
        (np.zeros((2, 3), "f"), [0, 1], {}, TypeError, "targets: expected an array, got list"),
        (np.zeros((2, 3), "f"), np.zeros(2, bool), {}, TypeError, "targets: expected int8"),
        (np.zeros((0, 3), "f"), np.zeros(0, int), {}, ValueError, "logits: expected .* with elements"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"axis": "x"}, TypeError, "axis: expected an integer"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"z_loss": "x"}, TypeError, "z_loss: expected a number"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"axis": 2}, ValueError, "axis: expected one of the 2 axes"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"reduction": "max"}, ValueError, "reduction: expected 'mean'"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"n_classes": 4}, ValueError, "n_classes: expected 1 to 3"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"weight": np.ones(2, "f")}, ValueError, r"weight: .* \(3,\)"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"weight": np.ones(3, "e")}, TypeError, "weight: expected float32"),
        (np.zeros((2, 3), "f"), np.zeros(2, int), {"label_smoothing": 2.0}, Exception, "label_smoothing: expected"),
    ],
)
def test_nonsense_is_named(logits, targets, options, error, message):
    with pytest.raises(error, match=message):
        softmax_cross_entropy(logits, targets, **options)
