"""Chapter 10's claims: closed forms of softmax, of both losses and their gradients, and what becomes of the runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from measure import numeric_gradient

from examples.lecture import classification
from onepass import kernels, landscape, optim


@pytest.fixture(scope="module")
def results():
    return classification.compute()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def test_softmax_of_the_lectures_scores(results):
    p = results["probabilities"][1]
    np.testing.assert_allclose(p, np.exp([3, 1, -3]) / np.exp([3, 1, -3]).sum(), rtol=1e-14)
    assert [f"{q:.2f}" for q in p] == ["0.88", "0.12", "0.00"]


def test_larger_scores_make_larger_gaps(results):
    for scale, p in results["probabilities"].items():
        np.testing.assert_allclose(np.log(p[0] / p[1:]), [2 * scale, 6 * scale], rtol=1e-13)
        assert p.sum() == pytest.approx(1, abs=1e-15)
    largest = [results["probabilities"][scale][0] for scale in (1, 2, 4)]
    assert largest[0] < largest[1] < largest[2] < 1


def test_sigmoid_is_softmax_of_two_classes(results):
    # 21 units in the last place: softmax's stated bound for a gap of 20 is 4 + 20 / 2, sigmoid's less
    np.testing.assert_allclose(results["softmax_of_two"], results["sigmoid"], rtol=21 * np.finfo(float).eps)
    np.testing.assert_allclose(results["sigmoid"], sigmoid(results["gaps"]), rtol=21 * np.finfo(float).eps)
    pair = np.random.default_rng(0).uniform(-10, 10, (200, 2))  # it is the gap that counts, not where it lies
    np.testing.assert_allclose(kernels.softmax(pair)[:, 0], kernels.sigmoid(pair[:, 0] - pair[:, 1]), rtol=1e-14)


def test_surfaces_are_the_closed_forms(results):
    gap = results["axis"][None, :] - results["axis"][:, None]  # y1 along the columns
    # the loss is log of a sum less y1, both up to 10: rounding is absolute where the loss is nearly 0
    np.testing.assert_allclose(
        results["surfaces"]["cross-entropy"], np.log1p(np.exp(-gap)), rtol=1e-14, atol=20 * np.finfo(float).eps
    )
    distance = np.sqrt(results["surfaces"]["squared error"] / 2)  # 1 - p1, where p1 has been rounded
    np.testing.assert_allclose(distance, sigmoid(-gap), rtol=1e-14, atol=2 * np.finfo(float).eps)


def test_the_gradient_in_the_bad_corner(results):
    p1 = sigmoid(-20.0)
    loss, gradient = results["corner"]["cross-entropy"]
    assert loss == pytest.approx(20 + math.log1p(math.exp(-20)), rel=1e-14)
    np.testing.assert_allclose(gradient, [p1 - 1, 1 - p1, 0], rtol=1e-14)
    loss, gradient = results["corner"]["squared error"]
    slope = 4 * p1 * (1 - p1) ** 2
    assert loss == pytest.approx(2 * (1 - p1) ** 2, rel=1e-14)
    np.testing.assert_allclose(gradient, [-slope, slope, 0], rtol=1e-6)  # p - t rounds 2e-9 away from 1
    assert slope == pytest.approx(8.2446e-9, rel=1e-4)


def test_gradient_norms_from_corner_to_corner(results):
    gap = results["gaps"]
    np.testing.assert_allclose(results["gradient_norms"]["cross-entropy"], math.sqrt(2) * sigmoid(-gap), rtol=1e-7)
    wrong = gap <= 0
    expected = math.sqrt(2) * 4 * sigmoid(gap) * sigmoid(-gap) ** 2
    np.testing.assert_allclose(results["gradient_norms"]["squared error"][wrong], expected[wrong], rtol=1e-6)
    assert results["gradient_norms"]["cross-entropy"][wrong].min() > 0.7
    assert results["gradient_norms"]["squared error"][~wrong].max() < 1  # as small on the right, where it should be


@pytest.mark.parametrize("name", ["cross-entropy", "squared error"])
def test_gradients_by_finite_differences(name):
    loss = classification.LOSSES[name]
    for y in np.random.default_rng(1).normal(size=(5, 3)) * 2:
        np.testing.assert_allclose(loss(y)[1], numeric_gradient(lambda y=y: loss(y)[0], y), rtol=1e-6, atol=1e-9)
        assert landscape.gradient_check(loss, y).max_error < 1e-8


def test_from_the_bad_corner_one_arrives_and_one_does_not(results):
    arrives, stays = results["runs"]["cross-entropy"], results["runs"]["squared error"]
    assert (arrives["path"][0] == stays["path"][0]).all()
    assert arrives["right"][0] == stays["right"][0] == pytest.approx(sigmoid(-20.0), rel=1e-12)
    assert arrives["right"][-1] > 0.98
    assert (np.diff(arrives["right"]) > 0).all()
    assert stays["right"][-1] < 1e-8
    assert np.abs(stays["path"][-1] - stays["path"][0]).max() < 1e-6


def test_how_many_steps_squared_error_would_need(results):
    assert results["steps_needed"] == pytest.approx(math.exp(20) / 4, rel=1e-12)
    # the same formula where it can be tried, from a gap of -8; the smaller terms of the integral are 1 % of it there
    run = classification.train(
        classification.squared_error, np.array([-4.0, 4.0, -1000.0]), optim.SGD, steps=2 * round(math.exp(8) / 4)
    )
    assert np.argmax(run["right"] > 0.5) == pytest.approx(math.exp(8) / 4, rel=0.02)


def test_adam_gets_squared_error_going_but_not_from_farther_out(results):
    near = results["runs"]["squared error, Adam"]
    far = results["runs"]["squared error, Adam, farther out"]
    assert near["right"][-1] > 0.99
    assert far["right"][-1] < 1e-12
    for run, gap in ((near, 20.0), (far, 30.0)):  # Adam's first step is rate * g / (|g| + eps)
        gradient = 4 * sigmoid(-gap) * sigmoid(gap) ** 2
        first = run["path"][1] - run["path"][0]
        np.testing.assert_allclose(first / 0.5, gradient / (gradient + 1e-8) * np.array([1, -1, 0]), rtol=1e-2)


def test_cross_entropy_is_minimal_where_the_likelihood_is_maximal(results):
    fit = results["most_likely"]
    assert fit["cross_entropy"] == pytest.approx(-math.log(fit["likelihood"]) / fit["examples"], rel=1e-12)
    np.testing.assert_allclose(fit["probabilities"], [0.5, 0.3, 0.2], rtol=1e-9)
    np.testing.assert_array_equal(fit["frequencies"], [0.5, 0.3, 0.2])
    assert fit["likelihood"] == pytest.approx(0.5**5 * 0.3**3 * 0.2**2, rel=1e-9)
    for p in np.random.default_rng(2).dirichlet([1, 1, 1], size=100):
        assert p[0] ** 5 * p[1] ** 3 * p[2] ** 2 < fit["likelihood"]


def test_numbers_repeat(results):
    again = classification.compute()
    for name, run in results["runs"].items():
        np.testing.assert_array_equal(run["path"], again["runs"][name]["path"])


def test_pictures_and_texts(results, tmp_path):
    chapter = classification.CHAPTER
    assert [path.stat().st_size > 0 for path in chapter.save(results, tmp_path)] == [True] * len(chapter.pictures)
    texts = [chapter.text, *(p.caption for p in chapter.pictures), *(p.alt for p in chapter.pictures)]
    filled = [t(results) if callable(t) else t for t in texts]
    assert all(t.strip() and "{" not in t and "nan" not in t.split() for t in filled)
    assert "0.88, 0.12 and 0.002" in filled[0]
    assert "121 million steps" in filled[3]
