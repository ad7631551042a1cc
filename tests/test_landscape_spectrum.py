"""onepass.landscape: eigenpairs, trace and spectral density, against LAPACK's eigenvalues of dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import landscape, losses, nn
from onepass.landscape.lanczos import lanczos, ritz

linalg = pytest.importorskip("scipy.sparse.linalg")
sparse = pytest.importorskip("scipy.sparse")


def symmetric(values, seed=0):
    """A matrix with these eigenvalues."""
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    a = (q * values) @ q.T
    return (a + a.T) / 2


def function_of(a, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return lambda t: (t @ a @ t / 2, a @ t + noise * rng.standard_normal(len(a)))


SPECTRA = {
    "normal": np.random.default_rng(1).standard_normal(200),
    "outliers": np.r_[np.random.default_rng(2).standard_normal(190) * 0.01, np.linspace(5, 50, 9), -2.0],
    "positive": np.logspace(-3, 2, 200),
    "half of them zero": np.r_[np.zeros(100), np.linspace(1, 5, 100)],
    "negative": -(np.linspace(1, 3, 200) ** 2),
    "two values": np.r_[np.ones(120), -np.ones(80)],
    "one value": np.full(100, 3.0),
    "rank one": np.r_[np.zeros(149), -7.0],
    "zero": np.zeros(100),
    "tiny": np.random.default_rng(1).standard_normal(100) * 1e-200,
    "huge": np.random.default_rng(1).standard_normal(100) * 1e200,
    "small matrix": np.array([3.0, -1.0, 0.0, 2.0]),
    "one by one": np.array([-2.0]),
}


@pytest.mark.parametrize(("top", "bottom"), [(1, 1), (3, 0), (0, 2), (2, 4)])
@pytest.mark.parametrize("name", SPECTRA)
def test_eigenpairs_are_lapacks(name, top, bottom):
    values = np.sort(SPECTRA[name])
    a = symmetric(values)
    scale = np.abs(values).max() or 1.0
    found = landscape.eigenpairs(a, top=top, bottom=bottom)
    k = min(top + bottom, len(values))
    expected = values if k == len(values) else np.r_[values[:bottom], values[len(values) - top :]]
    assert found.converged, found.message
    assert found.message == ""
    np.testing.assert_allclose(found.values / scale, expected / scale, atol=1e-9)
    v = found.vectors
    assert v.shape == (len(values), k)
    np.testing.assert_allclose(v.T @ v, np.eye(k), atol=1e-12)
    residuals = np.linalg.norm((a / scale) @ v - found.values / scale * v, axis=0)
    np.testing.assert_allclose(found.residuals / scale, residuals, atol=1e-12)
    assert residuals.max() < 1e-6
    assert (found.errors >= found.residuals).all()


@pytest.mark.parametrize("n", [20, 120])
@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-5])
def test_eigenpairs_of_a_function_are_within_their_errors(n, noise):
    a = symmetric(np.random.default_rng(n).standard_normal(n))
    found = landscape.eigenpairs(function_of(a, noise), np.full(n, 0.1), top=2, bottom=2)
    values = np.linalg.eigvalsh(a)
    expected = np.r_[values[:2], values[-2:]]
    assert (np.abs(found.values - expected) <= found.errors).all()
    residuals = np.linalg.norm(a @ found.vectors - found.values * found.vectors, axis=0)
    assert (residuals <= 2 * found.errors).all()
    assert (found.errors > found.residuals + noise).all()  # the products' own error is in it
    assert found.errors.max() < (1e-2 if noise == 1e-5 else 1e-4 if noise else 1e-6)


def test_a_linear_function_has_eigenvalues_zero():
    found = landscape.eigenpairs(lambda t: (float(t.sum()), np.ones(100)), np.zeros(100), top=2, bottom=1)
    np.testing.assert_allclose(found.values, np.zeros(3), atol=1e-9)
    assert found.errors.max() < 1e-6


def test_dense_and_lanczos_agree_at_their_border():
    """64 rows are dense, 65 are not."""
    for n in (64, 65):
        values = np.random.default_rng(n).standard_normal(n)
        found = landscape.eigenpairs(symmetric(values))
        np.testing.assert_allclose(found.values, [values.min(), values.max()], atol=1e-12)


@pytest.mark.parametrize("kind", ["sparse", "operator"])
def test_other_operators(kind):
    a = sparse.diags(np.linspace(-1, 2, 300))
    found = landscape.eigenpairs(a.tocsr() if kind == "sparse" else linalg.aslinearoperator(a), top=2)
    np.testing.assert_allclose(found.values, np.linspace(-1, 2, 300)[[0, -2, -1]], atol=1e-9)


def test_a_small_problem_that_arpack_gives_up_on_is_solved_whole():
    values = np.linspace(-1, 1, 300)
    found = landscape.eigenpairs(symmetric(values), top=2, bottom=1, restarts=1)
    assert found.converged
    np.testing.assert_allclose(found.values, values[[0, -2, -1]], atol=1e-12)


def test_large_operators_converge_where_eigenvalues_are_zero():
    values = np.r_[np.zeros(2000), np.linspace(1, 5, 1000)]
    found = landscape.eigenpairs(sparse.diags(values).tocsr(), top=0, bottom=2)
    assert found.converged
    np.testing.assert_allclose(found.values, [0.0, 0.0], atol=1e-12)


def test_what_did_not_converge_is_said_and_still_useful():
    """Evenly spaced eigenvalues in one restart."""
    values = np.linspace(-1, 1, 3000)
    found = landscape.eigenpairs(sparse.diags(values).tocsr(), top=2, bottom=1, restarts=1)
    assert not found.converged
    assert "of the 2 largest eigenvalues converged in 1 restarts" in found.message
    assert found.values.shape == (3,)
    assert found.values[0] < -0.99
    assert found.values[1:].min() > 0.99
    assert found.residuals.max() > 1e-4  # honest
    assert np.abs(found.values[:, None] - values).min(axis=1).max() <= found.residuals.max()


def test_the_same_seed_gives_the_same_pairs():
    a = symmetric(np.random.default_rng(0).standard_normal(100))
    one, two = (landscape.eigenpairs(function_of(a), np.zeros(100), seed=3) for _ in range(2))
    assert one.values.tolist() == two.values.tolist()
    assert one.vectors.tolist() == two.vectors.tolist()


def test_eigenpairs_of_a_network_are_those_of_its_dense_hessian():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 4)), rng.integers(0, 3, 40)
    f = landscape.from_model(nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 3)), losses.CrossEntropy(), x, y)
    assert f.theta.size == 99
    h, error = landscape.hessian(f, f.theta, return_error=True)
    values, vectors = np.linalg.eigh(h)
    found = landscape.eigenpairs(f, f.theta, top=2, bottom=2)
    assert (np.abs(found.values - values[[0, 1, -2, -1]]) <= found.errors + error).all()
    assert np.abs(np.sum(found.vectors * vectors[:, [0, 1, -2, -1]], axis=0)).min() > 1 - 1e-9
    # the function alone will do: it has a theta
    assert landscape.eigenpairs(f, top=1, bottom=0).values.tolist() == pytest.approx([values[-1]], abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"f_or_operator": np.zeros((3, 4))}, ValueError, r"shape \(3, 4\), expected a square"),
        ({"f_or_operator": np.zeros(3)}, ValueError, r"shape \(3,\), expected a square"),
        ({"f_or_operator": np.array([[1.0, 2], [0, 1]])}, ValueError, r"not symmetric; pass \(A \+ A\.T\) / 2"),
        ({"f_or_operator": np.full((3, 3), np.nan)}, ValueError, "holds NaN or inf"),
        ({"f_or_operator": np.eye(3) * 1j}, TypeError, "complex128, expected real numbers"),
        ({"f_or_operator": 3}, TypeError, "f is 3, expected a function"),
        ({"f_or_operator": lambda t: (0.0, t)}, TypeError, "theta is missing"),
        ({"theta": np.ones(3)}, ValueError, "theta is given beside an operator"),
        ({"top": -1}, ValueError, "top is -1, expected >= 0"),
        ({"bottom": 1.5}, TypeError, "bottom is 1.5, expected an integer"),
        ({"top": 0, "bottom": 0}, ValueError, "top and bottom are both 0"),
        ({"restarts": 0}, ValueError, "restarts is 0"),
        ({"tolerance": 1.0}, ValueError, "tolerance is 1.0"),
    ],
)
def test_eigenpairs_refuses(arguments, error, text):
    with pytest.raises(error, match=text):
        landscape.eigenpairs(**{"f_or_operator": np.eye(3), **arguments})


def test_an_operator_that_is_not_finite_is_refused():
    operator = linalg.LinearOperator((100, 100), lambda v: v * np.nan, dtype=np.float64)
    with pytest.raises(FloatingPointError, match="not finite"):
        landscape.eigenpairs(operator)


# ---- Lanczos


def test_lanczos_is_orthogonal_and_exact_at_the_end():
    values = np.logspace(-6, 6, 60)  # without reorthogonalization the largest would come again and again
    a = symmetric(values)
    diagonal, beside, basis = lanczos(lambda v: a @ v, np.random.default_rng(0).standard_normal(60), 60)
    np.testing.assert_allclose(basis @ basis.T, np.eye(60), atol=1e-12)
    tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    np.testing.assert_allclose(basis @ a @ basis.T, tridiagonal, atol=1e-7)
    np.testing.assert_allclose(ritz(diagonal, beside)[0], values, atol=1e-8)


def test_lanczos_ends_where_the_space_does():
    a = symmetric(np.r_[np.full(30, 2.0), np.full(30, -1.0), np.zeros(30)])
    diagonal, beside, _ = lanczos(lambda v: a @ v, np.random.default_rng(0).standard_normal(90), 50)
    np.testing.assert_allclose(ritz(diagonal, beside)[0], [-1.0, 0.0, 2.0], atol=1e-12)


# ---- trace


@pytest.mark.parametrize("name", ["normal", "outliers", "positive", "half of them zero"])
def test_trace_is_within_its_error(name):
    a = symmetric(SPECTRA[name])
    true = SPECTRA[name].sum()
    off = [(e.value - true) / e.error for e in (landscape.trace(a, samples=60, seed=seed) for seed in range(30))]
    assert np.abs(off).max() < 5
    assert np.mean(np.square(off)) < 2.5  # of a standard error
    assert np.mean(np.square(off)) > 0.2  # which is not merely large
    assert abs(np.mean(off)) < 4 / np.sqrt(30)  # and nothing is left out


def test_hutch_plus_plus_is_better_than_random_signs_where_few_eigenvalues_are_large():
    """Meyer et al., 2021: the error falls as 1 / samples for these, not as 1 / sqrt(samples)."""
    values = 100 / np.arange(1.0, 301) ** 1.5
    a = symmetric(values)
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (300, 60, 20))
    plain = np.einsum("isk,ij,jsk->sk", signs, a, signs).mean(axis=0) - values.sum()
    better = [landscape.trace(a, samples=60, seed=seed).value - values.sum() for seed in range(20)]
    assert np.std(better) < np.std(plain) / 3


def test_a_low_rank_is_summed_exactly():
    estimate = landscape.trace(symmetric(np.r_[np.zeros(195), [1.0, 2, 3, 4, -7.5]]), samples=30)
    assert abs(estimate.value - 2.5) <= estimate.error < 1e-11
    assert not estimate.exact


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_trace_of_a_function(noise):
    a = symmetric(np.r_[np.zeros(145), np.arange(1.0, 6)])
    for seed in range(5):
        estimate = landscape.trace(function_of(a, noise), np.ones(150), samples=60, seed=seed)
        assert abs(estimate.value - 15) < 3 * estimate.error
        assert estimate.error < (0.1 if noise else 1e-5)


def test_few_parameters_have_an_exact_trace():
    estimate = landscape.trace(function_of(np.diag([1.0, 2, 3])), np.ones(3))
    assert estimate.exact
    assert abs(estimate.value - 6) <= estimate.error < 1e-7
    assert str(landscape.trace(np.diag([1.0, 2, 3]))) == "6 +- 0"
    with pytest.raises(ValueError, match="samples is 5, expected >= 6"):
        landscape.trace(np.eye(3), samples=5)


# ---- spectral density


def integral(density):
    return density.density.sum() * (density.grid[1] - density.grid[0])


@pytest.mark.parametrize("name", ["normal", "outliers", "positive", "half of them zero", "two values"])
def test_spectral_density_has_the_moments_of_the_spectrum(name):
    values = SPECTRA[name]
    found = landscape.spectral_density(symmetric(values), steps=15, samples=12)
    assert not found.exact
    np.testing.assert_allclose(found.weights.sum(), 1.0, rtol=1e-12)
    assert abs(integral(found) - 1.0) < 2e-6
    assert (np.diff(found.nodes) >= 0).all()
    for p in (1, 2, 4):
        spread = np.sqrt(2 * np.mean(values ** (2 * p)) / (12 * len(values)))  # of x'H^p x / x'x, for normal x
        assert abs(found.weights @ found.nodes**p - np.mean(values**p)) < 4 * spread
    for border in (-0.5, 0.5, 1.5):
        assert abs(found.share_below(border) - np.mean(values < border)) < 0.12


def test_a_quadrature_from_one_vector_has_its_moments_to_rounding():
    """Gauss: m nodes are right for polynomials of degree 2 m - 1."""
    values = SPECTRA["normal"]
    a = symmetric(values)
    v = np.random.default_rng(7).standard_normal(200)
    found = landscape.spectral_density(a, steps=5, samples=1, seed=7)
    moment = v / np.linalg.norm(v)
    for p in range(1, 5):
        moment = a @ moment
        assert found.weights @ found.nodes ** (2 * p) == pytest.approx(moment @ moment, rel=1e-10)


def test_small_spectra_are_computed_whole():
    values = np.sort(np.r_[np.full(30, -0.5), np.random.default_rng(0).random(70)])
    found = landscape.spectral_density(function_of(symmetric(values)), np.zeros(100))
    assert found.exact
    np.testing.assert_allclose(found.nodes, values, atol=1e-8)
    assert found.share_below(0.0) == pytest.approx(0.3)
    assert abs(integral(found) - 1.0) < 2e-6
    bumps = np.exp(-0.5 * ((found.grid[:, None] - values) / found.width) ** 2) / (found.width * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found.density, bumps.mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("a", [np.zeros((3, 3)), np.eye(2), np.array([[-4.0]]), np.diag([1e-200, 2e-200])])
def test_a_density_of_few_values_still_integrates_to_one(a):
    assert abs(integral(landscape.spectral_density(a)) - 1.0) < 2e-6
    assert abs(integral(landscape.spectral_density(a, width=np.abs(a).max() / 500 or 1e-9)) - 1.0) < 2e-6


def test_density_draws_into_the_axes_it_is_given():
    ax = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    found = landscape.spectral_density(np.diag([1.0, 2.0, 3.0]))
    assert found.plot(ax=ax, label="H") is ax
    assert ax.get_yscale() == "log"
    assert found.plot().get_xlabel() == "eigenvalue of the Hessian"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"points": 3}, "points is 3"),
        ({"width": 0.0}, "width is 0.0, expected a finite number > 0"),
        ({"width": 1e-9}, "width is 1e-09, expected at least 3.052e-05"),
    ],
)
def test_spectral_density_refuses(arguments, text):
    with pytest.raises(ValueError, match=text):
        landscape.spectral_density(np.diag([1.0, 2.0, 3.0]), **arguments)
