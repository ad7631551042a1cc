"""Directions through the space of parameters: random ones, those between points, and those that a training took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass._extras import require

__all__ = ["Directions", "directions_between", "pca", "random_direction"]

Array = NDArray[np.float64]
Normalize = Literal["filter", "layer"] | None


@dataclass(frozen=True, eq=False)
class Directions:
    """Where a line or a plane lies; what `directions_between` and `pca` return.

    Attributes
    ----------
    center : (n,)
        Flat parameters at the origin of the coordinates.
    vectors : (k, n)
        The directions, flat.
    labels : k texts
        What the axes mean.
    points : (m, k)
        Coordinates that a picture should show: its span covers them.
    marks : dict
        Name -> coordinates of the points that are marked.
    explained_variance_ratio : (k,) or None
        Of `pca`: the share of each direction in the squared distances to the center.
    """

    center: Array
    vectors: Array
    labels: tuple[str, ...]
    points: Array
    marks: dict[str, tuple[float, ...]] = field(default_factory=dict)
    explained_variance_ratio: Array | None = None


def parts(name: str, theta: Any) -> tuple[list[Array], bool]:
    """theta's arrays in float64, and whether it is a list of them; a flat one is one array."""
    theta = getattr(theta, "theta", theta)
    listed = isinstance(theta, (list, tuple)) and any(np.ndim(part) > 0 for part in theta)
    found = []
    for index, part in enumerate(theta if listed else [theta]):
        label = f"{name}[{index}]" if listed else name
        try:
            array = np.asarray(part)
        except ValueError as error:  # lists of unequal lengths
            raise TypeError(f"{label} is {part!r:.60}, expected an array of numbers") from error
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{label} is {part!r:.60}, expected an array of real numbers")
        if not np.isfinite(array).all():
            raise ValueError(f"{label} holds NaN or inf, expected finite numbers")
        found.append(array.astype(np.float64))
    if not listed and found[0].ndim != 1:
        raise ValueError(f"{name} has shape {found[0].shape}, expected a flat vector (n,) or a list of arrays")
    if not sum(part.size for part in found):
        raise ValueError(f"{name} is empty, expected at least one number")
    return found, listed


def flat(name: str, theta: Any) -> Array:
    """theta as a new vector (n,)."""
    return np.concatenate([part.ravel() for part in parts(name, theta)[0]])


def points_of(name: str, thetas: Any) -> Array:
    """(T, n) of a trajectory: an object with ``points`` or ``path``, an array (T, n), or a sequence of thetas."""
    for attribute in ("points", "path"):
        thetas = getattr(thetas, attribute, thetas)
    if isinstance(thetas, np.ndarray) and thetas.ndim != 2:
        raise ValueError(f"{name} has shape {thetas.shape}, expected (T, n): one row a point")
    try:
        count = len(thetas)
    except TypeError:
        raise TypeError(f"{name} is {thetas!r:.60}, expected an array (T, n), one row a point") from None
    if not count:
        raise ValueError(f"{name} has no points, expected at least one")
    if isinstance(thetas, np.ndarray) and thetas.dtype == np.float64:  # checked at once, and not copied
        if not np.isfinite(thetas).all():
            bad = int(np.isfinite(thetas).all(axis=1).argmin())
            raise ValueError(f"{name}[{bad}] holds NaN or inf, expected finite numbers")
        return thetas
    rows = [flat(f"{name}[{index}]", theta) for index, theta in enumerate(thetas)]
    for index, row in enumerate(rows):
        if row.size != rows[0].size:
            raise ValueError(f"{name}[{index}] has {row.size} parameters, but {name}[0] has {rows[0].size}")
    return np.stack(rows)


def split(x: Array, shapes: Sequence[tuple[int, ...]] | None) -> list[Array]:
    """Views of a flat vector, one of each shape."""
    if shapes is None:
        return [x]
    sizes = [int(np.prod(shape)) for shape in shapes]
    if sum(sizes) != x.size:
        raise ValueError(f"shapes hold {sum(sizes)} parameters, but theta has {x.size}")
    pieces = np.split(x, np.cumsum(sizes)[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def random_direction(
    theta: Any,
    seed: int | np.random.Generator = 0,
    normalize: Normalize = "filter",
    *,
    biases: bool = False,
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> Any:
    """A direction of independent normal numbers, brought to the scale of the parameters.

    A network with ReLU computes the same when a layer is made ten times as large and the next one a tenth; directions
    of a fixed length would show a flat surface of the one and a sharp surface of the other. With each filter of the
    direction as long as that of theta, ``d_ij <- d_ij |theta_ij| / |d_ij|``, pictures can be compared: Li, Xu, Taylor,
    Studer and Goldstein, "Visualizing the Loss Landscape of Neural Nets", 2018.

    Parameters
    ----------
    theta : flat vector (n,), or list of arrays
    seed : int, default 0, or numpy.random.Generator
    normalize : "filter" (default), "layer" or None
        "filter": each filter, ``array[i]`` of an array of two axes or more, gets the length of theta's; "layer": each
        array does; None: the whole direction has length 1, whatever theta is.
    biases : bool, default False
        Whether arrays of one axis (biases, the scales of a normalization) move too, each as one filter; the paper's
        pictures leave them where they are. None of ``normalize`` moves everything.
    shapes : list of tuples, or None
        Of the arrays that a flat theta is made of: ``f.shapes``.

    Returns a direction of theta's structure, float64. ValueError where nothing would move: theta has only arrays of one
    axis, or nothing but zeros.

    >>> weight, bias = np.array([[3.0, 4.0], [0.6, 0.8]]), np.ones(2)
    >>> direction = random_direction([weight, bias])
    >>> np.linalg.norm(direction[0], axis=1).round(6), direction[1]
    (array([5., 1.]), array([0., 0.]))
    """
    if normalize not in ("filter", "layer", None):
        raise ValueError(f"normalize is {normalize!r}, expected 'filter', 'layer' or None")
    arrays, listed = parts("theta", theta)
    if not listed:
        arrays = split(arrays[0], shapes)
    elif shapes is not None:
        raise ValueError("shapes are given beside a list of arrays, which has its own; expected None")
    generator = np.random.default_rng(seed)
    drawn = [generator.standard_normal(array.shape) for array in arrays]
    if normalize is None:
        length = np.sqrt(sum(float(np.vdot(d, d)) for d in drawn))
        drawn = [d / length for d in drawn]
    else:
        for d, array in zip(drawn, arrays, strict=True):
            if array.ndim < 2 and not biases:
                d[...] = 0.0
            else:
                rows = len(array) if array.ndim > 1 and normalize == "filter" else 1
                _match(d.reshape(rows, -1), array.reshape(rows, -1))
        if not any(d.any() for d in drawn):
            if any(array.ndim > 1 for array in arrays) or biases:
                why = "theta has no filter that is not zero"
            else:
                why = "theta has no array of two axes; give its shapes if it is flat, or biases=True"
            raise ValueError(f"no {normalize} would move: {why}; or take random_direction(theta, normalize=None)")
    return drawn if listed else np.concatenate([d.ravel() for d in drawn])


def _match(d: Array, model: Array) -> None:
    """Gives the rows of d the lengths of the model's."""
    lengths = np.linalg.norm(d, axis=1, keepdims=True)
    d *= np.linalg.norm(model, axis=1, keepdims=True) / np.where(lengths > 0, lengths, 1.0)


def directions_between(first: Any, second: Any, third: Any = None, names: Sequence[str] | None = None) -> Directions:
    """The line through two points, or the plane through three.

    Two: the direction is ``second - first``, so that 0 is the first, 1 the second, and between lies linear
    interpolation (Goodfellow, Vinyals and Saxe, "Qualitatively Characterizing Neural Network Optimization Problems",
    2015). Three: two orthogonal directions of length 1 from the first point, so that the picture keeps distances and
    angles (Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", 2018)::

        u = second - first,   v = third - first - <third - first, u> u / |u|^2,   directions u / |u|, v / |v|

    ``names`` are what the marks of the points are called; default "first", "second", "third". ValueError where points
    are the same, or three on one line.

    >>> found = directions_between([0.0, 0.0], [3.0, 4.0], [0.0, 5.0])
    >>> found.vectors.round(6).tolist()
    [[0.6, 0.8], [-0.8, 0.6]]
    >>> {name: np.round(place, 6).tolist() for name, place in found.marks.items()}
    {'first': [0.0, 0.0], 'second': [5.0, 0.0], 'third': [4.0, 3.0]}
    """
    given = [("first", first), ("second", second)] + ([] if third is None else [("third", third)])
    names = [name for name, _ in given] if names is None else [str(name) for name in names]
    if len(names) != len(given) or len(set(names)) != len(names):
        raise ValueError(f"names are {names}, expected {len(given)} different ones")
    points = [flat(name, theta) for name, theta in given]
    for (name, _), point in zip(given, points, strict=True):
        if point.size != points[0].size:
            raise ValueError(f"{name} has {point.size} parameters, but first has {points[0].size}")
    start, u = points[0], points[1] - points[0]
    length = float(np.linalg.norm(u))
    if length == 0:
        raise ValueError("first and second are the same point, expected two different ones")
    if third is None:
        places, vectors = np.array([[0.0], [1.0]]), u[None]
        labels: tuple[str, ...] = (f"share of the way from {names[0]} to {names[1]}",)
    else:
        u /= length
        aside = points[2] - start
        along = float(aside @ u)
        v = aside - along * u
        v -= (v @ u) * u  # what rounding left
        height = float(np.linalg.norm(v))
        if height <= 1e-12 * max(length, float(np.linalg.norm(aside))):
            raise ValueError("third lies on the line through first and second: no plane; leave it out for that line")
        places, vectors = np.array([[0.0, 0.0], [length, 0.0], [along, height]]), np.stack([u, v / height])
        labels = (f"towards {names[1]} (distance)", f"towards {names[2]} (distance)")
    marks = {name: tuple(map(float, place)) for name, place in zip(names, places, strict=True)}
    return Directions(start, vectors, labels, places, marks)


def pca(trajectory: Any, components: int = 2) -> Directions:
    """The directions in which a training moved most, and how much of its movement they explain.

    The singular vectors of the matrix of differences to the final point, ``points - points[-1]``, as in Li et al.
    ("Visualizing the Loss Landscape of Neural Nets", 2018, section 7); the share of a direction is its squared
    singular value over the sum of all. Steps of a random walk in many dimensions give large shares too (Antognini and
    Sohl-Dickstein, "PCA of High Dimensional Random Walks with Comparison to Neural Network Training", 2018), so that a
    large share alone says little about a training.

    Parameters
    ----------
    trajectory : callbacks.Trajectory, array (T, n), or sequence of thetas
        More points than ``components``; float64.
    components : int, default 2

    Returns `Directions` with orthonormal ``vectors`` (components, n), each with its largest entry positive, and
    ``explained_variance_ratio``. ``2 T^2 n`` multiplications and additions (``2 T n^2`` if n is less) and a copy of the
    T n numbers: of thousands of points give every tenth. Needs SciPy.

    >>> path = np.array([[4.0, 2.0], [2.0, 0.0], [0.0, 0.0]])
    >>> found = pca(path)
    >>> found.explained_variance_ratio.round(3)
    array([0.971, 0.029])
    """
    points = points_of("trajectory", trajectory)
    if isinstance(components, bool) or not isinstance(components, (int, np.integer)):
        raise TypeError(f"components is {components!r:.60}, expected an integer")
    most = min(len(points) - 1, points.shape[1])
    if not 1 <= components <= most:
        raise ValueError(
            f"components is {components}, expected 1 to {most}: trajectory has {len(points)} points "
            f"of {points.shape[1]} parameters"
        )
    center = points[-1].copy()
    difference = points[:-1] - center
    largest = float(np.abs(difference).max())
    if largest == 0:
        raise ValueError("trajectory does not move: all its points are the same")
    difference /= largest
    values, vectors = _principal(difference, int(components))
    shares = values**2 / np.vdot(difference, difference)
    vectors *= np.sign(vectors[np.arange(components), np.abs(vectors).argmax(axis=1)])[:, None]
    labels = tuple(f"principal direction {i} ({share:.1%} explained)" for i, share in enumerate(shares, 1))
    return Directions(center, vectors, labels, (points - center) @ vectors.T, {}, shares)


def _principal(d: Array, count: int) -> tuple[Array, Array]:
    """The largest singular values (count,) and right singular vectors (count, n) of d (T, n).

    A few more come from the smaller one of d d' and d' d, whose eigenvectors lose half of the digits; a step of
    subspace iteration and a decomposition of d in their space give them back (Halko, Martinsson and Tropp, "Finding
    Structure with Randomness", 2011, section 4.5). Some dozens of times cheaper than all singular vectors.
    """
    rows, size = d.shape
    some = min(count + 6, rows, size)
    eigh = require("scipy.linalg").eigh
    wide = rows < size
    gram = d @ d.T if wide else d.T @ d
    found = eigh(gram, subset_by_index=[len(gram) - some, len(gram) - 1])[1][:, ::-1]
    basis = np.linalg.qr(d.T @ found if wide else found)[0]
    basis = np.linalg.qr(d.T @ (d @ basis))[0]
    _, values, inside = np.linalg.svd(d @ basis, full_matrices=False)
    return values[:count], inside[:count] @ basis.T
