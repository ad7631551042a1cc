"""The optimizers follow torch.optim (single-tensor) step for step. Faults of its fused kernels: test_peer_faults.py.

Bound: both sides round the parameter once a step, and round the direction that is subtracted, in different orders. So
after k steps an element may be off by at most about k units in the last place of the path that it has walked: its
largest magnitude plus all it has moved. Rounding being as often up as down, the largest distance over this grid is 9 of
those units; the bound is 16. A wrong formula is off by thousands of them.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from measure import ulps

from onepass import optim

torch = pytest.importorskip("torch")

STEPS, BOUND = 50, 16
SHAPES = [(17,), (5, 7), (1,)]


def grid(**options):
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


CASES = [
    *[("SGD", o) for o in grid(lr=[0.1], momentum=[0.0], weight_decay=[0.0, 0.1], maximize=[False, True])],
    *[
        ("SGD", o)
        for o in grid(
            lr=[0.05], momentum=[0.5, 0.9], dampening=[0.0, 0.3], weight_decay=[0.0, 0.1], maximize=[False, True]
        )
    ],
    *[
        ("SGD", o)
        for o in grid(lr=[0.05], momentum=[0.9], nesterov=[True], weight_decay=[0.0, 0.1], maximize=[False, True])
    ],
    *[
        ("Adagrad", o)
        for o in grid(
            lr=[0.1], lr_decay=[0.0, 0.1], weight_decay=[0.0, 0.1], initial_accumulator_value=[0.0, 0.5],
            eps=[1e-10, 1e-2], maximize=[False, True],
        )
    ],
    *[
        ("RMSprop", o)
        for o in grid(
            lr=[0.01], alpha=[0.99, 0.5], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.1], momentum=[0.0, 0.9],
            centered=[False, True], maximize=[False, True],
        )
    ],
    *[
        (name, o)
        for name in ("Adam", "AdamW")
        for o in grid(
            lr=[0.01], betas=[(0.9, 0.999), (0.5, 0.8), (0.0, 0.9)], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.1],
            amsgrad=[False, True], maximize=[False, True],
        )
    ],
    *[
        ("Adam", o)
        for o in grid(lr=[0.01], weight_decay=[0.0, 0.1], amsgrad=[False, True], decoupled_weight_decay=[True])
    ],
    *[
        ("Adadelta", o)
        for o in grid(lr=[1.0, 0.1], rho=[0.9, 0.5], eps=[1e-6, 1e-2], weight_decay=[0.0, 0.1], maximize=[False, True])
    ],
    *[
        ("Adamax", o)
        for o in grid(
            lr=[0.01], betas=[(0.9, 0.999), (0.5, 0.8), (0.0, 0.9)], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.1],
            maximize=[False, True],
        )
    ],
    *[
        ("NAdam", o)
        for o in grid(
            lr=[0.01], betas=[(0.9, 0.999), (0.5, 0.8), (0.0, 0.9)], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.1],
            momentum_decay=[4e-3, 0.3, 30.0], decoupled_weight_decay=[False, True], maximize=[False, True],
        )
    ],
    *[
        ("RAdam", o)
        for o in grid(
            lr=[0.01], betas=[(0.9, 0.999), (0.5, 0.8), (0.0, 0.9)], eps=[1e-8, 1e-2], weight_decay=[0.0, 0.1],
            decoupled_weight_decay=[False, True], maximize=[False, True],
        )
    ],
    *[
        ("Rprop", o)
        for o in grid(
            lr=[0.01, 1e-3], etas=[(0.5, 1.2), (0.3, 1.7)], step_sizes=[(1e-6, 50), (5e-3, 0.02)],
            maximize=[False, True],
        )
    ],
    *[
        ("ASGD", o)
        for o in grid(
            lr=[0.01], lambd=[1e-4, 0.5], alpha=[0.75, 0.3], t0=[1e6, 5.0], weight_decay=[0.0, 0.1],
            maximize=[False, True],
        )
    ],
    *[
        (name, {})  # the defaults agree
        for name in (
            "SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD",
        )
    ],
]  # fmt: skip


@pytest.fixture(autouse=True)
def scalars_in_double():
    """torch keeps NAdam's product of momenta and ASGD's rates in its default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def nonzero(rng, shape, dtype):
    a = rng.normal(size=shape)
    return (a + np.copysign(0.1, a)).astype(dtype)


def follow(make_ours, make_theirs, shapes, dtype, rng, steps=STEPS, before_step=lambda params: None):
    """Both optimizers on the same gradients; the largest distance of all elements and steps, in the module's units.
    before_step: what torch's side does to its parameters and gradients before each step."""
    ours = [nonzero(rng, shape, dtype) for shape in shapes]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    optimizer, twin = make_ours(ours), make_theirs(theirs)
    top, walked = [np.abs(p).astype(np.float64) for p in ours], [np.zeros(shape) for shape in shapes]
    worst = 0.0
    for _ in range(steps):
        grads = [nonzero(rng, shape, dtype) for shape in shapes]
        before = [p.detach().numpy().copy() for p in theirs]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        before_step(theirs)
        twin.step()
        optimizer.step(grads)
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            expected = q.detach().numpy()
            top[i] = np.maximum(top[i], np.abs(expected))
            walked[i] += np.abs(expected.astype(np.float64) - before[i])
            worst = max(worst, ulps(p, expected, top[i] + walked[i]))
    return worst


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else ",".join(map(str, v.values()))
)
def test_options(name, options, dtype, rng):
    extra = {"fused": False} if name in ("SGD", "Adam", "AdamW") else {}
    worst = follow(
        lambda params: getattr(optim, name)(params, **options),
        lambda params: getattr(torch.optim, name)(params, foreach=False, **extra, **options),
        SHAPES,
        dtype,
        rng,
    )
    assert worst <= BOUND


@pytest.mark.parametrize("options", [
    ("SGD", {"lr": 0.05}), ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}), ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    *[("RMSprop", o) for o in grid(lr=[0.01], momentum=[0.0, 0.9], centered=[False, True])],
    ("Adadelta", {"lr": 0.3}), ("Adamax", {"lr": 0.01}),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, 1.5])
def test_decoupled_weight_decay_is_a_shrunken_parameter_before_the_step(options, weight_decay, dtype, rng):
    """As torch.optim.AdamW does it."""
    name, options = options

    def shrink(params):
        with torch.no_grad():
            for p in params:
                p.mul_(1 - options["lr"] * weight_decay)

    worst = follow(
        lambda params: getattr(optim, name)(params, **options, weight_decay=weight_decay, decoupled_weight_decay=True),
        lambda params: getattr(torch.optim, name)(params, foreach=False, **options),
        SHAPES,
        dtype,
        rng,
        before_step=shrink,
    )
    assert worst <= BOUND


@pytest.mark.parametrize(("name", "options"), [
    ("SGD", {"momentum": 0.9, "nesterov": True}), ("SGD", {}), ("Adagrad", {}), ("RMSprop", {}), ("Adam", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "eps": 1e-2}), ("AdamW", {"amsgrad": True}), ("Adadelta", {}),
    ("Adamax", {}), ("NAdam", {}), ("RAdam", {}), ("Rprop", {}), ("ASGD", {}),
])  # fmt: skip
@pytest.mark.parametrize("max_value", [0.15, 0.9])
def test_max_value_is_clip_grad_value(name, options, max_value, dtype, rng):
    """Before the weight decay, which is not clipped."""
    if name != "Rprop":
        options = {**options, "weight_decay": 0.5}
    worst = follow(
        lambda params: getattr(optim, name)(params, lr=0.01, max_value=max_value, **options),
        lambda params: getattr(torch.optim, name)(params, lr=0.01, foreach=False, **options),
        SHAPES,
        dtype,
        rng,
        before_step=lambda params: torch.nn.utils.clip_grad_value_(params, max_value),
    )
    assert worst <= BOUND


@pytest.mark.parametrize(
    "name", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD"]
)
def test_parameter_groups(name, dtype, rng):
    def groups(params):
        return [
            {"params": params[:1], "lr": 0.02},
            {"params": params[1:], "weight_decay": 0.2},
        ]

    worst = follow(
        lambda params: getattr(optim, name)(groups(params), lr=0.003),
        lambda params: getattr(torch.optim, name)(groups(params), lr=0.003, foreach=False),
        SHAPES,
        dtype,
        rng,
    )
    assert worst <= BOUND


@pytest.mark.parametrize("options", [{"dampening": 0.3}, {"dampening": 0.3, "weight_decay": 0.1}, {}], ids=str)
def test_a_group_without_momentum_beside_one_with_it_is_not_dampened(options, dtype, rng):
    def groups(params):
        return [{"params": params[:1], "momentum": 0.9}, {"params": params[1:], "momentum": 0.0}]

    worst = follow(
        lambda params: optim.SGD(groups(params), lr=0.05, **options),
        lambda params: torch.optim.SGD(groups(params), lr=0.05, foreach=False, **options),
        SHAPES,
        dtype,
        rng,
    )
    assert worst <= BOUND


@pytest.mark.parametrize(
    "name", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop"]
)
def test_learning_rate_assigned_between_steps(name, rng):
    ours = [nonzero(rng, (9,), np.float64)]
    theirs = [torch.tensor(ours[0], requires_grad=True)]
    optimizer, twin = getattr(optim, name)(ours, lr=0.1), getattr(torch.optim, name)(theirs, lr=0.1, foreach=False)
    for step in range(10):
        optimizer.param_groups[0]["lr"] = twin.param_groups[0]["lr"] = 0.1 / (1 + step)
        g = nonzero(rng, (9,), np.float64)
        theirs[0].grad = torch.from_numpy(g.copy())
        optimizer.step([g])
        twin.step()
    assert ulps(ours[0], theirs[0].detach().numpy(), np.abs(ours[0]) + 1) <= 20


def test_clipping_matches_clip_grad_norm(rng):
    """torch divides by norm + 1e-6, so the two differ by 1e-6 relative to the norm, not by rounding."""
    ours = [nonzero(rng, shape, np.float64) for shape in SHAPES]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    optimizer, twin = optim.SGD(ours, lr=0.1, max_norm=1.0), torch.optim.SGD(theirs, lr=0.1, foreach=False)
    grads = [nonzero(rng, shape, np.float64) for shape in SHAPES]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    twin.step()
    info = optimizer.step(grads)
    assert info.grad_norm == pytest.approx(float(norm), rel=1e-14)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=2e-7)


def test_max_value_comes_after_the_norm_as_the_two_functions_of_torch_in_this_order(rng):
    ours = [nonzero(rng, shape, np.float64) for shape in SHAPES]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    optimizer = optim.SGD(ours, lr=0.1, momentum=0.9, max_norm=2.0, max_value=0.3)
    twin = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, foreach=False)
    for _ in range(STEPS):
        grads = [nonzero(rng, shape, np.float64) for shape in SHAPES]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        assert float(torch.nn.utils.clip_grad_norm_(theirs, 2.0)) > 2.0
        assert max(float(p.grad.abs().max()) for p in theirs) > 0.3
        torch.nn.utils.clip_grad_value_(theirs, 0.3)
        twin.step()
        optimizer.step(grads)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=1e-6 * 0.3 * STEPS)


@pytest.mark.parametrize(("name", "options"), [
    ("SGD", {"momentum": 0.9, "nesterov": True}), ("Adagrad", {"lr_decay": 0.1}), ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True, "eps": 1e-3}), ("Adam", {"weight_decay": 0.1}), ("Adam", {"amsgrad": True}),
    ("AdamW", {}), ("Adadelta", {}), ("Adamax", {}), ("NAdam", {}), ("RAdam", {}), ("ASGD", {}),
])  # fmt: skip
def test_float32_is_as_near_to_a_float64_run_as_torch_is(name, options, rng):
    """Rounding errors add up over the steps on both sides; ours may be half as large again as torch's, no more."""
    ours = [nonzero(rng, (1000,), np.float32)]
    theirs, exact = (torch.tensor(ours[0].astype(t), requires_grad=True) for t in (np.float32, np.float64))
    optimizer = getattr(optim, name)(ours, lr=0.01, **options)
    twin, oracle = (getattr(torch.optim, name)([p], lr=0.01, foreach=False, **options) for p in (theirs, exact))
    for _ in range(STEPS):
        g = nonzero(rng, (1000,), np.float32)
        theirs.grad, exact.grad = torch.from_numpy(g.copy()), torch.from_numpy(g.astype(np.float64))
        optimizer.step([g])
        twin.step()
        oracle.step()
    expected = exact.detach().numpy()
    own, other = (np.abs(p.astype(np.float64) - expected).mean() for p in (ours[0], theirs.detach().numpy()))
    assert 0 < own <= 1.5 * other


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam"])
def test_subnormal_states_keep_being_right(name, rng):
    """Squares of these gradients are subnormal in float32, so ours count as zero; beside eps neither can be seen. Then
    ordinary gradients follow, and the states must not have kept anything from before."""
    ours = [nonzero(rng, (100,), np.float32)]
    theirs = [torch.tensor(ours[0], requires_grad=True)]
    optimizer = getattr(optim, name)(ours, lr=0.01, eps=1e-8)
    twin = getattr(torch.optim, name)(theirs, lr=0.01, eps=1e-8, foreach=False)
    start = ours[0].copy()
    for step in range(40):
        g = nonzero(rng, (100,), np.float32)
        g *= np.float32(1e-21 if step < 20 else 1.0)
        theirs[0].grad = torch.from_numpy(g.copy())
        optimizer.step([g])
        twin.step()
        walked = np.abs(start) + 0.01 * (step + 1) * 10
        assert ulps(ours[0], theirs[0].detach().numpy(), walked) <= BOUND, step


def test_asgd_averages_like_torch(dtype, rng):
    ours = [nonzero(rng, (7,), dtype)]
    theirs = [torch.tensor(ours[0], requires_grad=True)]
    optimizer = optim.ASGD(ours, lr=0.1, t0=5.0)
    twin = torch.optim.ASGD(theirs, lr=0.1, t0=5.0, foreach=False)
    for step in range(40):
        g = nonzero(rng, (7,), dtype)
        theirs[0].grad = torch.from_numpy(g.copy())
        optimizer.step([g])
        twin.step()
        own, other = optimizer.state_dict()["state"][0]["ax"], twin.state[theirs[0]]["ax"].numpy()
        assert ulps(own, other, np.abs(other) + 0.1 * (step + 1)) <= BOUND
        assert (own == ours[0]).all() == (step < 7)


def test_rprop_keeps_torchs_states(rng):
    ours = [nonzero(rng, (50,), np.float64)]
    theirs = [torch.tensor(ours[0], requires_grad=True)]
    optimizer, twin = optim.Rprop(ours), torch.optim.Rprop(theirs, foreach=False)
    for step in range(30):
        g = nonzero(rng, (50,), np.float64)
        g[step % 50 :: 7] = 0.0
        theirs[0].grad = torch.from_numpy(g.copy())
        optimizer.step([g])
        twin.step()
        own, other = optimizer.state_dict()["state"][0], twin.state[theirs[0]]
        np.testing.assert_array_equal(own["prev"], other["prev"].numpy())
        np.testing.assert_array_equal(own["step_size"], other["step_size"].numpy())
