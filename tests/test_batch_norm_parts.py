"""Statistics and sums apart from their use: synchronized batch normalization built from them against the whole batch
and against torch; merging against exact statistics; the cumulative average and the population variance."""

from __future__ import annotations

import fractions
import itertools
import multiprocessing

import numpy as np
import pytest
from hypothesis import given, strategies as st
from measure import assert_same_bits, numeric_gradient, ulps

from onepass import kernels, nn, reference

OPTIONS = [
    dict(zip(("affine", "relu", "residual"), o, strict=True)) for o in itertools.product([False, True], repeat=3)
]


def ids(options):
    return ",".join(k for k, v in options.items() if v) or "plain"


class Batch:
    """Inputs of a whole batch, and of slices of it."""

    def __init__(self, rng, shape, dtype, affine=True, relu=False, residual=False):
        self.x, self.dy = ((2 * rng.normal(size=shape) + 0.5).astype(dtype) for _ in range(2))
        self.gamma, self.beta = ((rng.normal(size=shape[1])).astype(dtype) if affine else None for _ in range(2))
        self.residual = rng.normal(size=shape).astype(dtype) if residual else None
        self.relu = relu
        self.running = np.zeros(shape[1], dtype), np.ones(shape[1], dtype)

    def options(self, rows=slice(None)):
        return {"relu": self.relu, "residual": None if self.residual is None else self.residual[rows]}

    def synchronized(self, functions, shards):
        """Every shard's results, joined; what would travel is merged and added up in order."""
        statistics = functions.merge_statistics([functions.batch_norm_statistics(self.x[s]) for s in shards])
        forward = []
        for s in shards:
            running = tuple(a.copy() for a in self.running)
            y, saved = functions.batch_norm_apply(
                self.x[s], statistics, self.gamma, self.beta, *running, **self.options(s)
            )
            forward.append((y, saved, *running))
        saved = [f[1] for f in forward]
        arguments = [(self.dy[s], self.x[s], self.gamma, kept) for s, kept in zip(shards, saved, strict=True)]
        parts = [functions.batch_norm_backward_sums(*a) for a in arguments]
        sums = tuple(sum(part) for part in zip(*parts, strict=True))
        gradients = [functions.batch_norm_backward_apply(*a, sums, statistics.count) for a in arguments]
        for other in forward[1:]:
            for i in (2, 3):
                assert_same_bits(other[i], forward[0][i])
        dx, dgamma, dbeta, *dresidual = zip(*gradients, strict=True)
        wholes = [np.concatenate(a) for a in ([f[0] for f in forward], dx, *dresidual)]
        return [wholes[0], *forward[0][2:], wholes[1], dgamma[0], dbeta[0], *wholes[2:]]

    def whole(self, functions):
        running = tuple(a.copy() for a in self.running)
        y, saved = functions.batch_norm(self.x, self.gamma, self.beta, *running, **self.options())
        return [y, *running, *functions.batch_norm_backward(self.dy, self.x, self.gamma, saved)]


# ---- the parts are the whole


@pytest.mark.parametrize("shape", [(60, 5), (3, 600), (4, 3, 700), (5, 40, 3, 4), (1, 3, 9001)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_one_part_has_the_bits_of_batch_norm(options, shape, dtype, rng):
    batch = Batch(rng, shape, dtype, **options)
    for part, whole in zip(batch.synchronized(kernels, [slice(None)]), batch.whole(kernels), strict=True):
        assert_same_bits(part, whole)


@pytest.mark.parametrize("shards", [[(0, 30), (30, 60)], [(0, 1), (1, 50), (50, 60)]], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_shards_are_the_whole_batch(functions, options, shards, rng):
    batch = Batch(rng, (60, 5, 7), np.float64, **options)
    parts = batch.synchronized(functions, [slice(*s) for s in shards])
    for part, whole in zip(parts, batch.whole(reference), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=ids)
def test_shards_against_torch(options, rng):
    torch = pytest.importorskip("torch")
    batch = Batch(rng, (40, 3, 6), np.float64, **options)
    x = torch.tensor(batch.x, requires_grad=True)
    parameters = [None if a is None else torch.tensor(a, requires_grad=True) for a in (batch.gamma, batch.beta)]
    residual = None if batch.residual is None else torch.tensor(batch.residual, requires_grad=True)
    running = [torch.tensor(a) for a in batch.running]
    y = torch.nn.functional.batch_norm(x, *running, *parameters, True, 0.1, 1e-5)
    y = y if residual is None else y + residual
    y = y.relu() if batch.relu else y
    y.backward(torch.tensor(batch.dy))
    expected = [y.detach(), *running, x.grad]
    expected += [None if p is None else p.grad for p in parameters] + ([] if residual is None else [residual.grad])
    for part, theirs in zip(batch.synchronized(kernels, [slice(0, 13), slice(13, 40)]), expected, strict=True):
        if theirs is not None:
            np.testing.assert_allclose(part, theirs.numpy(), rtol=1e-11, atol=1e-12)


def process(pipe, x, dy, gamma, beta):
    """One of two processes; what it sends is all that they have in common."""

    def exchange(mine):
        pipe.send(mine)
        return pipe.recv()

    mine = kernels.batch_norm_statistics(x)
    rank, theirs = exchange((mine, None))
    total = kernels.merge_statistics([mine, theirs] if rank == 0 else [theirs, mine])
    y, saved = kernels.batch_norm_apply(x, total, gamma, beta, relu=True)
    sums = kernels.batch_norm_backward_sums(dy, x, gamma, saved)
    _, others = exchange((sums, None))
    added = tuple(a + b for a, b in zip(sums, others, strict=True))
    pipe.send((y, *kernels.batch_norm_backward_apply(dy, x, gamma, saved, added, total.count)))


def test_two_processes_are_the_whole_batch(rng):
    batch = Batch(rng, (50, 4, 6), np.float64, relu=True)
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for rows in (slice(0, 20), slice(20, 50)):
        here, there = context.Pipe()
        child = context.Process(target=process, args=(there, batch.x[rows], batch.dy[rows], batch.gamma, batch.beta))
        child.start()
        pipes.append(here)
        children.append(child)
    try:
        for _ in range(2):  # statistics, then sums
            sent = [pipe.recv()[0] for pipe in pipes]
            for rank, pipe in enumerate(pipes):
                pipe.send((rank, sent[1 - rank]))
        results = [pipe.recv() for pipe in pipes]
    finally:
        for child in children:
            child.join(30)
            child.kill()
    expected = batch.whole(reference)
    np.testing.assert_allclose(np.concatenate([r[0] for r in results]), expected[0], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([r[1] for r in results]), expected[3], rtol=1e-11, atol=1e-12)
    for i in (2, 3):
        assert_same_bits(results[0][i], results[1][i])
        np.testing.assert_allclose(results[0][i], expected[2 + i], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", [o for o in OPTIONS if o["affine"]], ids=ids)
def test_gradient_of_shards_by_finite_differences(functions, options, rng):
    batch = Batch(rng, (7, 2, 3), np.float64, **options)
    shards = [slice(0, 2), slice(2, 7)]
    results = batch.synchronized(functions, shards)[3:]
    variables = [batch.x, batch.gamma, batch.beta, batch.residual][: len(results)]
    for result, variable in zip(results, variables, strict=True):
        slope = numeric_gradient(lambda: float((batch.synchronized(functions, shards)[0] * batch.dy).sum()), variable)
        np.testing.assert_allclose(result, slope, rtol=1e-6, atol=1e-8)


# ---- statistics


@pytest.mark.parametrize("shape", [(4096, 3), (50, 3, 81), (3, 700), (1, 3, 100_003)], ids=str)
def test_statistics_of_mean_ten_thousand_and_variance_one(shape, dtype, rng):
    x = (10_000 + rng.normal(size=shape)).astype(dtype)
    count, mean, m2 = kernels.batch_norm_statistics(x)
    exact = np.moveaxis(x, 1, -1).astype(np.longdouble)  # 64 bits of mantissa: float64 is tested too
    exact_mean = exact.mean(tuple(range(x.ndim - 1)))
    assert count == x.size // shape[1]
    eps = float(np.finfo(dtype).eps)
    assert np.abs(mean - exact_mean).max() <= (8 * eps if dtype == np.float32 else 1e4 * 4 * eps)
    exact_m2 = ((exact - exact_mean) ** 2).sum(tuple(range(x.ndim - 1)))
    # blocks are merged with means rounded to double, which float32 does not see
    merging = 1e4 / 10 * np.finfo(np.float64).eps
    assert (np.abs(m2 - exact_m2) <= (64 * eps + merging) * exact_m2).all()


def test_statistics_of_one_value(functions, dtype):
    count, mean, m2 = functions.batch_norm_statistics(np.array([[3.0, -1.0]], dtype))
    assert (count, mean.tolist(), m2.tolist()) == (1, [3.0, -1.0], [0.0, 0.0])


@given(st.lists(st.lists(st.integers(-1000, 1000), max_size=12), min_size=1, max_size=6))
def test_merging_is_exact_statistics_of_all_values(parts):
    """In rational numbers, which have no rounding at all; parts may be empty."""

    def statistics(values):
        n = len(values)
        mean = fractions.Fraction(sum(values), max(n, 1))
        return n, mean, sum((v - mean) ** 2 for v in values)

    triples = [(n, np.array([float(mean)]), np.array([float(m2)])) for n, mean, m2 in map(statistics, parts)]
    count, mean, m2 = statistics(list(itertools.chain(*parts)))
    for functions in (kernels, reference):
        merged = functions.merge_statistics(triples)
        assert merged.count == count
        if count:
            np.testing.assert_allclose(merged.mean, [float(mean)], rtol=1e-12, atol=1e-10)
            np.testing.assert_allclose(merged.m2, [float(m2)], rtol=1e-11, atol=1e-9)


def test_merging_leaves_its_parts_alone(functions):
    parts = [(2, np.array([1.0]), np.array([2.0])), (3, np.array([5.0]), np.array([1.0]))]
    functions.merge_statistics(parts)
    assert [(n, mean[0], m2[0]) for n, mean, m2 in parts] == [(2, 1.0, 2.0), (3, 5.0, 1.0)]


def test_constants_let_the_gradient_through_as_inference_does(functions, dtype, rng):
    batch = Batch(rng, (9, 4), dtype)
    mean, var = rng.normal(size=4), rng.random(4) + 0.5
    y, saved = functions.batch_norm_apply(batch.x, (mean, var), batch.gamma, batch.beta)
    assert not saved.training
    expected = (batch.x - mean) / np.sqrt(var + 1e-5) * batch.gamma + batch.beta
    assert ulps(y, expected, np.abs(expected) + np.abs(batch.x) + 3) <= 8
    dx = functions.batch_norm_backward(batch.dy, batch.x, batch.gamma, saved)[0]
    np.testing.assert_allclose(dx, batch.dy * batch.gamma / np.sqrt(var + 1e-5), rtol=1e-5)
    sums = functions.batch_norm_backward_sums(batch.dy, batch.x, batch.gamma, saved)
    assert_same_bits(
        functions.batch_norm_backward_apply(batch.dy, batch.x, batch.gamma, saved, sums, 100)[0], dx, "no use of sums"
    )


def test_apply_in_place(dtype, rng):
    batch = Batch(rng, (9, 4, 20), dtype)
    statistics = kernels.batch_norm_statistics(batch.x)
    expected, _ = kernels.batch_norm_apply(batch.x, statistics, batch.gamma, batch.beta)
    x = batch.x.copy()
    assert kernels.batch_norm_apply(x, statistics, batch.gamma, batch.beta, out=x)[0] is x
    assert_same_bits(x, expected)


@pytest.mark.parametrize("shape", [(70_001, 3), (3, 70_001), (2, 3, 40_001)], ids=str)
def test_parts_have_the_same_bits_on_any_threads(shape, dtype, rng):
    batch = Batch(rng, shape, dtype, relu=True)
    results = []
    for threads in (1, 2, 3, 7):
        statistics = kernels.batch_norm_statistics(batch.x, threads=threads)
        _, saved = kernels.batch_norm_apply(batch.x, statistics, batch.gamma, batch.beta, relu=True, threads=threads)
        sums = kernels.batch_norm_backward_sums(batch.dy, batch.x, batch.gamma, saved, threads=threads)
        results.append([statistics.mean, statistics.m2, saved.invstd, *sums])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert_same_bits(a, b)


# ---- running statistics


@pytest.mark.parametrize("population", [False, True])
def test_population_variance(functions, population, dtype):
    """ONNX and Keras: 0.75 * 20 + 0.25 * 26 / 3; PyTorch divides by 2."""
    x = np.array([[1.0], [3.0], [8.0]], dtype)
    expected = 0.75 * 20 + 0.25 * 26 / (3 if population else 2)
    for apply in (False, True):
        mean, var = np.array([10.0], dtype), np.array([20.0], dtype)
        more = {"momentum": 0.25, "population": population}
        if apply:
            functions.batch_norm_apply(x, functions.batch_norm_statistics(x), None, None, mean, var, **more)
        else:
            functions.batch_norm(x, None, None, mean, var, **more)
        assert mean[0] == pytest.approx(8.5, rel=1e-6)
        assert var[0] == pytest.approx(expected, rel=1e-6)


def test_cumulative_average_is_that_of_torch(functions, rng):
    torch = pytest.importorskip("torch")
    layer = torch.nn.BatchNorm1d(3, momentum=None, dtype=torch.float64)
    mean, var = np.zeros(3), np.ones(3)
    for batches in range(5):
        x = rng.normal(size=(6, 3))
        layer(torch.tensor(x))
        functions.batch_norm(x, None, None, mean, var, momentum=None, batches=batches)
        np.testing.assert_allclose(mean, layer.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(var, layer.running_var.numpy(), rtol=1e-12)


def test_layer_with_cumulative_average(rng):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm1d(3, momentum=None, dtype=torch.float64)
    ours = nn.BatchNorm(3, momentum=None, dtype=np.float64)
    for i in range(4):
        x = rng.normal(size=(6, 3))
        theirs(torch.tensor(x))
        ours.forward(x)
        if i == 1:  # a checkpoint in between goes on where it stopped
            state = {name: array.copy() for name, array in ours.state().items()}
            ours = nn.BatchNorm(3, momentum=None, dtype=np.float64)
            ours.load_state(state)
    ours.forward(x, training=False)
    np.testing.assert_allclose(ours.running_mean, theirs.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.running_var, theirs.running_var.numpy(), rtol=1e-12)
    assert ours.state()["num_batches_tracked"] == 4


def test_layer_without_gamma_and_beta(rng):
    layer = nn.BatchNorm(3, affine=False, population=True, momentum=1.0, dtype=np.float64)
    x, dy = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    y = layer.forward(x)
    np.testing.assert_allclose(y, reference.batch_norm(x)[0], rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, x.var(0), rtol=1e-12)
    assert layer.parameters() == layer.gradients() == []
    assert set(layer.state()) == {"running_mean", "running_var"}
    np.testing.assert_allclose(
        layer.backward(dy), reference.batch_norm_backward(dy, x, None, reference.batch_norm(x)[1])[0], atol=1e-12
    )


# ---- what is refused

X = np.arange(12, dtype=np.float32).reshape(4, 3)
S = (4, np.zeros(3), np.ones(3))
SAVED = reference.batch_norm(X)[1]
REFUSED = [  # function, arguments, error, what the message says
    ("batch_norm", {"x": X, "momentum": None}, ValueError, "batches: is missing"),
    ("batch_norm", {"x": X, "momentum": None, "batches": -1}, ValueError, "batches: expected 0 or more"),
    ("batch_norm", {"x": X, "momentum": None, "batches": 1.5}, TypeError, "batches: expected an integer"),
    ("batch_norm", {"x": X.view(np.uint16)}, TypeError, "dtype='bfloat16'"),
    ("batch_norm", {"x": X, "dtype": "float16"}, ValueError, "dtype: expected 'bfloat16'"),
    ("batch_norm", {"x": X.astype(np.float16), "gamma": np.ones(3, np.float16)}, TypeError, "gamma: expected float32"),
    ("batch_norm", {"x": X.astype(np.float16), "residual": X}, TypeError, "residual: expected float16"),
    ("batch_norm_statistics", {"x": X[:0]}, ValueError, "x: "),
    ("batch_norm_statistics", {"x": X, "channel_axis": 2}, ValueError, "channel_axis"),
    ("merge_statistics", {"statistics": []}, ValueError, "statistics: is empty"),
    ("merge_statistics", {"statistics": 3}, TypeError, "statistics: expected a sequence"),
    ("merge_statistics", {"statistics": [S, (4, np.zeros(3))]}, ValueError, r"statistics\[1\]: expected \(count"),
    ("merge_statistics", {"statistics": [S, (4, np.zeros(2), np.ones(2))]}, ValueError, r"statistics\[1\]: mean: exp"),
    ("merge_statistics", {"statistics": [(2.5, *S[1:])]}, TypeError, r"statistics\[0\]: count: expected an integer"),
    ("merge_statistics", {"statistics": [(-1, *S[1:])]}, ValueError, r"statistics\[0\]: count: expected 1 or more"),
    ("batch_norm_apply", {"x": X, "statistics": S[1]}, TypeError, r"statistics: expected \(count"),
    ("batch_norm_apply", {"x": X, "statistics": S[:1]}, ValueError, r"statistics: expected \(count"),
    ("batch_norm_apply", {"x": X, "statistics": (0, *S[1:])}, ValueError, "statistics: count: expected 1 or more"),
    ("batch_norm_apply", {"x": X, "statistics": (4, S[1].astype("f4"), S[2])}, TypeError, "mean: expected float64"),
    ("batch_norm_apply", {"x": X, "statistics": (4, S[1], [1.0] * 3)}, TypeError, "m2: expected a NumPy array"),
    (
        "batch_norm_apply",
        {"x": X, "statistics": S[1:], "running_mean": np.zeros(3, np.float32)},
        ValueError,
        "running_mean, running_var: are not updated",
    ),
    (
        "batch_norm_backward_apply",
        {"dy": X, "x": X, "gamma": None, "saved": SAVED, "sums": S[1], "count": 4},
        TypeError,
        r"sums: expected \(sum_dy",
    ),
    (
        "batch_norm_backward_apply",
        {"dy": X, "x": X, "gamma": None, "saved": SAVED, "sums": S[1:], "count": 0},
        ValueError,
        "count: expected 1 or more",
    ),
    (
        "batch_norm_backward_apply",
        {"dy": X, "x": X, "gamma": None, "saved": SAVED, "sums": S[1:], "count": 4.0},
        TypeError,
        "count: expected an integer",
    ),
    (
        "batch_norm_backward_sums",
        {"dy": X.astype(np.float64), "x": X, "gamma": None, "saved": SAVED},
        TypeError,
        "dy: expected float32",
    ),
]


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"), REFUSED, ids=[f"{name}: {message}" for name, _, _, message in REFUSED]
)
def test_misuse_is_refused(functions, name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(functions, name)(**arguments)


def test_wrong_number_of_channels_is_refused():
    for statistics in ((4, np.zeros(2), np.ones(2)), (4, np.zeros(3), np.ones(4))):
        with pytest.raises(ValueError, match=r"statistics: .*\(3,\)"):
            kernels.batch_norm_apply(X, statistics)
    with pytest.raises(ValueError, match=r"sums: .*\(3,\)"):
        kernels.batch_norm_backward_apply(X, X, None, SAVED, (np.zeros(2), np.zeros(2)), 4)


def test_one_value_cannot_update_the_unbiased_running_variance():
    statistics = (1, np.zeros(3), np.zeros(3))
    running = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="count"):
        kernels.batch_norm_apply(X[:1], statistics, running_var=running)
    kernels.batch_norm_apply(X[:1], statistics, running_var=running, population=True)
