"""Chapter 3's claims, from the numbers that its pictures show; second derivatives are checked against torch's."""

from __future__ import annotations

import numpy as np
import pytest

from examples.lecture import minima


@pytest.fixture(scope="module")
def results():
    return minima.compute()


@pytest.fixture(scope="module")
def torch_loss():
    """The same function of 17 weights, written again."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    x, y = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((20, 2), (20, 1)))

    def loss(theta):
        weight, bias = theta[:8].reshape(4, 2), theta[8:12]
        prediction = torch.tanh(x @ weight.T + bias) @ theta[12:16] + theta[16]
        return ((prediction - y[:, 0]) ** 2).mean() + minima.DECAY / 2 * (theta**2).sum()

    return loss


def eigenvalues(torch_loss, thetas):
    """(points, 17) by automatic differentiation."""
    import torch

    return np.array(
        [
            np.linalg.eigvalsh(torch.autograd.functional.hessian(torch_loss, torch.from_numpy(theta)).numpy())
            for theta in thetas
        ]
    )


@pytest.mark.parametrize("name", ["trained", "found"])
def test_gradients_are_zero(results, torch_loss, name):
    import torch

    for theta, loss in zip(results[name]["theta"], results[name]["loss"], strict=True):
        theta = torch.from_numpy(theta).requires_grad_()
        value = torch_loss(theta)
        (gradient,) = torch.autograd.grad(value, theta)
        np.testing.assert_allclose(loss, value.item(), rtol=1e-12)
        assert gradient.norm() < 2e-7  # weight decay alone makes a gradient of about 0.01


@pytest.mark.parametrize("name", ["trained", "found"])
def test_ratios_and_verdicts_are_those_of_automatic_differentiation(results, torch_loss, name):
    values = eigenvalues(torch_loss, results[name]["theta"])
    share = (values > 0).mean(axis=1)
    ratio, flat = results[name]["ratio"], results[name]["flat"]
    assert np.all((ratio <= share + 1e-12) & (share <= ratio + flat + 1e-12))
    assert np.mean(flat > 0) < 0.05
    expected = np.where(share == 1, "local minimum", "saddle point")
    np.testing.assert_array_equal(results[name]["verdicts"], expected)
    np.testing.assert_allclose(results[name]["smallest"], values[:, 0], atol=1e-6)


def test_training_ends_at_minima_of_many_losses(results):
    trained = results["trained"]
    assert set(trained["verdicts"]) == {"local minimum"}
    assert len(set(trained["loss"].round(6))) >= 10
    assert trained["loss"].max() > 2 * trained["loss"].min()


def test_minima_are_rare_among_critical_points(results):
    verdicts = results["found"]["verdicts"]
    assert len(verdicts) >= 100
    assert results["distinct"] >= 75
    assert verdicts.count("saddle point") > 0.8 * len(verdicts)
    assert 0 < verdicts.count("local minimum") < 0.2 * len(verdicts)


def test_most_ratios_are_between_one_half_and_one(results):
    found = results["found"]
    assert np.mean((found["ratio"] + found["flat"] > 0.5) & (found["ratio"] < 1)) > 0.8
    assert (found["ratio"] + found["flat"]).min() > 0.5


def test_the_higher_the_loss_the_smaller_the_ratio(results):
    found = results["found"]
    assert results["correlation"] < -0.6
    sure = found["flat"] == 0
    count = np.rint(found["ratio"] * 17)
    medians = [np.median(found["loss"][sure & (count == c)]) for c in (13, 14, 15, 16, 17)]
    assert np.all(np.diff(medians) < 0)
    assert found["loss"][count == 17].max() < np.median(found["loss"][sure & (count <= 13)])


def test_every_saddle_has_a_way_down(results, torch_loss):
    """Along the eigenvector of the smallest eigenvalue, on one side at least, as λ t² / 2 says."""
    import torch

    found = results["found"]
    saddles = [theta for theta, verdict in zip(found["theta"], found["verdicts"], strict=True) if "saddle" in verdict]
    for theta in saddles[::5]:
        values, vectors = np.linalg.eigh(torch.autograd.functional.hessian(torch_loss, torch.from_numpy(theta)).numpy())
        around = [torch_loss(torch.from_numpy(theta + step * vectors[:, 0])).item() for step in (-0.01, 0.0, 0.01)]
        assert min(around[0], around[2]) < around[1]
        np.testing.assert_allclose(around[0] + around[2] - 2 * around[1], values[0] * 1e-4, rtol=0.1)


def test_without_weight_decay_trained_networks_are_degenerate(results):
    plain = results["without decay"]
    assert plain["verdicts"].count("degenerate") >= 10
    assert "local minimum" not in plain["verdicts"]
    assert np.linalg.norm(plain["theta"], axis=1).max() > 3 * np.linalg.norm(results["trained"]["theta"], axis=1).max()


def test_pictures_and_words(results):
    figures = minima.CHAPTER.draw(results)
    assert list(figures) == [picture.name for picture in minima.CHAPTER.pictures]
    for figure in figures.values():
        figure.draw_without_rendering()
    texts = [
        minima.CHAPTER.text,
        *(p.caption for p in minima.CHAPTER.pictures),
        *(p.alt for p in minima.CHAPTER.pictures),
    ]
    for text in texts:
        assert len(text(results) if callable(text) else text) > 40
