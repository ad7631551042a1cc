"""Weights beside the parameters: the same optimizer on float32 parameters, with the same gradients, is the truth, to
the bit; a parameter or copy is its rounding by ml_dtypes and NumPy, or its upper half."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import optim

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)
MODES = {"float16": (F16, "float32"), "bfloat16": (BF16, "float32"), "split": (BF16, "split")}
modes = pytest.mark.parametrize("mode", MODES)
CLASSES = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"weight_decay": 0.01},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "NAdam": {},
    "Adadelta": {"lr": 0.5},
    "Rprop": {},
    "ASGD": {"t0": 2.0},
    "Lion": {},
    "LAMB": {"weight_decay": 0.01},
    "LARS": {"lr": 5.0, "weight_decay": 0.01},
    "SWATS": {"tolerance": 1.0},
}
LAYOUTS = {
    "C": lambda m: m[:13, :11].copy(),
    "transposed": lambda m: m[:13, :11].copy().T,
    "strided": lambda m: m[:26:2, 1:34:3],
    "transposed view": lambda m: m[:33:3, :26:2].T,
    "backwards": lambda m: m[:13, :11][::-1, ::-1],
    "one": lambda m: m[:1, 0],
    "no axes": lambda m: m[0, :1].reshape(()),
    "empty": lambda m: m[:0, :3],
    "long": lambda m: m.reshape(-1)[:1201],
}


def words(a):
    return np.ascontiguousarray(a).view(np.uint16)


def memory(rng, dtype):
    return rng.standard_normal((40, 40)).astype(np.float32).astype(dtype)


def widened(param):
    """float32 parameters in the same order of memory."""
    return np.array(param.astype(np.float32), order="K")


def gradients(rng, params, dtype=np.float32):
    return [np.asarray(rng.standard_normal(p.shape) * 0.5 + 0.1).astype(dtype) for p in params]


def check(optimizer, params, twins, mode, what=""):
    """Weights are the twins; parameters are what they must be of them."""
    state = optimizer.state_dict()["state"]
    for i, (p, twin) in enumerate(zip(params, twins, strict=True)):
        if mode == "split":
            bits = np.ascontiguousarray(twin).view(np.uint32)
            assert (words(p) == bits >> 16).all(), (what, i)
            assert state[i]["lower"].dtype == np.uint16
            assert (np.ascontiguousarray(state[i]["lower"]) == bits & 0xFFFF).all(), (what, i)
        else:
            assert state[i]["master"] is optimizer.weights[i]
            assert_same_bits(optimizer.weights[i], twin, f"{what} {i}")
            assert (words(p) == words(twin.astype(p.dtype))).all(), (what, i)


@modes
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad", [np.float32, BF16], ids=["float32", "bfloat16"])
def test_layouts(mode, layout, grad, rng):
    dtype, master = MODES[mode]
    whole = memory(rng, dtype)
    kept = whole.copy()
    params = [LAYOUTS[layout](whole)]
    twins = [widened(p) for p in params]
    ours = optim.Adam(params, lr=0.01, master_weights=master)
    full = optim.Adam(twins, lr=0.01)
    check(ours, params, twins, mode)
    for step in range(30):
        grads = gradients(rng, params, grad)
        ours.step(grads)
        full.step(grads)
        check(ours, params, twins, mode, step)
    if params[0].size and np.shares_memory(params[0], whole):
        LAYOUTS[layout](kept)[...] = params[0]
        assert (words(kept) == words(whole)).all()  # nothing beside the view was written


@modes
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "float8"])
def test_rules_and_states(mode, name, state_dtype, rng):
    dtype, master = MODES[mode]
    whole = memory(rng, dtype)
    params = [LAYOUTS[layout](whole.copy()) for layout in ("C", "transposed", "strided", "long")]
    twins = [widened(p) for p in params]
    options = {**CLASSES[name], "state_dtype": state_dtype, "stochastic_rounding": True, "seed": 3}
    ours = getattr(optim, name)(params, **options, master_weights=master)
    full = getattr(optim, name)(twins, **options)
    for step in range(12):
        grads = gradients(rng, params)
        ours.step(grads, grad_scale=2.0)
        full.step(grads, grad_scale=2.0)
        check(ours, params, twins, mode, step)
    for i, entry in full.state_dict()["state"].items():
        for key in full.update.states:
            assert_same_bits(ours.state_dict()["state"][i][key], entry[key], key)
    if name == "SWATS":
        assert ours.phases == ["sgd"]


@pytest.mark.parametrize("half", [F16, BF16], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_copies(half, name, rng):
    whole = rng.standard_normal((40, 40)).astype(np.float32)
    params = [LAYOUTS[layout](whole.copy()) for layout in ("C", "transposed", "strided", "backwards", "long")]
    twins = [np.array(p, order="K") for p in params]
    copies = [np.zeros(p.shape, half) for p in params]
    copies[1], copies[2] = None, np.zeros((26, 22), half)[::2, ::2]
    ours = getattr(optim, name)(params, **CLASSES[name], copies=copies)
    full = getattr(optim, name)(twins, **CLASSES[name])
    for step in range(12):
        grads = gradients(rng, params)
        grads[0] = None if step == 3 else grads[0]
        ours.step(grads)
        full.step(grads)
        for p, twin, own in zip(params, twins, copies, strict=True):
            assert_same_bits(p, twin)
            if own is not None:
                assert (words(own) == words(twin.astype(half))).all(), step
    assert (copies[2].base[1::2] == 0).all()


def test_copies_of_split_weights_are_of_the_whole(rng):
    params = [memory(rng, BF16)]
    twin, copies = widened(params[0]), [np.zeros((40, 40), F16)]
    ours, full = optim.Adam(params, master_weights="split", copies=copies), optim.Adam([twin])
    for _ in range(5):
        grads = gradients(rng, params)
        ours.step(grads)
        full.step(grads)
    check(ours, params, [twin], "split")
    assert (words(copies[0]) == words(twin.astype(F16))).all()


@modes
def test_small_steps_are_not_lost(mode):
    """What master weights are for: a thousand steps of a thousandth of a unit in the last place."""
    dtype, master = MODES[mode]
    lost, kept = np.ones(5, dtype), np.ones(5, dtype)
    for optimizer in (optim.SGD([lost], lr=1e-5), optim.SGD([kept], lr=1e-5, master_weights=master)):
        for _ in range(4000):
            optimizer.step([np.ones(5, np.float32)])
    assert (lost.astype(np.float32) == 1).all()
    np.testing.assert_allclose(kept.astype(np.float32), 0.96, atol=0.005)


@modes
def test_master_weights_of_float32_parameters_are_the_parameters(mode, rng):
    _, master = MODES[mode]
    p, q = rng.standard_normal(9).astype(np.float32), rng.standard_normal(9)
    optimizer = optim.Adam([p, q], master_weights=master)
    assert optimizer.weights[0] is p
    assert optimizer.weights[1] is q
    optimizer.step([np.ones(9, np.float32), np.ones(9)])
    assert set(optimizer.state_dict()["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}


@modes
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_skipped_step_leaves_everything(mode, wrapped, rng):
    dtype, master = MODES[mode]
    params = [memory(rng, dtype)]
    optimizer = optim.Adam(params, master_weights=master, max_norm=1.0)
    if wrapped:
        optimizer = optim.EMA(optimizer, decay=0.5)
    optimizer.step(gradients(rng, params))
    before = copy.deepcopy((params, optimizer.state_dict()))
    bad = gradients(rng, params)
    bad[0][3, 4] = np.nan
    assert optimizer.step(bad).skipped
    assert (words(params[0]) == words(before[0][0])).all()
    assert optimizer.state_dict().get("averages") == before[1].get("averages")
    for key, value in optimizer.state_dict()["state"][0].items():
        assert (np.asarray(value) == np.asarray(before[1]["state"][0][key])).all(), key
    good = gradients(rng, params)
    optimizer.step(good)
    assert (words(params[0]) != words(before[0][0])).any()


@modes
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("wrapper", [None, "EMA", "Lookahead"])
def test_state_dict_resumes_to_the_bit(mode, state_dtype, wrapper, rng):
    dtype, master = MODES[mode]
    whole = memory(rng, dtype)
    params = [LAYOUTS[layout](whole.copy()) for layout in ("C", "transposed", "strided")]

    def make(arrays):
        optimizer = optim.Adam(arrays, lr=0.01, state_dtype=state_dtype, master_weights=master, seed=4)
        return optimizer if wrapper is None else getattr(optim, wrapper)(optimizer)

    first = make(params)
    grads = [gradients(rng, params) for _ in range(14)]
    for g in grads[:7]:
        first.step(g)
    saved, others = copy.deepcopy(first.state_dict()), [p.copy(order="K") for p in params]
    assert ("lower" if mode == "split" else "master") in saved["state"][0]
    second = make(others)
    second.load_state_dict(saved)
    for g in grads[7:]:
        first.step(g)
        second.step(g)
    for a, b in zip(params, others, strict=True):
        assert (words(a) == words(b)).all()
    for i, entry in first.state_dict()["state"].items():
        assert entry.keys() == second.state_dict()["state"][i].keys()
        for key, value in entry.items():
            assert_same_bits(np.asarray(value), np.asarray(second.state_dict()["state"][i][key]), key)


@modes
def test_averages_are_those_of_float32_training(mode, rng):
    dtype, master = MODES[mode]
    params = [memory(rng, dtype), LAYOUTS["strided"](memory(rng, dtype))]
    twins = [widened(p) for p in params]
    ours = optim.EMA(optim.Lookahead(optim.Adam(params, lr=0.1, master_weights=master), k=3), decay=0.8)
    full = optim.EMA(optim.Lookahead(optim.Adam(twins, lr=0.1), k=3), decay=0.8)
    for step in range(11):
        grads = gradients(rng, params)
        ours.step(grads)
        full.step(grads)
        check(ours, params, twins, mode, step)
        for own, other in ((ours, full), (ours.optimizer, full.optimizer)):
            for a, b in zip(own.averages, other.averages, strict=True):
                assert_same_bits(a, b)


def test_loading_torchs_states_leaves_the_master_weights(rng):
    torch = pytest.importorskip("torch")
    start = memory(rng, BF16)
    tensor = torch.tensor(widened(start))
    theirs = torch.optim.Adam([tensor])
    tensor.grad = torch.ones_like(tensor)
    theirs.step()
    for master in ("float32", "split"):
        params = [start.copy()]
        ours = optim.Adam(params, master_weights=master)
        ours.load_state_dict(theirs.state_dict())
        check(ours, params, [widened(start)], "split" if master == "split" else "bfloat16")
        assert (ours.state_dict()["state"][0]["exp_avg"] == theirs.state[tensor]["exp_avg"].numpy()).all()


def halves(n=5, dtype=BF16):
    return np.zeros(n, dtype)


def read_only():
    array = halves()
    array.setflags(write=False)
    return array


ONE = np.ones(5, np.float32)
SHARED = halves(8)


@pytest.mark.parametrize(("params", "options", "error", "match"), [
    ([halves(5, F16)], {"master_weights": "split"}, TypeError, r"params\[0\]: is float16; .*='split' needs bfloat"),
    ([halves()], {"master_weights": True}, ValueError, "master_weights: expected None, 'float32' or 'split', got True"),
    ([halves()], {"master_weights": "float32", "copies": [halves()]}, ValueError, "copies: parameters with .* already"),
    ([SHARED[:5], SHARED[3:]], {"master_weights": "float32"}, ValueError, r"param\[1\]: shares memory with param\[0\]"),
    ([SHARED[:5], SHARED[3:]], {"master_weights": "split"}, ValueError, r"param\[1\]: shares memory with param\[0\]"),
    ([read_only()], {"master_weights": "float32"}, ValueError, "param: is read-only"),
    ([read_only()], {"master_weights": "split"}, ValueError, "param: is read-only"),
    ([np.zeros(5, np.uint16)], {"master_weights": "split"}, TypeError, "params: is uint16; .* say dtype='bfloat16'"),
    ([ONE], {"copies": halves()}, TypeError, "copies: expected a list with an array or None for each .*got ndarray"),
    ([ONE], {"copies": []}, ValueError, "copies: expected 1 arrays or None, like params, got 0"),
    ([ONE], {"copies": [[1.0]]}, TypeError, r"copies\[0\]: expected a NumPy array or None, got list"),
    ([ONE], {"copies": [halves(6)]}, ValueError, r"copy: expected shape \(5,\) like param, got \(6,\)"),
    ([ONE], {"copies": [np.zeros(5, np.float32)]}, TypeError, "copy: expected float16 or bfloat16 .*got float32"),
    ([np.ones(5)], {"copies": [halves()]}, TypeError, "copy: a copy in fewer bits is made of float32, but param is f"),
    ([ONE, ONE + 1], {"copies": [None, np.zeros(5, np.uint16)]}, TypeError, r"copies\[1\]: is uint16; if these are"),
    ([ONE, ONE + 1], {"copies": [SHARED[:5]] * 2}, ValueError, r"copy\[1\]: shares memory with copy\[0\]"),
    ([SHARED[:5]], {"copies": [SHARED[3:]]}, ValueError, "copy: shares memory with param"),
    ([ONE], {"copies": [read_only()]}, ValueError, "copy: is read-only"),
    ([ONE], {"stochastic_rounding": "yes"}, TypeError, "stochastic_rounding: expected True, False or None, got 'yes'"),
    ([ONE], {"master_weight": "split"}, TypeError, "master_weight: is unknown here; of storage there are state_dtype,"),
])  # fmt: skip
def test_refused(params, options, error, match):
    with pytest.raises(error, match=match):
        optim.Adam(params, **options)


def test_gradients_may_not_be_what_is_written():
    copies = [halves()]
    optimizer = optim.SGD([ONE.copy()], copies=copies)
    with pytest.raises(ValueError, match="grad: shares memory with copy"):
        optimizer.step(copies)


@pytest.mark.parametrize(
    ("saved", "own", "match"),
    [
        ("float32", None, "has master, which belongs to master_weights='float32'; this optimizer has .*=None"),
        ("split", None, "has lower, which belongs to master_weights='split'; this optimizer has .*=None"),
        ("split", "float32", "has lower, which belongs to master_weights='split'; .*='float32'"),
        (None, "float32", "parameter 0 has no master"),
        (None, "split", "parameter 0 has no lower"),
    ],
)
def test_a_state_dict_of_another_kind_is_refused(saved, own, match):
    given = optim.Adam([halves()], master_weights=saved).state_dict()
    with pytest.raises(ValueError, match=match):
        optim.Adam([halves()], master_weights=own).load_state_dict(given)


@modes
def test_a_wrapper_around_an_optimizer_that_has_begun(mode, rng):
    """The average begins as the whole weights, lower halves included, and the step counts go on."""
    dtype, master = MODES[mode]
    params = [memory(rng, dtype)]
    twins = [widened(p) for p in params]
    ours, full = optim.Adam(params, lr=0.01, master_weights=master), optim.Adam(twins, lr=0.01)
    for wrapped in (False, True):
        if wrapped:
            ours, full = optim.EMA(ours, decay=0.9), optim.EMA(full, decay=0.9)
            assert_same_bits(ours.averages[0], twins[0])
        for _ in range(4):
            grads = gradients(rng, params)
            ours.step(grads)
            full.step(grads)
            check(ours, params, twins, mode)
    assert_same_bits(ours.averages[0], full.averages[0])
    assert ours.state_dict()["state"][0]["step"] == 8
