"""onepass.landscape where numbers are few or extreme: float32 inside a function, ravines, losses near the ends of the
range. What is not known must not be called certain."""

from __future__ import annotations

import numpy as np
import pytest
from landscape_functions import QUARTIC_SADDLE, scaled

from onepass import landscape

pytest.importorskip("scipy.sparse.linalg")


# ---- a gradient that is computed in float32, beside a weight decay in float64


def single_regression(n, rows, decay):
    """Cross-entropy of a logistic regression in float32 and decay in float64; and its Hessian in float64."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, n)), (rng.random(rows) < 0.5).astype(np.float32)
    single = x.astype(np.float32)

    def f(theta):
        z = single @ theta.astype(np.float32)
        p = 1 / (1 + np.exp(-z))
        loss = float(np.mean(np.logaddexp(0, z) - y * z)) + decay / 2 * float(theta @ theta)
        return loss, (single.T @ ((p - y) / np.float32(rows))).astype(np.float64) + decay * theta

    def hessian(theta):
        p = 1 / (1 + np.exp(-x @ theta))
        return x.T @ (x * (p * (1 - p))[:, None]) / rows + decay * np.eye(n)

    return f, hessian


@pytest.mark.parametrize("decay", [0.0, 1e-3])
@pytest.mark.parametrize(("n", "rows"), [(3, 20), (50, 500)])
def test_between_the_stairs_of_float32_nothing_is_flat(n, rows, decay):
    f, hessian = single_regression(n, rows, decay)
    theta = np.random.default_rng(1).standard_normal(n) / np.sqrt(n)
    for v in (np.eye(n)[0], np.random.default_rng(2).standard_normal(n)):
        true, found = hessian(theta) @ v, landscape.hessian_vector_product(f, theta, v)
        assert np.linalg.norm(found.value - true) < 3 * found.error
        assert found.error < 1e-3 * np.linalg.norm(true)


def test_a_minimum_in_float32_is_not_called_flat():
    rng = np.random.default_rng(0)
    x, at = rng.standard_normal((20, 3)), np.array([0.3, -0.2, 0.1])
    target = (x @ at).astype(np.float32)

    def f(theta):
        error = ((x @ theta).astype(np.float32) - target).astype(np.float64)
        return float(error @ error) / 2, x.T @ error

    report = landscape.critical_point(f, at)
    assert report.verdict == "local minimum"
    assert abs(report.smallest - np.linalg.eigvalsh(x.T @ x)[0]) < 3 * report.smallest_error


@pytest.mark.parametrize("frequency", [1e4, 1e6, 1e7])
def test_waves_are_not_taken_for_the_stairs_of_float32(frequency):
    def f(theta):
        return float(np.cos(frequency * theta).sum()), -frequency * np.sin(frequency * theta)

    for at in (0.0, 0.7):
        found = landscape.hessian_vector_product(f, np.array([at]), np.ones(1))
        true = -(frequency**2) * np.cos(frequency * at)
        assert abs(found.value[0] - true) < 3 * found.error < 1e-4 * frequency**2


# ---- ravines


def ravine(stiff, gradient, curvature, n=1):
    """n stiff directions, and n soft ones along which the loss goes down by ``gradient``, bent by ``curvature``."""
    h = np.repeat([stiff, curvature], n)
    slope = np.repeat([0.0, gradient], n)
    return lambda theta: (float(h @ theta**2) / 2 + float(slope @ theta), h * theta + slope)


@pytest.mark.parametrize(("n", "dense"), [(1, True), (1, False), (200, None)])
@pytest.mark.parametrize("curvature", [1.0, -1.0])
def test_a_ravine_is_not_critical_as_long_as_it_leads_down(n, dense, curvature):
    """A gradient of 5 is next to nothing beside a curvature of 1e6, but there are 12.5 to be gained along the floor."""
    f = ravine(1e6, 5.0, curvature, n)
    report = landscape.critical_point(f, np.zeros(2 * n), dense=dense, samples=0)
    assert report.verdict == "not critical"
    assert report.gtol == pytest.approx(np.sqrt(n) * 5 / (5 * np.sqrt(n)), rel=1e-3)  # Newton's step from it is 1 long
    near = landscape.critical_point(f, np.repeat([0.0, -5.0 / curvature + 1e-3], n), dense=dense, samples=0)
    assert near.verdict == ("local minimum" if curvature > 0 else "saddle point")
    asked = landscape.critical_point(f, np.zeros(2 * n), dense=dense, samples=0, gtol=1e3)
    assert asked.verdict != "not critical"  # gtol is the caller's


def test_escape_goes_down_a_ravine():
    end = landscape.escape(ravine(1e6, 5.0, 1.0), np.zeros(2))
    assert end.success
    np.testing.assert_allclose(end.theta, [0, -5], atol=1e-2)
    assert end.loss == pytest.approx(-12.5, abs=1e-4)


# ---- near the ends of float64


@pytest.mark.parametrize("factor", [1e-250, 1e-180, 1e180, 1e250])
@pytest.mark.parametrize("dense", [True, False])
def test_squares_that_leave_the_range_change_no_verdict(factor, dense):
    report = landscape.critical_point(scaled(QUARTIC_SADDLE, factor), np.zeros(2), dense=dense)
    assert report.verdict == "saddle point"
    np.testing.assert_allclose([report.smallest, report.largest], [-2 * factor, 2 * factor], rtol=1e-6)
    assert report.error < 1e-6 * factor
    away = landscape.critical_point(scaled(QUARTIC_SADDLE, factor), np.array([0.01, 0.0]), dense=dense)
    assert away.verdict == "not critical"
    assert away.gradient_norm == pytest.approx(0.02 * factor)


@pytest.mark.parametrize("factor", [1e-10, 1e60, 1e140])
def test_escape_at_other_scales(factor):
    end = landscape.escape(scaled(QUARTIC_SADDLE, factor), np.zeros(2))
    assert end.success
    np.testing.assert_allclose(np.abs(end.theta), [0, np.sqrt(2)], atol=1e-6)


@pytest.mark.parametrize("factor", [1e-250, 1e-200, 1e-20, 1e200])
def test_escape_that_cannot_compute_says_so(factor):
    end = landscape.escape(scaled(QUARTIC_SADDLE, factor), np.zeros(2))
    assert not end.success or end.report.verdict == "local minimum"
    assert np.isfinite(end.theta).all()
