"""What the pictures of lines and planes show: what is drawn, where, in which color."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from onepass import landscape
from onepass.landscape import plots, surfaces

RNG = np.random.default_rng(7)
N = 6
ROOT = RNG.normal(size=(N, N))
HESSIAN, LINEAR = ROOT + ROOT.T, RNG.normal(size=N)  # eigenvalues of both signs


def quadratic(theta):
    return float(theta @ HESSIAN @ theta / 2 + LINEAR @ theta), HESSIAN @ theta + LINEAR


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


def small():
    return landscape.plane(quadratic, np.zeros(N), points=2)


# ---- misuse


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: small().plot(kind="2d"), ValueError, "kind is '2d'"),
        (lambda: small().plot(levels=1), ValueError, "levels is 1"),
        (
            lambda: small().plot(figure_axes(), "3d"),
            TypeError,
            'expected .*projection="3d"',
        ),
        (lambda: small().plot(figure_axes(projection="3d")), TypeError, "two dimensions"),
        (lambda: small().plot("axes"), TypeError, "ax is 'axes'"),
    ],
)
def test_misuse_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
