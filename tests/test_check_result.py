"""What SciPy's minimizers call success: saddles are called saddles, minima minima."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from landscape_functions import QUARTIC_SADDLE, ROSENBROCK_SADDLE, TWO_WEIGHTS, function, linear_network

from onepass.landscape.critical import check_result
from onepass.landscape.operators import hessian

scipy_optimize = pytest.importorskip("scipy.optimize")

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
    with pytest.raises(TypeError, match=r"result\.x is complex128, expected real numbers"):
        check_result(SimpleNamespace(x=np.zeros(2, complex), success=True, message=""), QUARTIC_SADDLE)


def test_where_bfgs_stops_beside_a_flat_point():
    """It calls x^4 solved at 0.01, where the second derivative is 0.002: no minimum is proved by that."""
    f = function(lambda x: x**4, lambda x: 4 * x**3)
    result = scipy_optimize.minimize(f, np.array([1.0]), jac=True, method="BFGS")
    assert result.success
    assert abs(result.x[0]) > 1e-3
    report = check_result(result, f)
    assert report.verdict == "degenerate"
    assert report.smallest > 0
    assert report.smallest_error > report.smallest
    assert (report.minimum_ratio, report.minimum_ratio_error) == (0.0, 1.0)
