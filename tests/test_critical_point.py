"""Critical points whose kind is known: eigenvalues against closed forms, and verdicts that claim no more than that."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from landscape_functions import (
    FOUR_WELLS,
    MONKEY_SADDLE,
    QUARTIC_SADDLE,
    ROSENBROCK_SADDLE,
    TWO_WEIGHTS,
    Counted,
    function,
    linear_network,
    quadratic,
    scaled,
)

from onepass.landscape.critical import CriticalPoint, critical_point
from onepass.landscape.curvature import Curvature, End
from onepass.landscape.verdict import judge

pytest.importorskip("scipy.optimize")

BOTH = pytest.mark.parametrize("dense", [True, False], ids=["dense", "lanczos"])

KNOWN = {
    "saddle": (QUARTIC_SADDLE, (0, 0), "saddle point", (-2, 2)),
    "minimum": (QUARTIC_SADDLE, (0, np.sqrt(2)), "local minimum", (2, 4)),
    "two weights": (TWO_WEIGHTS, (0, 0), "saddle point", (-2, 2)),
    "curved valley's saddle": (ROSENBROCK_SADDLE, (0, 0), "saddle point", (-4, 200)),
    "curved valley's minimum": (ROSENBROCK_SADDLE, (1, 1), "local minimum", (504 - np.sqrt(504**2 - 1600), None)),
    "maximum": (FOUR_WELLS, (0, 0), "local maximum", (-4, -4)),
    "well": (FOUR_WELLS, (1, -1), "local minimum", (8, 8)),
    "pass": (FOUR_WELLS, (1, 0), "saddle point", (-4, 8)),
    "linear network of two layers": (linear_network(2, 1), (0, 0), "saddle point", (-1, 1)),
    "badly conditioned": (quadratic([1e-6, 1.0, 1e3])[0], (0, 0, 0), "local minimum", (1e-6, 1e3)),
    "one variable": (function(lambda x: -(x**2), lambda x: -2 * x), (0,), "local maximum", (-2, -2)),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("name", KNOWN)
def test_known_critical_points(name, dense):
    f, theta, verdict, (smallest, largest) = KNOWN[name]
    report = critical_point(f, np.array(theta, float), dense=dense)
    assert report.verdict == verdict, str(report)
    assert abs(report.smallest - smallest) <= report.smallest_error + 1e-12 * abs(smallest)
    if largest is not None:
        assert abs(report.largest - largest) <= report.largest_error
    assert report.error <= 1e-6 * max(abs(report.smallest), abs(report.largest))
    assert report.loss == f(np.array(theta, float))[0]
    assert report.gradient_norm <= report.gtol


@BOTH
@pytest.mark.parametrize("factor", [1e-12, 1e-4, 1e6])
@pytest.mark.parametrize("name", ["saddle", "well", "maximum", "two weights"])
def test_multiplying_the_function_changes_no_verdict(name, factor, dense):
    f, theta, verdict, (smallest, _) = KNOWN[name]
    report = critical_point(scaled(f, factor), np.array(theta, float) + 1e-7, dense=dense)
    assert report.verdict == verdict
    np.testing.assert_allclose(report.smallest, factor * smallest, rtol=1e-5)
    away = critical_point(scaled(f, factor), np.array(theta, float) + 0.01, dense=dense)
    assert away.verdict == "not critical"


FLAT = {
    "x^4": function(lambda x: x**4, lambda x: 4 * x**3),
    "x^3": function(lambda x: x**3, lambda x: 3 * x**2),
    "-x^4": function(lambda x: -(x**4), lambda x: -4 * x**3),
    "monkey saddle": MONKEY_SADDLE,
    "x^2 + y^4": function(lambda x, y: x**2 + y**4, lambda x, y: 2 * x, lambda x, y: 4 * y**3),
    "x^2 + y^3": function(lambda x, y: x**2 + y**3, lambda x, y: 2 * x, lambda x, y: 3 * y**2),
    "x^2 - y^4": function(lambda x, y: x**2 - y**4, lambda x, y: 2 * x, lambda x, y: -4 * y**3),
    "-x^2 + y^4": function(lambda x, y: -(x**2) + y**4, lambda x, y: -2 * x, lambda x, y: 4 * y**3),
    "x^2 y^2": function(lambda x, y: x**2 * y**2, lambda x, y: 2 * x * y**2, lambda x, y: 2 * x**2 * y),
    "Peano's": function(
        lambda x, y: (y - x**2) * (y - 2 * x**2),
        lambda x, y: -6 * x * y + 8 * x**3,
        lambda x, y: 2 * y - 3 * x**2,
    ),
    "plateau": function(lambda x, y: 3.0, lambda x, y: 0.0, lambda x, y: 0.0),
    "linear network of three layers": linear_network(3, 1),
    "linear network of four layers": linear_network(4, 2),
}


def size(name):
    return {"linear network of three layers": 3, "linear network of four layers": 16}.get(name) or (
        1 if name in ("x^4", "x^3", "-x^4") else 2
    )


@BOTH
@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", FLAT)
def test_what_is_flat_is_degenerate(name, factor, dense):
    report = critical_point(scaled(FLAT[name], factor), np.zeros(size(name)), dense=dense)
    assert report.verdict == "degenerate", str(report)


@BOTH
@pytest.mark.parametrize("distance", [1e-9, 1e-6, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("name", FLAT)
def test_beside_what_is_flat_nothing_is_certain(name, distance, dense):
    """Second derivatives are not zero there, but neither is the gradient: they are within the error of zero."""
    for seed in range(3):
        theta = distance * np.random.default_rng(seed).standard_normal(size(name))
        report = critical_point(FLAT[name], theta, dense=dense, samples=0)
        assert report.verdict in ("degenerate", "undecided", "not critical"), str(report)


@BOTH
def test_a_valley_of_minima_is_degenerate(dense):
    """w1 w2 = 1: no eigenvalue is negative and one is zero."""
    report = critical_point(TWO_WEIGHTS, np.array([0.5, 2.0]), dense=dense)
    assert report.verdict == "degenerate"
    np.testing.assert_allclose([report.smallest, report.largest], [0.0, 8.5], atol=1e-8)
    assert not report.negative_curvature


def test_a_ridge_is_degenerate_but_known_to_be_no_minimum():
    report = critical_point(FLAT["-x^2 + y^4"], np.zeros(2))
    assert report.verdict == "degenerate"
    assert report.negative_curvature
    assert "not a minimum" in report.message


# ---- errors are bounds


@BOTH
@pytest.mark.parametrize("seed", range(12))
def test_eigenvalues_are_within_their_errors(seed, dense):
    """Quadratic, cubic and quartic terms at random points: the Hessian is known."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    _, quadratic_part = quadratic(rng.standard_normal(n), seed)
    cubes, center = rng.standard_normal(n), rng.standard_normal(n)

    def f(theta):
        return (
            float(theta @ quadratic_part @ theta / 2 + cubes @ theta**3 + np.sum(theta**4) / 4),
            quadratic_part @ theta + 3 * cubes * theta**2 + theta**3,
        )

    expected = np.linalg.eigvalsh(quadratic_part + np.diag(6 * cubes * center + 3 * center**2))
    report = critical_point(f, center, dense=dense)
    assert report.verdict == "not critical"  # with eigenvalues all the same
    assert abs(report.smallest - expected[0]) <= report.smallest_error
    assert abs(report.largest - expected[-1]) <= report.largest_error
    assert report.error <= 1e-4 * max(abs(expected[0]), abs(expected[-1]))
    if dense:
        np.testing.assert_allclose(report.eigenvalues, expected, atol=report.error)
        assert report.minimum_ratio == np.mean(expected > 0)


def test_vectors_are_eigenvectors_in_thetas_structure():
    f, hessian = quadratic([-3.0, -1.0, 0.5, 1.0, 2.0, 7.0], rotation_seed=0)

    def lists(theta):
        loss, gradient = f(np.concatenate([a.ravel() for a in theta]))
        return loss, [gradient[:4].reshape(2, 2), gradient[4:]]

    report = critical_point(lists, [np.zeros((2, 2)), np.zeros(2)])
    assert report.verdict == "saddle point"
    for vector, value in ((report.smallest_vector, -3.0), (report.largest_vector, 7.0)):
        assert [part.shape for part in vector] == [(2, 2), (2,)]
        flat = np.concatenate([part.ravel() for part in vector])
        np.testing.assert_allclose(hessian @ flat, value * flat, atol=1e-7)
        assert np.linalg.norm(flat) == pytest.approx(1.0)
    assert [part.shape for part in report.theta] == [(2, 2), (2,)]


def test_against_torch():
    """The loss of a small network by torch.autograd.functional.hessian."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y = torch.tensor(rng.normal(size=(30, 3))), torch.tensor(rng.normal(size=(30, 1)))

    def loss(theta):
        hidden = torch.tanh(x @ theta[:12].reshape(3, 4) + theta[12:16])
        return torch.mean((hidden @ theta[16:20, None] + theta[20] - y) ** 2)

    def f(theta):
        leaf = torch.tensor(theta, requires_grad=True)
        value = loss(leaf)
        value.backward()
        return value.item(), leaf.grad.numpy()

    theta = rng.normal(size=21)
    expected = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, torch.tensor(theta))).numpy()
    for dense in (True, False):
        report = critical_point(f, theta, dense=dense, samples=0)
        np.testing.assert_allclose([report.smallest, report.largest], expected[[0, -1]], atol=report.error)
        assert report.error < 1e-6


@BOTH
def test_a_gradient_that_is_no_functions_decides_nothing(dense):
    """theta + A theta, A antisymmetric: its Jacobian has a positive definite symmetric part and is not symmetric."""
    a = np.random.default_rng(0).standard_normal((100, 100))
    jacobian = np.eye(100) + (a - a.T) / 4
    report = critical_point(lambda theta: (float(theta @ theta) / 2, jacobian @ theta), np.zeros(100), dense=dense)
    assert report.verdict == "undecided"
    assert report.smallest_error > np.linalg.norm(jacobian - jacobian.T, 2) / 2


@BOTH
def test_a_noisy_gradient_decides_nothing(dense):
    def f(theta):
        noise = 1e-3 * np.random.default_rng(zlib.crc32(theta.tobytes())).standard_normal(3)
        return 0.0, np.array([1e-6, 1e-5, 1e-5]) * theta + noise

    report = critical_point(f, np.zeros(3), gtol=1.0, dense=dense, samples=0)
    assert report.verdict in ("undecided", "degenerate"), str(report)
    assert report.smallest_error > 1e-6


def test_at_the_border_of_the_domain():
    """The gradient of x^(3/2) is 0 at 0 and does not exist to the left of it."""
    f = function(lambda x: max(x, 0) ** 1.5 if x >= 0 else np.nan, lambda x: 1.5 * x**0.5 if x >= 0 else np.nan)
    report = critical_point(f, np.zeros(1), gtol=1e-5)
    assert report.verdict == "undecided"
    assert np.isnan(report.smallest)
    assert report.smallest_error == np.inf
    assert "not finite" in report.message
    assert critical_point(f, np.ones(1), gtol=1e-5).verdict == "not critical"


# ---- what the numbers prove


def end(value, error, proof=None):
    return End(value, np.zeros(2), error, error if proof is None else proof)


@pytest.mark.parametrize(
    ("smallest", "largest", "verdict"),
    [
        (end(-1.0, 1e-9), end(2.0, 1e-9), "saddle point"),
        (end(-1.0, 5.0, 1e-9), end(2.0, 5.0, 1e-9), "saddle point"),  # not converged, but Rayleigh quotients prove it
        (end(1.0, 1e-9), end(2.0, 1e-9), "local minimum"),
        (end(1.0, 5.0, 1e-9), end(2.0, 1e-9), "undecided"),  # not converged: there may be smaller ones
        (end(1e-3, 2e-3, 1e-9), end(2.0, 1e-9), "undecided"),
        (end(-2.0, 1e-9), end(-1.0, 1e-9), "local maximum"),
        (end(-2.0, 1e-9), end(-1.0, 5.0, 1e-9), "undecided"),
        (end(1e-10, 1e-9), end(2.0, 1e-9), "degenerate"),
        (end(-1e-10, 1e-9), end(2.0, 1e-9), "degenerate"),
        (end(-2.0, 1e-9), end(1e-10, 1e-9), "degenerate"),
        (end(0.1, 0.5), end(2.0, 0.5), "undecided"),  # an error as large as the eigenvalues is not flatness
        (end(np.nan, np.inf), end(np.nan, np.inf), "undecided"),
    ],
)
def test_verdicts(smallest, largest, verdict):
    curved = Curvature(smallest, largest, None, None, np.array(1e-9))
    assert judge(1e-6, 1e-5, curved, 2.0)[0] == verdict
    assert judge(1e-4, 1e-5, curved, 2.0)[0] == "not critical"


def test_gtol_is_the_callers():
    f, theta, verdict, _ = KNOWN["well"]
    near = np.array(theta) + 1e-4
    norm = np.linalg.norm(f(near)[1])
    assert critical_point(f, near, gtol=1.01 * norm).verdict == verdict
    assert critical_point(f, near, gtol=0.99 * norm).verdict == "not critical"
    assert critical_point(f, np.array(theta, float), gtol=0.0).verdict == verdict


def test_the_default_of_gtol_is_scipys_for_curvature_one():
    f, _ = quadratic(np.ones(50))
    report = critical_point(f, np.zeros(50))
    np.testing.assert_allclose(report.gtol, 1e-5 * np.sqrt(50), rtol=1e-6)  # 1e-5 in every element
    far = function(lambda x: np.exp(20 * x**2), lambda x: 40 * x * np.exp(20 * x**2))
    assert critical_point(far, np.array([0.5])).verdict == "not critical"  # though the gradient at 1.5 is 1e21


# ---- the report


def test_reading_it():
    text = str(critical_point(QUARTIC_SADDLE, np.zeros(2)))
    lines = text.splitlines()
    assert lines[0] == "saddle point"
    assert [line[:23].strip() for line in lines[1:6]] == [
        "loss", "gradient norm", "smallest eigenvalue", "largest eigenvalue", "minimum ratio",
    ]  # fmt: skip
    assert lines[6] == "  curvature is -2 along smallest_vector and 2 along largest_vector."
    assert len(lines) == 7


def test_evaluations_are_counted_and_products_used():
    plain = Counted(QUARTIC_SADDLE)
    assert critical_point(plain, np.full(2, 1e-6)).evaluations == plain.calls
    exact = Counted(QUARTIC_SADDLE, hessian_vector=lambda t, v: np.array([2.0, -2 + 3 * t[1] ** 2]) * v)
    report = critical_point(exact, np.full(2, 1e-6))
    assert report.evaluations == exact.calls + exact.products
    assert exact.products >= 2
    assert exact.calls <= 4
    assert report.verdict == "saddle point"


def test_numbers_repeat_and_nothing_is_changed():
    f, _ = quadratic(np.linspace(-1, 3, 400), rotation_seed=5)
    theta = np.full(400, 1e-7)
    before = theta.copy()
    first, second = critical_point(f, theta), critical_point(f, theta)
    assert str(first) == str(second)
    np.testing.assert_array_equal(first.smallest_vector, second.smallest_vector)
    np.testing.assert_array_equal(theta, before)
    assert first.minimum_ratio != critical_point(f, theta, seed=1).minimum_ratio


def test_a_report_is_a_theta():
    report = critical_point(FOUR_WELLS, np.ones(2))
    assert critical_point(FOUR_WELLS, report).verdict == "local minimum"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gtol": -1.0}, "gtol is -1.0, expected a finite number >= 0"),
        ({"gtol": np.nan}, "gtol is nan"),
        ({"gtol": "small"}, "gtol is 'small', expected a finite number"),
        ({"dense": "yes"}, "dense is 'yes', expected True, False, or None"),
        ({"samples": -1}, "samples is -1, expected >= 0"),
        ({"steps": 1}, "steps is 1, expected >= 2"),
        ({"samples": 2.5}, "samples is 2.5, expected an integer"),
        ({"seed": -1}, "seed is -1, expected >= 0"),
    ],
)
def test_errors(options, text):
    with pytest.raises((TypeError, ValueError), match=text):
        critical_point(FOUR_WELLS, np.ones(2), **options)


def test_a_point_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        critical_point(function(lambda x: np.nan, lambda x: 0.0), np.zeros(1))
    with pytest.raises(ValueError, match="theta holds nan"):
        critical_point(FOUR_WELLS, np.array([0, np.nan]))


def test_it_is_what_the_design_says():
    names = ("loss", "gradient_norm", "smallest", "largest", "error", "smallest_vector", "minimum_ratio", "verdict")
    report = critical_point(FOUR_WELLS, np.ones(2))
    assert isinstance(report, CriticalPoint)
    assert [name for name in (*names, "message") if not hasattr(report, name)] == []


@pytest.mark.parametrize("seed", range(5))
def test_a_point_that_is_critical_to_rounding_is_not_judged_by_rounding(seed):
    """Newton's step from it is too short to tell how the curvature changes: small eigenvalues keep their signs."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    eigenvalues, minimum = np.array([-1.0, -1e-3, 2e-3, 0.5, 1.0, 2.0]), 3 * rng.standard_normal(6)
    matrix = axes @ np.diag(eigenvalues) @ axes.T

    def f(theta):
        d = theta - minimum
        return float(d @ matrix @ d / 2 + (d**4).sum() / 4), matrix @ theta - matrix @ minimum + d**3

    theta = minimum + 3e-13 * rng.standard_normal(6)
    report = critical_point(f, theta)
    assert report.verdict == "saddle point"
    np.testing.assert_allclose(report.eigenvalues, eigenvalues, atol=1e-8)
    assert (report.minimum_ratio, report.minimum_ratio_error) == (4 / 6, 0.0)
