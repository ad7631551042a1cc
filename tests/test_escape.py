"""The way out of saddle points: minima known in closed form are reached and called what they are."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from landscape_functions import (
    BOUNDED_MONKEY_SADDLE,
    FOUR_WELLS,
    MONKEY_SADDLE,
    QUARTIC_SADDLE,
    ROSENBROCK_SADDLE,
    TWO_WEIGHTS,
    Counted,
    function,
    linear_network,
    quadratic,
)

from onepass import landscape, losses, nn
from onepass.landscape.critical import critical_point
from onepass.landscape.escape import METHODS, escape

pytest.importorskip("scipy.optimize")

ALL = pytest.mark.parametrize("method", METHODS)

# f, start, its verdict, loss of the minima, verdict there
SADDLES = {
    "quartic saddle": (QUARTIC_SADDLE, np.zeros(2), "saddle point", -1.0, "local minimum"),
    "curved valley": (ROSENBROCK_SADDLE, np.zeros(2), "saddle point", 0.0, "local minimum"),
    "two weights": (TWO_WEIGHTS, np.zeros(2), "saddle point", 0.0, "degenerate"),
    "linear network of two layers": (linear_network(2), np.zeros(8), "saddle point", 0.0, "degenerate"),
    "linear network of three layers": (linear_network(3), np.zeros(12), "degenerate", 0.0, "degenerate"),
    "linear network of four layers": (linear_network(4, 1), np.zeros(4), "degenerate", 0.0, "degenerate"),
    "monkey saddle": (BOUNDED_MONKEY_SADDLE, np.zeros(2), "degenerate", -27 / 256, "local minimum"),
    "maximum": (FOUR_WELLS, np.zeros(2), "local maximum", 0.0, "local minimum"),
    "pass": (FOUR_WELLS, np.array([1.0, 0.0]), "saddle point", 0.0, "local minimum"),
    "slope": (FOUR_WELLS, np.array([0.3, 7.0]), "not critical", 0.0, "local minimum"),
}


@ALL
@pytest.mark.parametrize("name", SADDLES)
def test_a_minimum_is_reached_and_called_one(name, method):
    f, start, from_verdict, loss, verdict = SADDLES[name]
    report = critical_point(f, start)
    assert report.verdict == from_verdict
    result = escape(f, start, report, method=method)
    assert result.success, str(result)
    assert abs(result.loss - loss) < 1e-8
    assert result.loss == f(result.theta)[0] == result.report.loss
    assert result.report.verdict == verdict
    assert result.report.smallest > -result.report.smallest_error
    assert np.linalg.norm(f(result.theta)[1]) <= result.report.gtol
    what = "a local minimum" if verdict == "local minimum" else "a degenerate point"
    assert result.message.startswith(f"{what} of loss ")
    assert f"of loss {report.loss:.6g}" in result.message
    np.testing.assert_array_equal(result.path[0], start)
    np.testing.assert_array_equal(result.path[-1], result.theta)
    assert 0 < result.iterations <= 1000


@ALL
def test_at_a_minimum_there_is_nothing_to_escape(method):
    f = Counted(FOUR_WELLS)
    result = escape(f, np.array([1.0, -1.0]), method=method)
    assert result.success
    assert result.message == "theta is a local minimum of loss 0 already: there is nothing to escape from."
    np.testing.assert_array_equal(result.theta, [1.0, -1.0])
    assert (result.iterations, len(result.path)) == (0, 1)
    assert result.evaluations == f.calls == critical_point(FOUR_WELLS, np.array([1.0, -1.0])).evaluations


ENDLESS = {
    "x^2 - y^2": (function(lambda x, y: x**2 - y**2, lambda x, y: 2 * x, lambda x, y: -2 * y), np.zeros(2)),
    "monkey saddle": (MONKEY_SADDLE, np.zeros(2)),
    "x^3": (function(lambda x: x**3, lambda x: 3 * x**2), np.zeros(1)),
    "-x": (function(lambda x: -x, lambda x: -1.0), np.ones(1)),
    "-log x": (function(lambda x: -np.log(x), lambda x: -1 / x), np.ones(1)),
    "-exp x": (function(lambda x: -np.exp(x), lambda x: -np.exp(x)), np.zeros(1)),
}


@ALL
@pytest.mark.parametrize("name", ENDLESS)
def test_a_function_without_a_minimum_ends_with_a_message(name, method):
    f, start = ENDLESS[name]
    result = escape(f, start, method=method)
    assert not result.success
    assert result.message.startswith("the function seems to have no minimum: the loss is -")
    assert result.evaluations < 10_000
    assert np.isfinite(result.theta).all()
    assert result.loss < f(start)[0]


@ALL
def test_a_tail_ends_with_a_message(method):
    """Logistic loss of classes that can be told apart: the loss tends to 0 and the minimum is at infinity."""
    f = function(lambda w: np.log1p(np.exp(-w)), lambda w: -1 / (1 + np.exp(w)))
    result = escape(f, np.zeros(1), method=method)
    assert not result.success
    assert "levels off" in result.message
    assert result.evaluations < 2000
    assert 0 <= result.loss < 1e-10


@ALL
@pytest.mark.parametrize("name", ["plateau", "x^4"])
def test_a_flat_point_without_a_way_down_is_called_that(name, method):
    plateau = function(lambda x, y: 2.0, lambda x, y: 0.0, lambda x, y: 0.0)
    bowl = function(lambda x, y: x**4 + y**4, lambda x, y: 4 * x**3, lambda x, y: 4 * y**3)
    f = plateau if name == "plateau" else bowl
    result = escape(f, np.zeros(2), method=method)
    assert not result.success
    assert result.report.verdict == "degenerate"
    assert "none of 3 random displacements led to a lower point" in result.message
    np.testing.assert_array_equal(result.theta, np.zeros(2))


@ALL
def test_the_budget_is_kept(method):
    calls = Counted(ROSENBROCK_SADDLE)
    result = escape(calls, np.zeros(2), method=method, max_iterations=3)
    assert result.iterations == 3
    assert not result.success
    assert result.message.startswith("max_iterations, 3, are used up; the lowest point found has loss ")
    assert result.loss < 1.0
    assert result.evaluations == calls.calls


@ALL
def test_lists_and_numbers_repeat(method):
    f = linear_network(2)

    def lists(theta):
        loss, gradient = f(np.concatenate([part.ravel() for part in theta]))
        return loss, list(gradient.reshape(2, 2, 2))

    start = [np.zeros((2, 2)), np.zeros((2, 2))]
    result = escape(lists, start, method=method)
    assert result.success
    assert [part.shape for part in result.theta] == [(2, 2), (2, 2)]
    np.testing.assert_allclose(result.theta[1] @ result.theta[0], np.eye(2), atol=1e-5)
    assert all([part.shape for part in point] == [(2, 2), (2, 2)] for point in result.path)
    assert not any(part.any() for part in start)
    again, flat = escape(lists, start, method=method), escape(f, np.zeros(8), method=method)
    assert str(result) == str(again)
    np.testing.assert_array_equal(result.theta, again.theta)
    np.testing.assert_array_equal(np.ravel(result.theta), flat.theta)
    if method != "negative curvature":
        other = escape(lists, start, method=method, seed=1)
        assert not np.array_equal(other.theta, result.theta)


@pytest.mark.parametrize("sign", [1, -1])
def test_both_signs_are_tried(sign):
    """x^2 - y^2 + s y^3 / 3 + y^4 / 4 has its deeper minimum where s y < 0."""
    f = function(
        lambda x, y: x**2 - y**2 + sign * y**3 / 3 + y**4 / 4,
        lambda x, y: 2 * x,
        lambda x, y: -2 * y + sign * y**2 + y**3,
    )
    result = escape(f, np.zeros(2))
    np.testing.assert_allclose(result.theta, [0.0, -2.0 * sign], atol=1e-6)
    assert result.success


@ALL
def test_each_method_goes_its_own_way(method, monkeypatch):
    module = sys.modules["onepass.landscape.escape"]  # the package has a function of that name
    used = []
    own = {
        "descend": "negative curvature",
        "gradient_descent": "perturbed",
        "saddle_free_newton": "saddle-free newton",
        "trust_region": "trust-region",
    }
    for name in own:
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, original=original: (used.append(name), original(*a))[1])
    assert escape(BOUNDED_MONKEY_SADDLE, np.zeros(2), method=method).success
    assert {own[name] for name in used} - {"negative curvature"} == {method} - {"negative curvature"}
    assert ("descend" in used) == (method in ("negative curvature", "perturbed"))


def test_the_last_digits_where_the_loss_is_all_rounding():
    """The loss of 1e6 hides differences below 1e-10; its gradient does not."""

    def f(theta):
        loss, gradient = ROSENBROCK_SADDLE(theta)
        return 1e6 + loss, gradient

    result = escape(f, np.zeros(2), gtol=1e-8)
    assert result.success, str(result)
    np.testing.assert_allclose(np.abs(result.theta), 1.0, atol=1e-7)


@ALL
def test_a_loss_in_float32(method):
    """Its rounding hides the last steps from every line search; the gradient is small enough all the same."""

    def f(theta):
        loss, gradient = QUARTIC_SADDLE(theta.astype(np.float32))
        return float(np.float32(loss)), gradient.astype(np.float32).astype(np.float64)

    result = escape(f, np.zeros(2), method=method)
    assert result.success, str(result)
    assert result.iterations < 200
    np.testing.assert_allclose(np.abs(result.theta), [0, np.sqrt(2)], atol=1e-4)


def test_what_the_function_offers_is_used():
    def product(theta, v):
        return np.array([2.0, -2 + 3 * theta[1] ** 2]) * v

    f = Counted(QUARTIC_SADDLE, loss=lambda theta: QUARTIC_SADDLE(theta)[0], hessian_vector=product)
    result = escape(f, np.zeros(2))
    assert result.success
    assert f.losses > 5
    assert f.products > 4
    assert result.evaluations == f.calls + f.losses + f.products
    assert result.evaluations < escape(QUARTIC_SADDLE, np.zeros(2)).evaluations


@pytest.mark.parametrize("method", [m for m in METHODS if m != "saddle-free newton"])
def test_many_parameters(method):
    """400 of them, one in a hundred with a double well; trust-krylov and Lanczos, Hessian-vector products alone."""
    values = np.where(np.arange(400) % 100 == 0, -1.0, np.linspace(0.5, 2, 400))

    def f(theta):
        return float(values @ theta**2 / 2 + np.sum(theta**4) / 4), values * theta + theta**3

    result = escape(f, np.zeros(400), method=method)
    assert result.success, str(result)
    assert result.report.verdict == "local minimum"
    assert result.report.eigenvalues is None
    assert result.report.minimum_ratio == 1.0
    np.testing.assert_allclose(result.loss, -1.0)
    np.testing.assert_allclose(np.abs(result.theta), (values < 0).astype(float), atol=1e-5)


@pytest.mark.parametrize("maker", ["from_model", "from_torch"])
def test_a_linear_network_of_layers(maker):
    """Two layers without biases at zero, least squares: a saddle, and minima where W2 W1 x is the best linear fit."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    if maker == "from_model":
        layers = [nn.Linear(3, 3, bias=False, dtype=np.float64), nn.Linear(3, 2, bias=False, dtype=np.float64)]
        f = landscape.from_model(nn.Sequential(*layers), losses.MeanSquaredError(), x, y)
    else:
        torch = pytest.importorskip("torch")
        layers = [torch.nn.Linear(3, 3, bias=False).double(), torch.nn.Linear(3, 2, bias=False).double()]
        loss = torch.nn.functional.mse_loss
        f = landscape.from_torch(torch.nn.Sequential(*layers), loss, torch.tensor(x), torch.tensor(y))
    zero = np.zeros_like(f.theta)
    assert critical_point(f, zero).verdict == "saddle point"
    result = escape(f, zero)
    assert result.success, str(result)
    fit = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(result.loss, np.mean((fit - y) ** 2), rtol=1e-9)


def test_a_report_saves_its_evaluations():
    report = critical_point(QUARTIC_SADDLE, np.zeros(2))
    without, with_report = escape(QUARTIC_SADDLE, np.zeros(2)), escape(QUARTIC_SADDLE, report=report)
    assert without.evaluations - with_report.evaluations == report.evaluations
    np.testing.assert_array_equal(without.theta, with_report.theta)
    assert critical_point(QUARTIC_SADDLE, with_report).verdict == "local minimum"  # an Escape is a theta


def test_gtol_is_the_callers():
    result = escape(ROSENBROCK_SADDLE, np.zeros(2), gtol=1e-10)
    assert result.success
    assert result.report.gtol == 1e-10
    assert np.linalg.norm(ROSENBROCK_SADDLE(result.theta)[1]) <= 1e-10
    np.testing.assert_allclose(np.abs(result.theta), 1.0, atol=1e-9)


def test_a_border_is_not_crossed():
    """x - log x - y^2 + y^4: not defined for x <= 0, where line searches look."""
    f = function(lambda x, y: x - np.log(x) - y**2 + y**4, lambda x, y: 1 - 1 / x, lambda x, y: -2 * y + 4 * y**3)
    for start in (np.array([1.0, 0.0]), np.array([30.0, 0.0])):
        for method in METHODS:
            result = escape(f, start, method=method)
            assert result.success, str(result)
            np.testing.assert_allclose(result.theta[0], 1.0, atol=1e-4)
            np.testing.assert_allclose(result.loss, 0.75)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"method": "newton"}, ValueError, "method is 'newton', expected one of 'negative curvature', 'perturbed', "),
        ({"max_iterations": 0}, ValueError, "max_iterations is 0, expected >= 1"),
        ({"max_iterations": 2.0}, TypeError, r"max_iterations is 2\.0, expected an integer"),
        ({"seed": 1.5}, TypeError, r"seed is 1\.5, expected an integer"),
        ({"radius": "small"}, ValueError, "radius is 'small', expected a finite number > 0"),
        ({"radius": 0.0}, ValueError, r"radius is 0\.0, expected a finite number > 0"),
        ({"gtol": -1.0}, ValueError, r"gtol is -1\.0"),
        ({"report": "saddle"}, TypeError, "report is 'saddle', expected what critical_point"),
        ({"theta": None}, TypeError, "theta is missing"),
    ],
)
def test_errors(options, error, text):
    with pytest.raises(error, match=text):
        escape(QUARTIC_SADDLE, **{"theta": np.zeros(2), **options})


def test_more_errors():
    report = critical_point(QUARTIC_SADDLE, np.zeros(2))
    with pytest.raises(ValueError, match="report is of another point than theta"):
        escape(QUARTIC_SADDLE, np.ones(2), report)
    with pytest.raises(ValueError, match="theta has 301 parameters, expected at most 300 for saddle-free newton"):
        escape(quadratic(np.ones(301))[0], np.zeros(301), method="saddle-free newton")
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        escape(function(lambda x: np.nan, lambda x: 0.0), np.zeros(1))


def test_reading_it():
    lines = str(escape(QUARTIC_SADDLE, np.zeros(2))).splitlines()
    assert lines[0] == (
        "escaped (negative curvature): a local minimum of loss -1, reached from a saddle point of loss 0."
    )
    assert lines[2] == "  local minimum"
