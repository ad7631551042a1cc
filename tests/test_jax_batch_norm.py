"""onepass.jax.batch_norm against jax.numpy and jax.grad, and against onepass.kernels to the bit."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from onepass import kernels  # noqa: E402
from onepass.jax import batch_norm  # noqa: E402

RNG = np.random.default_rng(0)
EPS = 1e-3


def plain(x, gamma, beta, mean=None, var=None, axis=-1, relu=False):
    x = jnp.moveaxis(x, axis, -1)
    others = tuple(range(x.ndim - 1))
    mean, var = (x.mean(others), x.var(others)) if mean is None else (mean, var)
    y = jnp.moveaxis((x - mean) / jnp.sqrt(var + EPS) * gamma + beta, -1, axis)
    return jnp.maximum(y, 0) if relu else y


def close(actual, expected, rtol=1e-10, atol=1e-11):
    np.testing.assert_allclose(np.asarray(actual, np.float64), np.asarray(expected, np.float64), rtol=rtol, atol=atol)


def problem(shape, axis, dtype="float64"):
    x = jnp.asarray(1 + 2 * RNG.standard_normal(shape), dtype)
    gamma, beta, mean = (jnp.asarray(RNG.standard_normal(shape[axis])) for _ in range(3))
    return x, gamma, beta, mean, jnp.asarray(RNG.uniform(0.5, 2, shape[axis]))


@pytest.mark.parametrize(("shape", "axis"), [((9, 4), -1), ((3, 5, 2, 4), -1), ((3, 4, 5, 2), 1), ((3, 4, 65), -2)])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients(shape, axis, relu, training):
    with jax.enable_x64(True):
        x, gamma, beta, mean, var = problem(shape, axis)
        factors = jnp.asarray(RNG.standard_normal(shape))

        def ours(x, gamma, beta):
            y, _ = batch_norm(x, gamma, beta, mean, var, training=training, eps=EPS, channel_axis=axis, relu=relu)
            return (factors * y).sum(), y

        def theirs(x, gamma, beta):
            y = plain(x, gamma, beta, *((None, None) if training else (mean, var)), axis, relu)
            return (factors * y).sum(), y

        (found, y), (wanted, wanted_y) = jax.jit(
            lambda *a: tuple(jax.grad(f, (0, 1, 2), has_aux=True)(*a) for f in (ours, theirs))
        )(x, gamma, beta)
        close(y, wanted_y)
        for actual, expected in zip(found, wanted, strict=True):
            close(actual, expected, 1e-8, 1e-9)


def test_running_statistics():
    x = jnp.asarray(RNG.standard_normal((8, 3)), jnp.float32)
    _, (mean, var) = batch_norm(x, momentum=0.25)
    close(mean, 0.25 * np.mean(x, 0), 1e-6, 1e-7)
    close(var, 0.75 + 0.25 * np.var(x, 0, ddof=1), 1e-6)
    _, (mean2, var2) = jax.jit(batch_norm)(x, None, None, mean, var)
    close(mean2, 0.9 * mean + 0.1 * np.mean(x, 0), 1e-6, 1e-7)
    close(var2, 0.9 * var + 0.1 * np.var(x, 0, ddof=1), 1e-6)
    y, same = batch_norm(x, None, None, mean, var, training=False)
    np.testing.assert_array_equal(same[0], mean)
    np.testing.assert_array_equal(same[1], var)
    close(y, (x - mean) / np.sqrt(var + 1e-5), 1e-5, 1e-6)
    assert float(jnp.abs(jax.grad(lambda x: batch_norm(x)[1][1].sum())(x)).max()) == 0.0


def test_bits_are_those_of_the_kernels():
    x, dy = (RNG.standard_normal((32, 6, 40)).astype(np.float32) for _ in range(2))
    gamma, beta = (RNG.standard_normal(6).astype(np.float32) for _ in range(2))
    y, pull = jax.vjp(lambda *a: batch_norm(*a, channel_axis=1, relu=True)[0], x, gamma, beta)
    wanted, saved = kernels.batch_norm(x, gamma, beta, relu=True)
    np.testing.assert_array_equal(y, wanted)
    for actual, expected in zip(pull(dy), kernels.batch_norm_backward(dy, x, gamma, saved), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits(dtype):
    x = jnp.asarray(RNG.standard_normal((16, 3)), dtype)
    gamma, beta = jnp.arange(1.0, 4.0), jnp.ones(3)
    y, pull = jax.vjp(lambda *a: batch_norm(*a, eps=EPS)[0], x, gamma, beta)
    assert y.dtype == x.dtype
    wanted = plain(x.astype(jnp.float32), gamma, beta)
    close(y, wanted, 1e-2, 1e-2)
    dx, dgamma, dbeta = pull(jnp.ones_like(x))
    assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (x.dtype, jnp.float32, jnp.float32)
    close(dbeta, np.full(3, 16.0), 1e-6)


@pytest.mark.parametrize("axis", [-1, 0])
def test_vmap(axis):
    x = jnp.asarray(RNG.standard_normal((2, 3, 5, 4) if axis == -1 else (2, 3, 4, 5, 4)), jnp.float32)
    gamma = jnp.asarray(RNG.standard_normal((3, x.shape[2:][axis])), jnp.float32)

    def both(x, gamma):
        y, pull = jax.vjp(lambda x, g: batch_norm(x, g, g + 1, channel_axis=axis)[0], x, gamma)
        return y, *pull(y)

    twice = jax.jit(jax.vmap(jax.vmap(both), (0, None)))(x, gamma)
    for i in range(2):
        for j in range(3):
            for found, wanted in zip(twice, both(x[i, j], gamma[j]), strict=True):
                np.testing.assert_array_equal(found[i, j], wanted)


def test_vmap_over_nothing():
    y, (mean, _) = jax.vmap(batch_norm)(jnp.ones((0, 6, 5)))
    assert (y.shape, mean.shape) == ((0, 6, 5), (0, 5))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros(3, "f"),), {}, ValueError, r"x: expected \(N, ..., C\)"),
        ((np.zeros((2, 0), "f"),), {}, ValueError, "x: expected .* with elements"),
        ((np.zeros((2, 3), int),), {}, TypeError, "x: expected float32"),
        ((np.zeros((2, 3), "f"),), {"channel_axis": 2}, ValueError, "channel_axis: expected one of the 2 axes"),
        ((np.zeros((2, 3), "f"), np.ones(2, "f")), {}, ValueError, r"gamma: expected shape \(3,\) \(one for each"),
        ((np.zeros((2, 3), "f"), np.ones(3, "e")), {}, TypeError, "gamma: expected float32, got float16"),
        ((np.zeros((2, 3), "f"),), {"training": False}, ValueError, "running_mean, running_var: .* pass both"),
        ((np.zeros((2, 3), "f"),), {"eps": -1.0}, Exception, "eps"),
        ((np.zeros((1, 3), "f"),), {}, Exception, "one value|1 value|more than one|at least"),
    ],
)
def test_nonsense_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        jax.block_until_ready(batch_norm(*arguments, **options)[0])
