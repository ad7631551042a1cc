"""Every optimizer update gives the bits of its NumPy twin: options, layouts, sizes, extreme values, many tensors."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import kernels, optim, reference

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
    "eps_inside": True,
    "rho": 0.5,
    "momentum_decay": 0.3,
    "decoupled_weight_decay": True,
    "eta_minus": 0.25,
    "eta_plus": 1.5,
    "step_size_min": 0.02,
    "step_size_max": 0.5,
    "lambd": 0.05,
    "t0": 3.0,
    "final_lr": 0.02,
    "trust_coefficient": 0.1,
    "sgd": True,
    "sgd_lr": 0.05,
    "gamma": 0.2,
    "eps_root": 1e-2,
    "eps_hat": True,
    "uncorrected": True,
    "maximize": True,
    "grad_scale": -1 / 3,
    "max_value": 0.7,
}


def option_grid(rule):
    """All pairs of options away from their defaults, and all of them at once."""
    names = [*kernels.UPDATES[rule].hyperparameters, "maximize", "grad_scale", "max_value"]
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
        fitting = {k: v for k, v in options.items() if k in kernels.UPDATES[rule].hyperparameters or k == "grad_scale"}
        params = [make(rng, 203, dtype, values)]
        states = [[np.abs(make(rng, 203, dtype, values))] for _ in kernels.UPDATES[rule].states]
        compare(rule, params, states, lambda step: [make(rng, 203, dtype, values)], fitting)


@pytest.mark.parametrize("rule", RULES)
def test_sizes(rule, dtype, rng):
    params = [make(rng, n, dtype) for n in range(70)] + [make(rng, (), dtype), make(rng, (3, 0, 2), dtype)]
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


@pytest.mark.parametrize("rule", RULES)
def test_a_thousand_steps(rule, dtype, rng):
    params = [make(rng, 5, dtype)]
    states, twins = zeros(rule, params), zeros(rule, params)
    twin_params, grads = copies(params), [make(rng, 5, dtype) for _ in range(7)]
    for step in range(1, 1011):
        g = [grads[step % 7]]
        getattr(kernels, rule)(params, g, *states, step=step, lr=0.01)
        getattr(reference, rule)(twin_params, g, *twins, step=step, lr=0.01)
    for own, twin in zip([params, *states], [twin_params, *twins], strict=True):
        assert_same_bits(own[0], twin[0], rule)
    assert np.isfinite(params[0]).all()


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


# ---- the optimizer classes: what they hand to the kernels


BETAS = {"beta1": 0.8, "beta2": 0.95}
CLASSES = [  # class, options, rule, the rule's hyperparameters
    ("SGD", {"lr": 0.1, "weight_decay": 0.03}, "sgd", {"lr": 0.1, "weight_decay": 0.03}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.2}, "sgd_momentum", ...),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.03}, "sgd_momentum", ...),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.02, "weight_decay": 0.03, "eps": 1e-5}, "adagrad", ...),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-5, "weight_decay": 0.03}, "rmsprop", ...),
    ("RMSprop", {"alpha": 0.9, "momentum": 0.7}, "rmsprop_momentum", ...),
    ("RMSprop", {"alpha": 0.9, "centered": True}, "rmsprop_centered", {"alpha": 0.9}),
    (
        "RMSprop",
        {"centered": True, "momentum": 0.7, "maximize": True},
        "rmsprop_centered_momentum",
        {"momentum": 0.7, "maximize": True},
    ),
    ("Adagrad", {"eps": 1e-2, "eps_inside": True}, "adagrad", ...),
    ("RMSprop", {"eps_inside": True, "centered": True}, "rmsprop_centered", {"eps_inside": True}),
    ("Adadelta", {"rho": 0.8, "eps": 1e-3, "weight_decay": 0.03, "maximize": True}, "adadelta", ...),
    ("Adamax", {"betas": (0.8, 0.95), "weight_decay": 0.03}, "adamax", {**BETAS, "weight_decay": 0.03}),
    ("NAdam", {"betas": (0.8, 0.95), "momentum_decay": 0.1}, "nadam", {**BETAS, "momentum_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.03, "decoupled_weight_decay": True}, "nadam", ...),
    ("RAdam", {"betas": (0.8, 0.95), "weight_decay": 0.03}, "radam", {**BETAS, "weight_decay": 0.03}),
    ("RAdam", {"weight_decay": 0.03, "decoupled_weight_decay": True}, "radam", ...),
    (
        "Rprop",
        {"etas": (0.3, 1.6), "step_sizes": (1e-3, 0.02)},
        "rprop",
        {"eta_minus": 0.3, "eta_plus": 1.6, "step_size_min": 1e-3, "step_size_max": 0.02},
    ),
    ("ASGD", {"lambd": 0.05, "alpha": 0.6, "t0": 4.0, "weight_decay": 0.03}, "asgd", ...),
    ("Lion", {"betas": (0.8, 0.95), "weight_decay": 0.03}, "lion", {**BETAS, "weight_decay": 0.03}),
    ("Signum", {"momentum": 0.5, "weight_decay": 0.03}, "signum", ...),
    ("AdaBound", {"final_lr": 0.02, "gamma": 0.2, "weight_decay": 0.03}, "adabound", ...),
    ("AdaBound", {"amsbound": True, "betas": (0.8, 0.95)}, "amsbound", BETAS),
    ("Adam", {"betas": (0.8, 0.95), "eps": 1e-5}, "adam", {"beta1": 0.8, "beta2": 0.95, "eps": 1e-5}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.03}, "adam_amsgrad", {"weight_decay": 0.03}),
    ("AdamW", {"betas": (0.8, 0.95), "maximize": True}, "adamw", {"beta1": 0.8, "beta2": 0.95, "maximize": True}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.3}, "adamw_amsgrad", {"weight_decay": 0.3}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": True}, "sgd", ...),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3, "decoupled_weight_decay": True}, "sgd_momentum", ...),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.3, "decoupled_weight_decay": True}, "adagrad", ...),
    ("RMSprop", {"weight_decay": 0.3, "decoupled_weight_decay": True}, "rmsprop", ...),
    ("RMSprop", {"momentum": 0.7, "weight_decay": 0.3, "decoupled_weight_decay": True}, "rmsprop_momentum", ...),
    ("Adadelta", {"weight_decay": 0.03, "decoupled_weight_decay": True}, "adadelta", ...),
    ("Adamax", {"weight_decay": 0.3, "decoupled_weight_decay": True}, "adamax", ...),
    ("AdaBound", {"weight_decay": 0.3, "decoupled_weight_decay": True}, "adabound", ...),
    ("Adam", {"weight_decay": 0.3, "decoupled_weight_decay": True}, "adamw", {"weight_decay": 0.3}),
    (
        "Adam",
        {"amsgrad": True, "decoupled_weight_decay": True, "eps_root": 1e-3},
        "adamw_amsgrad",
        {"weight_decay": 0.0, "eps_root": 1e-3},
    ),
    ("Adam", {"eps": 1e-3, "eps_hat": True}, "adam", ...),
    ("AdamW", {"bias_correction": False, "eps_root": 1e-3}, "adamw", {"uncorrected": True, "eps_root": 1e-3}),
    ("NAdam", {"eps_root": 1e-3}, "nadam", ...),
    ("RAdam", {"eps_root": 1e-3}, "radam", ...),
    *[
        (name, {}, rule, {})
        for name, rule in [("SGD", "sgd"), ("Adagrad", "adagrad"), ("RMSprop", "rmsprop"), ("Adam", "adam")]
    ],
    ("AdamW", {}, "adamw", {}),
    *[
        (name, {}, name.lower(), {})
        for name in ("Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD", "Lion", "Signum", "AdaBound")
    ],
]  # fmt: skip
CLASSES = [(name, options, rule, options if hyper is ... else hyper) for name, options, rule, hyper in CLASSES]
every_class = pytest.mark.parametrize(
    ("name", "options", "rule", "hyper"), CLASSES, ids=[f"{c[2]} {','.join(c[1])}" for c in CLASSES]
)


def mixed_params(rng):
    params = [
        make(rng, shape, t) for shape, t in [((3, 5), "f4"), ((7,), "f8"), ((), "f4"), ((0, 2), "f8"), ((33,), "f4")]
    ]
    return [*params, make(rng, (6, 4), np.float64).T, make(rng, (9, 8), np.float32)[::2, ::-3]]


def known(rule, options):
    """Those that the rule has."""
    return {k: v for k, v in options.items() if k in kernels.UPDATES[rule].hyperparameters or k == "maximize"}


def with_lr(rule, hyper, lr):
    """The hyperparameters after an lr was assigned: AdaBound's final_lr goes with it."""
    defaults = kernels.UPDATES[rule].hyperparameters
    if "final_lr" not in defaults:
        return {**hyper, "lr": lr}
    old = {**defaults, **hyper}
    return {**hyper, "lr": lr, "final_lr": old["final_lr"] * (lr / old["lr"])}


class Twin:
    """What an optimizer class should do, with the functions of kernels or reference and step counts of its own."""

    def __init__(self, module, rule, params, hyper_of):
        self.update, self.params, self.hyper_of = getattr(module, rule), copies(params), hyper_of
        self.states = [[np.zeros_like(p) for _ in kernels.UPDATES[rule].states] for p in self.params]
        self.steps = [0] * len(params)

    def step(self, grads, grad_scale=1.0, max_value=None):
        for i, (p, g, states) in enumerate(zip(self.params, grads, self.states, strict=True)):
            if g is None:
                continue
            self.steps[i] += 1
            scaling = {"grad_scale": grad_scale, "max_value": max_value}
            self.update(p, g.copy(), *states, step=self.steps[i], **scaling, **self.hyper_of[i])

    def check(self, params, optimizer, what=""):
        found = optimizer.state_dict()["state"]
        assert [found[i]["step"] for i in range(len(params))] == self.steps, what
        for i, (p, twin) in enumerate(zip(params, self.params, strict=True)):
            assert_same_bits(p, twin, f"{what} params[{i}]")
            own = [found[i][state] for state in optimizer.update.states]
            for state, a, b in zip(optimizer.update.states, own, self.states[i], strict=True):
                assert_same_bits(a, b, f"{what} {state}[{i}]")


def twins(rule, params, hyper_of):
    return [Twin(module, rule, params, hyper_of) for module in (kernels, reference)]


@every_class
def test_class_is_its_kernel_and_its_reference(name, options, rule, hyper, rng):
    params = mixed_params(rng)
    both = twins(rule, params, [hyper] * len(params))
    optimizer = getattr(optim, name)(params, **options)
    assert optimizer.update.name == rule
    for step in range(STEPS):
        grads = [make(rng, p.shape, p.dtype) for p in params]
        info = optimizer.step(grads)
        assert (info.grad_norm, info.skipped) == (None, False)
        for twin in both:
            twin.step(grads)
            twin.check(params, optimizer, f"step {step + 1}")


@every_class
def test_parameter_groups(name, options, rule, hyper, rng):
    params = mixed_params(rng)
    other = known(rule, {"lr": 0.07, "weight_decay": 0.2, "maximize": True})
    both = twins(rule, params, [hyper] * 3 + [{**hyper, **other}] * (len(params) - 3))
    optimizer = getattr(optim, name)([{"params": params[:3]}, {"params": params[3:], **other}], **options)
    for step in range(STEPS):
        grads = [make(rng, p.shape, p.dtype) for p in params]
        if step == 10:  # a schedule's way to set a learning rate
            optimizer.param_groups[0]["lr"] = 0.003
            for twin in both:
                twin.hyper_of = [with_lr(rule, h, 0.003) if i < 3 else h for i, h in enumerate(twin.hyper_of)]
        optimizer.step(grads)
        for twin in both:
            twin.step(grads)
            twin.check(params, optimizer, f"step {step + 1}")


@every_class
def test_a_gradient_that_is_none_leaves_array_states_and_step_count_alone(name, options, rule, hyper, rng):
    params = mixed_params(rng)
    both = twins(rule, params, [hyper] * len(params))
    optimizer = getattr(optim, name)([{"params": params[:3]}, {"params": params[3:]}], **options)
    for step in range(STEPS):
        absent = rng.random(len(params)) < 0.4
        grads = [None if a else make(rng, p.shape, p.dtype) for a, p in zip(absent, params, strict=True)]
        optimizer.step(grads)
        for twin in both:
            twin.step(grads)
            twin.check(params, optimizer, f"step {step + 1}")


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_no_gradient_at_all_is_a_step_that_does_nothing(max_norm):
    params = [np.ones(3), np.ones(4)]
    optimizer = optim.Adam(params, max_norm=max_norm)
    assert not optimizer.step([None, None]).skipped
    optimizer.step([np.ones(3), np.ones(4)])
    before = copies(params)
    assert not optimizer.step([None, None]).skipped
    assert all((p == q).all() for p, q in zip(params, before, strict=True))
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [1, 1]


def test_adagrad_starts_with_its_initial_accumulator_value(dtype, rng):
    params = [make(rng, 9, dtype)]
    (twin,) = [Twin(reference, "adagrad", params, [{"lr": 0.1}])]
    twin.states[0][0][...] = 0.3
    optimizer = optim.Adagrad(params, lr=0.1, initial_accumulator_value=0.3)
    for _ in range(5):
        grads = [make(rng, 9, dtype)]
        optimizer.step(grads)
        twin.step(grads)
        twin.check(params, optimizer)


@every_class
def test_gradients_are_divided_by_grad_scale(name, options, rule, hyper, rng):
    params = mixed_params(rng)
    both = twins(rule, params, [hyper] * len(params))
    optimizer = getattr(optim, name)(params, **options)
    for scale in (1.0, 1024.0, 3.0, 1e-3, -7.0):
        grads = [np.asarray(make(rng, p.shape, p.dtype) * p.dtype.type(scale)) for p in params]
        optimizer.step(grads, grad_scale=scale)
        for twin in both:
            twin.step(grads, scale)
            twin.check(params, optimizer, f"grad_scale {scale}")


@every_class
def test_max_norm_scales_gradients_that_are_too_long_and_no_others(name, options, rule, hyper, rng):
    params = mixed_params(rng)
    both = twins(rule, params, [hyper] * len(params))
    optimizer = getattr(optim, name)(params, **options, max_norm=2.0)
    for length, scale in [(5.0, 1.0), (1.5, 1.0), (300.0, 64.0), (90.0, 64.0), (2.0, -0.5), (1e-12, 1.0)]:
        grads = [make(rng, p.shape, p.dtype) for p in params]
        factor = length / reference.global_norm(grads)
        grads = [np.asarray(g * g.dtype.type(factor)) for g in grads]
        info = optimizer.step(grads, grad_scale=scale)
        assert info.grad_norm == pytest.approx(length / abs(scale), rel=1e-6)
        assert info.grad_norm == kernels.global_norm(grads) / abs(scale)
        stretch = info.grad_norm / 2.0 if info.grad_norm > 2.0 else 1.0
        for twin in both:
            twin.step(grads, scale * stretch)
            twin.check(params, optimizer, f"norm {length}, grad_scale {scale}")


@every_class
def test_max_value_clips_elements_after_grad_scale_and_norm_and_may_be_assigned(name, options, rule, hyper, rng):
    params = mixed_params(rng)
    both = twins(rule, params, [hyper] * len(params))
    optimizer = getattr(optim, name)(params, **options, max_norm=3.0, max_value=0.2)
    for max_value in (0.2, 0.2, None, 1e-3, np.float32(0.5)):
        optimizer.max_value = max_value
        grads = [np.asarray(make(rng, p.shape, p.dtype) * p.dtype.type(16.0)) for p in params]
        norm = optimizer.step(grads, grad_scale=16.0).grad_norm
        assert norm > 3.0
        for twin in both:
            twin.step(grads, 16.0 * (norm / 3.0), max_value)
            twin.check(params, optimizer, f"max_value {max_value}")


@pytest.mark.parametrize("functions", [kernels, reference])
def test_max_value_leaves_nan_and_clips_infinities(functions, dtype):
    g = np.array([np.nan, np.inf, -np.inf, 0.5, -0.5, 3.0, -3.0, 0.0], dtype)
    p = np.zeros(8, dtype)
    functions.sgd(p, g, step=1, lr=1.0, grad_scale=0.5, max_value=2.0)
    np.testing.assert_array_equal(p, np.array([np.nan, -2, 2, -1, 1, -2, 2, 0], dtype))


@pytest.mark.parametrize("max_value", [5e-324, 1e-310, 1e-40, 1e-30, 1e30, 1e300, np.inf])
def test_max_value_may_be_of_any_size(max_value, dtype, rng):
    """Where the type has no normal number for it, the gradient becomes zero, and a state that keeps it too."""
    params = [make(rng, 40, dtype)]
    options = {"max_value": max_value}
    compare("sgd_momentum", params, zeros("sgd_momentum", params), lambda step: [make(rng, 40, dtype)], options, 3)
    buffer = np.ones(3, dtype)
    kernels.sgd_momentum(np.ones(3, dtype), np.array([1, -1, 0], dtype), buffer, step=1, **options)
    normal = max_value >= float(np.finfo(dtype).tiny)
    np.testing.assert_array_equal(buffer, np.array([1, -1, 0]) * dtype.type(min(max_value, 1.0) if normal else 0.0))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_max_value_that_is_assigned_is_checked_by_the_step(value):
    p = np.ones(3)
    optimizer = optim.SGD([p])
    for bad, error in ((value, ValueError), ("x", TypeError)):
        optimizer.max_value = bad
        with pytest.raises(error, match="max_value"):
            optimizer.step([np.ones(3)])
    assert (p == 1).all()
    assert optimizer.state_dict()["state"][0]["step"] == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("RMSprop", {}), ("RMSprop", {"momentum": 0.9}), ("RMSprop", {"centered": True, "momentum": 0.9})],
)
def test_rmsprop_starts_with_its_initial_square_avg(name, options, dtype, rng):
    params = [make(rng, 9, dtype)]
    optimizer = optim.RMSprop(params, **options, initial_square_avg=0.3)
    rule = optimizer.update.name
    (twin,) = [Twin(reference, rule, params, [{k: v for k, v in options.items() if k == "momentum"}])]
    assert kernels.UPDATES[rule].states[0] == "square_avg"
    twin.states[0][0][...] = 0.3
    for _ in range(5):
        grads = [make(rng, 9, dtype)]
        optimizer.step(grads)
        twin.step(grads)
        twin.check(params, optimizer)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@every_class
def test_a_norm_that_is_not_finite_changes_nothing_then_all_goes_on(name, options, rule, hyper, bad, rng):
    params = mixed_params(rng)
    (twin,) = [Twin(reference, rule, params, [hyper] * len(params))]
    optimizer = getattr(optim, name)(params, **options, max_norm=1e9)
    for step in range(6):
        grads = [make(rng, p.shape, p.dtype) for p in params]
        if step % 3 == 1:
            grads[step % 2].flat[1] = bad
            info = optimizer.step(grads)
            assert info.skipped
            assert not np.isfinite(info.grad_norm)
        else:
            assert not optimizer.step(grads).skipped
            twin.step(grads)
        twin.check(params, optimizer, f"step {step + 1}")


# ---- state_dict


@every_class
def test_state_dict_resumes_to_the_bit(name, options, rule, hyper, rng):
    params = mixed_params(rng)

    def groups(arrays):
        return [{"params": arrays[:2]}, {"params": arrays[2:], "lr": 0.02}]

    optimizer = getattr(optim, name)(groups(params), **options)
    for step in range(7):
        grads = [make(rng, p.shape, p.dtype) for p in params]
        optimizer.step([grads[0], None if step < 2 else grads[1], *grads[2:]])
    optimizer.param_groups[1].update(known(rule, {"lr": 0.015, "weight_decay": 0.011}))
    saved, resumed_params = copy.deepcopy(optimizer.state_dict()), copies(params)
    chosen = {"amsgrad", "amsbound", "centered", "momentum"} | ({"decoupled_weight_decay"} if name == "Adam" else set())
    structure = {k: v for k, v in options.items() if k in chosen}
    resumed = getattr(optim, name)([{"params": g["params"]} for g in groups(resumed_params)], **structure)
    resumed.load_state_dict(saved)
    for own, other in zip(optimizer.param_groups, resumed.param_groups, strict=True):
        assert {**own, "params": 0} == {**other, "params": 0}
    for _ in range(5):
        grads = [make(rng, p.shape, p.dtype) for p in params]
        optimizer.step(grads)
        resumed.step(grads)
    for a, b in zip(params, resumed_params, strict=True):
        assert_same_bits(a, b)
    for i, entry in optimizer.state_dict()["state"].items():
        for key, value in entry.items():
            assert_same_bits(np.asarray(resumed.state_dict()["state"][i][key]), np.asarray(value), key)


def test_state_dict_says_what_it_holds(rng):
    params = [make(rng, (2, 3), np.float32), make(rng, 4, np.float64), make(rng, 5, np.float32)]
    optimizer = optim.Adam([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], betas=(0.5, 0.6))
    optimizer.step([np.ones_like(params[0]), None, np.ones_like(params[2])])
    saved = optimizer.state_dict()
    assert saved["update"] == "adam"
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2]]
    assert [group["lr"] for group in saved["param_groups"]] == [1e-3, 0.5]
    assert tuple(saved["param_groups"][0]["betas"]) == (0.5, 0.6)
    assert [saved["state"][i]["step"] for i in range(3)] == [1, 0, 1]
    for i, p in enumerate(params):
        assert set(saved["state"][i]) == {"step", "exp_avg", "exp_avg_sq"}
        assert saved["state"][i]["exp_avg"].shape == p.shape
        assert saved["state"][i]["exp_avg"].dtype == p.dtype


def without(key):
    return lambda mapping: mapping.pop(key)


def putting(**values):
    return lambda mapping: mapping.update(values)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(update="adamw"), "'adamw'"),
        (lambda d: d.pop("update"), "update"),
        (lambda d: d["param_groups"].pop(), "groups"),
        (lambda d: d["param_groups"][0]["params"].append(2), "groups"),
        (lambda d: putting(exp_avg=np.ones((3, 2), np.float32))(d["state"][0]), "exp_avg of parameter 0"),
        (lambda d: putting(exp_avg_sq=np.ones((2, 3)))(d["state"][0]), "exp_avg_sq of parameter 0 is float64"),
        (lambda d: putting(exp_avg_sq=np.ones(3))(d["state"][1]), "exp_avg_sq of parameter 1"),
        (lambda d: d.pop("state"), "state"),
        (lambda d: d.pop("param_groups"), "param_groups"),
        (lambda d: without(1)(d["state"]), "1"),
        (lambda d: without("exp_avg_sq")(d["state"][1]), "exp_avg_sq"),
        (lambda d: without("step")(d["state"][1]), "step"),
        (lambda d: putting(step=-3)(d["state"][1]), "step"),
        (lambda d: putting(step=1.5)(d["state"][1]), "step"),
        (lambda d: putting(lr=-1.0)(d["param_groups"][1]), "lr"),
        (lambda d: putting(betas=(0.9, 1.0))(d["param_groups"][1]), "betas"),
        (lambda d: putting(learning_rate=1.0)(d["param_groups"][1]), "learning_rate"),
        (lambda d: putting(amsgrad=True)(d["param_groups"][1]), "amsgrad"),
    ],
    ids=[
        "another update", "no update", "fewer groups", "another number of parameters", "shape", "type",
        "shape of the last", "no state", "no groups", "a parameter is missing", "an array is missing", "no step",
        "step below 0", "step is not whole", "option out of range", "betas out of range", "unknown option",
        "option that chooses another update",
    ],
)  # fmt: skip
def test_a_state_dict_that_does_not_fit_is_refused_and_nothing_changes(change, match, rng):
    params = [make(rng, (2, 3), np.float32), make(rng, 4, np.float64)]
    optimizer = optim.Adam([{"params": params[:1]}, {"params": params[1:]}])
    optimizer.step([np.ones_like(p) for p in params])
    other = optim.Adam([{"params": copies(params[:1])}, {"params": copies(params[1:])}], lr=0.5)
    other.step([-np.ones_like(p) for p in params])
    given, before = copy.deepcopy(other.state_dict()), copy.deepcopy(optimizer.state_dict())
    change(given)
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(given)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for i, entry in before["state"].items():
        assert after["state"][i]["step"] == entry["step"]
        assert_same_bits(after["state"][i]["exp_avg"], entry["exp_avg"])
        assert_same_bits(after["state"][i]["exp_avg_sq"], entry["exp_avg_sq"])


def test_loading_copies_so_that_two_optimizers_never_share_states(rng):
    params, others = [make(rng, 4, np.float64)], [make(rng, 4, np.float64)]
    one, two = optim.Adam(params), optim.Adam(others)
    one.step([np.ones(4)])
    two.load_state_dict(one.state_dict())
    kept = one.state_dict()["state"][0]["exp_avg"].copy()
    two.step([np.full(4, 100.0)])
    assert_same_bits(one.state_dict()["state"][0]["exp_avg"], kept)


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
