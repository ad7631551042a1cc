"""Critical points whose kind is known: eigenvalues against closed forms, and verdicts that claim no more than that."""

from __future__ import annotations

import zlib
from types import SimpleNamespace

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

from onepass.landscape.critical import CriticalPoint, check_result, critical_point
from onepass.landscape.curvature import Curvature, End
from onepass.landscape.lanczos import lanczos, ritz
from onepass.landscape.minimum_ratio import share_above
from onepass.landscape.operators import hessian
from onepass.landscape.verdict import judge

scipy_optimize = pytest.importorskip("scipy.optimize")

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


def test_where_bfgs_stops_beside_a_flat_point():
    """It calls x^4 solved at 0.01, where the second derivative is 0.002: no minimum is proved by that."""
    f = FLAT["x^4"]
    result = scipy_optimize.minimize(f, np.array([1.0]), jac=True, method="BFGS")
    assert result.success
    assert abs(result.x[0]) > 1e-3
    report = check_result(result, f)
    assert report.verdict == "degenerate"
    assert report.smallest > 0
    assert report.smallest_error > report.smallest
    assert (report.minimum_ratio, report.minimum_ratio_error) == (0.0, 1.0)


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


# ---- many parameters


N = 400
SPECTRA = {
    "mostly positive": np.r_[np.linspace(-2, -1, 80), np.linspace(1, 3, 320)],
    "mostly negative": np.r_[np.linspace(-3, -0.5, 350), np.linspace(0.5, 2, 50)],
    "through zero": np.linspace(-1, 3, N),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_minimum_ratio_of_many_parameters(name):
    values = SPECTRA[name]
    f, _ = quadratic(values, rotation_seed=1)
    report = critical_point(f, np.zeros(N))
    assert report.eigenvalues is None
    assert report.verdict == "saddle point"
    np.testing.assert_allclose([report.smallest, report.largest], values[[0, -1]], atol=report.error)
    truth = np.mean(values > 0)
    assert 0 < report.minimum_ratio_error < 0.1
    assert abs(report.minimum_ratio - truth) <= report.minimum_ratio_error
    counted = critical_point(f, np.zeros(N), dense=True)
    assert (counted.minimum_ratio, counted.verdict) == (truth, "saddle point")


@pytest.mark.parametrize(("sign", "verdict", "ratio"), [(1, "local minimum", 1.0), (-1, "local maximum", 0.0)])
def test_definite_with_many_parameters(sign, verdict, ratio):
    f, _ = quadratic(sign * np.geomspace(1e-3, 10, N), rotation_seed=2)
    report = critical_point(f, np.zeros(N))
    assert report.verdict == verdict
    assert "as far as Lanczos found" in report.message
    assert (report.minimum_ratio, report.minimum_ratio_error) == (ratio, 0.0)


def test_lanczos_goes_on_where_a_sign_is_open():
    """Eigenvalues crowd at the small end: the residual of a coarse pair is larger than the smallest one."""
    f, hessian_ = quadratic(np.geomspace(1e-4, 1, 100), rotation_seed=6)
    f = Counted(f, hessian_vector=lambda theta, v: hessian_ @ v)
    report = critical_point(f, np.zeros(100), dense=False)
    assert report.verdict == "local minimum", str(report)
    assert report.smallest_error < 1e-4


def test_one_negative_eigenvalue_of_many_is_found():
    values = np.r_[-1e-3, np.linspace(0.5, 3, N - 1)]
    report = critical_point(quadratic(values, rotation_seed=3)[0], np.zeros(N), samples=0)
    assert report.verdict == "saddle point"
    np.testing.assert_allclose(report.smallest, -1e-3, rtol=1e-4)
    assert np.isnan(report.minimum_ratio)


def test_zero_eigenvalues_of_many():
    values = np.r_[np.zeros(100), np.linspace(0.5, 3, N - 100)]
    report = critical_point(quadratic(values, rotation_seed=4)[0], np.zeros(N))
    assert report.verdict == "degenerate"
    assert abs(report.minimum_ratio - 0.75) <= report.minimum_ratio_error


@pytest.mark.parametrize("seed", range(5))
def test_a_quadratures_share_is_off_by_no_more_than_it_says(seed):
    """Against the vector's own density: the separation theorem holds for each threshold."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.standard_normal(60))
    start = rng.standard_normal(60)
    diagonal, beside, _ = lanczos(lambda v: values * v, start, 7)
    nodes, vectors = ritz(diagonal, beside)
    shares = start**2 / (start @ start)
    for threshold in np.linspace(-3, 3, 50):
        share, error = share_above([nodes, nodes], [vectors[0] ** 2] * 2, threshold)
        assert abs(share - shares[values > threshold].sum()) <= error + 1e-12


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
    f, _ = quadratic(SPECTRA["through zero"], rotation_seed=5)
    theta = np.full(N, 1e-7)
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
        ({"samples": -1}, "samples is -1, expected an integer >= 0"),
        ({"steps": 1}, "steps is 1, expected an integer >= 2"),
        ({"samples": 2.5}, "samples is 2.5"),
    ],
)
def test_errors(options, text):
    with pytest.raises(ValueError, match=text):
        critical_point(FOUR_WELLS, np.ones(2), **options)


def test_a_point_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        critical_point(function(lambda x: np.nan, lambda x: 0.0), np.zeros(1))
    with pytest.raises(ValueError, match="theta holds nan"):
        critical_point(FOUR_WELLS, np.array([0, np.nan]))


# ---- SciPy's results

METHODS = ["BFGS", "L-BFGS-B", "CG", "Newton-CG", "trust-ncg", "trust-krylov", "trust-exact"]
STARTS = {
    "quartic saddle": (QUARTIC_SADDLE, 2, "saddle point"),
    "two weights": (TWO_WEIGHTS, 2, "saddle point"),
    "curved valley": (ROSENBROCK_SADDLE, 2, "saddle point"),
    "linear network of two layers": (linear_network(2), 8, "saddle point"),
    "linear network of three layers": (linear_network(3), 12, "degenerate"),
    "linear network of four layers": (linear_network(4), 16, "degenerate"),
}


def minimize(f, start, method):
    options = {"hess": lambda x: hessian(f, x)} if method.startswith(("trust", "Newton")) else {}
    return scipy_optimize.minimize(f, start, jac=True, method=method, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", STARTS)
def test_scipy_calls_a_saddle_success(name, method):
    f, n, verdict = STARTS[name]
    result = minimize(f, np.zeros(n), method)
    assert result.success
    np.testing.assert_array_equal(result.x, np.zeros(n))
    report = check_result(result, f)
    assert report.verdict == verdict
    what = "this is a saddle point" if verdict == "saddle point" else "this point is degenerate"
    assert report.message.startswith(f"SciPy reports success, but {what}: ")


@pytest.mark.parametrize("method", METHODS)
def test_scipys_minima_are_minima(method):
    result = minimize(QUARTIC_SADDLE, np.array([1.0, 1.0]), method)
    report = check_result(result, QUARTIC_SADDLE)
    assert report.verdict == "local minimum", str(report)
    assert report.message.startswith("SciPy reports success, and this is a local minimum: ")


def test_what_scipy_gave_up_on():
    result = scipy_optimize.minimize(
        ROSENBROCK_SADDLE, np.array([0.1, 3.0]), jac=True, method="BFGS", options={"maxiter": 2}
    )
    report = check_result(result, ROSENBROCK_SADDLE, gtol=1e-6)
    assert report.verdict == "not critical"
    assert report.message.startswith("SciPy reports no success (Maximum number of iterations has been exceeded); this")


def test_what_is_no_result():
    with pytest.raises(
        TypeError, match=r"without x, success, message, expected what scipy\.optimize\.minimize returns"
    ):
        check_result(np.zeros(2), QUARTIC_SADDLE)
    with pytest.raises(ValueError, match=r"result\.x is not finite"):
        check_result(SimpleNamespace(x=np.array([np.inf]), success=False, message=""), QUARTIC_SADDLE)


def test_it_is_what_the_design_says():
    names = ("loss", "gradient_norm", "smallest", "largest", "error", "smallest_vector", "minimum_ratio", "verdict")
    report = critical_point(FOUR_WELLS, np.ones(2))
    assert isinstance(report, CriticalPoint)
    assert [name for name in (*names, "message") if not hasattr(report, name)] == []
