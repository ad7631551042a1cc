"""The loss along a line and on a plane through the space of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from onepass.landscape import plots
from onepass.landscape.directions import Array, Directions, points_of, random_direction
from onepass.landscape.evaluation import losses_at
from onepass.landscape.function import Function, check_count

__all__ = ["Line", "Plane", "line", "plane"]

MARGIN = 0.2  # of the extent of the points that a span covers, on either side
AXES = ("along direction 1 (units of its length)", "along direction 2 (units of its length)")
RANDOM = ("random direction 1 (length 1)", "random direction 2 (length 1)")
FILTERS = ("filter-normalized direction 1", "filter-normalized direction 2")


@dataclass(frozen=True, eq=False)
class Line:
    """What `line` returns: ``losses[i]`` (points,) at ``center + positions[i] * direction``.

    ``center`` and ``direction`` are flat (n,); ``marks`` are named positions.
    """

    positions: Array
    losses: Array
    center: Array
    direction: Array
    label: str = AXES[0]
    marks: dict[str, float] = field(default_factory=dict)

    def plot(self, ax: Any = None) -> Any:
        """Draws the loss against the position and returns the axes, ``ax`` or new ones; needs matplotlib.

        The scale is logarithmic where the losses are positive and span more than a factor of 100. Positions whose loss
        is not finite are shaded.
        """
        return plots.draw_line(self, ax)


@dataclass(frozen=True, eq=False)
class Plane:
    """What `plane` returns: ``losses[i, j]`` at ``center + a[j] * directions[0] + b[i] * directions[1]``.

    Attributes
    ----------
    a, b : (points,)
        Coordinates, in units of the directions' lengths.
    losses : (points, points)
        Rows along b and columns along a, as matplotlib's contour takes them; NaN or infinite where the function is.
    directions : (2, n)
    center : (n,)
    labels : two texts
    marks : dict
        Name -> (a, b) of the points that are marked.
    explained_variance_ratio : (2,) or None
        Of a plane of `pca`.
    """

    a: Array
    b: Array
    losses: Array
    directions: Array
    center: Array
    labels: tuple[str, str] = AXES
    marks: dict[str, tuple[float, float]] = field(default_factory=dict)
    explained_variance_ratio: Array | None = None

    def project(self, thetas: Any) -> tuple[Array, Array]:
        """Coordinates (T, 2) of the nearest points of the plane, and the distances (T,) to them.

        ``thetas``: an array (T, n), a sequence of thetas, an object with ``points`` or ``path``; one flat theta, or an
        object with ``theta``, counts as T = 1. Distances are Euclidean, in the space of parameters.
        """
        single = getattr(thetas, "theta", None) if not hasattr(thetas, "path") else None
        if single is not None or (isinstance(thetas, np.ndarray) and thetas.ndim == 1):
            thetas = [thetas]
        points = points_of("thetas", thetas)
        if points.shape[1] != self.center.size:
            raise ValueError(f"thetas have {points.shape[1]} parameters, but the plane has {self.center.size}")
        return project(points - self.center, self.directions)

    def plot(
        self,
        ax: Any = None,
        kind: Literal["contour", "3d"] = "contour",
        trajectory: Any = None,
        levels: int = 12,
    ) -> Any:
        """Draws the surface and returns the axes, ``ax`` or those of a new figure; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib axes, or None
            Of projection "3d" for that kind.
        kind : "contour" (default) or "3d"
            Positive losses that span more than a factor of 100 are drawn on a logarithmic scale; others that are
            crowded at one end get levels at their quantiles. What is not finite is grey, in "3d" a hole.
        trajectory : as in `project`, or None
            Drawn as its projection, start and end marked; in "3d" on the surface, and what is beyond it is left out.
        levels : int, default 12
            How many contour levels there are.

        >>> from onepass import landscape
        >>> found = landscape.plane(lambda t: (t @ t, 2 * t), np.zeros(2), points=11)
        >>> found.plot().get_xlabel()
        'parameter 0'
        """
        if kind not in ("contour", "3d"):
            raise ValueError(f"kind is {kind!r}, expected 'contour' or '3d'")
        check_count("levels", levels, 2)
        path = None if trajectory is None else self.project(trajectory)[0]
        if kind == "3d":
            return plots.draw_surface(self, ax, path)
        return plots.draw_contours(self, ax, path, int(levels))


def project(differences: Array, directions: Array) -> tuple[Array, Array]:
    """Least-squares coordinates (T, k) in ``directions`` (k, n), which need not be orthogonal, and distances (T,)."""
    q, r = np.linalg.qr(directions.T)
    inside = differences @ q
    off: Array = np.linalg.norm(differences - inside @ q.T, axis=1)
    return np.linalg.solve(r, inside.T).T, off


def _span(name: str, given: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in given)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {given!r:.60}, expected two numbers (low, high)") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name} is {given!r}, expected finite numbers low < high")
    return low, high


def _covering(points: Array, square: bool) -> list[tuple[float, float]]:
    """A span a column of points, with a margin; ``square``: all as long as the longest."""
    low, high = points.min(axis=0), points.max(axis=0)
    extent = high - low
    extent[(extent == 0) | square] = extent.max() or 1.0
    middle, half = (low + high) / 2, (0.5 + MARGIN) * extent
    return [(float(a), float(b)) for a, b in zip(middle - half, middle + half, strict=True)]


def _check_progress(progress: Any) -> None:
    if progress not in (None, True, False):
        raise TypeError(f"progress is {progress!r:.60}, expected True, False or None")


def _center(f: Any, center: Any, directions: Any) -> tuple[Function, Array]:
    """The function around the center, and that flat; `Directions` bring one."""
    if not isinstance(directions, Directions):
        function = Function(f, center)
        return function, function.x
    own = directions.center
    if center is None:
        start = getattr(f, "theta", None)
        function = Function(f, own if start is None else start)
    else:
        function = Function(f, center)
        if function.size == own.size and not np.array_equal(function.x, own):
            raise ValueError("center is not that of the directions, which have one; leave it out, center=None")
    if function.size != own.size:
        raise ValueError(f"directions have {own.size} parameters, but the function has {function.size}")
    return function, own


def _maker(function: Function) -> Callable[[Any], Callable[[Array], float]]:
    """f or a copy of it -> its loss of flat parameters in the structure of theta."""
    theta = function.unflatten(function.x)
    return lambda f: Function(f, theta).loss


def line(
    f: Any,
    center: Any = None,
    direction: Any = None,
    span: tuple[float, float] | None = None,
    points: int = 101,
    progress: bool | None = None,
) -> Line:
    """The loss at ``points`` equally spaced points of ``center + position * direction``.

    Parameters
    ----------
    f : function theta -> (loss, gradient)
        ``f.loss`` is used where it is.
    center : theta, or None
        None: the center of ``direction``, or ``f.theta``.
    direction : of theta's structure, or Directions
        Such as `random_direction`'s, an eigenvector, or `directions_between` of two points, which has a center and
        marks. Positions are in units of its length: it is taken as it is.
    span : (low, high), or None
        None: -1 to 1, or what `Directions` cover, with a margin.
    points : int, default 101
    progress : bool, or None
        As in `plane`.

    Costs ``points`` losses.

    >>> found = line(lambda t: (float(t @ t), 2 * t), np.array([1.0, 0.0]), np.array([-1.0, 0.0]), (0, 2), points=5)
    >>> found.positions, found.losses
    (array([0. , 0.5, 1. , 1.5, 2. ]), array([1.  , 0.25, 0.  , 0.25, 1.  ]))
    """
    check_count("points", points, 2)
    _check_progress(progress)
    if direction is None:
        raise TypeError("direction is missing; make one with random_direction or directions_between")
    if isinstance(direction, Directions) and len(direction.vectors) != 1:
        raise ValueError(f"direction has {len(direction.vectors)} vectors, expected one; plane takes two")
    function, start = _center(f, center, direction)
    label, marks = AXES[0], {}
    if isinstance(direction, Directions):
        vector, label = direction.vectors[0], direction.labels[0]
        marks = {name: place[0] for name, place in direction.marks.items()}
        span = _covering(direction.points, False)[0] if span is None else span
    else:
        vector = function.flatten(direction, "direction")
    if not vector.any():
        raise ValueError("direction is zero everywhere, expected a direction to go in")
    positions = np.linspace(*_span("span", (-1.0, 1.0) if span is None else span), points)
    losses = losses_at(_maker(function), f, lambda i: start + positions[i] * vector, int(points), progress)
    return Line(positions, losses, start, vector, label, marks)


def plane(
    f: Any,
    center: Any = None,
    directions: Any = None,
    span: Any = None,
    points: int = 101,
    seed: int = 0,
    progress: bool | None = None,
) -> Plane:
    """The loss on a grid of ``points`` x ``points`` points of ``center + a * directions[0] + b * directions[1]``.

    Parameters
    ----------
    f : function theta -> (loss, gradient)
        ``f.loss`` is used where it is. With ``f.copy()``, which functions of `from_model` have, all threads work
        (`onepass.set_threads`), each with a copy of its own; the numbers have the same bits with any number of them.
    center : theta, or None
        None: the center of ``directions``, or ``f.theta``.
    directions : pair of thetas, Directions, or None
        A pair is taken as it is, and may be oblique; parallel ones are a ValueError. `Directions` are those of
        `directions_between` (three points) and `pca`. None: two random directions, filter-normalized where theta has
        arrays (`random_direction`), of length 1 for a flat theta without ``f.shapes``; with two parameters, the axes.
    span : (low, high), a pair of such, or None
        Of both coordinates, or of a and of b. None: -1 to 1, or what `Directions` cover, with a margin.
    points : int, default 101
    seed : int, default 0
        Of the random directions.
    progress : bool, or None
        Whether there is a tqdm bar on stderr. None: if that is a terminal, and it takes more than a second.

    Costs ``points ** 2`` losses. Losses that are not finite are kept as they are. Ctrl-C ends it after the points at
    hand.

    >>> found = plane(lambda t: (float(t[0] ** 2 - t[1] ** 2), np.array([2, -2]) * t), np.zeros(2), points=3)
    >>> found.losses
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  1.],
           [ 0., -1.,  0.]])
    >>> found.project(np.array([[0.5, 2.0]]))
    (array([[0.5, 2. ]]), array([0.]))
    """
    check_count("points", points, 2)
    _check_progress(progress)
    if isinstance(directions, Directions) and len(directions.vectors) != 2:
        raise ValueError(f"directions has {len(directions.vectors)} vectors, expected two; line takes one")
    function, start = _center(f, center, directions)
    labels, marks, shares, spans = AXES, {}, None, None
    if isinstance(directions, Directions):
        vectors, shares = directions.vectors, directions.explained_variance_ratio
        labels = (directions.labels[0], directions.labels[1])
        marks = {name: (place[0], place[1]) for name, place in directions.marks.items()}
        spans = _covering(directions.points, square=bool(marks))
    elif directions is None:
        vectors, labels = _default(function, seed)
    else:
        vectors = _pair(function, directions)
    if span is None:
        spans = spans or [(-1.0, 1.0)] * 2
    elif isinstance(span, Sequence) and len(span) == 2 and all(isinstance(end, Sequence) for end in span):
        spans = [_span(f"span[{axis}]", ends) for axis, ends in enumerate(span)]
    else:
        spans = [_span("span", span)] * 2
    a, b = (np.linspace(*ends, points) for ends in spans)
    u, v = vectors

    def place(index: int) -> Array:
        row, column = divmod(index, int(points))
        point: Array = start + a[column] * u + b[row] * v
        return point

    losses = losses_at(_maker(function), f, place, int(points) ** 2, progress)
    return Plane(a, b, losses.reshape(len(b), len(a)), vectors, start, labels, marks, shares)


def _default(function: Function, seed: int) -> tuple[Array, tuple[str, str]]:
    if function.size == 1:
        raise ValueError("theta has one parameter, which spans a line; expected two or more")
    if function.size == 2:
        return np.eye(2), ("parameter 0", "parameter 1")
    generator = np.random.default_rng(seed)
    plain = all(len(shape) < 2 for shape in function.shapes)
    drawn = [
        random_direction(function.x, generator, None if plain else "filter", shapes=function.shapes) for _ in range(2)
    ]
    return np.stack(drawn), RANDOM if plain else FILTERS


def _pair(function: Function, directions: Any) -> Array:
    try:
        count = len(directions)
    except TypeError:
        raise TypeError(f"directions is {directions!r:.60}, expected a pair of thetas") from None
    if count != 2:
        raise ValueError(f"directions holds {count}, expected two: a plane has two directions")
    vectors = np.stack([function.flatten(d, f"directions[{index}]") for index, d in enumerate(directions)])
    for index, vector in enumerate(vectors):
        if not vector.any():
            raise ValueError(f"directions[{index}] is zero everywhere, expected a direction to go in")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if np.linalg.svd(unit, compute_uv=False)[1] < 1e-10:
        raise ValueError("directions are parallel, which span a line and no plane; give another second one")
    return vectors
