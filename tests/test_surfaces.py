"""Lines and planes against closed forms; the same bits in any number of threads; errors, Ctrl-C, progress."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from scipy import linalg

import onepass
from onepass import landscape, losses, nn
from onepass.landscape import evaluation

RNG = np.random.default_rng(7)
N = 6
ROOT = RNG.normal(size=(N, N))
HESSIAN, LINEAR = ROOT + ROOT.T, RNG.normal(size=N)  # eigenvalues of both signs
SHAPES = [(5, 3), (5,), (2, 3, 2, 2), (2,), (4, 1)]


def quadratic(theta):
    return float(theta @ HESSIAN @ theta / 2 + LINEAR @ theta), HESSIAN @ theta + LINEAR


@pytest.fixture(autouse=True)
def threads():
    yield
    onepass.set_threads(None)


# ---- lines


def test_line_against_the_quadratic():
    center, direction = RNG.normal(size=N), RNG.normal(size=N)
    found = landscape.line(quadratic, center, direction, (-2, 3), points=51)
    loss, gradient = quadratic(center)
    t = np.linspace(-2, 3, 51)
    np.testing.assert_array_equal(found.positions, t)
    expected = loss + gradient @ direction * t + direction @ HESSIAN @ direction / 2 * t**2
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12, atol=1e-12)


def test_line_between_two_points():
    first, second = RNG.normal(size=N), RNG.normal(size=N)
    found = landscape.line(quadratic, direction=landscape.directions_between(first, second), points=141)
    np.testing.assert_allclose(found.positions[[0, -1]], [-0.2, 1.2], rtol=1e-12)
    for name, theta in (("first", first), ("second", second)):
        loss = np.interp(found.marks[name], found.positions, found.losses)
        assert loss == pytest.approx(quadratic(theta)[0], rel=1e-9)
    axes = found.plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["first", "second"]
    assert axes.get_xlabel() == "share of the way from first to second"


# ---- planes


def test_plane_against_the_quadratic_with_oblique_directions():
    center, u = RNG.normal(size=N), RNG.normal(size=N)
    v = u + 0.3 * RNG.normal(size=N)
    found = landscape.plane(quadratic, center, (u, v), span=((-1, 2), (-3, 1)), points=9)
    assert found.losses.shape == (9, 9)
    for i, b in enumerate(np.linspace(-3, 1, 9)):
        for j, a in enumerate(np.linspace(-1, 2, 9)):
            assert found.losses[i, j] == pytest.approx(quadratic(center + a * u + b * v)[0], rel=1e-11, abs=1e-11)
    np.testing.assert_array_equal(found.directions, [u, v])


def test_projection_against_known_coordinates():
    center, (u, v) = RNG.normal(size=N), RNG.normal(size=(2, N))
    found = landscape.plane(quadratic, center, (u, v), points=2)
    normal = linalg.null_space(np.stack([u, v]))[:, 0]
    known = RNG.normal(size=(7, 3))
    thetas = center + known @ np.stack([u, v, normal])
    for given in (thetas, list(thetas), type("Path", (), {"points": thetas}), type("Path", (), {"path": list(thetas)})):
        coordinates, distances = found.project(given)
        np.testing.assert_allclose(coordinates, known[:, :2], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(distances, np.abs(known[:, 2]), rtol=1e-10, atol=1e-12)
    for given in (thetas[0], type("Report", (), {"theta": thetas[0]})()):
        np.testing.assert_allclose(found.project(given)[0], known[:1, :2], rtol=1e-10)


def test_plane_through_three_points():
    thetas = RNG.normal(size=(3, N))
    found = landscape.plane(
        quadratic, directions=landscape.directions_between(*thetas, names=("SGD", "Adam", "Lion")), points=5
    )
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(2), atol=1e-14)
    coordinates, distances = found.project(thetas)
    np.testing.assert_allclose(distances, 0, atol=1e-13)
    np.testing.assert_allclose(coordinates, list(found.marks.values()), atol=1e-13)
    for i, j in ((0, 1), (0, 2), (1, 2)):  # distances are kept
        expected = np.linalg.norm(thetas[i] - thetas[j])
        assert np.linalg.norm(coordinates[i] - coordinates[j]) == pytest.approx(expected, rel=1e-13)
    assert list(found.marks) == ["SGD", "Adam", "Lion"]
    assert ((coordinates > [found.a[0], found.b[0]]) & (coordinates < [found.a[-1], found.b[-1]])).all()
    assert {"SGD", "Adam", "Lion"} <= {text.get_text().strip() for text in found.plot().texts}


def test_default_directions():
    two = landscape.plane(lambda t: (float(t[0] - 3 * t[1]), np.array([1.0, -3.0])), np.zeros(2), points=3)
    np.testing.assert_array_equal(two.losses, [[2, 3, 4], [-1, 0, 1], [-4, -3, -2]])
    plain = landscape.plane(quadratic, np.zeros(N), points=2)
    np.testing.assert_allclose(np.linalg.norm(plain.directions, axis=1), 1, rtol=1e-14)
    theta = [RNG.normal(size=shape) for shape in SHAPES]
    seen = []

    def listed(given):
        seen.append([array.shape for array in given])
        return sum(float(np.sum(array**2)) for array in given), [2 * array for array in given]

    found = landscape.plane(listed, theta, points=2, seed=3)
    assert seen == [SHAPES] * 4
    generator = np.random.default_rng(3)
    for vector in found.directions:
        expected = landscape.random_direction(theta, generator)
        np.testing.assert_array_equal(vector, np.concatenate([array.ravel() for array in expected]))


def test_the_loss_alone_is_asked_for_where_it_is_offered():
    class Cheap:
        theta = np.zeros(2)

        def __call__(self, theta):
            raise AssertionError("the gradient is not needed")

        def loss(self, theta):
            return float(theta.sum())

    np.testing.assert_array_equal(landscape.plane(Cheap(), points=2).losses, [[-2, 0], [0, 2]])
    np.testing.assert_array_equal(landscape.line(Cheap(), direction=np.ones(2), points=3).losses, [-2, 0, 2])


def digits(rows=90):
    x, y = RNG.normal(size=(rows, 8)), RNG.integers(3, size=rows)
    model = nn.Sequential(nn.Linear(8, 16, dtype="float64"), nn.ReLU(), nn.Linear(16, 3, dtype="float64"))
    return landscape.from_model(model, losses.CrossEntropy(), x, y), x, y


def test_plane_of_a_network_against_numpy():
    f, x, y = digits()
    found = landscape.plane(f, points=7, span=(-2, 2))
    for (i, j), loss in np.ndenumerate(found.losses):
        theta = f.theta + found.a[j] * found.directions[0] + found.b[i] * found.directions[1]
        w1, b1, w2, b2 = (p.reshape(s) for p, s in zip(np.split(theta, [128, 144, 192]), f.shapes, strict=True))
        scores = np.maximum(x @ w1.T + b1, 0) @ w2.T + b2
        right = scores[np.arange(len(y)), y]
        assert loss == pytest.approx(np.mean(np.log(np.exp(scores).sum(axis=1)) - right), rel=1e-12)


def test_the_same_bits_with_any_number_of_threads_and_in_any_order():
    f, _, _ = digits(3000)  # enough rows for the kernels' team
    found = {}
    for count in (1, 2, 5):
        onepass.set_threads(count)
        found[count] = landscape.plane(f, points=9)
        assert onepass.get_threads() == count
    assert found[1].losses.tobytes() == found[2].losses.tobytes() == found[5].losses.tobytes()
    u, v = found[1].directions
    for index in np.random.default_rng(0).permutation(81)[:20]:
        i, j = divmod(int(index), 9)
        assert f.loss(f.theta + found[1].a[j] * u + found[1].b[i] * v) == found[1].losses[i, j]


@pytest.mark.parametrize("training", [True, False])
def test_a_copy_of_a_models_function_is_independent_and_shares_the_rows(training):
    x, y = RNG.normal(size=(40, 8)), RNG.integers(3, size=40)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm(6), nn.ReLU(), nn.Linear(6, 3))
    f = landscape.from_model(model, losses.CrossEntropy(), x, y, training)
    other = f.theta + RNG.normal(size=f.theta.size)
    before, elsewhere = f(f.theta), f(other)
    f.loss(other)  # what the layers remember is of other now
    made = f.copy()
    loss, gradient = made(f.theta)
    assert loss == before[0] == made.loss(f.theta)
    np.testing.assert_array_equal(gradient, before[1])
    assert f(other)[0] == elsewhere[0]
    assert not any(np.shares_memory(a, b) for a in f._parameters for b in made._parameters)
    assert made._x is f._x
    made.assign(other)
    np.testing.assert_array_equal(model.parameters()[0].ravel(), other[:48].astype(np.float32))


# ---- threads, errors, Ctrl-C


class Copied:
    """A function with copies; ``act`` is called with the number of the evaluation."""

    theta = np.zeros(2)

    def __init__(self, act=None):
        self.act, self.counter = act, iter(range(10**9))
        self.used = set()

    def __call__(self, theta):
        number = next(self.counter)
        self.used.add(threading.get_ident())
        if self.act is not None:
            self.act(number)
        return float(theta @ theta), 2 * theta

    def copy(self):
        made = Copied(self.act)
        made.counter, made.used = self.counter, self.used
        return made


def test_copies_are_evaluated_at_the_same_time():
    barrier = threading.Barrier(3, timeout=20)  # broken, unless three are inside at once
    onepass.set_threads(3)
    f = Copied(lambda number: barrier.wait() if number < 3 else None)
    found = landscape.plane(f, points=5)
    assert len(f.used) == 3
    np.testing.assert_array_equal(found.losses, found.a**2 + found.b[:, None] ** 2)


def test_functions_without_copies_stay_in_the_callers_thread():
    onepass.set_threads(3)
    used = set()

    def f(theta):
        used.add(threading.get_ident())
        return 0.0, np.zeros(2)

    landscape.plane(f, np.zeros(2), points=3)
    assert used == {threading.get_ident()}


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_of_the_function_ends_it(count):
    def act(number):
        if number == 7:
            raise ArithmeticError("of the function")

    others = threading.active_count()
    onepass.set_threads(count)
    f = Copied(act)
    with pytest.raises(ArithmeticError, match="of the function"):
        landscape.plane(f, points=101)
    assert next(f.counter) < 5000
    assert onepass.get_threads() == count
    assert threading.active_count() == others


@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_ends_it(count):
    def act(number):
        if number == 7:
            os.kill(os.getpid(), signal.SIGINT)
        if number > 7:
            time.sleep(0.002)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    others = threading.active_count()
    onepass.set_threads(count)
    f = Copied(act)
    try:
        with pytest.raises(KeyboardInterrupt):
            landscape.plane(f, points=301)
    finally:
        signal.signal(signal.SIGINT, before)
    assert next(f.counter) < 10000
    assert onepass.get_threads() == count
    assert threading.active_count() == others


# ---- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("progress", "terminal", "seconds", "shown"),
    [
        (None, False, 1.3, False),
        (None, True, 0, False),
        (None, True, 1.3, True),
        (True, False, 0, True),
        (False, True, 1.3, False),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_progress(monkeypatch, progress, terminal, seconds, shown, count):
    onepass.set_threads(count)
    seconds *= count
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    landscape.plane(Copied(lambda number: time.sleep(seconds / 9)), points=3, progress=progress)
    assert bool(re.search(r"9/9", stream.getvalue())) == shown
    assert bool(stream.getvalue()) == shown


def test_without_tqdm(monkeypatch):
    def require(name):
        raise ImportError(f"{name} is not installed; pip install 'onepass[train]'")

    monkeypatch.setattr(evaluation, "require", require)
    monkeypatch.setattr(sys, "stderr", Terminal())
    landscape.plane(Copied(), points=2)
    assert sys.stderr.getvalue() == ""
    with pytest.raises(ImportError, match="tqdm is not installed"):
        landscape.plane(Copied(), points=2, progress=True)


def test_a_closed_stderr_is_no_error(monkeypatch):
    class Full(Terminal):
        def write(self, text):
            raise OSError("no space left")

    for stream in (None, Full()):
        monkeypatch.setattr(sys, "stderr", stream)
        found = landscape.plane(Copied(lambda number: time.sleep(0.15)), points=3)
        assert np.isfinite(found.losses).all()


def test_matplotlib_and_tqdm_come_when_they_are_needed():
    late = ["matplotlib", "tqdm", "scipy", "torch"]
    code = f"import sys, onepass.landscape, onepass.callbacks; print([m for m in {late} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- misuse

TWO = np.zeros(2)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: landscape.line(Copied()), TypeError, "direction is missing"),
        (lambda: landscape.line(Copied(), TWO, TWO), ValueError, "direction is zero everywhere"),
        (lambda: landscape.line(Copied(), TWO, np.ones(3)), ValueError, r"direction has shape \(3,\)"),
        (lambda: landscape.line(Copied(), direction=landscape.pca(np.eye(3))), ValueError, "2 vectors, expected one"),
        (lambda: landscape.line(Copied(), TWO, TWO + 1, points=1), ValueError, "points is 1, expected >= 2"),
        (lambda: landscape.plane(quadratic), TypeError, "theta is missing"),
        (lambda: landscape.plane(3, TWO), TypeError, "f is 3"),
        (lambda: landscape.plane(Copied(), points=5.0), TypeError, "points is 5.0, expected an integer"),
        (lambda: landscape.plane(Copied(), span=(1, -1)), ValueError, r"span is \(1, -1\), expected .* low < high"),
        (lambda: landscape.plane(Copied(), span=((0, 1), (2, np.inf))), ValueError, r"span\[1\] is"),
        (lambda: landscape.plane(Copied(), span=1), TypeError, "span is 1, expected two numbers"),
        (lambda: landscape.plane(Copied(), progress="yes"), TypeError, "progress is 'yes'"),
        (lambda: landscape.plane(Copied(), TWO, (TWO + 1, TWO - 2)), ValueError, "directions are parallel"),
        (lambda: landscape.plane(Copied(), TWO, (TWO + 1, TWO)), ValueError, r"directions\[1\] is zero"),
        (lambda: landscape.plane(Copied(), TWO, (TWO + 1,)), ValueError, "directions holds 1, expected two"),
        (lambda: landscape.plane(Copied(), TWO, landscape.pca(np.eye(3))), ValueError, "directions have 3 parameters"),
        (lambda: landscape.plane(Copied(), TWO, landscape.pca(np.eye(3)[:, :2] + 1)), ValueError, "center is not that"),
        (lambda: landscape.plane(quadratic, np.zeros(1)), ValueError, "one parameter"),
        (lambda: landscape.plane(Copied(), points=2).project(np.ones((2, 3))), ValueError, "the plane has 2"),
    ],
)
def test_misuse_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
