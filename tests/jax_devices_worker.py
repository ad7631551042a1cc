"""Run by test_jax_devices.py with four host devices: prints one line for each thing that held."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import onepass.jax as fused

RNG = np.random.default_rng(0)
DEVICES = jax.devices()
MESH = Mesh(np.array(DEVICES), ("d",))
OPTIMIZER = fused.adamw(lambda count: 0.1 / (1 + count), weight_decay=0.1)
X = jnp.asarray(RNG.standard_normal((64, 8)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 5, 64))


def sharded(function, inputs, outputs, **options):
    return jax.jit(jax.shard_map(function, mesh=MESH, in_specs=inputs, out_specs=outputs, **options))


def specs(tree):
    return jax.tree.map(lambda x: P("d") if x.ndim else P(), tree)


def step_of_sharded_params(**options):
    """Each device updates its part, in place where it is donated; together the same bits as one device alone."""
    params = {"w": jnp.asarray(RNG.standard_normal((4096, 8)), jnp.float32)}
    grads, state = jax.tree.map(jnp.cos, params), OPTIMIZER.init(params)
    wanted = OPTIMIZER.apply(params, grads, state)
    place = jax.tree.map(lambda spec: NamedSharding(MESH, spec), specs((params, grads, state)))
    params, grads, state = jax.device_put((params, grads, state), place)
    step = jax.shard_map(
        OPTIMIZER.apply,
        mesh=MESH,
        in_specs=specs((params, grads, state)),
        out_specs=specs((params, state)),
        **options,
    )
    step = jax.jit(step, donate_argnums=(0, 2))

    def pointers():
        return [
            shard.data.unsafe_buffer_pointer()
            for array in (params["w"], state.mu["w"], state.nu["w"])
            for shard in array.addressable_shards
        ]

    before = pointers()
    params, state = step(params, grads, state)
    assert pointers() == before
    assert len(set(before)) == 12
    jax.tree.map(np.testing.assert_array_equal, (params, state), wanted)


def data_parallel_training():
    """The loss of local rows, gradients averaged over devices, the same step on each: as with all rows on one."""

    def loss(w, x, labels):
        return fused.softmax_cross_entropy(x @ w, labels)

    def step(w, state, x, labels):
        value, grad = jax.value_and_grad(loss)(jax.lax.pcast(w, "d", to="varying"), x, labels)
        w, state = OPTIMIZER.apply(w, jax.lax.pmean(grad, "d"), state)
        return jax.lax.pmean(value, "d"), w, state

    w = jnp.asarray(RNG.standard_normal((8, 5)), jnp.float32)
    state = OPTIMIZER.init(w)
    value, moved, moved_state = sharded(step, (P(), P(), P("d"), P("d")), P())(w, state, X, LABELS)
    wanted_value, grad = jax.value_and_grad(loss)(w, X, LABELS)
    wanted, wanted_state = OPTIMIZER.apply(w, grad, state)
    np.testing.assert_allclose(value, wanted_value, rtol=1e-6)
    np.testing.assert_allclose(moved, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moved_state.mu, wanted_state.mu, rtol=1e-4, atol=1e-7)


def batch_norm_of_local_rows():
    gamma, beta = jnp.arange(1.0, 9.0), jnp.ones(8)

    def local(x, gamma, beta):
        y, pull = jax.vjp(lambda x, *own: fused.batch_norm(x, *own)[0], x, gamma, beta)
        return y, pull(y)[0]

    parts = [jax.jit(local)(part, gamma, beta) for part in jnp.split(X, 4)]
    found = sharded(local, (P("d"), P(), P()), P("d"), check_vma=False)(X, gamma, beta)
    for i in range(2):
        np.testing.assert_array_equal(found[i], jnp.concatenate([part[i] for part in parts]))


def steps_on_all_devices_at_once():
    """One program a device, none waited for: our team serves one of them, and the bits are those of one alone."""
    params = [jnp.asarray(RNG.standard_normal(1 << 18), jnp.float32) for _ in DEVICES]
    step = jax.jit(OPTIMIZER.apply)
    alone = []
    for p in params:
        state = OPTIMIZER.init(p)
        for _ in range(8):
            p, state = jax.block_until_ready(step(p, p, state))
        alone.append(p)
    running = [
        (jax.device_put(p, d), jax.device_put(OPTIMIZER.init(p), d)) for p, d in zip(params, DEVICES, strict=True)
    ]
    for _ in range(8):
        running = [step(p, p, state) for p, state in running]
    for (p, _), wanted in zip(running, alone, strict=True):
        np.testing.assert_array_equal(p, wanted)


if __name__ == "__main__":
    assert len(DEVICES) == 4
    step_of_sharded_params()
    step_of_sharded_params(check_vma=False)
    print("sharded")
    data_parallel_training()
    print("data parallel")
    batch_norm_of_local_rows()
    print("batch norm")
    steps_on_all_devices_at_once()
    print("at once")
