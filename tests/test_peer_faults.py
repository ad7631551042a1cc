"""What other CPU optimizers get wrong, as tests of ours. No test says that a peer still has its fault.

Elsewhere: a child that hangs after its parent used threads (libgomp; test_errors.py), a step that waits for a core that
another pool holds (OpenMP's barrier; test_team.py), runs that do not resume to the bit (test_checkpoint.py), the same
bits at every instruction-set level (test_bits.py).
"""

from __future__ import annotations

import math
import platform
from pathlib import Path

import numpy as np
import pytest
from measure import assert_same_bits, ulps

import onepass
from onepass import kernels, optim
from onepass._update_steps import STEPS

CLASSES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("Adagrad", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adam", {}),
    ("AdamW", {"amsgrad": True}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Rprop", {}),
    ("ASGD", {}),
]
OWN = [("Lion", {}), ("Signum", {}), ("AdaBound", {})]
SIZES = [1, 15, 16, 17, 32, 33, 96, 100, 1000]
TINY = np.finfo(np.float32).tiny


@pytest.fixture
def torch():
    """With float64 as its default type: it keeps NAdam's product of momenta and ASGD's rates in that."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


@pytest.fixture
def bfloat16():
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


def nonzero(rng, shape, dtype):
    a = rng.normal(size=shape)
    return (a + np.copysign(0.1, a)).astype(dtype)


def single_tensor_step(torch, name, options, param, grad):
    """One step of torch's single-tensor optimizer on contiguous copies."""
    p = torch.tensor(np.ascontiguousarray(param), requires_grad=True)
    p.grad = torch.tensor(np.ascontiguousarray(grad))
    getattr(torch.optim, name)([p], foreach=False, **options).step()
    return p.detach().numpy()


def hyperparameters(optimizer):
    names, values = optimizer.update.hyperparameters, optimizer.hyperparameters(optimizer.param_groups[0])
    return dict(zip(names, values, strict=True))


# ---- which elements move


@pytest.mark.parametrize("n", SIZES)
def test_bfloat16_sgd_moves_every_element(n, torch):
    """torch 2.13's fused SGD leaves every whole SIMD block of a bfloat16 parameter as it was."""
    param, grad = torch.linspace(1, 2, n).bfloat16(), torch.linspace(3, 4, n).bfloat16()
    ours = param.clone().view(torch.uint16).numpy()
    optim.SGD([ours], lr=0.25, dtype="bfloat16").step([grad.view(torch.uint16).numpy()])
    expected = (param.float() - 0.25 * grad.float()).bfloat16()
    assert (ours != param.view(torch.uint16).numpy()).all()
    np.testing.assert_array_equal(ours, expected.view(torch.uint16).numpy())


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [16, 33, 100])
@pytest.mark.parametrize(("name", "options"), [*CLASSES, *OWN], ids=str)
def test_every_rule_moves_every_element_of_a_half(name, options, n, half, bfloat16, rng):
    """The same fault; here of no rule, neither in whole blocks nor in what is left over."""
    param = nonzero(rng, n, np.float16 if half == "float16" else bfloat16)
    before = param.copy()
    lr = 100.0 if name == "Adadelta" else 0.1  # its first direction is of the size of sqrt(eps)
    getattr(optim, name)([param], **{**options, "lr": lr}).step([nonzero(rng, n, np.float32)])
    assert (param != before).all()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("name", "options"), CLASSES, ids=str)
def test_a_strided_view_is_written_whole_and_nothing_beside_it(name, options, n, dtype, torch, rng):
    """torch 2.13's fused SGD takes a strided view for contiguous: it writes outside of it, and not to all of it."""
    memory = np.full(3 * n + 7, 777.0, dtype)
    view = memory[2 : 2 + 3 * n : 3]
    view[...] = nonzero(rng, n, dtype)
    before, grad = view.copy(), nonzero(rng, n, dtype)
    getattr(optim, name)([view], **options).step([grad])
    assert (view != before).all()
    assert ulps(view, single_tensor_step(torch, name, options, before, grad), np.abs(before) + 1) <= 4
    view[...] = 777.0
    assert (memory == 777.0).all()


@pytest.mark.parametrize("grad_layout", ["same", "different"])
@pytest.mark.parametrize(("name", "options"), CLASSES, ids=str)
def test_a_transposed_parameter_meets_its_own_gradients(name, options, grad_layout, dtype, torch, rng):
    """torch 2.13's fused SGD pairs elements by their place in memory, whatever their place in the tensor."""
    param = nonzero(rng, (13, 37), dtype).T
    values = nonzero(rng, (37, 13), dtype)
    grad = np.asfortranarray(values) if grad_layout == "same" else np.ascontiguousarray(values)
    before = param.copy()
    getattr(optim, name)([param], **options).step([grad])
    assert ulps(param, single_tensor_step(torch, name, options, before, values), np.abs(before) + 1) <= 4


# ---- types and processors


def test_bfloat16_parameters_take_float32_moments(bfloat16):
    """torch 2.13's fused Adam refuses states of another type than the parameter's; ours are float32 by default."""
    param, grad = (np.linspace(-1, 1, 1000).astype(bfloat16) for _ in range(2))
    before = param.astype(np.float32)
    optimizer = optim.Adam([param], lr=0.01)
    optimizer.step([grad])
    assert optimizer.state_dict()["state"][0]["exp_avg"].dtype == np.float32
    moved = before - param.astype(np.float32)
    np.testing.assert_allclose(moved, 0.01 * np.sign(grad.astype(np.float32)), atol=0.005)


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025])
@pytest.mark.parametrize(("name", "options"), [*CLASSES, *OWN], ids=str)
def test_float16_is_stepped_at_any_size(name, options, n, rng):
    """DeepSpeed's issue 1983: CPU Adam aborted at 1024 parameters in float16, and only at such sizes."""
    param = nonzero(rng, n, np.float16)
    optimizer = getattr(optim, name)([param], **options)
    states = [np.array(s) for s in optimizer.initial_states(param)]
    expected = param.copy()
    for number in (1, 2, 3):
        grad = nonzero(rng, n, np.float16)
        optimizer.step([grad])
        wide = expected.astype(np.float32)
        STEPS[optimizer.update.name](wide, grad.astype(np.float32), *states, step=number, **hyperparameters(optimizer))
        expected = wide.astype(np.float16)
    assert_same_bits(param, expected)
    assert np.isfinite(param).all()


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="x86-64 Linux")
def test_no_level_is_offered_that_the_cpu_lacks():
    """What is built with -march=native (DeepSpeed's extensions) ends with an illegal instruction on an older CPU."""
    needed = {
        "x86-64-v2": {"cx16", "popcnt", "ssse3", "sse4_1", "sse4_2"},
        "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
        "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    }
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).split(":")[1].split())
    info = onepass.info()
    assert info["isa"] in info["isa_available"]
    for level in info["isa_available"]:
        assert needed[level] <= flags


# ---- bias correction


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "NAdam", "RAdam", "AdaBound"])
def test_groups_of_one_step_share_its_correction_to_the_bit(name, rng):
    """DeepSpeed's issue 7819: the second group of a step got a power of beta2 computed in another way, and drifted."""
    start = nonzero(rng, 100, np.float32)
    alone, others = start.copy(), [start.copy() for _ in range(5)]
    one = getattr(optim, name)([alone])
    many = getattr(optim, name)([{"params": [p]} for p in others])
    for _ in range(50):
        grad = nonzero(rng, 100, np.float32)
        one.step([grad])
        many.step([grad] * 5)
    for p in others:
        assert_same_bits(p, alone)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_bias_correction_follows_each_groups_betas_and_each_parameters_own_steps(name, amsgrad, dtype, torch, rng):
    """DeepSpeed's issue 7819 and its fused kernels: one counter for parameters that have made different steps."""
    shapes = [(17,), (5, 7), (1,)]
    ours = [nonzero(rng, shape, dtype) for shape in shapes]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]

    def groups(params):
        return [{"params": params[:1], "betas": (0.5, 0.6)}, {"params": params[1:], "lr": 0.02}]

    optimizer = getattr(optim, name)(groups(ours), amsgrad=amsgrad)
    twin = getattr(torch.optim, name)(groups(theirs), amsgrad=amsgrad, foreach=False)
    path = [np.abs(p).astype(np.float64) for p in ours]
    for step in range(30):
        late = [0, 10, 17]  # when each parameter's gradients begin
        grads = [nonzero(rng, shape, dtype) if step >= late[i] else None for i, shape in enumerate(shapes)]
        before = [p.detach().numpy().copy() for p in theirs]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.from_numpy(g.copy())
        optimizer.step(grads)
        twin.step()
        for p, q, old, length in zip(ours, theirs, before, path, strict=True):
            length += 2 * np.abs(q.detach().numpy().astype(np.float64) - old)
            assert ulps(p, q.detach().numpy(), length) <= 16
    steps = [entry["step"] for entry in optimizer.state_dict()["state"].values()]
    assert steps == [30, 20, 13]


def test_a_parameter_that_skipped_steps_keeps_its_own_bias_correction(torch, rng):
    """DeepSpeed's fused Adam aged a parameter without a gradient along with the others of its group."""
    ours = [nonzero(rng, (5,), np.float64), nonzero(rng, (5,), np.float64)]
    theirs = [torch.tensor(p, requires_grad=True) for p in ours]
    optimizer, twin = optim.Adam(ours, lr=0.1), torch.optim.Adam(theirs, lr=0.1, foreach=False)
    for step in range(12):
        grads = [nonzero(rng, (5,), np.float64), nonzero(rng, (5,), np.float64) if step % 3 == 2 else None]
        for p, g in zip(theirs, grads, strict=True):
            p.grad = None if g is None else torch.from_numpy(g.copy())
        optimizer.step(grads)
        twin.step()
    for p, q in zip(ours, theirs, strict=True):
        assert ulps(p, q.detach().numpy(), np.abs(p) + 1) <= 24


# ---- vanishing gradients

FADING = [
    ("SGD", {"lr": 0.01, "momentum": 0.9}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adam", {"betas": (0.9, 0.99)}),
    ("Adam", {"betas": (0.9, 0.99), "amsgrad": True}),
    ("AdamW", {"betas": (0.9, 0.99), "lr": 2.0**-10, "weight_decay": 2.0**-6}),  # 1 - lr weight_decay is exact
    ("Adadelta", {}),
    ("Adamax", {"betas": (0.9, 0.99)}),
    ("NAdam", {"betas": (0.9, 0.99)}),
    ("RAdam", {"betas": (0.9, 0.99)}),
    ("AdaBound", {"betas": (0.9, 0.99)}),
]
KEPT = {"max_exp_avg_sq", "exp_inf"}  # largest values, which do not fade: the latter stays above eps


@pytest.mark.parametrize(("name", "options"), FADING, ids=str)
def test_averages_fade_to_zero_through_10000_steps_and_stay_right(name, options, rng):
    """torch's and NumPy's Adam slow down for good once an average is subnormal: rounding holds it above zero.

    The bound: a step that moves anything rounds a few times, as often up as down. A thousand steps do here, and the
    largest distance is 36 units in the last place of the path; with weight decay all do, and it is 65.
    """
    param, first = nonzero(rng, 64, np.float32), nonzero(rng, 64, np.float64)
    optimizer = getattr(optim, name)([param], **options)
    exact = param.astype(np.float64)
    states = [s.astype(np.float64) for s in optimizer.initial_states(param)]
    path = np.abs(exact)
    for number in range(1, 10_001):
        grad = (first * 0.98**number).astype(np.float32)
        optimizer.step([grad])
        before, wide = exact.copy(), grad.astype(np.float64)
        STEPS[optimizer.update.name](exact, wide, *states, step=number, **hyperparameters(optimizer))
        path += np.abs(exact - before)
    assert ulps(param, exact, path) <= 128
    for state, values in optimizer.state_dict()["state"][0].items():
        if state in KEPT:
            assert (values >= TINY).all()
        elif state != "step":
            assert (values == 0).all(), state


@pytest.mark.parametrize("name", ["Lion", "Signum"])
def test_a_sign_of_what_has_faded_moves_nothing(name, rng):
    """A sign does not see how small a number is: an average that rounding holds above zero would move for ever."""
    param, zero = nonzero(rng, 64, np.float32), np.zeros(64, np.float32)
    optimizer = getattr(optim, name)([param], lr=1e-3)
    optimizer.step([nonzero(rng, 64, np.float32)])
    for _ in range(10_000):
        optimizer.step([zero])
    assert (optimizer.state_dict()["state"][0]["exp_avg"] == 0).all()
    before = param.copy()
    optimizer.step([zero])
    assert_same_bits(param, before)


# ---- sums


@pytest.mark.parametrize("parts", [1, 7])
def test_a_norm_of_more_than_2_to_the_24_elements(parts, rng):
    """A sum in float32 stops at 2^24 ones; clipping by such a norm is wrong without a word."""
    n = (1 << 24) + 4099
    ones = np.ones(n, np.float32)
    assert abs(kernels.global_norm(np.array_split(ones, parts)) / math.sqrt(n) - 1) <= 1e-15
    whole = rng.integers(-(1 << 12), 1 << 12, n, dtype=np.int32)
    expected = math.sqrt(int((whole.astype(np.int64) ** 2).sum())) / 1024
    found = kernels.global_norm(np.array_split(whole.astype(np.float32) / np.float32(1024), parts))
    assert abs(found / expected - 1) <= 1e-15
    info = optim.SGD([ones], lr=1.0, max_norm=1.0).step([np.ones(n, np.float32)])
    assert info.grad_norm == pytest.approx(math.sqrt(n), rel=1e-15)
    assert_same_bits(ones, np.full(n, np.float32(1) - np.float32(1 / math.sqrt(n))))
