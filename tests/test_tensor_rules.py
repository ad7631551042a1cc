"""Rules that sum over whole tensors: LAMB and LARS against Optax, LARS and SWATS against programs in float64 of the
papers, and all three against the reference where the order of the sums shows."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from measure import assert_same_bits, ulps

from onepass import kernels, optim, reference

STEPS, BOUND = 50, 16  # units in the last place of an element's path, as in test_updates_torch.py
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
SHAPES = [(17,), (5, 7), (1,)]


def grid(**options):
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def nonzero(rng, shape, dtype=F64):
    a = rng.normal(size=shape)
    return (a + np.copysign(0.1, a)).astype(dtype)


def distance(params, twins, path, before):
    worst = 0.0
    for i, (p, q) in enumerate(zip(params, twins, strict=True)):
        path[i] += 2 * np.abs(q.astype(F64) - before[i])
        worst = max(worst, ulps(p, q, path[i]))
    return worst


def paths(params):
    return [np.abs(p).astype(F64) for p in params]


# ---- Optax


def follow_optax(make_ours, transform, dtype, rng, shapes=SHAPES):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    worst = 0.0
    with jax.enable_x64(True):
        ours = [nonzero(rng, shape, dtype) for shape in shapes]
        optimizer, path = make_ours(ours), paths(ours)
        theirs = [jax.numpy.asarray(p.copy()) for p in ours]
        state = transform.init(theirs)
        for _ in range(STEPS):
            grads = [nonzero(rng, p.shape, dtype) for p in ours]
            before = [np.asarray(q, F64) for q in theirs]
            updates, state = transform.update([jax.numpy.asarray(g.copy()) for g in grads], state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            optimizer.step(grads)
            worst = max(worst, distance(ours, [np.asarray(q) for q in theirs], path, before))
    return worst


@pytest.mark.parametrize(
    "options",
    grid(lr=[0.01, 0.3], betas=[(0.9, 0.999), (0.5, 0.8), (0.0, 0.9)], eps=[1e-6, 1e-2], weight_decay=[0.0, 0.1, 1.0]),
    ids=str,
)
def test_lamb_is_optaxs(options, dtype, rng):
    optax = pytest.importorskip("optax")
    transform = optax.lamb(
        options["lr"], *options["betas"], eps=options["eps"], eps_root=0.0, weight_decay=options["weight_decay"]
    )
    assert follow_optax(lambda params: optim.LAMB(params, **options), transform, dtype, rng) <= BOUND


@pytest.mark.parametrize("options", grid(
    lr=[0.1, 5.0], momentum=[0.9, 0.5, 0.0], trust_coefficient=[1e-3, 0.05], eps=[0.0, 1e-2], nesterov=[False, True],
), ids=str)  # fmt: skip
def test_lars_without_decay_is_optaxs(options, dtype, rng):
    """With decay Optax takes the ratio from the decayed gradient, the paper from the two lengths."""
    optax = pytest.importorskip("optax")
    transform = optax.lars(
        options["lr"], momentum=options["momentum"], trust_coefficient=options["trust_coefficient"],
        eps=options["eps"], nesterov=options["nesterov"],
    )  # fmt: skip
    assert follow_optax(lambda params: optim.LARS(params, **options), transform, dtype, rng) <= BOUND


# ---- LARS and LAMB in float64


@pytest.mark.parametrize("options", grid(
    lr=[0.1, 5.0], momentum=[0.9, 0.0], weight_decay=[0.0, 0.1, 2.0], trust_coefficient=[1e-3, 0.05],
    eps=[0.0, 1e-2], nesterov=[False, True], maximize=[False, True],
), ids=str)  # fmt: skip
def test_lars_is_the_papers(options, dtype, rng):
    params = [nonzero(rng, shape, dtype) for shape in SHAPES]
    exact, optimizer = [p.astype(F64) for p in params], optim.LARS(params, **options)
    buffers, path = [np.zeros(p.shape) for p in params], paths(params)
    o = options
    for _ in range(STEPS):
        grads, before = [nonzero(rng, p.shape, dtype) for p in params], [p.copy() for p in exact]
        optimizer.step(grads)
        for i, g in enumerate(grads):
            g, p = g.astype(F64) * (-1 if o["maximize"] else 1), exact[i]
            length, slope = np.sqrt((p * p).sum()), np.sqrt((g * g).sum())
            rate = o["lr"] * o["trust_coefficient"] * length / (slope + o["weight_decay"] * length + o["eps"])
            scaled = rate * (g + o["weight_decay"] * p)
            buffers[i] = o["momentum"] * buffers[i] + scaled
            exact[i] = p - (scaled + o["momentum"] * buffers[i] if o["nesterov"] else buffers[i])
        expected = [p.astype(dtype) for p in exact]
        assert distance(params, expected, path, before) <= BOUND


@pytest.mark.parametrize("bias_correction", [True, False])
def test_lamb_is_the_papers_and_each_tensor_has_its_ratio(bias_correction, rng):
    params = [nonzero(rng, shape) * scale for shape, scale in zip(SHAPES, (1.0, 1e-3, 50.0), strict=True)]
    exact, m, v = [p.copy() for p in params], [0.0] * 3, [0.0] * 3
    optimizer = optim.LAMB(params, lr=0.02, eps=1e-3, weight_decay=0.05, bias_correction=bias_correction)
    path = paths(params)
    for k in range(1, STEPS + 1):
        grads, before = [nonzero(rng, p.shape) for p in params], [p.copy() for p in exact]
        optimizer.step(grads)
        for i, g in enumerate(grads):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g
            one, two = (1 - 0.9**k, 1 - 0.999**k) if bias_correction else (1.0, 1.0)
            d = m[i] / one / (np.sqrt(v[i] / two) + 1e-3) + 0.05 * exact[i]
            exact[i] = exact[i] - 0.02 * np.linalg.norm(exact[i]) / np.linalg.norm(d) * d
        assert distance(params, exact, path, before) <= 4 * BOUND


def test_lengths_of_zero_have_the_ratio_1(dtype):
    p, g = np.zeros(3, dtype), np.array([1.0, -2.0, 4.0], dtype)
    optim.LAMB([p], lr=0.5, eps=0.0).step([g])
    np.testing.assert_allclose(p, [-0.5, 0.5, -0.5], rtol=1e-6)
    p[...] = 0
    optim.LARS([p], lr=0.5, trust_coefficient=1e-3).step([g])
    assert p.tolist() == [-0.5, 1.0, -2.0]
    p[...] = 2
    optim.LARS([p], lr=0.5, weight_decay=0.25).step([np.zeros(3, dtype)])
    assert p.tolist() == [1.75] * 3
    p[...] = 2
    optim.LAMB([p], lr=0.5).step([np.zeros(3, dtype)])
    assert p.tolist() == [2] * 3


@pytest.mark.parametrize("name", ["lamb", "lars", "swats"])
def test_a_gradient_that_is_nan_spoils_its_element_or_by_the_ratio_its_tensor(name, dtype, rng):
    n = 700
    arrays = [nonzero(rng, n, dtype), nonzero(rng, n, dtype)]
    arrays[1][333] = np.nan
    arrays += [np.abs(nonzero(rng, n, dtype)) for _ in kernels.UPDATES[name].states]
    twins = [a.copy() for a in arrays]
    getattr(kernels, name)(*arrays, step=3)
    getattr(reference, name)(*twins, step=3)
    for a, b in zip(arrays, twins, strict=True):
        assert_same_bits(a, b)
    assert np.flatnonzero(np.isnan(arrays[0])).tolist() == ([333] if name == "swats" else list(range(n)))
    other = optim.SWATS([np.ones(3)], tolerance=1e9)
    for _ in range(5):
        other.step([np.array([1.0, np.nan, 1.0])])
    assert other.phases == ["adam"]


# ---- the order of sums


VIEWS = {
    "C": lambda m: m,
    "transposed": lambda m: m.T,
    "strided": lambda m: m[::2, 1::3],
    "transposed view": lambda m: m[1::3, ::2].T,
    "backwards": lambda m: m[::-1, ::-1],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["lamb", "lars", "swats"])
def test_parts_of_big_tensors_are_summed_in_the_references_order(name, view, dtype, rng):
    """Several parts of 32768 elements; magnitudes differ, so that another order would be seen."""
    states = kernels.UPDATES[name].states

    def arrays():
        draw = np.random.default_rng(5)
        memory = [draw.standard_normal((601, 499)) * 10.0 ** draw.integers(-3, 3, (601, 499)) for _ in range(2)]
        memory += [np.abs(draw.standard_normal((601, 499))) for _ in states]
        return [VIEWS[view](m.astype(dtype)) for m in memory]

    expected = arrays()
    assert expected[0].size > 49_000
    for step in (1, 2):
        getattr(reference, name)(*expected, step=step)
    for threads in (1, 2, 5):
        actual = arrays()
        for step in (1, 2):
            getattr(kernels, name)(*actual, step=step, threads=threads)
        for a, b in zip(actual, expected, strict=True):
            assert_same_bits(a, b, f"{threads} threads")


@pytest.mark.parametrize("name", ["LAMB", "LARS", "SWATS"])
def test_many_tensors_are_each_its_own(name, rng):
    """Sizes around runs of 256 and parts of 32768; both types; what one does changes none of the others."""
    shapes = [(1,), (255,), (257,), (32_768,), (0,), (32_769,), (100_001,), (16, 17)]
    params = [nonzero(rng, s, t) for s, t in zip(shapes, itertools.cycle([F32, F64]), strict=False)]
    alone = [p.copy() for p in params]
    options = {"tolerance": 0.0} if name == "SWATS" else {"weight_decay": 0.1}
    together = getattr(optim, name)(params, **options)
    single = [getattr(optim, name)([p], **options) for p in alone]
    for _ in range(3):
        grads = [nonzero(rng, p.shape, p.dtype) for p in params]
        together.step(grads)
        for optimizer, g in zip(single, grads, strict=True):
            optimizer.step([g])
    for a, b in zip(params, alone, strict=True):
        assert_same_bits(a, b)


# ---- SWATS: algorithm 1 of arXiv 1712.07628 in float64


class Swats:
    """One parameter group. The paper's eps stands before the bias correction, so that it is 0 here."""

    def __init__(self, params, lr, betas, tolerance, weight_decay=0.0):
        self.w = [p.astype(np.float64) for p in params]
        self.m, self.a, self.v = ([np.zeros(p.shape) for p in params] for _ in range(3))
        self.lr, self.betas, self.tolerance, self.decay = lr, betas, tolerance, weight_decay
        self.k, self.average, self.rate, self.first_rate, self.switched = 0, 0.0, None, lr, None

    def step(self, grads):
        self.k += 1
        b1, b2 = self.betas
        grads = [g.astype(np.float64) + self.decay * w for g, w in zip(grads, self.w, strict=True)]
        if self.rate is not None:
            for i, g in enumerate(grads):
                self.v[i] = b1 * self.v[i] + g
                self.w[i] = self.w[i] - (1 - b1) * self.rate * self.lr / self.first_rate * self.v[i]
            return
        steps = []
        for i, g in enumerate(grads):
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.a[i] = b2 * self.a[i] + (1 - b2) * g * g
            steps.append(-self.lr * np.sqrt(1 - b2**self.k) / (1 - b1**self.k) * self.m[i] / np.sqrt(self.a[i]))
            self.w[i] = self.w[i] + steps[i]
        product = sum((p * g).sum() for p, g in zip(steps, grads, strict=True))
        if product == 0:
            return
        gamma = sum((p * p).sum() for p in steps) / -product
        self.average = b2 * self.average + (1 - b2) * gamma
        estimate = self.average / (1 - b2**self.k)
        if self.k > 1 and abs(estimate - gamma) < self.tolerance:
            self.rate, self.first_rate, self.switched = estimate, self.lr, self.k


def drifting(rng, shapes, dtype, step):
    """Gradients around a slope, whose noise dies away: gamma settles."""
    slope = np.random.default_rng(77)
    return [
        (np.copysign(0.5 + slope.random(s), slope.normal(size=s)) * (1 + 0.8 / step * rng.normal(size=s))).astype(dtype)
        for s in shapes
    ]


SWATS_CASES = grid(betas=[(0.9, 0.999), (0.5, 0.9)], tolerance=[1e-4, 1e-5, 1e-6], weight_decay=[0.0, 0.05])


@pytest.mark.parametrize("options", SWATS_CASES, ids=str)
def test_swats_is_algorithm_1(options, dtype, rng):
    params = [nonzero(rng, shape, dtype) for shape in SHAPES]
    exact = Swats(params, 0.02, **options)
    optimizer = optim.SWATS(params, lr=0.02, eps=0.0, **options)
    tolerance = 1e-10 if dtype == F64 else 2e-4
    for step in range(1, 201):
        grads = drifting(rng, SHAPES, dtype, step)
        optimizer.step(grads)
        exact.step(grads)
        if dtype == F64:
            assert optimizer.phases == ["adam" if exact.rate is None else "sgd"], step
        elif optimizer.phases != ["adam" if exact.rate is None else "sgd"]:
            return  # a rounding of float32 moved the switch: the rest is not comparable
        for p, q in zip(params, exact.w, strict=True):
            np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance)
    if options["tolerance"] >= 1e-4 or (options["betas"] == (0.5, 0.9) and options["weight_decay"] == 0):
        assert 2 < exact.switched < 150
        ratio = optimizer.param_groups[0]["sgd_ratio"]
        assert ratio == pytest.approx(exact.rate / 0.02, rel=1e-9 if dtype == F64 else 1e-3)


def test_groups_switch_by_themselves_and_the_rate_follows_lr(rng):
    params = [nonzero(rng, s) for s in [(9,), (4, 5), (30,)]]
    groups = [{"params": params[:2], "tolerance": 1e-4}, {"params": params[2:], "tolerance": 1e-5, "lr": 0.01}]
    optimizer = optim.SWATS(groups, lr=0.02, betas=(0.5, 0.9), eps=0.0)
    exact = [Swats(params[:2], 0.02, (0.5, 0.9), 1e-4), Swats(params[2:], 0.01, (0.5, 0.9), 1e-5)]
    seen = set()
    for step in range(1, 301):
        if step == 200:
            assert optimizer.phases == ["sgd", "sgd"]
            for group, own in zip(optimizer.param_groups, exact, strict=True):
                group["lr"] = own.lr = own.lr / 4
        grads = drifting(rng, [p.shape for p in params], F64, step)
        optimizer.step(grads)
        exact[0].step(grads[:2])
        exact[1].step(grads[2:])
        seen.add(tuple(optimizer.phases))
        for p, q in zip(params, exact[0].w + exact[1].w, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-10, atol=1e-10)
    assert len(seen) == 3  # none, one, both
    assert exact[0].switched != exact[1].switched


def test_a_schedule_goes_on_behind_the_switch(rng):
    p, q = nonzero(rng, 40), None
    q = p.copy()
    scheduled = optim.SWATS([p], lr=lambda step: 0.02 / (1 + 0.1 * step), tolerance=0.01)
    assigned = optim.SWATS([q], lr=0.02, tolerance=0.01)
    for step in range(1, 80):
        g = drifting(rng, [p.shape], F64, step)
        assigned.param_groups[0]["lr"] = 0.02 / (1 + 0.1 * (step - 1))
        scheduled.step(g)
        assigned.step(g)
        assert_same_bits(p, q)
    assert scheduled.phases == assigned.phases == ["sgd"]


def test_a_tensor_without_a_gradient_has_no_say(rng):
    params = [nonzero(rng, 9), nonzero(rng, 2000)]
    alone = [params[0].copy()]
    both, one = (optim.SWATS(p, lr=0.02, tolerance=1e-2) for p in (params, alone))
    kept = params[1].copy()
    for step in range(1, 60):
        g = drifting(rng, [(9,)], F64, step)
        both.step([*g, None])
        one.step(g)
        assert both.phases == one.phases
        assert_same_bits(params[0], alone[0])
    assert one.phases == ["sgd"]
    assert_same_bits(params[1], kept)


def test_swats_never_goes_on_with_a_rate_below_0():
    """Gradients that turn round faster than the momentum: the step points uphill, and gamma is negative."""
    p = np.ones(5)
    optimizer = optim.SWATS([p], lr=0.1, betas=(0.9, 0.5), tolerance=1e9)
    optimizer.param_groups[0]["tolerance"] = 0.0
    for _ in range(30):
        optimizer.step([np.ones(5)])
    optimizer.param_groups[0]["tolerance"] = 1e9
    for _ in range(3):
        optimizer.step([np.full(5, -1e-3)])
        assert (optimizer.param_groups[0]["sgd_ratio"] or 0.0) >= 0
    assert optimizer.param_groups[0]["rate_average"] < 0


def test_skipped_steps_do_not_move_the_estimate(rng):
    p, q = np.ones(9), np.ones(9)
    one, two = (optim.SWATS([a], lr=0.02, tolerance=1e-3, max_norm=1e6) for a in (p, q))
    for step in range(1, 120):
        g = drifting(rng, [(9,)], F64, step)
        if step % 4 == 0:
            assert one.step([np.full(9, np.inf)]).skipped
        one.step(g)
        two.step(g)
        assert one.param_groups[0]["rate_average"] == two.param_groups[0]["rate_average"]
        assert_same_bits(p, q)
    assert one.phases == ["sgd"]


STATES = [{}, {"state_dtype": "bfloat16"}, {"state_dtype": "float8"}, {"master_weights": "split"}]


@pytest.mark.parametrize("storage", STATES, ids=str)
def test_resuming_across_the_switch(storage, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = ml_dtypes.bfloat16 if "master_weights" in storage else F32
    start = [nonzero(rng, s).astype(kind) for s in [(9,), (4, 5)]]
    grads = [drifting(rng, [p.shape for p in start], F32, step) for step in range(1, 61)]
    params = [p.copy() for p in start]

    def make(arrays, tolerance=0.0):
        return optim.SWATS(arrays, lr=0.02, betas=(0.5, 0.9), tolerance=tolerance, seed=3, **storage)

    whole = make(params, 1e-4)
    saved, switched = [], None
    for step, g in enumerate(grads):
        saved.append((copy.deepcopy(whole.state_dict()), [p.copy() for p in params]))
        whole.step(g)
        if switched is None and whole.phases == ["sgd"]:
            switched = step
            assert not any(entry["exp_avg"].any() for entry in whole.state_dict()["state"].values())
    assert switched is not None
    assert switched > 1
    for begin in (switched - 1, switched, switched + 1, switched + 2, 50):
        state, arrays = saved[begin]
        arrays = [p.copy() for p in arrays]
        resumed = make(arrays)
        resumed.load_state_dict(state)
        for g in grads[begin:]:
            resumed.step(g)
        for a, b in zip(arrays, params, strict=True):
            assert a.tobytes() == b.tobytes(), begin
        assert resumed.phases == ["sgd"]


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda p: optim.SWATS(p, tolerance=-1.0), ValueError, "tolerance"),
    (lambda p: optim.SWATS(p, betas=(1.0, 0.9)), ValueError, "betas"),
    (lambda p: optim.LARS(p, momentum=-1.0), ValueError, "momentum"),
    (lambda p: optim.LARS(p, trust_coefficient=-1.0), ValueError, "trust_coefficient"),
    (lambda p: optim.LARS(p, nesterov="x"), TypeError, "nesterov: expected True or False"),
    (lambda p: optim.LAMB(p, betas=(0.9, 1.5)), ValueError, "betas"),
    (lambda p: optim.LAMB(p, bias_correction="no"), TypeError, "bias_correction: expected True or False"),
    (lambda p: optim.LAMB(p, eps=-1.0), ValueError, "eps"),
])  # fmt: skip
def test_refused(make, error, match):
    with pytest.raises(error, match=match):
        make([np.ones(3)])
