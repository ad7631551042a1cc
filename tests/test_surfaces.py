"""Lines, planes and directions against closed forms; threads, Ctrl-C, progress; what the pictures show."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import linalg

import onepass
from onepass import landscape, losses, nn
from onepass.landscape import evaluation, plots, surfaces

RNG = np.random.default_rng(7)
N = 6
ROOT = RNG.normal(size=(N, N))
HESSIAN, LINEAR = ROOT + ROOT.T, RNG.normal(size=N)  # eigenvalues of both signs


def quadratic(theta):
    return float(theta @ HESSIAN @ theta / 2 + LINEAR @ theta), HESSIAN @ theta + LINEAR


@pytest.fixture(autouse=True)
def threads():
    yield
    onepass.set_threads(None)


# ---- random directions


def shapes_of_a_network():
    return [(5, 3), (5,), (2, 3, 2, 2), (2,), (4, 1)]


def a_network():
    return [RNG.normal(size=shape) * 3 for shape in shapes_of_a_network()]


def lengths(array, axes):
    return np.sqrt(np.sum(array**2, axis=axes))


@pytest.mark.parametrize("biases", [False, True])
def test_filters_have_the_lengths_of_thetas(biases):
    theta = a_network()
    direction = landscape.random_direction(theta, seed=3, biases=biases)
    for d, array in zip(direction, theta, strict=True):
        if array.ndim > 1:
            axes = tuple(range(1, array.ndim))
            np.testing.assert_allclose(lengths(d, axes), lengths(array, axes), rtol=1e-14)
            assert np.unique(d.round(12)).size == d.size
        else:
            assert lengths(d, None) == (pytest.approx(lengths(array, None), rel=1e-14) if biases else 0)
    raw = np.random.default_rng(3).standard_normal((5, 3))  # a filter keeps its direction
    cosines = np.sum(raw * direction[0], axis=1) / lengths(raw, 1) / lengths(theta[0], 1)
    np.testing.assert_allclose(cosines, 1, rtol=1e-14)


def test_layers_have_the_lengths_of_thetas():
    theta = a_network()
    direction = landscape.random_direction(theta, normalize="layer")
    for d, array in zip(direction, theta, strict=True):
        expected = lengths(array, None) if array.ndim > 1 else 0
        assert lengths(d, None) == pytest.approx(expected, rel=1e-14)
    assert not np.allclose(lengths(direction[0], 1), lengths(theta[0], 1), rtol=1e-3)


def test_without_normalization_everything_moves_and_the_length_is_1():
    direction = np.concatenate([d.ravel() for d in landscape.random_direction(a_network(), normalize=None)])
    assert np.linalg.norm(direction) == pytest.approx(1, rel=1e-14)
    assert (direction != 0).all()
    raw = np.concatenate([np.ravel(landscape.random_direction(np.zeros(4000), 5, None))])
    assert np.mean(raw**4) / np.mean(raw**2) ** 2 == pytest.approx(3, abs=0.3)  # normal


def test_a_flat_theta_with_shapes_is_the_same():
    theta = a_network()
    flat = np.concatenate([array.ravel() for array in theta])
    direction = landscape.random_direction(flat, seed=4, shapes=shapes_of_a_network())
    listed = landscape.random_direction(theta, seed=4)
    np.testing.assert_array_equal(direction, np.concatenate([d.ravel() for d in listed]))
    assert not np.allclose(direction, landscape.random_direction(flat, seed=5, shapes=shapes_of_a_network()))


# ---- principal directions


def test_pca_against_the_eigenvalues_of_the_scatter():
    path = np.cumsum(RNG.normal(size=(30, N)) * np.array([5, 3, 2, 1, 0.5, 0.2]), axis=0)
    found = landscape.pca(path, components=3)
    difference = path - path[-1]
    values, vectors = linalg.eigh(difference.T @ difference)
    np.testing.assert_allclose(found.explained_variance_ratio, values[::-1][:3] / values.sum(), rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.vectors @ vectors[:, ::-1][:, :3]), np.eye(3), atol=1e-9)
    np.testing.assert_allclose(found.points, difference @ found.vectors.T, atol=1e-12)
    np.testing.assert_array_equal(found.center, path[-1])
    assert (found.vectors[np.arange(3), np.abs(found.vectors).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e150])
def test_pca_of_a_planar_path_explains_all(scale):
    basis = linalg.qr(RNG.normal(size=(50, 2)), mode="economic")[0].T
    turn = np.linspace(0, 3, 20)
    path = scale * np.column_stack([4 * np.cos(turn), np.sin(turn)]) @ basis
    found = landscape.pca(path)
    assert sum(found.explained_variance_ratio) == pytest.approx(1, rel=1e-12)
    projector = found.vectors.T @ found.vectors
    np.testing.assert_allclose(projector, basis.T @ basis, atol=1e-10)


def test_pca_takes_lists_of_arrays():
    path = [[RNG.normal(size=(2, 2)), RNG.normal(size=3)] for _ in range(5)]
    flat = np.array([np.concatenate([array.ravel() for array in theta]) for theta in path])
    np.testing.assert_array_equal(landscape.pca(path).vectors, landscape.pca(flat).vectors)


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
    np.testing.assert_allclose(found.project(thetas[0])[0], known[:1, :2], rtol=1e-10)


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
    theta = a_network()
    seen = []

    def listed(given):
        seen.append([array.shape for array in given])
        return sum(float(np.sum(array**2)) for array in given), [2 * array for array in given]

    found = landscape.plane(listed, theta, points=2, seed=3)
    assert seen == [shapes_of_a_network()] * 4
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

    onepass.set_threads(count)
    f = Copied(act)
    with pytest.raises(ArithmeticError, match="of the function"):
        landscape.plane(f, points=101)
    assert next(f.counter) < 5000
    assert onepass.get_threads() == count
    assert threading.active_count() == 1


@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_ends_it(count):
    def act(number):
        if number == 7:
            os.kill(os.getpid(), signal.SIGINT)
        if number > 7:
            time.sleep(0.002)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    onepass.set_threads(count)
    f = Copied(act)
    try:
        with pytest.raises(KeyboardInterrupt):
            landscape.plane(f, points=301)
    finally:
        signal.signal(signal.SIGINT, before)
    assert next(f.counter) < 10000
    assert onepass.get_threads() == count
    assert threading.active_count() == 1


# ---- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("progress", "terminal", "seconds", "shown"),
    [(None, False, 0, False), (None, True, 0, False), (None, True, 1.3, True), (True, False, 0, True)]
    + [(False, True, 1.3, False)],
)
def test_progress(monkeypatch, progress, terminal, seconds, shown):
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
    code = "import sys, onepass.landscape, onepass.callbacks; print([m for m in ('matplotlib', 'tqdm', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- pictures


def with_holes(theta):
    """NaN in the left, infinite at the top."""
    if theta[0] < -0.5:
        return np.nan, np.zeros(2)
    return (np.inf if theta[1] > 0.6 else float(theta @ theta)), np.zeros(2)


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def color_at(axes, x, y):
    image = pixels(axes.figure)
    column, row = axes.transData.transform((x, y))
    return image[image.shape[0] - 1 - round(row), round(column)]


def figure_axes(**options):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot(**options)


def test_what_is_not_finite_is_shown():
    found = landscape.plane(with_holes, np.zeros(2), points=41)
    assert np.isnan(found.losses[20, 3])
    assert np.isinf(found.losses[-1, 30])
    axes = figure_axes()
    assert found.plot(axes) is axes
    grey = round(0.8 * 255)
    for place in ((-0.8, 0), (-0.8, 0.9), (0.5, 0.85)):
        np.testing.assert_array_equal(color_at(axes, *place), [grey] * 3)
    darkest = np.array(mpl.colormaps["cividis"](0)[:3]) * 255
    np.testing.assert_allclose(color_at(axes, 0.03, 0.04), darkest, atol=1)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["not finite"]
    pixels(found.plot(figure_axes(projection="3d"), kind="3d").figure)
    line = landscape.line(with_holes, np.zeros(2), np.array([1.0, 0.0])).plot(figure_axes())
    assert [text.get_text() for text in line.get_legend().get_texts()] == ["not finite"]
    np.testing.assert_array_equal(color_at(line, -0.8, 0.33), [grey] * 3)


@pytest.mark.parametrize("value", [np.nan, 3.0, 0.0, -1e300])
@pytest.mark.parametrize("kind", ["contour", "3d"])
def test_planes_without_any_shape_are_drawn(value, kind):
    found = landscape.plane(lambda theta: (value, np.zeros(2)), np.zeros(2), points=4)
    axes = found.plot(figure_axes(projection=None if kind == "contour" else "3d"), kind=kind)
    pixels(axes.figure)
    pixels(landscape.line(lambda t: (value, np.zeros(2)), np.zeros(2), np.ones(2)).plot(figure_axes()).figure)


def test_levels():
    grid = np.linspace(-1, 1, 101)
    radius = grid**2 + grid[:, None] ** 2
    decades = plots.levels_of(10 ** (3 * radius) / 7, 13)
    np.testing.assert_allclose(np.diff(np.log10(decades)), 6 / 12, rtol=1e-9)
    np.testing.assert_allclose(np.diff(plots.levels_of(radius - 1, 11)), 0.2, rtol=1e-9)
    crowded = radius**8 - 0.1  # not positive: no logarithm
    counts = np.histogram(crowded, plots.levels_of(crowded, 11))[0]
    np.testing.assert_allclose(counts, 101**2 / 10, rtol=0.03)
    assert plots.levels_of(np.array([-1e308, np.inf, 0.0, 1e308]), 3).tolist() == [-1e308, 0.0, 1e308]
    for losses_ in (np.full(4, np.nan), np.full(4, 2.0), np.zeros(4)):
        levels = plots.levels_of(losses_, 12)
        assert np.isfinite(levels).all()
        assert (np.diff(levels) > 0).all()


def test_the_contour_picture_says_what_it_shows():
    path = np.cumsum(RNG.normal(size=(20, N)), axis=0)
    found = landscape.plane(quadratic, directions=landscape.pca(path), points=21)
    axes = found.plot(trajectory=path)
    share = found.explained_variance_ratio
    assert axes.get_xlabel() == f"principal direction 1 ({share[0]:.1%} explained)"
    assert axes.get_ylabel() == f"principal direction 2 ({share[1]:.1%} explained)"
    assert axes.get_title() == ""
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["start", "end"]
    assert axes.figure.axes[1].get_ylabel() == "loss"
    drawn, start, end = axes.lines
    coordinates = found.project(path)[0]
    np.testing.assert_array_equal(drawn.get_xydata(), coordinates)
    np.testing.assert_array_equal(start.get_xydata(), coordinates[:1])
    np.testing.assert_array_equal(end.get_xydata(), coordinates[-1:])
    assert (coordinates > [found.a[0], found.b[0]]).all()
    assert (coordinates < [found.a[-1], found.b[-1]]).all()


def test_the_path_lies_on_the_surface_in_3d():
    def bowl(theta):
        return 10 ** float(theta @ theta), np.zeros(2)

    found = landscape.plane(bowl, np.zeros(2), span=(-1.5, 1.5), points=301)
    path = np.array([[1.0, -0.7], [0.55, 0.2], [9.0, 0.0], [0.1, 0.1]])
    axes = found.plot(kind="3d", trajectory=path)
    assert axes.get_zlabel() == "loss (log scale)"
    x, y, z = axes.lines[0].get_data_3d()
    np.testing.assert_array_equal(np.column_stack([x, y]), path)
    np.testing.assert_allclose(z[[0, 1, 3]], np.sum(path[[0, 1, 3]] ** 2, axis=1), atol=1e-3)
    assert np.isnan(z[2])  # beyond the surface
    assert axes.zaxis.get_major_formatter()(2.0, 0) == "1e+02"


def test_interpolation_is_exact_for_bilinear_surfaces():
    a, b = np.linspace(-1, 2, 4), np.linspace(0, 1, 3)
    flat = surfaces.Plane(a, b, 2 + a - 3 * b[:, None] + 5 * a * b[:, None], np.eye(2), np.zeros(2))
    places = RNG.uniform([-1, 0], [2, 1], size=(50, 2))
    x, y = places.T
    expected = 2 + x - 3 * y + 5 * x * y
    np.testing.assert_allclose(plots._interpolated(flat, flat.losses, places), expected, rtol=1e-12)


# ---- misuse

TWO = np.zeros(2)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: landscape.random_direction(TWO), ValueError, "no filter would move.*shapes.*normalize=None"),
        (lambda: landscape.random_direction([np.zeros((2, 2))]), ValueError, "no filter that is not zero"),
        (lambda: landscape.random_direction(np.ones(5), shapes=[(2, 2)]), ValueError, "shapes hold 4.*theta has 5"),
        (lambda: landscape.random_direction(np.ones((2, 2))), ValueError, r"theta has shape \(2, 2\), expected a flat"),
        (lambda: landscape.random_direction([np.ones(2), "x"]), TypeError, r"theta\[1\] is 'x'"),
        (lambda: landscape.random_direction(np.ones(3), normalize="norm"), ValueError, "normalize is 'norm'"),
        (lambda: landscape.pca(np.ones((5, 3))), ValueError, "does not move"),
        (lambda: landscape.pca(np.ones((2, 3))), ValueError, "components is 2, expected 1 to 1: trajectory has 2"),
        (lambda: landscape.pca(np.ones(3)), ValueError, r"trajectory has shape \(3,\), expected \(T, n\)"),
        (lambda: landscape.pca(np.array([[1.0, 2], [np.nan, 0], [3, 4]])), ValueError, r"trajectory\[1\] holds NaN"),
        (
            lambda: landscape.pca([np.ones(3), np.ones(2)]),
            ValueError,
            r"trajectory\[1\] has 2 .* trajectory\[0\] has 3",
        ),
        (lambda: landscape.directions_between(TWO, TWO), ValueError, "first and second are the same point"),
        (lambda: landscape.directions_between(TWO, TWO + 1, TWO - 3), ValueError, "third lies on the line"),
        (lambda: landscape.directions_between(TWO, np.ones(3)), ValueError, "second has 3 parameters, but first has 2"),
        (lambda: landscape.directions_between(TWO, TWO + 1, names=["a"]), ValueError, "expected 2 different ones"),
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
        (lambda: landscape.plane(Copied(), points=2).plot(kind="2d"), ValueError, "kind is '2d'"),
        (lambda: landscape.plane(Copied(), points=2).plot(levels=1), ValueError, "levels is 1"),
        (
            lambda: landscape.plane(Copied(), points=2).plot(figure_axes(), "3d"),
            TypeError,
            'expected .*projection="3d"',
        ),
        (lambda: landscape.plane(Copied(), points=2).plot(figure_axes(projection="3d")), TypeError, "two dimensions"),
        (lambda: landscape.plane(Copied(), points=2).plot("axes"), TypeError, "ax is 'axes'"),
    ],
)
def test_misuse_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
