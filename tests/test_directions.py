"""Random, principal and connecting directions, against their definitions and SciPy's eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from onepass import landscape

RNG = np.random.default_rng(7)
TWO = np.zeros(2)


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


@pytest.mark.parametrize("size", [6, 300])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-6])
def test_pca_against_scipys_singular_vectors(size, spread):
    scales = np.r_[5.0, 5 * spread, 3 * spread, np.full(size - 3, spread)]
    path = np.cumsum(RNG.normal(size=(60, size)) * scales, axis=0) @ linalg.qr(RNG.normal(size=(size, size)))[0]
    found = landscape.pca(path, components=3)
    difference = path - path[-1]
    _, values, vectors = linalg.svd(difference)
    np.testing.assert_allclose(found.explained_variance_ratio, values[:3] ** 2 / np.sum(values**2), rtol=1e-8)
    np.testing.assert_allclose(np.abs(found.vectors @ vectors[:3].T), np.eye(3), atol=1e-8)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(3), atol=1e-13)
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


# ---- misuse


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
    ],
)
def test_misuse_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
