"""Chapter 5's claims, from the numbers that its pictures show."""

from __future__ import annotations

import numpy as np
import pytest

from examples.lecture import normalization
from onepass import data, landscape, losses, nn


@pytest.fixture(scope="module")
def results():
    return normalization.compute()


# ---- the surface


def test_two_weights_have_the_hessian_of_least_squares(results):
    """2 XᵀX / N of the same data, before and after standardizing."""
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([0, 0], [[1, 0.3], [0.3, 1]], 200) * [1, 5]
    rows = {"none": x, "batch": (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)}
    for name, features in rows.items():
        expected = np.linalg.eigvalsh(2 * features.T @ features / 200)
        np.testing.assert_allclose(results["two weights"][name]["eigenvalues"], expected, rtol=1e-7)


def test_standardizing_leaves_the_correlation_alone(results):
    """Of two standardized features with correlation r, the condition number is (1 + r) / (1 - r)."""
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([0, 0], [[1, 0.3], [0.3, 1]], 200)
    r = np.corrcoef(x.T)[0, 1]
    small, large = results["two weights"]["batch"]["eigenvalues"]
    np.testing.assert_allclose(large / small, (1 + r) / (1 - r), rtol=1e-4)  # eps beside the variance
    before = results["two weights"]["none"]["eigenvalues"]
    assert before[1] / before[0] > 20 > 2 > large / small


def test_descent_follows_each_eigenvector_as_its_eigenvalue_says(results):
    """From the minimum, the part along eigenvector i is multiplied by 1 - λᵢ / λmax a step."""
    for name in ("none", "batch"):
        found = results["two weights"][name]
        path, eigenvalues = found["path"], found["eigenvalues"]
        slowest = 1 - eigenvalues[0] / eigenvalues[1]
        distances = np.linalg.norm(path[1:], axis=1)
        np.testing.assert_allclose(distances, distances[0] * slowest ** np.arange(12), rtol=1e-5)
        along = path[1] / np.linalg.norm(path[1])
        excess = 0.5 * eigenvalues[0] * (path[1:] @ along) ** 2
        np.testing.assert_allclose(found["excess"][1:], excess, rtol=1e-5, atol=1e-12)
    ends = [results["two weights"][name]["excess"][-1] for name in ("none", "batch")]
    assert ends[0] > 0.5
    assert ends[1] < 1e-5


def test_pixels_condition(results):
    x = data.load_digits_split().x.reshape(-1, 64)
    x = x[:, x.std(axis=0) > 0]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    for name, rows in {"raw": x, "centered": x - x.mean(axis=0), "standardized": z}.items():
        eigenvalues = np.linalg.eigvalsh(2 * rows.T @ rows / len(rows))
        np.testing.assert_allclose(results["pixels"][name], eigenvalues[-1] / eigenvalues[0], rtol=1e-6)
    raw, centered, standardized = (results["pixels"][name] for name in ("raw", "centered", "standardized"))
    assert raw > 10 * centered > 10_000 * standardized
    assert standardized > 100  # not a sphere


# ---- curvature in training


def test_without_normalization_the_surface_is_steeper(results):
    without, batch = (results["curvature"][norm]["largest"] for norm in ("none", "batch"))
    assert np.all(without.mean(axis=0) > 0.99 * batch.mean(axis=0))
    late = np.array(normalization.STAGES) >= 30
    assert np.all(without[:, late] > 2 * batch[:, late])
    assert np.all(without.max(axis=1) > 4 * batch.max(axis=1))


def test_and_its_largest_eigenvalue_sticks_out_more(results):
    without, batch = (
        results["curvature"][norm]["largest"] / results["curvature"][norm]["tenth"] for norm in ("none", "batch")
    )
    assert without.min() > batch.max() > 1


def test_stages_are_comparable(results):
    """Neither network is far ahead where their curvature is compared."""
    without, batch = (results["curvature"][norm]["loss"] for norm in ("none", "batch"))
    assert np.all(np.abs(np.log(without / batch)) < np.log(1.7))
    assert np.all(without[:, -1] < 0.2 * without[:, 0])
    assert np.all(batch[:, -1] < 0.2 * batch[:, 0])


def test_without_normalization_training_goes_to_the_edge_of_stability(results):
    edge = 2 / results["curvature"]["rate"]
    without, batch = (results["curvature"][norm]["largest"] for norm in ("none", "batch"))
    assert np.all(without.max(axis=1) > edge)
    assert np.all(batch < edge / 3)


def test_the_smallest_eigenvalue_is_zero_in_both():
    """A layer before a ReLU can be scaled and the one behind it scaled back; before a BatchNorm, scaled alone."""
    x, y, _, _ = normalization.digits()
    for norm in ("none", "batch"):
        model = normalization.network(normalization.NORMALIZATION[norm])
        function = landscape.from_model(model, losses.CrossEntropy(), x[:200], y[:200])
        direction = [np.zeros(shape) for shape in function.shapes]
        parameters = model.parameters()
        direction[0][...], direction[1][...] = parameters[0], parameters[1]  # the first Linear
        if norm == "none":
            direction[2][...] = -parameters[2]
        flat = np.concatenate([part.ravel() for part in direction])
        product = function.gauss_newton_vector(function.theta, flat)
        assert np.linalg.norm(product) < 1e-3 * np.linalg.norm(flat)


def test_learning_rates(results):
    curves = results["learning rates"]
    for rate in (1, 3):
        assert curves[f"none {rate}"][-1] > 0.98 * np.log(10) or np.isnan(curves[f"none {rate}"][-1])
        assert curves[f"batch {rate}"][-1] < 0.3
    assert all(curves[f"batch {rate:g}"][-1] < curves[f"batch {rate:g}"][0] / 2 for rate in normalization.RATES)
    assert curves["batch 0.01"][-1] > curves["none 0.01"][-1]  # no gain at small rates
    after_two = {name: curve[1] for name, curve in curves.items()}
    best = {norm: np.nanmin([value for name, value in after_two.items() if norm in name]) for norm in ("none", "batch")}
    assert best["batch"] < best["none"] / 3  # the rates it allows are the faster ones


# ---- evaluation


def test_the_running_mean_is_the_weighted_sum_of_the_batches_means(results):
    for name, run in results["statistics"].items():
        momentum = float(name)
        steps = np.arange(len(run["batch"]))
        for t in (0, 1, 20, steps[-1]):
            weights = momentum * (1 - momentum) ** (t - steps[: t + 1])
            np.testing.assert_allclose(run["running"][t], weights @ run["batch"][: t + 1], rtol=1e-12)


def test_running_statistics_do_not_change_the_training(results):
    fast, slow = results["statistics"]["0.1"], results["statistics"]["0.01"]
    np.testing.assert_array_equal(fast["batch"], slow["batch"])
    np.testing.assert_array_equal(fast["training"], slow["training"])


def test_evaluation_lags_behind(results):
    fast, slow = results["statistics"]["0.1"], results["statistics"]["0.01"]
    first = slice(2, 20)
    assert np.all(fast["evaluation"][first] < fast["training"][first])
    assert np.all(slow["evaluation"][first] < fast["evaluation"][first])
    assert abs(fast["evaluation"][40:60] - fast["training"][40:60]).mean() < 0.01
    assert (fast["training"] - slow["evaluation"])[-10:].mean() > 0.03


def test_two_rows_become_plus_and_minus_one():
    x = np.random.default_rng(0).standard_normal((2, 5))
    y = nn.BatchNorm(5, eps=0.0, dtype=np.float64).forward(x)
    np.testing.assert_allclose(np.abs(y), 1.0, rtol=1e-12)
    with pytest.raises(ValueError, match="more than one value a channel"):
        nn.BatchNorm(5, dtype=np.float64).forward(x[:1])


def test_small_batches_fail(results):
    batch, layer = results["small batches"]["batch"], results["small batches"]["layer"]
    assert np.all(batch["evaluation"][:, 0] < 0.4)
    assert np.all(batch["evaluation"][:, -1] > 0.9)
    assert np.all(np.diff(batch["training"].mean(axis=0)) > 0)
    middle = slice(1, 4)
    assert np.all(batch["training"][:, middle] < batch["evaluation"][:, middle] - 0.03)
    assert np.all(layer["evaluation"][:, 0] > batch["evaluation"][:, 0] + 0.4)


def test_layer_normalization_does_not_care(results):
    layer = results["small batches"]["layer"]
    assert np.ptp(layer["evaluation"].mean(axis=0)) < 0.05
    assert layer["evaluation"].min() > 0.88
    np.testing.assert_array_equal(layer["evaluation"][:, :-1], layer["training"][:, :-1])  # 360 is no multiple of 64


# ---- the chapter


def test_pictures_and_words(results):
    figures = normalization.CHAPTER.draw(results)
    assert list(figures) == [picture.name for picture in normalization.CHAPTER.pictures]
    for figure in figures.values():
        figure.draw_without_rendering()
    texts = [normalization.CHAPTER.text, *(p.caption for p in normalization.CHAPTER.pictures)]
    texts += [p.alt for p in normalization.CHAPTER.pictures]
    for text in texts:
        assert len(text(results) if callable(text) else text) > 40
