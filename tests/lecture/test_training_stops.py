"""Chapter 1's claims, from the numbers that its pictures show; second derivatives are checked against torch's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from examples.lecture import training_stops
from onepass import optim


@pytest.fixture(scope="module")
def results():
    return training_stops.compute()


@pytest.fixture(scope="module")
def network(results):
    return results["network"]


@pytest.fixture(scope="module")
def torch_hessian():
    """theta -> Hessian (17, 17) of the network's loss, written again."""
    torch = pytest.importorskip("torch")
    x, y = map(torch.from_numpy, training_stops.data())

    def loss(theta):
        weight, bias = theta[:8].reshape(4, 2), theta[8:12]
        prediction = torch.tanh(x @ weight.T + bias) @ theta[12:16] + theta[16]
        return ((prediction - y[:, 0]) ** 2).mean() + training_stops.DECAY / 2 * (theta**2).sum()

    return lambda theta: torch.autograd.functional.hessian(loss, torch.from_numpy(theta)).numpy()


# ---- does training stop at a critical point?


def test_small_rate_stops_where_the_gradient_is_zero(network):
    run = network["runs"]["0.2"]
    assert run["norm"][-1] < 1e-4 * run["norm"][0]
    assert network["minimum"].verdict == "local minimum"
    assert np.ptp(run["loss"][-1000:]) < 1e-6


def test_large_rate_stops_where_it_is_not(network):
    """Half the losses are of one wall of the valley, half of the other."""
    run = network["runs"]["0.5"]
    assert np.ptp(run["loss"][-1000::2]) < 1e-6
    assert np.ptp(run["loss"][-999::2]) < 1e-6
    assert run["norm"][-1000:].min() > 0.5 > 100 * network["runs"]["0.2"]["norm"][-1]
    assert network["bouncing"].verdict == "not critical"
    assert run["loss"][-1] > 1.2 * network["runs"]["0.2"]["loss"][-1]
    path = run["path"]
    assert np.linalg.norm(path[-1] - path[-3]) < 1e-6 < 0.3 < np.linalg.norm(path[-1] - path[-2])


def test_the_plateau_is_beside_a_saddle_and_is_left(network):
    run, plateau = network["runs"]["0.2"], network["plateau"]
    assert run["norm"][plateau] < 0.05 * min(run["norm"][0], run["norm"][200:400].max())
    assert abs(run["loss"][plateau] - run["loss"][100]) < 0.01
    assert run["loss"][plateau] - run["loss"][-1] > 0.5
    assert network["saddle"].verdict == "saddle point"
    assert network["distance"] < 0.1 < np.linalg.norm(run["path"][-1] - network["saddle"].theta)


@pytest.mark.parametrize(("rate", "stays"), [(0.2, True), (0.5, False)])
def test_the_minimum_holds_steps_up_to_two_by_the_largest_eigenvalue(network, rate, stays):
    """Beside the minimum, along its stiffest direction."""
    assert 2 / 0.5 < network["minimum"].largest < 2 / 0.2
    loss, minimum = training_stops.Loss(), network["minimum"]
    theta = minimum.theta + 1e-3 * minimum.largest_vector
    optimizer = optim.SGD([theta], lr=rate)
    for _ in range(100):
        optimizer.step([loss.gradient(theta)])
    assert (np.linalg.norm(theta - minimum.theta) < 1e-3) == stays


# ---- what kinds of critical points are there?


def test_eigenvalues_of_minimum_and_saddle(network, torch_hessian):
    for report in (network["minimum"], network["saddle"]):
        expected = np.linalg.eigvalsh(torch_hessian(report.theta))
        np.testing.assert_allclose(report.eigenvalues, expected, atol=1e-8)
    assert np.all(network["minimum"].eigenvalues > 0)


def test_the_saddle_has_the_eigenvalues_of_its_closed_form(network):
    """All weights are zero but the output's bias; each unit then adds decay, decay and decay ± |2 mean(r (x, 1))|."""
    x, y = training_stops.data()
    decay, saddle = training_stops.DECAY, network["saddle"]
    bias = saddle.theta[-1]
    np.testing.assert_allclose(bias, 2 * y.mean() / (2 + decay), rtol=1e-6)
    np.testing.assert_allclose(saddle.theta[:-1], 0, atol=1e-6)
    slope = 2 * np.linalg.norm(((bias - y) * np.column_stack([x, np.ones(len(x))])).mean(axis=0))
    expected = np.repeat([decay - slope, decay, decay + slope], [4, 8, 4])
    np.testing.assert_allclose(saddle.eigenvalues, [*expected, 2 + decay], atol=1e-5)


def test_there_is_no_maximum(network, torch_hessian):
    verdicts = Counter(network["verdicts"])
    assert verdicts.total() >= 50
    assert verdicts["local maximum"] == 0
    assert verdicts["saddle point"] > 0.9 * verdicts.total()
    np.testing.assert_allclose(network["bias curvature"], 2 + training_stops.DECAY, rtol=1e-7)
    for theta in network["thetas"][::10]:
        hessian = torch_hessian(theta)
        np.testing.assert_allclose(hessian[-1, -1], 2 + training_stops.DECAY, rtol=1e-12)
        assert np.linalg.eigvalsh(hessian)[-1] >= 2 + training_stops.DECAY


# ---- angles


def test_every_kind_exists_among_angles(results):
    """And as many as Morse's theory asks of a torus: minima - saddles + maxima = 0."""
    kinds = Counter(report.verdict for report in results["angles"]["reports"])
    assert set(kinds) == set(training_stops.PLURALS)
    assert kinds["local minimum"] - kinds["saddle point"] + kinds["local maximum"] == 0
    assert min(kinds.values()) >= 2


def test_verdicts_of_angles_are_those_of_automatic_differentiation(results):
    torch = pytest.importorskip("torch")
    x, y = map(torch.from_numpy, training_stops.data())

    def loss(angles):
        weight = 2 * torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)
        return ((torch.tanh(x @ weight.T + 1) @ torch.tensor([1.0, -1.0], dtype=x.dtype) - y[:, 0]) ** 2).mean()

    for report in results["angles"]["reports"]:
        angles = torch.from_numpy(report.theta)
        gradient = torch.autograd.functional.jacobian(loss, angles)
        values = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss, angles).numpy())
        assert gradient.norm() < 1e-8
        np.testing.assert_allclose(report.loss, loss(angles).item(), rtol=1e-12)
        expected = {2: "local minimum", 1: "saddle point", 0: "local maximum"}[int((values > 0).sum())]
        assert report.verdict == expected


def test_the_plane_holds_nothing_beyond_the_critical_points(results):
    """Its lowest and highest losses are those of a minimum and a maximum."""
    losses = results["angles"]["plane"].losses
    found = {
        kind: [r.loss for r in results["angles"]["reports"] if r.verdict == kind] for kind in training_stops.PLURALS
    }
    assert 0 <= losses.min() - min(found["local minimum"]) < 0.01
    assert 0 <= max(found["local maximum"]) - losses.max() < 0.01


# ---- the chapter


def test_pictures_and_words(results):
    figures = training_stops.CHAPTER.draw(results)
    assert list(figures) == [picture.name for picture in training_stops.CHAPTER.pictures]
    for figure in figures.values():
        figure.draw_without_rendering()
    pictures = training_stops.CHAPTER.pictures
    texts = [training_stops.CHAPTER.text, *(p.caption for p in pictures), *(p.alt for p in pictures)]
    for text in texts:
        assert len(text(results) if callable(text) else text) > 40
