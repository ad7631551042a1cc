"""States in 8-bit blocks, held against the format that kernels/blocks.hpp and docs/storage.md state: this file has a
decoder of its own, in float64 and in the order of bytes that is documented, and finds the nearest code by trying all.

Codes are written by one step of Adamax, whose states are the gradient and its magnitude then; they are read by steps
that hand a state to the parameter.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from measure import assert_same_bits, ulps

from onepass import checkpoint, kernels, nn, optim, reference

BLOCK = 128
FUNCTIONS = [kernels, reference]
POSITIVE = pytest.mark.parametrize("positive", [False, True], ids=["signed", "positive"])


def size_of(elements):
    return -(-elements // BLOCK) * (BLOCK + 1)


def zero_states(elements, count=2):
    return [np.zeros(size_of(elements), np.uint8) for _ in range(count)]


def number(code, scale, positive):
    """The documented formula, in float64."""
    if scale == 0:
        return 0.0
    exponent, mantissa = (code >> 3) & (31 if positive else 15), code & 7
    magnitude = 2.0**exponent * (1 + mantissa / 8)
    if positive:
        return magnitude * 2.0 ** (scale - 127 - 30)
    return (-1.0 if code & 128 else 1.0) * (magnitude - 1) * 2.0 ** (scale - 127 - 14)


def all_numbers(scale, positive):
    return np.array([number(code, scale, positive) for code in range(256)])


def byte_of(i):
    """Where number i of a state has its code."""
    block, i = divmod(i, BLOCK)
    half, i = divmod(i, 64)
    return block * BLOCK + half * 64 + 4 * (i % 16) + i // 16


def codes_and_scales(state, elements):
    blocks = -(-elements // BLOCK)
    codes = np.array([state[byte_of(i)] for i in range(elements)], np.int64)
    return codes, state[blocks * BLOCK :].astype(np.int64)


def decoded(state, elements, positive):
    codes, scales = codes_and_scales(state, elements)
    tables = {scale: all_numbers(scale, positive) for scale in set(scales.tolist())}
    return np.array([tables[scales[i // BLOCK]][code] for i, code in enumerate(codes)])


def stored(functions, values, positive, **options):
    """The state that a step makes of these values."""
    states = zero_states(values.size)
    param = np.zeros(values.shape, np.float32)
    functions.adamax(param, values, *states, step=1, beta1=0.0, beta2=0.5, eps=0.0, lr=0.0, **options)
    return states[int(positive)]


def spread(rng, n, scale=1.0):
    """Magnitudes over twelve binades and more, both signs, some zeros."""
    values = rng.standard_normal(n) * 2.0 ** -rng.integers(0, 20, n) * scale
    values[rng.random(n) < 0.05] = 0
    return values.astype(np.float32)


# ---- codes to numbers


@pytest.mark.parametrize("scale", [32, 33, 100, 127, 140, 200, 251])
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_every_signed_code_is_decoded(functions, scale):
    state = np.zeros(size_of(256), np.uint8)
    for i in range(256):
        state[byte_of(i)] = i
    state[256:] = scale
    param = np.zeros(256, np.float32)
    functions.sgd_momentum(param, np.zeros(256, np.float32), state, step=2, lr=-1.0, momentum=1.0)
    np.testing.assert_array_equal(param, all_numbers(scale, False))


@pytest.mark.parametrize("scale", [32, 33, 100, 127, 140, 200, 251])
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_every_positive_code_is_decoded(functions, scale):
    state, prev = np.zeros(size_of(256), np.uint8), np.zeros(size_of(256), np.uint8)
    for i in range(256):
        state[byte_of(i)] = i
    state[256:] = scale
    param = np.zeros(256, np.float32)
    limits = {"step_size_min": 0.0, "step_size_max": 3e38}
    functions.rprop(param, np.full(256, -1.0, np.float32), prev, state, step=2, **limits)
    expected = all_numbers(scale, True)
    np.testing.assert_array_equal(param, np.where(expected < np.finfo(np.float32).tiny, 0, expected))


@pytest.mark.parametrize("functions", FUNCTIONS)
def test_scale_0_is_zero_whatever_the_codes(functions):
    state = np.full(size_of(BLOCK), 0x5B, np.uint8)
    state[BLOCK] = 0
    param = np.zeros(BLOCK, np.float32)
    functions.sgd_momentum(param, np.zeros(BLOCK, np.float32), state, step=2, lr=-1.0, momentum=1.0)
    assert not param.any()
    assert state[BLOCK] == 0


# ---- numbers to codes


def check_nearest(values, state, positive):
    """Each is the nearest of the 256 numbers of its block's scale, up to the rounding of x / unit + 1 in float32."""
    exact = np.abs(values).astype(np.float64) if positive else values.astype(np.float64)
    actual = decoded(state, values.size, positive)
    _, scales = codes_and_scales(state, values.size)
    for block, scale in enumerate(scales):
        own = slice(block * BLOCK, (block + 1) * BLOCK)
        x, found = exact[own], actual[own]
        largest = np.abs(x).max()
        if largest < np.finfo(np.float32).tiny:
            assert scale == 0
            continue
        assert scale == max(32, np.frexp(largest)[1] + 126)
        distances = np.abs(x[:, None] - all_numbers(scale, positive)[None, :]).min(axis=1)
        slack = 2.0**-23 * (np.abs(x) + 2.0 ** (scale - 127 - 14))
        worse = np.abs(found - x) - distances
        assert (worse <= (0 if positive else slack)).all(), (scale, x[worse.argmax()], found[worse.argmax()])
        if positive:
            assert (found > 0).all()
        else:
            assert (found[x == 0] == 0).all()
            assert (found * x >= 0).all()


@POSITIVE
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_encoding_is_to_nearest(functions, positive, rng):
    for scale in (1.0, 1e-3, 77.0):
        values = spread(rng, 4000, scale)
        check_nearest(values, stored(functions, values, positive), positive)


@POSITIVE
@pytest.mark.parametrize("scale", [1e-37, 1.2e-29, 1e-28, 1e-20, 1e20, 1e38])
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_tiny_and_huge_scales(functions, scale, positive, rng):
    values = np.clip(spread(rng, 1000) / 4, -2, 2).astype(np.float32) * np.float32(scale)
    values[np.abs(values) < np.finfo(np.float32).tiny] = 0
    check_nearest(values, stored(functions, values, positive), positive)


@POSITIVE
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_what_a_code_stands_for_is_stored_as_that_code(functions, positive):
    """Of the codes that a block can hold: the largest magnitude has the exponent of the scale."""
    codes = np.arange(31 * 8 if positive else 15 * 8)
    values = np.array([number(code, 130, positive) for code in codes])
    values = values[values < 2.0**4]
    assert values.max() >= 2.0**3
    values = values.astype(np.float32)
    for k in range(0, values.size, BLOCK - 1):
        own = np.append(values[k : k + BLOCK - 1], values.max())
        state = stored(functions, own, positive)
        assert state[BLOCK:].tolist() == [130]
        np.testing.assert_array_equal(decoded(state, own.size, positive), own)


@pytest.mark.parametrize("functions", FUNCTIONS)
def test_ties_go_away_from_zero(functions):
    for positive in (False, True):
        numbers = np.sort(all_numbers(127, positive))
        numbers = numbers[(numbers >= 2.0**-10) & (numbers <= 1.5)]
        middles = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
        values = np.append(middles[-BLOCK + 1 :], np.float32(1.0))
        upper = np.append(numbers[1:][-BLOCK + 1 :], 1.0)
        for sign in (1, -1):
            actual = decoded(stored(functions, sign * values, positive), values.size, positive)
            largest = 2.0**-18 if not positive else 0.0
            assert np.abs(actual[:-1] - (1 if positive else sign) * upper[:-1]).max() <= largest


def test_the_largest_number_may_round_up_to_the_next_binade():
    for positive in (False, True):
        values = np.array([np.nextafter(np.float32(2), np.float32(0)), 0.5], np.float32)
        state = stored(kernels, values, positive)
        assert state[BLOCK] == 127
        assert decoded(state, 2, positive)[0] == (2.0 if positive else 2.0 - 2.0**-14)


@POSITIVE
def test_a_positive_number_far_below_the_largest_is_the_smallest_code_and_a_signed_one_zero(positive):
    values = np.array([1.0, 2.0**-30, 2.0**-40, 1e-30, 0.0], np.float32)
    actual = decoded(stored(kernels, values, positive), 5, positive)
    assert actual.tolist() == ([1.0, *[2.0**-30] * 4] if positive else [actual[0], 0, 0, 0, 0])


# ---- stochastic rounding


@POSITIVE
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_stochastic_rounding_gives_a_neighbour_with_the_right_probability(functions, positive, rng):
    blocks = 1500
    for seed, value in enumerate([0.7, 0.031, 1.03, 3.1e-3, 2e-4] + ([1e-8] if positive else [-0.31, 2e-5])):
        values = np.full((blocks, BLOCK), value, np.float32)
        values[:, 0] = 1.5  # the scale
        state = stored(functions, values, positive, stochastic_rounding=True, seed=seed)
        draws = decoded(state, values.size, positive).reshape(blocks, BLOCK)[:, 1:].ravel()
        exact = np.float64(np.float32(value))
        numbers = np.unique(all_numbers(127, positive))
        low, high = numbers[numbers <= exact].max(), numbers[numbers > exact].min()
        assert set(draws.tolist()) == {low, high}
        share, expected = (draws == high).mean(), (exact - low) / (high - low)
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / draws.size)
        assert abs(draws.mean() - exact) < 5 * (high - low) * np.sqrt(expected * (1 - expected) / draws.size)


@POSITIVE
def test_stochastic_rounding_leaves_alone_what_needs_none(positive):
    values = np.tile(np.array([0.0, 1.5, 1.0] if positive else [0.0, 1.5 - 2.0**-14, 2.0**-14 - 1.0]), 1000)
    values = values.astype(np.float32)
    actual = decoded(stored(kernels, values, positive, stochastic_rounding=True), values.size, positive)
    np.testing.assert_array_equal(actual, np.where(values == 0, 2.0**-30, values) if positive else values)


def test_states_draw_independently():
    values = np.full((2000, BLOCK), 1.03, np.float32)
    states = [np.zeros(size_of(values.size), np.uint8) for _ in range(2)]
    param = np.zeros(values.shape, np.float32)
    kernels.adamax(param, values, *states, step=1, beta1=0.0, eps=0.0, lr=0.0, stochastic_rounding=True)
    up = [decoded(state, values.size, bool(k)) > 1.03 for k, state in enumerate(states)]
    assert abs(np.corrcoef(*up)[0, 1]) < 0.01
    for own in up:
        assert abs(np.corrcoef(own[1:], own[:-1])[0, 1]) < 0.01


def test_stochastic_averages_follow_the_exact_ones_and_nearest_ones_stand_still():
    n, steps = 128 * 400, 300
    found = {}
    for stochastic in (False, True):
        states = zero_states(n)
        kernels.adam(np.zeros(n, np.float32), np.ones(n, np.float32), *states, step=1, beta2=0.5)
        start = decoded(states[1], n, True)[0]
        for step in range(2, steps + 2):
            kernels.adam(
                np.zeros(n, np.float32), np.zeros(n, np.float32), *states, step=step, stochastic_rounding=stochastic
            )
        found[stochastic] = decoded(states[1], n, True).mean() / start
    assert found[False] == 1.0
    assert found[True] == pytest.approx(0.999**steps, rel=0.005)


# ---- blocks know nothing of each other


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_a_number_that_is_not_finite_spoils_its_block_alone(functions, bad, stochastic, rng):
    values = spread(rng, 5 * BLOCK + 9)
    other = values.copy()
    other[2 * BLOCK + 77] = bad
    with np.errstate(invalid="ignore"):
        for positive in (False, True):
            clean = stored(functions, values, positive, stochastic_rounding=stochastic)
            spoilt = stored(functions, other, positive, stochastic_rounding=stochastic)
            differ = np.flatnonzero(clean != spoilt)
            own = {*range(2 * BLOCK, 3 * BLOCK), 6 * BLOCK + 2}
            assert set(differ.tolist()) <= own
            assert spoilt[6 * BLOCK + 2] == 255
            param = np.zeros(values.shape, np.float32)
            if not positive:  # read again: nothing finite in this block, all finite in the others
                functions.sgd_momentum(param, np.zeros_like(values), spoilt, step=2, lr=-1.0, momentum=1.0)
                finite = np.isfinite(param)
                assert not finite[2 * BLOCK : 3 * BLOCK].any()
                assert finite[: 2 * BLOCK].all()
                assert finite[3 * BLOCK :].all()


@POSITIVE
@pytest.mark.parametrize("n", [1, 2, 15, 17, 63, 65, 127, 128, 129, 255, 257, 300, 512, 513])
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_sizes_and_padding(functions, n, positive, rng):
    """The first blocks of a longer array are those of a shorter one; what lies behind the last element is nothing."""
    values = spread(rng, 600)
    values[BLOCK - 1 :: BLOCK] = 3.0
    state = stored(functions, values[:n], positive)
    check_nearest(values[:n], state, positive)
    longer = stored(functions, values, positive)
    whole = n // BLOCK
    assert (state[: whole * BLOCK] == longer[: whole * BLOCK]).all()
    dirty = state.copy()
    used = {byte_of(i) for i in range(n)}
    blocks = -(-n // BLOCK)
    for k in range(blocks * BLOCK):
        if k not in used:
            dirty[k] = rng.integers(256)
    p, q, g = np.ones(n, np.float32), np.ones(n, np.float32), spread(rng, n)
    rest = [np.zeros_like(state) for _ in range(2)]
    states = [[rest[0], state], [rest[1], dirty]] if positive else [[state, rest[0]], [dirty, rest[1]]]
    functions.adam(p, g, *states[0], step=2)
    functions.adam(q, g, *states[1], step=2)
    assert_same_bits(p, q)
    for a, b in zip(*states, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("functions", FUNCTIONS)
def test_no_elements(functions):
    for shape in [(0,), (3, 0, 2)]:
        p, g, m, v = np.zeros(shape, np.float32), np.zeros(shape, np.float32), *zero_states(0)
        functions.adam(p, g, m, v, step=1)
        assert m.shape == (0,)
    optimizer = optim.Adam([np.zeros((0, 3), np.float32)], state_dtype="float8")
    optimizer.step([np.zeros((0, 3), np.float32)])


# ---- steps: what was decoded, one float32 step, and the nearest of all codes again


@pytest.mark.parametrize("name", [name for name, update in kernels.UPDATES.items() if update.states])
def test_a_step_is_the_float32_step_between_decoding_and_encoding(name, rng):
    update, n = kernels.UPDATES[name], 333
    p = spread(rng, n)
    states = zero_states(n, len(update.states))
    between = {"lamb"}  # reads its states again, rounded: held by the reference
    for step in range(1, 21):
        g = spread(rng, n)
        wide = [decoded(s, n, positive).astype(np.float32) for s, positive in zip(states, update.positive, strict=True)]
        twin = p.copy()
        getattr(kernels, name)(twin, g, *wide, step=step)
        getattr(kernels, name)(p, g, *states, step=step)
        if name not in between:
            assert_same_bits(p, twin, f"{name} step {step}")
        for state, value, positive in zip(states, wide, update.positive, strict=True):
            check_nearest(value, state, positive)


LAYOUTS = {
    "transposed": lambda m: m[:11, :29].T,
    "fortran": lambda m: np.asfortranarray(m[:29, :11]),
    "strided": lambda m: m[:58:2, 1:34:3],
    "transposed view": lambda m: m[:33:3, :58:2].T,
    "backwards": lambda m: m[:29, :11][::-1, ::-1],
    "three axes": lambda m: m[:58, :55].reshape(29, 2, 5, 11)[:, 0, 1:, :].transpose(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("functions", FUNCTIONS)
def test_blocks_follow_the_order_of_the_parameters_memory(functions, layout, rng):
    """The same step on the elements, written one behind the other in that order."""
    memory = rng.standard_normal((60, 60)).astype(np.float32)
    p = LAYOUTS[layout](memory)
    order = np.argsort([-abs(stride) for stride in p.strides], kind="stable")

    def flat(a):
        return np.ascontiguousarray(a.transpose(order)).reshape(-1)

    q, states, twins = flat(p), zero_states(p.size), zero_states(p.size)
    for step in range(1, 6):
        g = spread(rng, p.size).reshape(p.shape)
        options = {"step": step, "lr": 0.01, "stochastic_rounding": step % 2 == 0, "seed": 3}
        functions.adam(p, g, *states, **options)
        functions.adam(q, flat(g), *twins, **options)
        assert_same_bits(flat(p), q)
        for a, b in zip(states, twins, strict=True):
            assert_same_bits(a, b)


def test_training_in_float8_is_near_float32(rng):
    """A hundred steps of Adam with noisy gradients of one magnitude."""
    n = 4096
    p, q = np.zeros(n, np.float32), np.zeros(n, np.float32)
    eight, full = optim.Adam([p], lr=1e-2, state_dtype="float8"), optim.Adam([q], lr=1e-2)
    slope = rng.standard_normal(n)
    for _ in range(100):
        g = (slope + rng.standard_normal(n)).astype(np.float32)
        eight.step([g])
        full.step([g])
    assert np.corrcoef(p, q)[0, 1] > 0.995
    assert abs((p * q).sum() / (q * q).sum() - 1) < 0.01


@pytest.mark.parametrize("threads", [2, 5])
def test_any_number_of_threads(threads, rng):
    n = 300_001
    g = spread(rng, n)
    runs = []
    for count in (1, threads):
        p, states = np.ones(n, np.float32), zero_states(n)
        for step in (1, 2, 3):
            kernels.adam(p, g, *states, step=step, stochastic_rounding=True, threads=count)
        runs.append([p, *states])
    for a, b in zip(*runs, strict=True):
        assert_same_bits(a, b)


# ---- refused


def u8(n=129):
    return np.zeros(n, np.uint8)


def f32(n=5):
    return np.ones(n, np.float32)


@pytest.mark.parametrize(("states", "error", "match"), [
    (lambda: [u8(128), u8()], ValueError, r"exp_avg: expected shape \(129,\) for the 8-bit blocks of param with 5 el"),
    (lambda: [u8(), u8(5)], ValueError, r"exp_avg_sq: expected shape \(129,\) for the 8-bit blocks .*got \(5,\)"),
    (lambda: [u8().reshape(1, 129), u8()], ValueError, r"exp_avg: expected shape \(129,\) .*got \(1, 129\)"),
    (lambda: [u8().view(np.int8), u8()], TypeError, "exp_avg: expected float32, bfloat16 or 8-bit blocks .*got int8"),
    (lambda: [f32().astype(np.float16), f32()], TypeError, "exp_avg: expected float32, bfloat16 or 8-bit.*got float16"),
    (lambda: [u8(), f32()], TypeError, "exp_avg_sq: is float32; either all states of a tensor are in 8-bit blocks or"),
    (lambda: [f32(), u8()], TypeError, "exp_avg_sq: is 8-bit blocks; either all states .* or none"),
    (lambda: [u8(130)[1:], u8()], ValueError, "exp_avg: 8-bit blocks must begin at a multiple of 4 bytes; copy it"),
    (lambda: [u8(258)[::2], u8()], ValueError, "exp_avg: expected a C-contiguous array"),
    (lambda: [u8()] * 2, ValueError, "exp_avg_sq: shares memory with exp_avg"),
])  # fmt: skip
def test_states_that_do_not_fit_are_refused(states, error, match):
    given = states()
    before = [s.copy() for s in given]
    if not all(s.ctypes.data % 4 == 0 for s in given):
        assert "multiple of 4" in match
    p = f32()
    with pytest.raises(error, match=match):
        kernels.adam(p, f32(), *given, step=1)
    assert (p == 1).all()
    assert all((a == b).all() for a, b in zip(given, before, strict=True))


def test_8_bits_belong_to_float32_and_to_states():
    with pytest.raises(TypeError, match="exp_avg: expected float64 beside a float64 param, got 8-bit blocks"):
        kernels.adam(np.ones(5), f32(), u8(), u8(), step=1)
    with pytest.raises(TypeError, match=r"params\[1\]: is float64.*state_dtype='float8'"):
        optim.Adam([f32(), np.ones(5)], state_dtype="float8")
    with pytest.raises(TypeError, match="param: expected float32, float64, float16 or bfloat16, got uint8"):
        kernels.sgd(u8(5), f32(), step=1)
    with pytest.raises(TypeError, match=r"grad: expected .*got uint8"):
        kernels.sgd(f32(), u8(5), step=1)


# ---- saved and loaded


def make_params(rng):
    return [
        np.asfortranarray(rng.standard_normal((20, 15)).astype(np.float32)),
        rng.standard_normal((31, 7)).astype(np.float32),
        rng.standard_normal((6, 5, 9)).astype(np.float32).transpose(1, 2, 0),
        rng.standard_normal(1).astype(np.float32),
    ]


CLASSES = {
    "Adam": {},
    "AdamW": {"amsgrad": True},
    "SGD": {"momentum": 0.9},
    "RMSprop": {"centered": True},
    "NAdam": {},
    "Rprop": {},
    "ASGD": {"t0": 3.0},
    "Adagrad": {"initial_accumulator_value": 0.25},
    "LAMB": {},
    "LARS": {},
    "SWATS": {},
}


@pytest.mark.parametrize("name", CLASSES)
def test_state_dict_resumes_to_the_bit(name, rng):
    params = make_params(rng)
    options = {**CLASSES[name], "state_dtype": "float8", "seed": 5}
    first = getattr(optim, name)(params, **options)
    grads = [[spread(rng, p.size).reshape(p.shape) for p in params] for _ in range(8)]
    for g in grads[:4]:
        first.step(g)
    saved, others = copy.deepcopy(first.state_dict()), [p.copy(order="K") for p in params]
    second = getattr(optim, name)(others, **options)
    second.load_state_dict(saved)
    for g in grads[4:]:
        first.step(g)
        second.step(g)
    for a, b in zip(params, others, strict=True):
        assert_same_bits(a, b)
    for i, entry in first.state_dict()["state"].items():
        for key in first.update.states:
            assert entry[key].dtype == np.uint8
            assert_same_bits(entry[key], second.state_dict()["state"][i][key])


def test_blocks_of_another_order_shape_or_type_are_refused(rng):
    p = rng.standard_normal((20, 15)).astype(np.float32)
    saved = optim.Adam([np.asfortranarray(p)], state_dtype="float8").state_dict()
    with pytest.raises(ValueError, match=r"parameter 0 are in blocks along the axes \[1, 0\], .* along \[0, 1\]"):
        optim.Adam([p], state_dtype="float8").load_state_dict(saved)
    optim.Adam([p.T.copy().T], state_dtype="float8").load_state_dict(saved)
    with pytest.raises(ValueError, match=r"parameter 0 are blocks of shape \[20, 15\], expected \[15, 20\]"):
        optim.Adam([p.T], state_dtype="float8").load_state_dict(saved)
    with pytest.raises(ValueError, match="states are 'float8', this optimizer's are 'float32'"):
        optim.Adam([p]).load_state_dict(saved)
    with pytest.raises(ValueError, match="states are 'float32', this optimizer's are 'float8'"):
        optim.Adam([p], state_dtype="float8").load_state_dict(optim.Adam([p.copy()]).state_dict())
    broken = copy.deepcopy(optim.Adam([p], state_dtype="float8").state_dict())
    broken["state"][0]["exp_avg"] = broken["state"][0]["exp_avg"][:-1]
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 is uint8 \(386,\), expected uint8 \(387,\)"):
        optim.Adam([p.copy()], state_dtype="float8").load_state_dict(broken)


def test_axes_of_one_element_have_no_order(rng):
    p = rng.standard_normal((1, 20)).astype(np.float32)
    saved = optim.Adam([p], state_dtype="float8").state_dict()
    optim.Adam([np.asfortranarray(p.copy())], state_dtype="float8").load_state_dict(saved)


def test_checkpoint(tmp_path, rng):
    pytest.importorskip("safetensors")

    def make():
        model = nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 3), seed=1)
        return model, optim.Adam(model.parameters(), state_dtype="float8", seed=3)

    model, optimizer = make()
    grads = [[spread(rng, p.size).reshape(p.shape) for p in model.parameters()] for _ in range(6)]
    for g in grads[:3]:
        optimizer.step(g)
    checkpoint.save(tmp_path, model, optimizer)
    other, resumed = make()
    checkpoint.load(tmp_path, other, resumed)
    for g in grads[3:]:
        optimizer.step(g)
        resumed.step(g)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert_same_bits(a, b)
    plain = optim.Adam(other.parameters())
    with pytest.raises(checkpoint.CheckpointError, match="states are 'float8', this optimizer's are 'float32'"):
        checkpoint.load(tmp_path, other, plain)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
def test_torchs_states_are_rounded_to_nearest(state_dtype, rng):
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(spread(rng, 300).reshape(20, 15)), torch.tensor(spread(rng, 9))]
    theirs = torch.optim.Adam(tensors, lr=0.01)
    for _ in range(5):
        for tensor in tensors:
            tensor.grad = torch.tensor(spread(rng, tensor.numel()).reshape(tensor.shape))
        theirs.step()
    params = [np.asfortranarray(tensors[0].numpy().copy()), tensors[1].numpy().copy()]
    ours = optim.Adam(params, state_dtype=state_dtype)
    ours.load_state_dict(theirs.state_dict())
    for i, tensor in enumerate(tensors):
        entry = ours.state_dict()["state"][i]
        assert entry["step"] == 5
        for name, positive in (("exp_avg", False), ("exp_avg_sq", True)):
            exact = theirs.state[tensor][name].numpy()
            if state_dtype == "float8":
                check_nearest(np.ascontiguousarray(exact.T).reshape(-1), entry[name], positive)
            else:
                wide = (entry[name].astype(np.uint32) << 16).view(np.float32)
                assert ulps(wide, exact, np.abs(exact) * 2.0**15) <= 1  # half a unit in the last of eight bits
                assert (wide != exact).any()
    before = [p.copy() for p in params]
    ours.step([np.ones_like(p) for p in params])
    assert all((p != b).any() for p, b in zip(params, before, strict=True))
    wrong = theirs.state_dict()
    wrong["state"][0]["exp_avg"] = wrong["state"][0]["exp_avg"][:3]
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 is float32 \(3, 15\), expected float32 \(20, 15\)"):
        optim.Adam(params, state_dtype=state_dtype).load_state_dict(wrong)
