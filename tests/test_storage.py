"""Parameters, gradients and states in other types than what is computed in: conversions, rounding, equality with the
reference, and what NumPy and ml_dtypes say."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
from measure import assert_same_bits, bits

from onepass import kernels, optim, reference

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32, F64, U16, U8 = (np.dtype(t) for t in (np.float16, np.float32, np.float64, np.uint16, np.uint8))
HALVES = pytest.mark.parametrize("half", [F16, BF16], ids=["float16", "bfloat16"])
SMALLEST = float(np.finfo(np.float32).tiny)  # what is smaller is flushed


def stored(values, dtype, **options):
    """values, rounded by a kernel: a step of SGD from 0 with the learning rate -1."""
    param = np.zeros(values.shape, dtype)
    kernels.sgd(param, values, step=options.pop("step", 1), lr=-1.0, **options)
    return param


def edge_values(half):
    """float32 numbers of all magnitudes, and those around every place where a rounding changes."""
    rng = np.random.default_rng(3)
    spread = [rng.standard_normal(20_000) * s for s in (1e-37, 1e-9, 1e-7, 1e-5, 1e-3, 1.0, 1e3, 6e4, 1e30)]
    patterns = np.arange(1 << 16, dtype=np.uint16).view(half)
    with np.errstate(all="ignore"):
        exact = patterns.astype(np.float32)
        middles = (exact[:-1].astype(np.float64) + exact[1:]) / 2
        around = [np.nextafter(middles.astype(np.float32), np.float32(side)) for side in (-np.inf, np.inf)]
        values = np.concatenate([*spread, exact, middles, *around]).astype(np.float32)
    return values[np.isnan(values) | (np.abs(values) >= SMALLEST) | (values == 0)]


@HALVES
@pytest.mark.parametrize("wide", [F32, F64], ids=str)
def test_every_half_is_decoded(half, wide):
    patterns = np.arange(1 << 16, dtype=np.uint16).view(half)
    param = np.zeros(patterns.shape, wide)
    kernels.sgd(param, patterns, step=1, lr=-1.0)
    with np.errstate(invalid="ignore"):
        expected = patterns.astype(np.float32).astype(wide)
    expected[np.abs(expected) < SMALLEST] = 0  # bfloat16's subnormals
    np.testing.assert_array_equal(param, expected)


@HALVES
def test_rounding_to_nearest_even_is_numpys_and_ml_dtypes(half):
    values = edge_values(half)
    with np.errstate(all="ignore"):
        expected = values.astype(half)
    actual = stored(values, half)
    same = (actual.view(U16) == expected.view(U16)) | (np.isnan(values) & np.isnan(actual.astype(F32)))
    same |= (values == 0) & (actual.astype(F32) == 0)  # 0 + -0 is 0
    assert [(values[i], actual[i], expected[i]) for i in np.flatnonzero(~same)[:5]] == []


@HALVES
def test_stochastic_rounding_gives_a_neighbour_with_the_right_probability(half):
    rng = np.random.default_rng(4)
    for value in (1.0 + 2.0**-11 / 3, -0.3, 3.3e-7 if half == F16 else 1e-30, 60_001.0, 5.2e-5):
        exact = np.float32(value)
        draws = stored(np.full(200_000, exact), half, stochastic_rounding=True, seed=int(rng.integers(1 << 60)))
        neighbours = np.unique(draws.astype(np.float64))
        assert len(neighbours) == 2
        low, high = neighbours
        assert low < exact < high
        assert np.nextafter(half.type(low), half.type(np.inf)) == half.type(high)
        expected = (float(exact) - low) / (high - low)
        share = (draws.astype(np.float64) == high).mean()
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / draws.size)  # five standard deviations


@HALVES
def test_stochastic_rounding_leaves_alone_what_needs_none(half):
    values = np.array([0.0, 1.0, -2.5, 2.0**-14, 2.0**-20, np.inf, -np.inf, np.nan], np.float32)
    draws = stored(np.repeat(values, 1000), half, stochastic_rounding=True)
    np.testing.assert_array_equal(draws.astype(np.float32), np.repeat(values, 1000))


def test_random_bits_differ_by_seed_step_tensor_and_array_and_by_nothing_else():
    values = np.full(70_001, 1.001, np.float32)
    first = stored(values, BF16, stochastic_rounding=True, seed=1)
    for threads, repeat in itertools.product((1, 2, 5), (1, 2)):
        assert_same_bits(
            stored(values, BF16, stochastic_rounding=True, seed=1, threads=threads * repeat).view(U16), first.view(U16)
        )
    others = [
        stored(values, BF16, stochastic_rounding=True, seed=2),
        stored(values, BF16, stochastic_rounding=True, seed=1, step=2),
    ]
    two = [np.zeros(values.shape, BF16) for _ in range(2)]
    kernels.sgd(two, [values, values], step=1, lr=-1.0, stochastic_rounding=True, seed=1)
    assert_same_bits(two[0].view(U16), first.view(U16))
    others.append(two[1])
    p, state = np.zeros(values.shape, F32), np.zeros(values.shape, U16)
    kernels.sgd_momentum(p, values, state, step=1, stochastic_rounding=True, seed=1)
    others.append(state.view(BF16))
    up = first.astype(F32) > 1.001
    for other in others:  # independent: agreement by chance
        chance = up.mean() ** 2 + (1 - up.mean()) ** 2
        assert abs((up == (other.astype(F32) > 1.001)).mean() - chance) < 0.01


def test_neighbours_draw_independently():
    up = stored(np.full(1 << 18, 1.0 + 2.0**-8, np.float32), BF16, stochastic_rounding=True).astype(F32) > 1.004
    assert abs(up.mean() - 0.5) < 0.005
    for lag in (1, 2, 16, 64, 512, 1024):
        assert abs(np.corrcoef(up[:-lag], up[lag:])[0, 1]) < 0.01, lag


TYPES = [
    (param, grad, state)
    for param, grad in itertools.product([F32, F16, BF16, U16, F64], [F32, F16, BF16, U16, F64])
    for state in ([F64] if param == F64 else [F32, U16, BF16, U8])
]


def arrays_of(name, param, grad, state, layout, rng):
    shape = (7, 90)  # more than one run of the kernels' buffers

    def make(dtype, positive):
        draw = rng.standard_normal((shape[0] * 2, shape[1] * 2))
        draw = (np.abs(draw) if positive else draw).astype(np.float32)
        wide = draw.astype(BF16).view(U16) if dtype == U16 else draw.astype(dtype)
        if layout == "strided":
            return wide[::2, ::2]
        if layout == "backwards":
            return np.ascontiguousarray(wide[: shape[0], : shape[1]])[::-1]
        return np.asarray(wide[: shape[0], : shape[1]], order="F" if layout == "transposed" else "C")

    if state == U8:
        states = [random_blocks(shape[0] * shape[1], rng) for _ in kernels.UPDATES[name].states]
    else:
        states = [make(state, True) for _ in kernels.UPDATES[name].states]
    return [make(param, False), make(grad, False), *states]


def random_blocks(elements, rng):
    """8-bit blocks of any codes, some of all zeros, with scales of numbers between 1e-5 and 10."""
    blocks = -(-elements // 128)
    scales = np.where(rng.random(blocks) < 0.2, 0, rng.integers(110, 130, blocks))
    codes = rng.integers(0, 256, (blocks, 128)) * (scales > 0)[:, None]
    return np.concatenate([codes.ravel(), scales]).astype(np.uint8)


def same_layout(array):
    memory = np.zeros_like(array, order="K") if array.flags.forc else None
    if memory is None:
        memory = np.zeros([2 * n for n in array.shape], array.dtype)[::2, ::2]
        memory = memory[::-1] if array.strides[0] < 0 else memory
    memory[...] = array
    return memory


@pytest.mark.parametrize("layout", ["C", "transposed", "strided", "backwards"])
@pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("name", kernels.UPDATES)
def test_the_reference_gives_the_same_bits(name, stochastic, layout, rng):
    options = {"weight_decay": 0.1} if "weight_decay" in kernels.UPDATES[name].hyperparameters else {}
    for param, grad, state in TYPES:
        actual = arrays_of(name, param, grad, state, layout, rng)
        expected = [same_layout(a) for a in actual]
        for step, function in itertools.product((1, 2, 3), (kernels, reference)):
            getattr(function, name)(
                *(actual if function is kernels else expected),
                step=step, **options, grad_scale=0.5, stochastic_rounding=stochastic, seed=9, dtype="bfloat16",
                threads=step,
            )  # fmt: skip
        for a, b in zip(actual, expected, strict=True):
            assert (bits(a.view(f"u{a.itemsize}")) == bits(b.view(f"u{b.itemsize}"))).all(), (param, grad, state)


def test_a_view_is_written_and_nothing_beside_it():
    memory = np.full((8, 30), 7, BF16)
    optim.SGD([memory[1:7:2, 3:20:3]], lr=1.0).step([np.full((3, 6), 2.0, np.float16)])
    expected = np.full((8, 30), 7, BF16)
    expected[1:7:2, 3:20:3] = 5
    np.testing.assert_array_equal(memory, expected)


@HALVES
def test_norm_of_halves_is_that_of_their_numbers(half, rng):
    arrays = [(rng.standard_normal((n, 3)) * 100).astype(half) for n in (1, 700, 40_000)]
    expected = np.sqrt(sum((a.astype(F64) ** 2).sum() for a in arrays))
    for given in (arrays, [a[::-1, ::2] for a in arrays]):
        wanted = expected if given is arrays else np.sqrt(sum((a.astype(F64) ** 2).sum() for a in given))
        assert abs(kernels.global_norm(given) / wanted - 1) < 1e-14


@HALVES
def test_clipping_and_the_finite_check_read_halves(half):
    param = np.ones(1000, half)
    optimizer = optim.SGD([param], lr=1.0, max_norm=1.0)
    bad = np.ones(1000, half)
    bad[999] = np.inf
    assert optimizer.step([bad]).skipped
    assert (param == 1).all()
    info = optimizer.step([np.ones(1000, half)])
    assert info.grad_norm == pytest.approx(np.sqrt(1000))
    np.testing.assert_array_equal(param, np.full(1000, 1 - 1 / np.sqrt(1000)).astype(half))


def test_states_in_bfloat16_take_half_the_memory_and_survive_saving(rng):
    params = [rng.standard_normal((40, 5)).astype(F32), rng.standard_normal(9).astype(F16)]
    options = {"state_dtype": "bfloat16", "stochastic_rounding": True, "seed": 4}
    first = optim.Adam(params, **options)
    grads = [[rng.standard_normal(p.shape).astype(F32) for p in params] for _ in range(6)]
    for g in grads[:3]:
        first.step(g)
    saved, copies = copy.deepcopy(first.state_dict()), [p.copy() for p in params]
    assert saved["state"][0]["exp_avg_sq"].dtype == U16
    second = optim.Adam(copies, **options)
    second.load_state_dict(saved)
    for g in grads[3:]:
        first.step(g)
        second.step(g)
    for a, b in zip(params, copies, strict=True):
        assert_same_bits(a, b)
    with pytest.raises(ValueError, match="states are 'bfloat16', this optimizer's are 'float32'"):
        optim.Adam(copies).load_state_dict(saved)


def test_initial_accumulator_is_stored_in_the_states_type():
    optimizer = optim.Adagrad([np.zeros(4, F16)], initial_accumulator_value=0.5, state_dtype="bfloat16")
    assert optimizer.state_dict()["state"][0]["state_sum"].view(BF16).tolist() == [0.5] * 4


def test_slow_averages_need_stochastic_rounding():
    """With beta2 = 0.999 a bfloat16 second moment stands still when it is rounded to nearest."""
    found = {}
    for stochastic in (False, True):
        state = np.full(10_000, 1.0, BF16).view(U16)
        p, m, g = (np.zeros(10_000, F32) for _ in range(3))
        for step in range(1, 501):
            kernels.adam(p, g, m, state, step=step, stochastic_rounding=stochastic)
        found[stochastic] = float(state.view(BF16).astype(F64).mean())
    assert found[False] == 1.0
    assert found[True] == pytest.approx(0.999**500, rel=0.01)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: optim.Adam([np.zeros(3, U16)]), TypeError, r"params: is uint16; .* say dtype='bfloat16'"),
        (lambda: optim.Adam([np.zeros(3, F32)], state_dtype="int8"), ValueError, "state_dtype: .*'int8'"),
        (lambda: optim.Adam([np.zeros(3, F64)], state_dtype="bfloat16"), TypeError, r"params\[0\]: is float64"),
        (lambda: optim.Adam([np.zeros(3, F32)], seed=-1), ValueError, "seed"),
        (lambda: optim.Adam([np.zeros(3, F32)], dtype="float16"), ValueError, "dtype"),
        (lambda: optim.Adam([np.zeros(3, F32)], state_type="bfloat16"), TypeError, "state_type"),
        (lambda: optim.Adam([np.zeros(3, F32)]).step([np.zeros(3, U16)]), TypeError, "grad: is uint16"),
        (lambda: kernels.linear(np.ones((2, 3), F16), np.ones((5, 3), F16)), TypeError, "weight: .*float16"),
    ],
)  # fmt: skip
def test_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_more_elements_than_fit_into_31_bits():
    """4.3 GB of bfloat16; the gradient is one number, seen as often."""
    n = (1 << 31) + 1000
    param = np.zeros(n, U16)
    optim.SGD([param], lr=1.0, dtype="bfloat16").step([np.broadcast_to(np.float32(-3.0), (n,))])
    three = np.array(3.0, BF16).view(U16)
    for at in range(0, n, 1 << 28):
        assert (param[at : at + (1 << 28)] == three).all()


@pytest.mark.parametrize("offset", [0, 4, 16, 64, 1000])
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
def test_states_begin_at_a_cache_line_and_have_places_of_their_own_in_a_page(state_dtype, offset):
    memory = np.zeros((1 << 18) + 4096, np.float32)
    for size in (7, 1 << 18):
        param = memory[(offset - memory.ctypes.data % 4096) % 4096 // 4 :][:size]
        optimizer = optim.Adam([param], state_dtype=state_dtype)
        states = [optimizer.state_dict()["state"][0][name] for name in ("exp_avg", "exp_avg_sq")]
        assert [state.ctypes.data % 64 for state in states] == [0, 0]
        assert all(not state.any() and state.flags.c_contiguous for state in states)
        if size > 7:
            places = [(state.ctypes.data - param.ctypes.data // 64 * 64) % 4096 for state in states]
            assert places == [1024, 2048]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7, 3), (300, 400)])
def test_states_lie_as_their_parameter(shape, rng):
    for axes in (range(len(shape)), reversed(range(len(shape)))):
        param = rng.standard_normal(shape).astype(np.float32).transpose(list(axes))
        state = optim.SGD([param], momentum=0.9).state_dict()["state"][0]["momentum_buffer"]
        assert state.shape == param.shape
        if param.size == 0:
            continue
        assert [s for s, n in zip(state.strides, state.shape, strict=True) if n > 1] == [
            s for s, n in zip(param.strides, param.shape, strict=True) if n > 1
        ]
