"""Every optimizer update gives the bits of its NumPy twin: options, layouts, sizes, extreme values, many tensors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import kernels, reference

RULES = sorted(kernels.UPDATES)
STEPS = 20

# Values to try beside a hyperparameter's default, where a rule has it.
OTHER_VALUES = {
    "lr": 0.3,
    "momentum": 0.5,
    "dampening": 0.25,
    "nesterov": True,
    "weight_decay": 0.07,
    "lr_decay": 0.02,
    "eps": 1e-3,
    "alpha": 0.6,
    "beta1": 0.0,
    "beta2": 0.5,
    "maximize": True,
    "grad_scale": -1 / 3,
}


def option_grid(rule):
    """All pairs of options away from their defaults, and all of them at once."""
    names = [*kernels.UPDATES[rule].hyperparameters, "maximize", "grad_scale"]
    unknown = [name for name in names if name not in OTHER_VALUES]
    assert not unknown, f"name other values for {unknown}"
    chosen = [(), *itertools.combinations(names, 1), *itertools.combinations(names, 2), names]
    return [{name: OTHER_VALUES[name] for name in combination} for combination in chosen]


def make(rng, shape, dtype, values="normal"):
    a = rng.normal(size=shape)
    if values == "tiny":  # squares, products and states around and below the smallest normal number
        exponents = rng.integers(-6, 25, shape)
        a = np.sign(a) * float(np.finfo(dtype).tiny) * 10.0**exponents
        a[rng.random(shape) < 0.1] *= 0.0
    elif values == "wild":
        pick = rng.random(shape)
        for i, value in enumerate((np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max)):
            a[(pick >= 0.05 * i) & (pick < 0.05 * (i + 1))] = value
    return a.astype(dtype)


def copies(arrays):
    """Copies that keep values but are plain arrays; what kernels and reference must agree on."""
    return [a.copy() for a in arrays]


def compare(rule, params, states, grads_of, options, steps=STEPS, threads=None):
    """Steps on these arrays with the kernel and on copies with the reference; the same bits after every step."""
    twin_params, twin_states = copies(params), [copies(own) for own in states]
    for step in range(1, steps + 1):
        grads = grads_of(step)
        kept = copies(grads)
        getattr(kernels, rule)(params, grads, *states, step=step, threads=threads, **options)
        getattr(reference, rule)(twin_params, copies(grads), *twin_states, step=step, **options)
        for i, (own, twin) in enumerate(zip(params, twin_params, strict=True)):
            assert_same_bits(own, twin, f"{rule} {options} step {step} param[{i}]")
        for name, own_list, twin_list in zip(kernels.UPDATES[rule].states, states, twin_states, strict=True):
            for i, (own, twin) in enumerate(zip(own_list, twin_list, strict=True)):
                assert_same_bits(own, twin, f"{rule} {options} step {step} {name}[{i}]")
        for own, before in zip(grads, kept, strict=True):
            assert_same_bits(own, before, "grad is read only")


def zeros(rule, params):
    return [[np.zeros_like(p) for p in params] for _ in kernels.UPDATES[rule].states]


@pytest.mark.parametrize("rule", RULES)
def test_options(rule, dtype, rng):
    for options in option_grid(rule):
        params = [make(rng, 37, dtype)]
        compare(rule, params, zeros(rule, params), lambda step: [make(rng, 37, dtype)], options)
        assert np.isfinite(params[0]).all()


@pytest.mark.parametrize("values", ["tiny", "wild"])
@pytest.mark.parametrize("rule", RULES)
def test_extreme_values(rule, dtype, values, rng):
    for options in ({}, {"weight_decay": 0.07, "grad_scale": 1e-3, "eps": 0.0, "maximize": True}):
        known = {k: v for k, v in options.items() if k in kernels.UPDATES[rule].hyperparameters or k == "grad_scale"}
        params = [make(rng, 203, dtype, values)]
        states = [[np.abs(make(rng, 203, dtype, values))] for _ in kernels.UPDATES[rule].states]
        compare(rule, params, states, lambda step: [make(rng, 203, dtype, values)], known)


@pytest.mark.parametrize("rule", RULES)
def test_sizes(rule, dtype, rng):
    params = [make(rng, n, dtype) for n in range(0, 70)] + [make(rng, (), dtype), make(rng, (3, 0, 2), dtype)]
    compare(rule, params, zeros(rule, params), lambda step: [make(rng, p.shape, dtype) for p in params], {}, steps=3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rule", RULES)
def test_many_tensors_of_both_types(rule, threads, rng):
    shapes = [(1,), (129, 65), (7, 3, 5), (20_011,), (0,), (2, 2)]
    types = itertools.cycle([np.float32, np.float64])
    params = [make(rng, shape, t) for shape, t in zip(shapes, types, strict=False)]
    compare(
        rule, params, zeros(rule, params), lambda step: [make(rng, p.shape, p.dtype) for p in params], {}, 3, threads
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_single_array_is_the_sequence_of_one(rule, dtype, rng):
    update = getattr(kernels, rule)
    p, g = make(rng, (5, 3), dtype), make(rng, (5, 3), dtype)
    q = p.copy()
    states = [np.zeros_like(p) for _ in kernels.UPDATES[rule].states]
    others = [np.zeros_like(p) for _ in states]
    update(p, g, *states, step=1)
    update([q], [g], *([s] for s in others), step=1)
    assert_same_bits(p, q)


@pytest.mark.parametrize("step", [1, 2, 7, 1000, 10**9])
@pytest.mark.parametrize("rule", RULES)
def test_step_numbers(rule, dtype, step, rng):
    p, g = make(rng, 20, dtype), make(rng, 20, dtype)
    states = [np.abs(make(rng, 20, dtype)) for _ in kernels.UPDATES[rule].states]
    twin, twin_states = p.copy(), copies(states)
    getattr(kernels, rule)(p, g, *states, step=step)
    getattr(reference, rule)(twin, g, *twin_states, step=step)
    assert_same_bits(p, twin)


# ---- layouts: a view into larger memory that is full of a number which must stay


SENTINEL = 12345.0

LAYOUTS = {  # name: function of memory (40, 24) -> view (11, 7)
    "rows with gaps": lambda m: m[3:14, 2:9],
    "every second": lambda m: m[:22:2, :21:3],
    "negative": lambda m: m[20:9:-1, 13:6:-1],
    "transposed": lambda m: m[5:12, 4:15].T,
    "transposed with gaps": lambda m: m[:28:4, :22:2].T,
    "one element in": lambda m: m.reshape(-1)[1 : 1 + 77].reshape(11, 7),
    "Fortran": lambda m: m.reshape(-1)[:77].reshape(7, 11).T,
}


def viewed(layout, values):
    memory = np.full((40, 24), SENTINEL, values.dtype)
    view = LAYOUTS[layout](memory)
    assert view.shape == values.shape
    view[...] = values
    return memory, view


def outside(layout, memory):
    """The memory with the view's elements blanked."""
    kept = memory.copy()
    LAYOUTS[layout](kept)[...] = SENTINEL
    return kept


@pytest.mark.parametrize("grad_layout", ["Fortran", "negative", "same"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", RULES)
def test_layouts(rule, layout, grad_layout, rng):
    dtype = np.float32
    memory, param = viewed(layout, make(rng, (11, 7), dtype))
    grad_layout = layout if grad_layout == "same" else grad_layout
    state_memories, states = [], []
    for _ in kernels.UPDATES[rule].states:
        own_memory, own = viewed(layout if len(states) % 2 else "rows with gaps", np.zeros((11, 7), dtype))
        state_memories.append((layout if len(states) % 2 else "rows with gaps", own_memory))
        states.append([own])

    def grads(step):
        return [viewed(grad_layout, make(rng, (11, 7), dtype))[1]]

    compare(rule, [param], states, grads, {}, steps=3)
    assert (outside(layout, memory) == SENTINEL).all()
    assert all((outside(name, m) == SENTINEL).all() for name, m in state_memories)


@pytest.mark.parametrize("rule", RULES)
def test_broadcast_gradient(rule, rng):
    params = [make(rng, (5, 9), np.float32)]
    row = make(rng, 9, np.float32)
    compare(rule, params, zeros(rule, params), lambda step: [np.broadcast_to(row, (5, 9))], {}, steps=3)


def test_large_strided_view_with_threads(rng):
    memory = np.full((701, 300), SENTINEL, np.float32)
    view = memory[::2, 1::3]
    view[...] = make(rng, view.shape, np.float32)
    compare(
        "adam", [view], zeros("adam", [view]), lambda step: [make(rng, view.shape, np.float32)], {}, steps=3, threads=3
    )
    memory[::2, 1::3] = SENTINEL
    assert (memory == SENTINEL).all()


# ---- the oracle itself


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_flush_subnormals_flushes_and_restores(kind):
    tiny = np.finfo(kind).tiny
    half = kind(0.5)
    values = np.full(33, tiny, kind)
    subnormal = values * half
    assert (subnormal > 0).all()
    with reference.flush_subnormals():
        assert (values * half == 0).all()
        assert values[0] * half == 0
        read_as_zero = subnormal * kind(1e30)
        assert not subnormal.any()
    assert (read_as_zero == 0).all()
    assert (values * half > 0).all()


def test_flush_subnormals_restores_after_an_error():
    with pytest.raises(RuntimeError), reference.flush_subnormals():
        raise RuntimeError
    assert np.float32(1e-30) * np.float32(1e-10) > 0


def test_kernels_restore_the_callers_mode(rng):
    params = [make(rng, 200_000, np.float32)]
    kernels.sgd(params, [make(rng, 200_000, np.float32)], step=1, threads=2)
    assert np.float32(1e-30) * np.float32(1e-10) > 0


def test_kernels_flush_subnormals():
    state, param = np.full(50, 1e-38, np.float32), np.ones(50, np.float32)
    kernels.rmsprop(param, np.zeros_like(param), state, step=1, alpha=0.5)
    assert (state == 0).all()


def test_steps_do_not_teach_numpy_a_wrong_smallest_number():
    """numpy.finfo remembers its answer; under flushed subnormals it would remember zero, with a warning."""
    for rule in RULES:
        p = np.ones(3, np.float32)
        getattr(reference, rule)(p, p.copy(), *(np.zeros(3, np.float32) for _ in kernels.UPDATES[rule].states), step=1)
    assert np.finfo(np.float32).smallest_subnormal > 0
    assert np.finfo(np.float64).smallest_subnormal > 0
