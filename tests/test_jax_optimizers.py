"""onepass.jax' optimizers against Optax, and against onepass.kernels to the bit."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from measure import ulps

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import onepass.jax as fused  # noqa: E402
from onepass import kernels  # noqa: E402
from onepass.jax import _ffi  # noqa: E402

OPTIMIZERS = [
    ("adam", {}),
    ("adam", {"b1": 0.7, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-4}),
    ("adam", {"nesterov": True}),
    ("adamw", {"weight_decay": 0.3}),
    ("adamw", {"weight_decay": 0.3, "nesterov": True}),
    ("nadam", {"b1": 0.8}),
    ("nadam", {"nesterov": False}),
    ("nadamw", {"weight_decay": 0.3}),
    ("nadamw", {"weight_decay": 0.3, "nesterov": False}),
    ("adamax", {}),
    ("adamaxw", {"weight_decay": 0.3}),
    ("lamb", {"weight_decay": 0.3}),
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("adagrad", {"initial_accumulator_value": 0.3, "eps": 1e-3}),
    ("rmsprop", {"initial_scale": 0.5}),
    ("rmsprop", {"eps_in_sqrt": False, "eps": 1e-3}),
    ("rmsprop", {"momentum": 0.8}),
    ("rmsprop", {"centered": True, "eps": 1e-3}),
    ("rmsprop", {"centered": True, "momentum": 0.8, "eps": 1e-3}),
    ("adadelta", {"weight_decay": 0.1}),
    ("lion", {"weight_decay": 0.3}),
    ("radam", {}),
    ("radam", {"b1": 0.7, "b2": 0.95, "eps": 1e-1, "eps_root": 1e-2}),
    ("radam", {"b1": 0.0, "b2": 0.0}),
    ("amsgrad", {"bias_correction_nu": False, "eps": 1e-3, "eps_root": 1e-4}),
    ("amsgrad", {"bias_correction_nu": False, "b1": 0.0, "b2": 0.5}),
    ("amsgrad", {"bias_correction_mu": False, "bias_correction_nu": False}),
    ("signum", {}),
    ("signum", {"beta": 0.0}),
    ("lars", {}),
    ("lars", {"momentum": 0.5, "nesterov": True, "trust_coefficient": 0.1, "eps": 1e-2}),
    ("lars", {"weight_decay": 0.3, "trust_coefficient": 0.1}),
    ("lars", {"weight_decay": 0.3, "weight_decay_mask": [False, True]}),
]
SUMS = {"lamb", "lars"}  # their update is a difference of parameters
IDS = [f"{name}-{'-'.join(options)}" for name, options in OPTIMIZERS]
LR = 0.03
STEPS = 40
BOUND = 16  # units in the last place


def tree(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    shapes = {"w": (33, 7), "b": (5,), "scalar": (), "none": None}
    arrays = {
        name: None if shape is None else jnp.asarray(rng.standard_normal(shape), dtype)
        for name, shape in shapes.items()
    }
    return [arrays.pop("b"), (arrays,)]


def run(step, params, state, steps=STEPS):
    """Of copies, which may be donated."""
    params, state = jax.tree.map(jnp.array, (params, state))
    for i in range(steps):
        params, state = step(params, tree(100 + i, params[0].dtype), state)
    return params, state


def with_updates(optimizer):
    def step(params, grads, state):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 2))


def with_apply(optimizer):
    return jax.jit(optimizer.apply, donate_argnums=(0, 2))


def close(actual, expected, rtol, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), actual, expected)


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=IDS)
def test_many_steps_are_optax_steps(name, options):
    """And updates that are added are the fused step: to the bit, where neither decay nor a tensor's length is in it."""
    ours, theirs = getattr(fused, name)(LR, **options), getattr(optax, name)(LR, **options)
    with jax.enable_x64(True):
        start = tree(0, "float64")
        expected, _ = run(with_updates(theirs), start, theirs.init(start))
        whole, whole_state = run(with_apply(ours), start, ours.init(start))
        added, added_state = run(with_updates(ours), start, ours.init(start))
    close(whole, expected, 1e-12, 1e-13)
    exact = "weight_decay" not in options and name not in SUMS
    close(added, whole, 0.0 if exact else 1e-13, 0.0 if exact else 1e-14)
    close(added_state, whole_state, 0.0 if exact else 1e-13, 0.0 if exact else 1e-14)
    assert whole_state.count.dtype == jnp.int32
    assert int(whole_state.count) == STEPS


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=IDS)
def test_float32_is_near_optax_in_float64(name, options):
    """Element by element, in units in the last place of the path that it has walked."""
    ours, theirs = getattr(fused, name)(LR, **options), getattr(optax, name)(LR, **options)
    params, step = tree(0), with_apply(ours)
    state = ours.init(params)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda p: p.astype("float64"), params)
        exact_state, exact_step = theirs.init(exact), jax.jit(theirs.update)
        length = [np.abs(np.array(p)) for p in jax.tree.leaves(exact)]
    for i in range(STEPS):
        grads = tree(100 + i)
        params, state = step(params, grads, state)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda g: g.astype("float64"), grads)
            updates, exact_state = exact_step(wide, exact_state, exact)
            exact = optax.apply_updates(exact, updates)
            length = [path + 2 * np.abs(np.array(u)) for path, u in zip(length, jax.tree.leaves(updates), strict=True)]
    for p, q, path in zip(*map(jax.tree.leaves, (params, exact)), length, strict=True):
        assert p.dtype == "float32"
        assert ulps(np.array(p), np.array(q), path) <= BOUND


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_are_those_of_the_kernels(dtype):
    with jax.enable_x64(True):
        params, optimizer = tree(0, dtype)[0], fused.adamw(LR, weight_decay=0.1)
        expected = [np.array(params), np.zeros(5, dtype), np.zeros(5, dtype)]
        state = optimizer.init(params)
        for step in range(1, 6):
            grad = tree(step, dtype)[0]
            params, state = optimizer.apply(params, grad, state)
            kernels.adamw(expected[0], np.array(grad), *expected[1:], step=step, lr=LR, weight_decay=0.1)
        assert params.dtype == dtype
        for actual, wanted in zip((params, state.mu, state.nu), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_keep_states_of_thirty_two(dtype):
    optimizer = fused.adam(0.5)
    params = jnp.asarray(np.random.default_rng(0).standard_normal(300), dtype)
    exact = params.astype(jnp.float32)
    both = [(params, optimizer.init(params)), (params, optimizer.init(params))]
    grads = params[::-1]
    for _ in range(3):
        fresh, _ = optimizer.apply(exact, grads, both[0][1])
        both[0] = optimizer.apply(*[both[0][0], grads, both[0][1]])
        both[1] = with_updates(optimizer)(both[1][0], grads, both[1][1])
        np.testing.assert_array_equal(both[0][0], fresh.astype(dtype))  # rounded once
        np.testing.assert_array_equal(both[1][0], both[0][0])
        exact = both[0][0].astype(jnp.float32)
    assert both[0][1].mu.dtype == both[0][1].nu.dtype == jnp.float32


def test_states_of_other_types():
    params = jnp.ones(3)
    state = fused.adam(0.1, mu_dtype="bfloat16").init(params)
    assert (state.mu.dtype, state.nu.dtype) == (jnp.bfloat16, jnp.float32)
    optimizer = fused.adam(0.1, state_dtype=jnp.bfloat16)
    state = optimizer.init(params)
    assert (state.mu.dtype, state.nu.dtype) == (jnp.bfloat16, jnp.bfloat16)
    _, state = jax.jit(optimizer.apply)(params, jnp.full(3, 1.0), state)
    assert state.mu.dtype == jnp.bfloat16
    np.testing.assert_allclose(state.mu.astype(jnp.float32), np.full(3, 0.1), rtol=4e-3)


def pointers(tree):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) if leaf.ndim > 0]


@pytest.mark.parametrize(
    "name", ["adam", "adamw", "lion", "lamb", "sgd", "radam", "amsgrad", "signum", "rprop", "lars"]
)
def test_donated_buffers_are_updated_in_place(name):
    optimizer = getattr(fused, name)(LR)
    params = {"w": jnp.ones((256, 64)), "b": jnp.ones(64)}
    state = optimizer.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    step = jax.jit(optimizer.apply, donate_argnums=(0, 2))
    assert "copy(" not in "".join(
        line for line in step.lower(params, grads, state).compile().as_text().splitlines() if "f32[256,64]" in line
    )
    before = pointers((params, state))
    for _ in range(3):
        params, state = step(params, grads, state)
        assert pointers((params, state)) == before


def test_without_donation_the_arguments_stay():
    optimizer = fused.adam(LR)
    params, grads = jnp.ones(300), jnp.ones(300)
    state = optimizer.init(params)
    for apply in (optimizer.apply, jax.jit(optimizer.apply)):
        moved, next_state = apply(params, grads, state)
        assert float(jnp.abs(moved - params).min()) > 0.01
        np.testing.assert_array_equal(params, np.ones(300))
        np.testing.assert_array_equal(state.mu, np.zeros(300))
        assert (int(state.count), int(next_state.count)) == (0, 1)


def test_schedules_and_traced_rates_compile_once():
    traces = []

    def step(params, grads, state, lr):
        traces.append(1)
        return fused.adam(lr, b1=1 - lr).apply(params, grads, state)

    compiled = jax.jit(step)
    params, grads = jnp.ones(4), jnp.full(4, 2.0)
    state = fused.adam(0.1).init(params)
    for lr in (0.1, 0.05, 0.025):
        moved, _ = compiled(params, grads, state, lr)
        np.testing.assert_allclose(moved, np.full(4, 1 - lr), rtol=1e-5)
    assert len(traces) == 1

    def schedule(count):
        return 0.1 * 0.5**count

    ours, theirs = fused.adamw(schedule, weight_decay=0.1), optax.adamw(schedule, weight_decay=0.1)
    with jax.enable_x64(True):
        start = tree(0, "float64")
        expected, _ = run(with_updates(theirs), start, theirs.init(start))
        close(run(with_apply(ours), start, ours.init(start))[0], expected, 1e-6, 1e-7)
        close(run(with_updates(ours), start, ours.init(start))[0], expected, 1e-6, 1e-7)


def test_inject_hyperparams():
    """All numbers become operands then, b1 and eps too."""
    start = tree(0)
    found = []
    for module in (fused, optax):
        optimizer = optax.inject_hyperparams(module.adamw)(learning_rate=0.1, b1=0.8, weight_decay=0.2)
        state = optimizer.init(start)
        params, state = run(with_updates(optimizer), start, state, 3)
        state.hyperparams["learning_rate"] = jnp.asarray(0.01)
        found.append(run(with_updates(optimizer), params, state, 3)[0])
    close(found[0], found[1], 2e-5, 1e-6)


def test_inside_optax_transformations():
    start = tree(0)
    found = []
    for module in (fused, optax):
        label = {"w": "a", "scalar": "b", "none": None}
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.multi_transform({"a": module.adam(0.1), "b": module.sgd(0.1, momentum=0.5)}, ["b", (label,)]),
        )
        optimizer = optax.MultiSteps(optax.apply_if_finite(optimizer, 2), every_k_schedule=2)
        found.append(run(with_updates(optimizer), start, optimizer.init(start), 6)[0])
    close(found[0], found[1], 2e-5, 1e-5)  # Optax takes 1 - b2^t in float32


@pytest.mark.parametrize("mask", [[True, ({"w": False, "scalar": True, "none": True},)], [False, True]])
@pytest.mark.parametrize("as_function", [False, True])
def test_mask_of_weight_decay(mask, as_function):
    start = tree(0)
    argument = (lambda params: mask) if as_function else mask
    ours = fused.adamw(LR, weight_decay=0.5, mask=argument)
    whole = [
        mask[0],
        ({name: mask[1] if mask[1] is True else mask[1][0][name] for name in ("w", "scalar")} | {"none": None},),
    ]
    theirs = optax.adamw(LR, weight_decay=0.5, mask=whole)
    expected = run(with_updates(theirs), start, theirs.init(start), 12)[0]
    close(run(with_apply(ours), start, ours.init(start), 12)[0], expected, 2e-5, 2e-6)
    close(run(with_updates(ours), start, ours.init(start), 12)[0], expected, 2e-5, 2e-6)


def test_gradients_that_are_none_leave_arrays_alone():
    optimizer = fused.adam(0.1)
    params = {"a": jnp.ones(3), "b": jnp.ones(3), "empty": jnp.ones((0, 3))}
    grads = {"a": jnp.ones(3), "b": None, "empty": jnp.ones((0, 3))}
    moved, state = jax.jit(optimizer.apply)(params, grads, optimizer.init(params))
    np.testing.assert_allclose(moved["a"], np.full(3, 0.9), rtol=1e-6)
    np.testing.assert_array_equal(moved["b"], params["b"])
    assert moved["empty"].shape == (0, 3)
    np.testing.assert_array_equal(state.mu["b"], np.zeros(3))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert updates["b"] is None
    assert optimizer.apply({"a": None}, {"a": None}, optimizer.init({"a": None}))[0] == {"a": None}


def test_arrays_of_numpy_become_those_of_jax():
    params, grads = {"a": np.ones(3)}, {"a": np.ones(3, np.float32)}  # float64: JAX makes it float32
    optimizer = fused.adam(0.1)
    moved, _ = optimizer.apply(params, grads, optimizer.init(params))
    assert moved["a"].dtype == jnp.float32
    np.testing.assert_allclose(moved["a"], np.full(3, 0.9), rtol=1e-6)
    np.testing.assert_array_equal(params["a"], np.ones(3))


def test_grad_scale_divides():
    optimizer = fused.sgd(1.0)
    params, grads = jnp.zeros(4), jnp.arange(4.0)
    for scale in (4.0, jnp.asarray(4.0)):
        moved, _ = jax.jit(optimizer.apply)(params, grads, optimizer.init(params), scale)
        np.testing.assert_array_equal(moved, -np.arange(4) / 4)


def norm_of(grads):
    return jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))


def clipped(optimizer, max_norm):
    def step(params, grads, state):
        return optimizer.apply(params, grads, state, jnp.maximum(1.0, norm_of(grads) / max_norm))

    return step


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_clipping_by_global_norm_is_optax_clipping(name):
    """With norms on both sides of max_norm."""
    options = {"weight_decay": 0.2} if name != "sgd" else {}
    ours, theirs = getattr(fused, name)(LR, **options), getattr(optax, name)(LR, **options)
    with jax.enable_x64(True):
        start = tree(0, "float64")
        norms = [float(norm_of(tree(100 + i, "float64"))) for i in range(STEPS)]
        max_norm = float(np.median(norms)) + 1e-3
        chain = optax.chain(optax.clip_by_global_norm(max_norm), theirs)
        expected, _ = run(with_updates(chain), start, chain.init(start))
        found, _ = run(jax.jit(clipped(ours, max_norm), donate_argnums=(0, 2)), start, ours.init(start))
    assert min(norms) < max_norm < max(norms)
    close(found, expected, 1e-12, 1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_norm_that_is_not_finite_is_an_error_and_nothing_is_written(bad):
    optimizer = fused.adam(LR)
    params, grads = jnp.ones(300), jnp.ones(300).at[7].set(bad)
    state = optimizer.init(params)
    step = clipped(optimizer, 1.0)
    for function in (step, jax.jit(step)):
        with pytest.raises(jax.errors.JaxRuntimeError, match="grad_scale: expected a finite number other than 0, got"):
            jax.block_until_ready(function(params, grads, state))
    np.testing.assert_array_equal(params, np.ones(300))
    np.testing.assert_array_equal(state.nu, np.zeros(300))


def test_update_behind_optax_clipping_takes_what_is_not_finite():
    chain = optax.chain(optax.clip_by_global_norm(1.0), fused.adam(LR))
    params, grads = jnp.ones(3), jnp.array([1.0, np.nan, 1.0])
    updates, _ = chain.update(grads, chain.init(params), params)
    assert np.isnan(updates).all()
    guarded = optax.apply_if_finite(chain, 3)
    updates, state = guarded.update(grads, guarded.init(params), params)
    np.testing.assert_array_equal(updates, np.zeros(3))
    assert int(state.inner_state[1].count) == 0


def test_a_skipped_step_leaves_donated_buffers_as_they_are():
    optimizer = fused.adam(LR)
    step = clipped(optimizer, 1.0)

    @partial(jax.jit, donate_argnums=(0, 2))
    def guarded(params, grads, state):
        finite = jnp.isfinite(norm_of(grads))
        return jax.lax.cond(finite, step, lambda params, grads, state: (params, state), params, grads, state)

    params = {"w": jnp.ones((256, 64)), "b": jnp.ones(64)}
    state, ones = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
    before = pointers((params, state))
    for good in (1.0, np.nan, 1.0, np.inf):
        held = jax.tree.map(np.array, (params, state))
        params, state = guarded(params, {"w": ones["w"], "b": ones["b"].at[3].set(good)}, state)
        assert pointers((params, state)) == before
        if np.isfinite(good):
            assert float(params["w"][0, 0]) < held[0]["w"][0, 0]
        else:
            jax.tree.map(np.testing.assert_array_equal, (params, state), held)
    assert int(state.count) == 2


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "rmsprop", "radam", "rprop", "lars"])
def test_vmap_makes_the_steps_of_each(name):
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.standard_normal((3, 40)), jnp.float32) for _ in range(2))
    rates = jnp.array([0.1, 0.2, 0.3])

    def step(p, g, lr):
        optimizer = getattr(fused, name)(lr)
        return optimizer.apply(p, g, optimizer.init(p))[0]

    each = [step(params[i], grads[i], rates[i]) for i in range(3)]
    np.testing.assert_array_equal(jax.vmap(step)(params, grads, rates), each)
    same = [step(params[i], grads[0], rates[0]) for i in range(3)]
    np.testing.assert_array_equal(jax.jit(jax.vmap(step, (0, None, None)))(params, grads[0], rates[0]), same)
    twice = jax.vmap(jax.vmap(step, (0, 0, None)), (None, None, 0))(params, grads, rates)
    np.testing.assert_array_equal(twice[2, 1], step(params[1], grads[1], rates[2]))


def test_vmap_over_nothing():
    optimizer = fused.adam(0.1)
    moved, _ = jax.vmap(lambda p: optimizer.apply(p, p, optimizer.init(p)))(jnp.ones((0, 5)))
    assert moved.shape == (0, 5)


def test_inside_scan():
    optimizer = fused.adam(0.1)
    params = jnp.full(5, 2.0)

    def body(carry, _):
        return optimizer.apply(carry[0], 2 * carry[0], carry[1]), None

    (found, state), _ = jax.jit(lambda p: jax.lax.scan(body, (p, optimizer.init(p)), length=50))(params)
    state_by_hand = optimizer.init(params)
    for _ in range(50):
        params, state_by_hand = optimizer.apply(params, 2 * params, state_by_hand)
    np.testing.assert_array_equal(found, params)
    assert int(state.count) == 50


def test_optimizers_are_pickled():
    optimizer = pickle.loads(pickle.dumps(fused.adamw(0.1, weight_decay=0.2)))
    params, grads = jnp.ones(2), jnp.ones(2)
    np.testing.assert_allclose(optimizer.apply(params, grads, optimizer.init(params))[0], [0.88, 0.88], rtol=1e-5)


# ---- docs/embedding/jax.md

PAGE = (Path(__file__).parents[1] / "docs" / "embedding" / "jax.md").read_text(encoding="utf-8")
RULES = re.findall(r"^\| `(\w+)`(?: with `?(\w+)`?)?(?: and `?(\w+)`?)? \| (.*?) \| (\d+) \|", PAGE, re.MULTILINE)
FLAGS = {"momentum": 0.9, "centered": True}


@pytest.mark.parametrize(("name", "first", "second", "fields", "moved"), RULES, ids=["-".join(r[:3]) for r in RULES])
def test_the_pages_table_of_rules(name, first, second, fields, moved):
    """States and bytes are those of the code, and states are float32 for a bfloat16 parameter."""
    optimizer = getattr(fused, name)(LR, **{flag: FLAGS[flag] for flag in (first, second) if flag})
    state = optimizer.init(jnp.ones(3, "bfloat16"))
    assert list(state._fields[1:]) == re.findall(r"`(\w+)`", fields)
    assert {x.dtype.name for x in state[1:]} <= {"float32"}
    assert kernels.UPDATES[optimizer.init.rule.update].bytes_per_parameter == int(moved)


def test_the_page_names_every_function_and_every_rule_that_is_missing():
    others = {"Optimizer", "softmax_cross_entropy", "batch_norm"}
    assert {rule[0] for rule in RULES} == set(fused.__all__) - others
    assert [name for name in others if f"`{name}`" not in PAGE] == []
    made = [getattr(fused, name)(LR, **options) for name, options in OPTIMIZERS]
    made += [fused.rprop(LR), fused.sgd(LR, momentum=0.9)]
    made += [fused.rmsprop(LR, momentum=momentum, centered=c) for momentum in (None, 0.9) for c in (False, True)]
    missing = kernels.UPDATES.keys() - {optimizer.init.rule.update for optimizer in made}
    assert missing == {"adabound", "amsbound", "asgd", "swats", "adamw_amsgrad"}
    for name in ("AdaBound", "AMSBound", "ASGD", "SWATS", "AdamW"):
        assert name in PAGE.partition("### What is not there")[2], name


def test_arguments_are_those_of_optax():
    """Names, order and defaults; but Optax' adadelta has a rate of None."""
    for name in {rule[0] for rule in RULES}:
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (fused, optax))
        assert theirs.keys() <= ours.keys(), name
        positional = [p for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert list(ours)[: len(positional)] == [p.name for p in positional], name
        for parameter in theirs.values():
            if parameter.name != "learning_rate":
                assert ours[parameter.name].default == parameter.default, (name, parameter.name)


def test_updates_against_the_gradient_and_along_it():
    optimizer = fused.sgd(0.5)
    params = jnp.zeros(2)
    np.testing.assert_array_equal(optimizer.apply(params, jnp.ones(2), optimizer.init(params), -1.0)[0], [0.5, 0.5])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: fused.softmax_cross_entropy(x, jnp.array([0, 1])),
        lambda x: fused.batch_norm(x)[0].sum(),
        lambda x: fused.adam(0.1).apply(x, x, fused.adam(0.1).init(x))[0].sum(),
    ],
    ids=["cross-entropy", "batch_norm", "optimizer"],
)
def test_derivatives_that_are_not_there_are_errors(function):
    x = jnp.array([[1.0, 2.0], [4.0, 3.0]])
    with pytest.raises((TypeError, ValueError), match=r"custom_vjp|onepass_cpu_update.* cannot be differentiated"):
        jax.jvp(function, (x,), (x,))
    with pytest.raises(ValueError, match=r"onepass_cpu_.* cannot be differentiated"):
        jax.grad(lambda x: (jax.grad(function)(x) ** 2).sum())(x)


def test_averages_of_optax():
    """Lookahead around our optimizer, an exponential average of our parameters; signum(beta=0) is sign_sgd."""
    start, found = tree(0), []
    for module in (fused, optax):
        lookahead = optax.lookahead(module.sgd(0.1, momentum=0.9), sync_period=3, slow_step_size=0.5)
        both = optax.LookaheadParams.init_synced(start)
        state = lookahead.init(both)
        for i in range(7):
            updates, state = lookahead.update(tree(100 + i), state, both)
            both = optax.apply_updates(both, updates)
        found.append(both.slow)
    close(*found, 1e-6, 1e-7)
    ema = optax.ema(0.5, debias=False)
    averages, _ = ema.update(found[0], ema.init(found[0]))
    close(averages, jax.tree.map(lambda p: p / 2, found[0]), 1e-6)
    signs = [run(with_updates(o), start, o.init(start))[0] for o in (fused.signum(0.1, beta=0.0), optax.sign_sgd(0.1))]
    close(*signs, 1e-6, 1e-7)


def test_optax_is_not_needed():
    code = (
        "import sys; sys.modules['optax'] = None\n"
        "import jax.numpy as jnp, onepass.jax\n"
        "optimizer = onepass.jax.adamw(0.1)\n"
        "optimizer.apply(jnp.ones(2), jnp.ones(2), optimizer.init(jnp.ones(2)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- nonsense


def state_of(params, name="adam"):
    return getattr(fused, name)(0.1).init(params)


@pytest.mark.parametrize(
    ("params", "grads", "error", "message"),
    [
        ({"a": jnp.ones(3)}, {"a": jnp.ones(4)}, ValueError, r"grads\['a'\]: expected shape \(3,\) \(that of params\)"),
        ({"a": jnp.ones(3)}, {"b": jnp.ones(3)}, ValueError, "grads: expected the structure of params"),
        ({"a": jnp.ones(3)}, jnp.ones(3), ValueError, "grads: expected the structure of params"),
        ({"a": jnp.ones(3)}, {"a": jnp.ones(3, int)}, TypeError, r"grads\['a'\]: expected float32, .* got int32"),
        ({"a": jnp.ones(3)}, {"a": 1.0}, TypeError, r"grads\['a'\]: expected an array, got float"),
    ],
)
def test_wrong_gradients_are_named(params, grads, error, message):
    with pytest.raises(error, match=message):
        fused.adam(0.1).apply(params, grads, state_of(params))
    with pytest.raises((TypeError, ValueError)):
        fused.adam(0.1).update(grads, state_of(params), params)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int8", "int32", "bool", "float16", "bfloat16"])
def test_scalars_of_any_type_are_operands(dtype):
    params = jnp.full(3, 2.0)
    optimizer = fused.sgd(jnp.ones((), dtype))
    new, _ = jax.jit(optimizer.apply)(params, jnp.full(3, 0.5), optimizer.init(params), jnp.ones((), dtype))
    assert new.tolist() == [1.5] * 3


def test_wrong_states_and_values_are_named():
    params = {"a": jnp.ones(3)}
    grads = params
    with pytest.raises(TypeError, match=r"params\['a'\]: expected float32.*got int32"):
        fused.adam(0.1).init({"a": jnp.ones(3, int)})
    for dtype, found in (
        ("float16", "float16"),
        (jnp.uint8, "uint8"),
        ("float8", "'float8'"),
        (jnp.float64, "float64"),
    ):
        with pytest.raises(TypeError, match=f"mu: expected a state of float32 or bfloat16, got {found}$"):
            fused.adam(0.1, state_dtype=dtype)
    with pytest.raises(TypeError, match="state: expected AdamState, as init returns it, got LionState"):
        fused.adam(0.1).apply(params, grads, state_of(params, "lion"))
    with pytest.raises(ValueError, match=r"state.mu\['a'\]: expected shape \(3,\)"):
        fused.adam(0.1).apply(params, grads, state_of({"a": jnp.ones(2)}))
    with pytest.raises(TypeError, match="learning_rate: expected a number, a scalar or a schedule, got str"):
        fused.adam("fast")
    with pytest.raises(ValueError, match=r"learning_rate: expected shape \(\) \(a scalar\), got \(2,\)"):
        fused.adam(jnp.ones(2))
    with pytest.raises(TypeError, match="learning_rate: expected a number, a scalar or a schedule, got str"):
        fused.adam(lambda count: "fast").apply(params, grads, state_of(params))
    with pytest.raises(ValueError, match=r"grad_scale: expected shape \(\)"):
        fused.adam(0.1).apply(params, grads, state_of(params), jnp.ones(2))
    with pytest.raises(ValueError, match=r"state.count: expected shape \(\)"):
        fused.adam(0.1).apply(params, grads, state_of(params)._replace(count=jnp.ones(2, int)))
    with pytest.raises(ValueError, match="params: update of an optimizer with weight decay"):
        fused.adamw(0.1).update(grads, state_of(params))
    with pytest.raises(ValueError, match="mask: does not fit"):
        fused.adamw(0.1, mask={"b": True}).apply(params, grads, state_of(params))
    for name in ("nesterov", "bias_correction"):
        with pytest.raises(ValueError, match=f"{name}: rmsprop has no such form here"):
            fused.rmsprop(0.1, **{name: True})
    with pytest.raises(ValueError, match="eps: expected a number above 0"):
        fused.adagrad(0.1, eps=0.0)
    for scale in (0.0, np.inf, float("nan")):
        with pytest.raises(ValueError, match=r"grad_scale: expected a finite number other than 0, got (0|inf|nan)$"):
            fused.adam(0.1).apply(params, grads, state_of(params), scale)
    with pytest.raises(Exception, match="beta1: expected a number in"):
        fused.adam(0.1, b1=lambda count: jnp.asarray(1.5)).apply(params, grads, state_of(params))
    with pytest.raises(Exception, match="lr: expected a finite number"):
        jax.block_until_ready(jax.jit(lambda lr: fused.sgd(lr).apply(params, grads, state_of(params, "sgd")))(jnp.inf))


OUT_OF_RANGE = [
    ("adam", {"learning_rate": -1.0}, "learning_rate: expected a finite number >= 0, got -1.0"),
    ("adam", {"learning_rate": float("nan")}, "learning_rate: expected a finite number >= 0, got nan"),
    ("sgd", {"learning_rate": np.inf}, "learning_rate: expected a finite number >= 0, got inf"),
    ("lamb", {"learning_rate": np.float32(-2)}, "learning_rate: expected a finite number >= 0, got -2.0"),
    ("adam", {"b1": 1.5}, "b1: expected a number in [0, 1), got 1.5"),
    ("adam", {"b1": 1, "nesterov": True}, "b1: expected a number in [0, 1), got 1"),
    ("adamw", {"b2": np.array(-0.5)}, "b2: expected a number in [0, 1), got -0.5"),
    ("adamax", {"b2": float("nan")}, "b2: expected a finite number, got nan"),
    ("lion", {"b2": 1.0}, "b2: expected a number in [0, 1), got 1"),
    ("nadam", {"eps": -1e-8}, "eps: expected a finite number >= 0, got -1e-08"),
    ("adam", {"eps_root": -1.0}, "eps_root: expected a finite number >= 0, got -1.0"),
    ("nadamw", {"weight_decay": -0.1}, "weight_decay: expected a finite number >= 0, got -0.1"),
    ("adamaxw", {"weight_decay": float("inf")}, "weight_decay: expected a finite number >= 0, got inf"),
    ("sgd", {"momentum": -0.9}, "momentum: expected a finite number >= 0, got -0.9"),
    ("rmsprop", {"decay": 2}, "decay: expected a finite number in [0, 1], got 2"),
    ("rmsprop", {"initial_scale": -1.0}, "initial_scale: expected a finite number >= 0, got -1.0"),
    ("rmsprop", {"centered": True, "momentum": -1}, "momentum: expected a finite number >= 0, got -1"),
    ("adagrad", {"initial_accumulator_value": -1}, "initial_accumulator_value: expected a finite number >= 0, got -1"),
    ("radam", {"b1": 1.0}, "b1: expected a number in [0, 1), got 1"),
    ("radam", {"eps": -1.0}, "eps: expected a finite number >= 0, got -1.0"),
    ("amsgrad", {"b2": -1}, "b2: expected a number in [0, 1), got -1"),
    (
        "amsgrad",
        {"learning_rate": -1.0, "bias_correction_nu": False},
        "learning_rate: expected a finite number >= 0, got -1.0",
    ),
    ("signum", {"beta": 1.5}, "beta: expected a finite number in [0, 1], got 1.5"),
    ("signum", {"beta": 1.0}, "beta: expected a number in [0, 1), got 1, with which nothing would ever move"),
    ("lars", {"trust_coefficient": -1.0}, "trust_coefficient: expected a finite number >= 0, got -1.0"),
    ("lars", {"momentum": float("nan")}, "momentum: expected a finite number >= 0, got nan"),
    ("rprop", {"max_step_size": float("nan")}, "max_step_size: expected a finite number, got nan"),
    (
        "rprop",
        {"eta_minus": 1.5},
        "eta_minus and eta_plus: expected two numbers, one in (0, 1) and one above 1, got (1.5, 1.2)",
    ),
    (
        "rprop",
        {"min_step_size": 3.0, "max_step_size": 1.0},
        "min_step_size and max_step_size: expected the smallest and the largest, got (3.0, 1.0)",
    ),
    ("adadelta", {"rho": 1.01}, "rho: expected a finite number in [0, 1], got 1.01"),
]


@pytest.mark.parametrize(("name", "options", "message"), OUT_OF_RANGE, ids=[f"{n}-{m}" for n, _, m in OUT_OF_RANGE])
def test_numbers_out_of_range_are_refused_at_once(name, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(fused, name)(**{"learning_rate": 0.1, **options})


@pytest.mark.parametrize(
    "name",
    [
        "adam",
        "nadam",
        "adamax",
        "lamb",
        "sgd",
        "adagrad",
        "rmsprop",
        "adadelta",
        "lion",
        "radam",
        "amsgrad",
        "signum",
        "lars",
    ],
)
@pytest.mark.parametrize(
    "rate", [0, 0.0, np.float32(0), lambda count: 0.0, jnp.zeros(())], ids=lambda r: type(r).__name__
)
def test_a_learning_rate_of_zero_moves_nothing(name, rate):
    optimizer = getattr(fused, name)(rate)
    params, state = jnp.ones(3), optimizer.init(jnp.ones(3))
    moved, state = optimizer.apply(params, jnp.ones(3), state)
    np.testing.assert_array_equal(moved, params)
    assert int(state.count) == 1


def test_scalars_and_schedules_are_not_looked_at_when_the_optimizer_is_made():
    """Their values are known when the step runs: a negative rate then goes the other way, as in Optax."""
    params = jnp.ones(3)
    for rate in (jnp.asarray(-0.5), lambda count: -0.5):
        optimizer = fused.sgd(rate)
        np.testing.assert_array_equal(optimizer.apply(params, params, optimizer.init(params))[0], np.full(3, 1.5))
    jax.jit(lambda b1: fused.adam(0.1, b1=b1).init(params))(jnp.asarray(1.5))


def run_torch(optimizer_of):
    """STEPS steps of torch on the arrays of run; its parameters and its optimizer."""
    torch = pytest.importorskip("torch")
    params = [torch.tensor(np.array(p)) for p in jax.tree.leaves(tree(0, "float64"))]
    optimizer = optimizer_of(torch.optim, params)
    for i in range(STEPS):
        for p, g in zip(params, jax.tree.leaves(tree(100 + i, "float64")), strict=True):
            p.grad = torch.tensor(np.array(g))
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("options", [{}, {"b1": 0.7, "b2": 0.9, "eps": 1e-3}], ids=["defaults", "others"])
def test_amsgrad_is_torchs_and_not_optax(options):
    ours, theirs = fused.amsgrad(LR, **options), optax.amsgrad(LR, **options)
    betas = (options.get("b1", 0.9), options.get("b2", 0.999))
    with jax.enable_x64(True):
        start = tree(0, "float64")
        params, adam = run_torch(lambda o, ps: o.Adam(ps, LR, betas, options.get("eps", 1e-8), amsgrad=True))
        whole, state = run(with_apply(ours), start, ours.init(start))
        close(jax.tree.leaves(whole), [p.numpy() for p in params], 1e-12, 1e-13)
        close(jax.tree.leaves(state.nu_max), [adam.state[p]["max_exp_avg_sq"].numpy() for p in params], 1e-12)
        close(run(with_updates(ours), start, ours.init(start)), (whole, state), 0.0)
        differing, _ = run(with_updates(theirs), start, theirs.init(start))
    assert np.abs(np.array(whole[0]) - np.array(differing[0])).max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [{}, {"eta_minus": 0.3, "eta_plus": 1.5, "min_step_size": 1e-2, "max_step_size": 0.05}],
    ids=["defaults", "others"],
)
def test_rprop_is_torchs_with_the_step_sizes_of_optax(options):
    """Optax 0.2.8 keeps the same steps, but hands out the one before: its own next step, not ours."""
    ours, theirs = fused.rprop(LR, **options), optax.rprop(LR, **options)
    etas = (options.get("eta_minus", 0.5), options.get("eta_plus", 1.2))
    sizes = (options.get("min_step_size", 1e-6), options.get("max_step_size", 50.0))
    with jax.enable_x64(True):
        start = tree(0, "float64")
        params, _ = run_torch(lambda o, ps: o.Rprop(ps, LR, etas, sizes))
        whole, state = run(with_apply(ours), start, ours.init(start))
        close(jax.tree.leaves(whole), [p.numpy() for p in params], 1e-12, 1e-13)
        close(run(with_updates(ours), start, ours.init(start)), (whole, state), 0.0)
        _, (kept, _) = run(with_updates(theirs), start, theirs.init(start))
        close(state.step_sizes, kept.step_sizes, 1e-12)
        steps = jax.tree.map(lambda size, grad: size * jnp.sign(grad), state.step_sizes, state.prev_grads)
        close(steps, kept.prev_updates, 1e-12)


@pytest.mark.parametrize("stepper", [with_apply, with_updates])
def test_amsgrad_without_the_correction_of_mu_alone(stepper):
    """Which torch has not, and Optax with its other maximum: against the formula."""
    b1, b2, eps = 0.8, 0.9, 1e-3
    optimizer = fused.amsgrad(LR, b1, b2, eps, bias_correction_mu=False)
    with jax.enable_x64(True):
        start = tree(0, "float64")
        found, _ = run(stepper(optimizer), start, optimizer.init(start))
        p = np.array(start[0])
        m, v, w = np.zeros((3, p.size))
        for i in range(STEPS):
            g = np.array(tree(100 + i, "float64")[0])
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            w = np.maximum(w, v)
            p -= LR * m / (np.sqrt(w / (1 - b2 ** (i + 1))) + eps)
        close(found[0], p, 1e-12, 1e-13)


def test_rprop_begins_with_its_rate_whenever_a_gradient_comes():
    optimizer = fused.rprop(0.25)
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    state = optimizer.init(params)
    np.testing.assert_array_equal(state.step_sizes["b"], np.full(3, 0.25))
    params, state = optimizer.apply(params, {"a": jnp.ones(3), "b": None}, state)
    params, state = optimizer.apply(params, {"a": jnp.ones(3), "b": jnp.ones(3)}, state)
    np.testing.assert_array_equal(params["b"], np.full(3, 0.75))
    with pytest.raises(TypeError, match=r"learning_rate: is the first step size of rprop.*got a schedule"):
        fused.rprop(lambda count: 0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decay_of_lars_joins_scaled_gradients(dtype):
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.standard_normal(300), dtype) for _ in range(2))
    optimizer = fused.lars(0.5, weight_decay=0.3, trust_coefficient=0.1)
    plain, _ = optimizer.apply(params, grads, optimizer.init(params))
    scaled, _ = optimizer.apply(params, 8 * grads, optimizer.init(params), jnp.asarray(8.0))
    np.testing.assert_array_equal(plain, scaled)  # a power of two changes no digit
    one = optax.lars(0.5, weight_decay=0.3, trust_coefficient=0.1)
    exact = params.astype(jnp.float32)
    updates, _ = one.update(grads.astype(jnp.float32), one.init(exact), exact)
    np.testing.assert_allclose(
        plain.astype(jnp.float32), (exact + updates).astype(dtype).astype(jnp.float32), rtol=1e-6, atol=1e-7
    )


def test_forms_that_are_not_there_are_named():
    for optimizer, options in (
        (fused.radam, {"nesterov": True}),
        (fused.radam, {"threshold": 4.0}),
        (fused.lamb, {"eps_root": 1e-6}),
        (fused.lars, {"trust_ratio_mask": {"w": True}}),
        (fused.lars, {"trust_ratio_mask": None}),
    ):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}: .* optax"):
            optimizer(0.1, **options)


def test_other_platforms_are_refused():
    with pytest.raises(ValueError, match="params: is on gpu, but onepass computes on the CPU; move it with"):
        _ffi.check_platform("params", {"gpu"})
    lowered = jax.jit(fused.sgd(0.1).apply).trace(jnp.ones(2), jnp.ones(2), state_of(jnp.ones(2), "sgd"))
    assert "onepass_cpu_update" in lowered.lower(lowering_platforms=("cuda",)).as_text()  # what XLA then does not find
