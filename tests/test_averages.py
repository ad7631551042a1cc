"""EMA, SWA and Lookahead: the weights of the same optimizer without a wrapper, averaged in NumPy in the kernels' order
of operations, to the bit; and torch.optim.swa_utils."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from measure import assert_same_bits, ulps

from onepass import checkpoint, losses, nn, optim
from onepass.trainer import Trainer

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32, F64 = (np.dtype(t) for t in (np.float16, np.float32, np.float64))

CLASSES = {
    "SGD": {"lr": 0.1},
    "Adam": {"lr": 0.05, "weight_decay": 0.1},
    "AdamW": {"lr": 0.05, "amsgrad": True},
    "RMSprop": {"lr": 0.02, "centered": True},
    "Rprop": {},
    "LAMB": {"lr": 0.05},
    "LARS": {"lr": 3.0},
    "SWATS": {"lr": 0.05, "tolerance": 1.0},
}
classes = pytest.mark.parametrize("name", CLASSES)

WRAPPERS = {
    "EMA": lambda o: optim.EMA(o, decay=0.9),
    "EMA, decay 0": lambda o: optim.EMA(o, decay=0.0),
    "EMA, decay 1": lambda o: optim.EMA(o, decay=1.0),
    "SWA": lambda o: optim.SWA(o),
    "SWA, start and every": lambda o: optim.SWA(o, start=4, every=3),
    "Lookahead": lambda o: optim.Lookahead(o),
    "Lookahead, k and alpha": lambda o: optim.Lookahead(o, k=2, alpha=0.8),
    "Lookahead, every step": lambda o: optim.Lookahead(o, k=1, alpha=0.3),
}
wrappers = pytest.mark.parametrize("wrapper", WRAPPERS)


def weight(wrapper, step):
    """Step from 0: average += weight (param - average), and whether the param becomes it."""
    kind, _, which = wrapper.partition(", ")
    if kind == "EMA":
        return 1 - {"": 0.9, "decay 0": 0.0, "decay 1": 1.0}[which], False
    if kind == "SWA":
        start, every = (4, 3) if which else (0, 1)
        counts = [s for s in range(step + 1) if s >= start and (s - start) % every == 0]
        return (1 / len(counts), False) if step in counts else (0.0, False)
    k, alpha = {"": (5, 0.5), "k and alpha": (2, 0.8), "every step": (1, 0.3)}[which]
    return (alpha, True) if (step + 1) % k == 0 else (0.0, False)


def fold(wrapper, step, param, average):
    """In place, in the type of the average; returns the param's number for what is stored."""
    w, write_back = weight(wrapper, step)
    average[...] = average + average.dtype.type(w) * (param - average)
    return average.copy() if write_back else param


def words(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def make_params(rng, dtype):
    whole = rng.standard_normal((40, 40)).astype(dtype)
    views = [
        whole[:7, :9].copy(),
        whole[:7, :9].copy().T,
        whole[1:30:2, 3:20:3],
        whole[:6, :5].copy()[::-1],
        whole[0, :1].copy(),
    ]
    return [*views, rng.standard_normal(700).astype(dtype)]


def gradients(rng, params):
    return [(rng.standard_normal(p.shape) * 0.7 + 0.2).astype(F64 if p.dtype == F64 else F32) for p in params]


@wrappers
@classes
@pytest.mark.parametrize("kind", [F32, F64, F16, BF16], ids=str)
def test_numpys_bits(name, wrapper, kind, rng):
    """Parameters in fewer bits are rounded behind the average, which sees them unrounded."""
    params = make_params(rng, kind)
    wide = F64 if kind == F64 else F32
    twins = [np.array(p.astype(wide), order="K") for p in params]
    means = [t.copy() for t in twins]
    ours = WRAPPERS[wrapper](getattr(optim, name)(params, **CLASSES[name]))
    plain = getattr(optim, name)(twins, **CLASSES[name])
    for step in range(13):
        grads = gradients(rng, params)
        ours.step(grads)
        plain.step(grads)
        for p, twin, mean, average in zip(params, twins, means, ours.averages, strict=True):
            twin[...] = fold(wrapper, step, twin, mean).astype(kind)
            assert average.dtype == wide
            assert_same_bits(average, mean, f"step {step}")
            assert (words(p) == words(twin.astype(kind))).all(), step
    assert ours.steps == 13


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
@wrappers
def test_states_in_fewer_bits(wrapper, state_dtype, rng):
    params = make_params(rng, F32)
    twins = [p.copy(order="K") for p in params]
    means = [t.copy() for t in twins]
    options = {"state_dtype": state_dtype, "stochastic_rounding": True, "seed": 7, "lr": 0.05}
    ours, plain = WRAPPERS[wrapper](optim.Adam(params, **options)), optim.Adam(twins, **options)
    for step in range(11):
        grads = gradients(rng, params)
        ours.step(grads)
        plain.step(grads)
        for p, twin, mean, average in zip(params, twins, means, ours.averages, strict=True):
            twin[...] = fold(wrapper, step, twin, mean)
            assert_same_bits(average, mean)
            assert_same_bits(p, twin)


@pytest.mark.parametrize(
    ("inner", "outer"), list(itertools.permutations(["EMA", "SWA, start and every", "Lookahead"], 2))
)
def test_two_wrappers_the_inner_first(inner, outer, dtype, rng):
    params = make_params(rng, dtype)
    twins = [p.copy(order="K") for p in params]
    means = [[t.copy() for t in twins] for _ in range(2)]
    ours = WRAPPERS[outer](WRAPPERS[inner](optim.Adam(params, lr=0.1)))
    plain = optim.Adam(twins, lr=0.1)
    for step in range(16):
        grads = gradients(rng, params)
        ours.step(grads)
        plain.step(grads)
        for i, (p, twin) in enumerate(zip(params, twins, strict=True)):
            for which, mean, average in (
                (inner, means[0][i], ours.optimizer.averages[i]),
                (outer, means[1][i], ours.averages[i]),
            ):
                twin[...] = fold(which, step, twin, mean)
                assert_same_bits(average, mean, which)
            assert_same_bits(p, twin)


def test_two_of_a_kind(rng):
    params = make_params(rng, F32)
    ours = optim.EMA(optim.EMA(optim.Adam(params), decay=0.9), decay=0.5)
    slow, fast = [p.copy() for p in params], [p.copy() for p in params]
    for _ in range(9):
        ours.step(gradients(rng, params))
        for i, p in enumerate(params):
            slow[i] += np.float32(1 - 0.9) * (p - slow[i])
            fast[i] += np.float32(0.5) * (p - fast[i])
            assert_same_bits(ours.optimizer.averages[i], slow[i])
            assert_same_bits(ours.averages[i], fast[i])


def test_a_third_wrapper_is_refused():
    two = optim.EMA(optim.Lookahead(optim.SGD([np.zeros(3)])))
    with pytest.raises(ValueError, match="optimizer: has two averages already, as many as a step can write"):
        optim.SWA(two)
    two.step([np.ones(3)])
    assert two.steps == 1


# ---- torch


@pytest.mark.parametrize("decay", [0.9, 0.5, 0.3, 0.999])
def test_ema_is_torchs(decay, dtype, rng):
    torch = pytest.importorskip("torch")
    from torch.optim import swa_utils

    check_torch(
        torch, dtype, rng, lambda o: optim.EMA(o, decay=decay), swa_utils.get_ema_multi_avg_fn(decay), lambda s: True
    )


def test_swa_is_torchs(dtype, rng):
    torch = pytest.importorskip("torch")
    from torch.optim import swa_utils

    check_torch(
        torch, dtype, rng, lambda o: optim.SWA(o, start=5, every=2), swa_utils.get_swa_multi_avg_fn(),
        lambda s: s >= 5 and (s - 5) % 2 == 0,
    )  # fmt: skip


def check_torch(torch, dtype, rng, wrap, average_fn, counts):
    """Distance in units of the largest magnitude on an element's path, of which each update of the average rounds some:
    measured 9 at most."""
    from torch.optim.swa_utils import AveragedModel

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the weight 1 / n
    try:
        follow_torch(torch, AveragedModel, dtype, rng, wrap, average_fn, counts)
    finally:
        torch.set_default_dtype(before)


def follow_torch(torch, averaged_model, dtype, rng, wrap, average_fn, counts):
    class Model(torch.nn.Module):
        def __init__(self, p):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(p.copy()))

    p = rng.standard_normal((9, 13)).astype(dtype)
    model = Model(p)
    averaged = averaged_model(model, multi_avg_fn=average_fn)
    if "ema" in average_fn.__qualname__:
        averaged.update_parameters(model)  # the first only copies
    ours, theirs = wrap(optim.SGD([p], lr=0.1)), torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    top = np.abs(p)
    for step in range(60):
        g = gradients(rng, [p])[0]
        model.weight.grad = torch.from_numpy(g.copy())
        theirs.step()
        if counts(step):
            averaged.update_parameters(model)
        ours.step([g])
        top = np.maximum(top, np.abs(p))
        if step >= 5:
            assert ulps(ours.averages[0], averaged.module.weight.detach().numpy(), top) <= 16, step


# ---- what a step is


@pytest.mark.parametrize("order", ["EMA", "SWA", "Lookahead"])
def test_a_gradient_that_is_none_leaves_the_average_alone(order, rng):
    params = make_params(rng, F32)
    ours = WRAPPERS[order](optim.Adam(params, lr=0.1))
    twins, means = [p.copy(order="K") for p in params], [p.copy() for p in params]
    plain = optim.Adam(twins, lr=0.1)
    for step in range(12):
        grads = [None if rng.random() < 0.4 else g for g in gradients(rng, params)]
        ours.step(grads)
        plain.step(grads)
        for p, twin, mean, average, g in zip(params, twins, means, ours.averages, grads, strict=True):
            if g is not None:
                twin[...] = fold(order, step, twin, mean)
            assert_same_bits(average, mean)
            assert_same_bits(p, twin)


@pytest.mark.parametrize("order", ["EMA", "SWA, start and every", "Lookahead"])
def test_skipped_steps_do_not_count(order, rng):
    params, others = ([np.ones(20, F32)] for _ in range(2))
    one, two = (WRAPPERS[order](optim.Adam(p, lr=0.1, max_norm=5.0)) for p in (params, others))
    outer = [optim.EMA(o) for o in (one, two)]
    for step in range(17):
        g = gradients(rng, params)
        if step % 3 == 1:
            bad = [np.full(20, np.nan, F32)]
            assert outer[0].step(bad).skipped
        assert not outer[0].step(g).skipped
        outer[1].step(g)
        assert_same_bits(params[0], others[0])
        assert_same_bits(one.averages[0], two.averages[0])
        assert_same_bits(outer[0].averages[0], outer[1].averages[0])
    assert one.steps == two.steps == outer[0].steps == 17


def test_a_step_that_raises_does_not_count():
    p = np.ones(3)
    ema = optim.EMA(optim.SGD([p], lr=1.0), decay=0.5)
    with pytest.raises(ValueError, match="grad: expected shape"):
        ema.step([np.ones(4)])
    assert ema.steps == 0
    assert p.tolist() == ema.averages[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("order", ["EMA", "Lookahead, every step", "SWA"])
def test_the_optimizer_inside_steps_without_the_average(order, rng):
    p, q = np.ones(5), np.ones(5)
    ours, plain = WRAPPERS[order](optim.SGD([p], lr=0.1)), optim.SGD([q], lr=0.1)
    ours.step([np.ones(5)])
    q[...] = p
    kept = ours.averages[0].copy()
    for _ in range(3):
        g = gradients(rng, [p])
        ours.optimizer.step(g)
        plain.step(g)
        assert_same_bits(p, q)
    assert_same_bits(ours.averages[0], kept)


def test_options_are_those_of_the_optimizer_inside():
    p = np.ones(4)
    adam = optim.Adam([p], lr=0.1)
    outer = optim.SWA(optim.EMA(adam))
    outer.max_norm, outer.max_value = 1.5, 0.25
    outer.param_groups[0]["lr"] = 0.2
    assert (adam.max_norm, adam.max_value, adam.param_groups[0]["lr"]) == (1.5, 0.25, 0.2)
    assert outer.max_norm == outer.optimizer.max_norm == 1.5
    assert outer.learning_rates() == [0.2]
    assert outer.weights[0] is p
    assert outer.innermost is adam
    assert outer.state_dtype == "float32"
    assert outer.step([np.full(4, 3.0)]).grad_norm == 6.0
    assert optim.EMA(optim.SWATS([p])).phases == ["adam"]
    assert repr(outer).startswith("SWA(EMA(Adam(1 parameters; lr=0.2")
    with pytest.raises(AttributeError):
        _ = outer.nothing


@pytest.mark.parametrize("order", ["EMA", "Lookahead"])
def test_a_schedule_inside(order, rng):
    p, q = np.ones(30), np.ones(30)
    ours = WRAPPERS[order](optim.Adam([p], lr=lambda step: 0.1 / (1 + step)))
    rates, theirs = [], WRAPPERS[order](optim.Adam([q], lr=0.1))
    for step in range(12):
        rates += ours.learning_rates()
        theirs.param_groups[0]["lr"] = 0.1 / (1 + step)
        g = gradients(rng, [p])
        ours.step(g)
        theirs.step(g)
        assert_same_bits(p, q)
        assert_same_bits(ours.averages[0], theirs.averages[0])
    assert rates == [0.1 / (1 + step) for step in range(12)]


# ---- swap


STORED = [
    (F32, {}), (F64, {}), (F16, {}), (BF16, {}), (F16, {"master_weights": "float32"}),
    (BF16, {"master_weights": "float32"}), (BF16, {"master_weights": "split"}), (F32, {"copies": F16}),
    (F32, {"copies": BF16}), (BF16, {"master_weights": "split", "copies": F16}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), STORED, ids=str)
def test_swapping_twice_is_nothing(kind, options, rng):
    params = make_params(rng, kind)
    options = dict(options)
    copies = [np.zeros(p.shape, options["copies"]) for p in params] if "copies" in options else []
    if copies:
        options["copies"] = copies
    ema = optim.EMA(optim.Adam(params, lr=0.3, **options), decay=0.7)
    for average, p in zip(ema.averages, params, strict=True):
        assert_same_bits(average, np.asarray(p.astype(average.dtype)))
    for _ in range(5):
        ema.step(gradients(rng, params))
    lower = [entry.get("lower") for entry in ema.state_dict()["state"].values()]

    def everything():
        return copy.deepcopy([params, ema.weights, ema.averages, copies, lower])

    def same(one, two):
        pairs = zip(itertools.chain(*one), itertools.chain(*two), strict=True)
        return all((words(a) == words(b)).all() for a, b in pairs if a is not None)

    before = everything()
    for _ in range(2):
        ema.swap()
        for p, mean, own in zip(params, before[2], copies or params, strict=True):
            if options.get("master_weights") == "split":
                assert (words(p) == words(mean) >> 16).all()
            else:
                assert (words(p) == words(mean.astype(p.dtype))).all()
            if copies:
                assert (words(own) == words(mean.astype(own.dtype))).all()
        assert not same(everything()[:1], before[:1])
        ema.swap()
        assert same(everything(), before)
    ema.step(gradients(rng, params))
    assert not same(everything()[2:3], before[2:3])


def test_averages_that_were_swapped_in_may_be_trained_on(rng):
    """Then what comes back with the next swap are these parameters, not what they began from."""
    p = rng.standard_normal(50).astype(BF16)
    ema = optim.EMA(optim.SGD([p], lr=0.5), decay=0.7)
    ema.step(gradients(rng, [p]))
    ema.swap()
    ema.step(gradients(rng, [p]))
    trained = p.copy()
    ema.swap()
    np.testing.assert_array_equal(ema.averages[0], trained.astype(F32))


# ---- saved and loaded


def resumed(ours, theirs, params, others, rng, steps=9):
    for _ in range(steps):
        g = gradients(rng, params)
        ours.step(g)
        theirs.step(g)
    for a, b in zip(params, others, strict=True):
        assert (words(a) == words(b)).all()
    one, two = ours.state_dict(), theirs.state_dict()
    assert one["averages"] == two["averages"]
    for i, entry in one["state"].items():
        assert entry.keys() == two["state"][i].keys()
        for key, value in entry.items():
            assert_same_bits(np.asarray(value), np.asarray(two["state"][i][key]), key)


@pytest.mark.parametrize(("inner", "outer"), [
    (None, "EMA"), (None, "SWA, start and every"), (None, "Lookahead"), ("EMA", "Lookahead"),
    ("Lookahead, k and alpha", "EMA"), ("SWA", "EMA"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [F32, F64, BF16], ids=str)
def test_state_dict_resumes_to_the_bit(inner, outer, kind, rng):
    """With the wrappers' options, whatever the second was made with."""
    params = make_params(rng, kind)

    def make(arrays, fresh):
        optimizer = optim.Adam(arrays, lr=0.1)
        for name in (inner, outer):
            if name is not None:
                optimizer = getattr(optim, name.partition(",")[0])(optimizer) if fresh else WRAPPERS[name](optimizer)
        return optimizer

    first = make(params, False)
    for _ in range(7):
        first.step(gradients(rng, params))
    saved, others = copy.deepcopy(first.state_dict()), [p.copy(order="K") for p in params]
    second = make(others, True)
    second.load_state_dict(saved)
    resumed(first, second, params, others, rng)


def plain():
    return optim.SGD([np.zeros(3)])


@pytest.mark.parametrize(("given", "own", "match"), [
    (plain(), optim.EMA(plain()), "holds no averages, this optimizer's are of EMA; optimizer.load_state_dict"),
    (optim.EMA(plain()), plain(), "holds averages of EMA, this optimizer keeps none"),
    (optim.EMA(plain()), optim.SWA(plain()), "holds averages of EMA, this optimizer's are of SWA"),
    (optim.EMA(optim.SWA(plain())), optim.SWA(optim.EMA(plain())), "of SWA in EMA, this optimizer's are of EMA in SWA"),
    (optim.EMA(optim.SWA(plain())), optim.EMA(plain()), "of SWA in EMA, this optimizer's are of EMA"),
    (optim.EMA(plain()), optim.EMA(optim.SWA(plain())), "holds averages of EMA, this optimizer's are of SWA in EMA"),
    (optim.EMA(optim.Adam([np.zeros(3)])), optim.EMA(plain()), "is of update 'adam', this optimizer's is 'sgd'"),
    (optim.EMA(optim.SGD([np.zeros(4)])), optim.EMA(plain()), r"average 0 of parameter 0: expected float64 \(3,\)"),
    (
        optim.EMA(optim.SGD([np.zeros(3, F32)])),
        optim.EMA(plain()),
        r"average 0 of parameter 0: expected float64 \(3,\)",
    ),
])  # fmt: skip
def test_a_state_dict_of_another_kind_is_refused(given, own, match):
    given.step([np.ones(p.shape, p.dtype) for p in given.weights])
    before = copy.deepcopy(own.state_dict())
    with pytest.raises(ValueError, match=match):
        own.load_state_dict(given.state_dict())
    after = own.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after.get("averages") == before.get("averages")
    for key, value in before["state"][0].items():
        assert (after["state"][0][key] == value).all() if key != "step" else after["state"][0][key] == value


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": -1}, "steps: expected an integer >= 0, got -1"),
        ({"steps": None}, "EMA has no steps"),
        ({"decay": None}, "EMA has no decay"),
        ({"decay": 1.5}, r"decay: expected a finite number in \[0, 1\], got 1.5"),
    ],
)
def test_a_damaged_state_dict_is_refused(change, match):
    own, given = optim.EMA(plain()), copy.deepcopy(optim.EMA(plain(), decay=0.5).state_dict())
    given["averages"][0].update(change)
    given["averages"] = [{k: v for k, v in given["averages"][0].items() if v is not None}]
    with pytest.raises(ValueError, match=match):
        own.load_state_dict(given)
    assert own.decay == 0.999


def test_a_trainer_and_its_checkpoint(tmp_path, rng):
    pytest.importorskip("safetensors")
    x = rng.standard_normal((96, 5)).astype(np.float32)
    y = (x @ rng.standard_normal((5, 3))).argmax(1)

    def make():
        model = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm(16), nn.ReLU(), nn.Linear(16, 3), seed=1)
        optimizer = optim.EMA(optim.Lookahead(optim.Adam(model.parameters(), lr=0.01)), decay=0.9)
        return Trainer(model, losses.CrossEntropy(), optimizer, schedule=lambda step: 0.02 / (1 + step))

    whole, begun, resumed_run = make(), make(), make()
    whole.fit(x, y, epochs=4, batch_size=16)
    begun.fit(x, y, epochs=2, batch_size=16)
    checkpoint.save(tmp_path, begun.model, begun.optimizer)
    checkpoint.load(tmp_path, resumed_run.model, resumed_run.optimizer)
    resumed_run.epoch, resumed_run.step = begun.epoch, begun.step
    resumed_run.fit(x, y, epochs=2, batch_size=16)
    assert whole.optimizer.steps == resumed_run.optimizer.steps == 24
    for one, two in (
        (whole.model.parameters(), resumed_run.model.parameters()),
        (whole.optimizer.averages, resumed_run.optimizer.averages),
        (whole.optimizer.optimizer.averages, resumed_run.optimizer.optimizer.averages),
    ):
        for a, b in zip(one, two, strict=True):
            assert_same_bits(a, b)
    before = whole.evaluate(x, y)["loss"]
    whole.optimizer.swap()
    with_averages = whole.evaluate(x, y)["loss"]
    whole.optimizer.swap()
    assert with_averages != before
    assert whole.evaluate(x, y)["loss"] == before
    other = optim.SWA(optim.Lookahead(optim.Adam(begun.model.parameters())))
    with pytest.raises(checkpoint.CheckpointError, match="averages of Lookahead in EMA, this optimizer's are of Look"):
        checkpoint.load(tmp_path, None, other)


# ---- refused


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: optim.EMA([np.zeros(3)]), TypeError, "optimizer: expected one of onepass.optim, got list"),
    (lambda: optim.EMA(plain(), decay=2), ValueError, r"decay: expected a finite number in \[0, 1\], got 2"),
    (lambda: optim.EMA(plain(), decay="x"), TypeError, "decay: expected a number, got 'x'"),
    (lambda: optim.Lookahead(plain(), k=0), ValueError, "k: expected an integer >= 1, got 0"),
    (lambda: optim.Lookahead(plain(), k=2.5), TypeError, "k: expected an integer, got 2.5"),
    (lambda: optim.Lookahead(plain(), alpha=1.5), ValueError, "alpha: .*got 1.5"),
    (lambda: optim.SWA(plain(), start=-1), ValueError, "start: expected an integer >= 0, got -1"),
    (lambda: optim.SWA(plain(), every=0), ValueError, "every: expected an integer >= 1, got 0"),
    (lambda: optim.SWA(plain(), every="2"), TypeError, "every: expected an integer, got '2'"),
])  # fmt: skip
def test_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_refused_wrapper_takes_no_room():
    optimizer = optim.EMA(plain())
    for _ in range(3):
        with pytest.raises(ValueError, match="decay"):
            optim.EMA(optimizer, decay=7)
    optim.EMA(optimizer).step([np.ones(3)])
