"""Critical points of many parameters: the spectrum's ends by Lanczos, the minimum ratio by quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from landscape_functions import quadratic

from onepass.landscape import curvature
from onepass.landscape.critical import critical_point
from onepass.landscape.lanczos import lanczos, ritz
from onepass.landscape.minimum_ratio import share_above
from onepass.landscape.spectrum import Eigenpairs

pytest.importorskip("scipy.sparse.linalg")

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


@pytest.mark.parametrize(
    ("smallest", "residuals", "tried", "verdict"),
    [
        (1e-2, [1e-3], 1, "local minimum"),
        (1e-5, [1e-3, 1e-6], 2, "local minimum"),
        (1e-5, [1e-3, 1e-4, 0.5], 3, "undecided"),
        (1e-5, [1e-3, 1e-4, 1e-12], 3, "local minimum"),
        (-1e-5, [1e-3], 1, "saddle point"),
    ],
)
def test_lanczos_goes_on_where_a_sign_is_open(smallest, residuals, tried, verdict, monkeypatch):
    """Pairs with the residuals that a solver with less and less tolerance would leave, and one that gives up."""
    tolerances = []

    def pairs(operator, tolerance, **options):
        tolerances.append(tolerance)
        residual = np.array([residuals[len(tolerances) - 1], 0.0])
        return Eigenpairs(np.array([smallest, 1.0]), np.eye(N)[:, [0, -1]], residual, residual + 1e-14)

    monkeypatch.setattr(curvature, "eigenpairs", pairs)
    report = critical_point(quadratic(np.r_[smallest, np.ones(N - 1)])[0], np.zeros(N), samples=0)
    assert report.verdict == verdict, str(report)
    assert tolerances == sorted(tolerances, reverse=True)
    assert len(tolerances) == tried
    assert report.smallest_error < 1.1 * min(residuals) + 1e-12 or smallest < 0


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
