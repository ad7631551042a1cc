"""The steps that escape is made of, each for itself."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from landscape_functions import ROSENBROCK_SADDLE, function, quadratic

from onepass.landscape.function import Function
from onepass.landscape.negative_curvature import along_negative_curvature
from onepass.landscape.perturbed import ball, gradient_descent
from onepass.landscape.saddle_free import saddle_free_newton
from onepass.landscape.walk import LONGEST, BudgetSpentError, Walk


def walk_of(f, start, limit=1000):
    function_ = Function(f, start)
    return Walk(function_, function_.loss(function_.x), limit, 0)


def test_the_step_off_a_saddle():
    f, _ = quadratic([2.0, -0.5])
    bounded = function(
        lambda x, y: x**2 - y**2 / 4 + 24.9 * y**4, lambda x, y: 2 * x, lambda x, y: -y / 2 + 99.6 * y**3
    )
    walk = walk_of(bounded, np.zeros(2))
    moved = along_negative_curvature(walk, np.zeros(2), np.array([0.0, 1.0]), -0.5)
    assert moved[0] == 0.0
    assert bounded(moved)[0] <= -0.25 * 0.5 * moved[1] ** 2 / 2  # a quarter of lambda u^2 / 2
    assert abs(moved[1]) == pytest.approx(math.sqrt(1 / 8 / 24.9), rel=0.5)  # near the bottom along y
    assert along_negative_curvature(walk_of(f, np.zeros(2)), np.zeros(2), np.array([1.0, 0.0]), -1e-3) is None


def test_the_gradients_direction_is_tried_too():
    """Beside a saddle whose falling curvature ends soon, but whose gradient leads far down."""
    f = function(
        lambda x, y: -1e-3 * x + 1e-6 * x**2 - 1e-3 * y**2 + 10 * y**4,
        lambda x, y: -1e-3 + 2e-6 * x,
        lambda x, y: -2e-3 * y + 40 * y**3,
    )
    moved = along_negative_curvature(walk_of(f, np.zeros(2)), np.zeros(2), np.array([0.0, 1.0]), -2e-3)
    assert moved[0] > 100
    assert moved[1] == 0.0


def test_saddle_free_newton_leaves_where_newton_stays():
    """Close to the saddle one Newton step ends at it; |H|^-1 doubles the distance along y and removes that along x."""
    start = np.array([0.1, 1e-3])
    f, hessian = quadratic([2.0, -3.0])
    newton = start - np.linalg.solve(hessian, f(start)[1])
    np.testing.assert_allclose(newton, 0, atol=1e-15)
    walk = walk_of(f, start, limit=1)
    with pytest.raises(BudgetSpentError):
        saddle_free_newton(walk, start, 1e-9)
    np.testing.assert_allclose(walk.path[1], [0.0, 2e-3], atol=1e-9)


def test_saddle_free_newton_is_newtons_method_in_a_bowl():
    f, _ = quadratic([1e-3, 1.0, 50.0], rotation_seed=0)
    start = 0.1 * np.ones(3)
    walk = walk_of(f, start)
    np.testing.assert_allclose(saddle_free_newton(walk, start, 1e-9), 0, atol=1e-8)
    assert walk.iterations <= 2


def test_displacements_are_uniform_in_a_ball():
    """The n-th power of the distance is uniform, and so is the direction."""
    random, n, radius = np.random.default_rng(0), 3, 2.0
    points = np.array([ball(random, n, radius) for _ in range(4000)])
    shares = (np.linalg.norm(points, axis=1) / radius) ** n
    assert shares.max() <= 1
    np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), np.eye(n) * radius**2 / (n + 2), atol=0.06)  # of a uniform ball


def test_gradient_descent_falls_at_every_step():
    start = np.array([0.05, -0.02])
    walk = walk_of(ROSENBROCK_SADDLE, start)
    gradient_descent(walk, start, 1.0)
    losses = [ROSENBROCK_SADDLE(point)[0] for point in walk.path]
    assert len(losses) == 101
    assert all(after < before for before, after in pairwise(losses))


def test_long_paths_are_thinned():
    walk = walk_of(quadratic([1.0])[0], np.ones(1), limit=10 * LONGEST)
    for k in range(5 * LONGEST):
        point = np.array([1.0 / (k + 2)])
        walk.value(point)
        walk.visit(point)
    assert LONGEST / 2 <= len(walk.path) <= LONGEST
    distances = np.diff([1 / point[0] for point in walk.path])
    assert distances.max() - distances.min() < 1e-6  # evenly
    np.testing.assert_array_equal(walk.path[0], [1.0])
    np.testing.assert_allclose(walk.x, 1 / (5 * LONGEST + 1))
