"""What the chapter on adaptive learning rates claims, against closed forms and the lecture's formulas in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from examples.lecture import adaptive
from onepass import optim


@pytest.fixture(scope="module")
def results() -> Any:
    return adaptive.compute()


def test_gradient_and_hessian_by_central_differences(rng: np.random.Generator) -> None:
    for w in rng.standard_normal((20, 2)) * [50, 1]:
        for axis, unit in enumerate(np.eye(2)):
            loss = [adaptive.surface(w + side * 1e-3 * unit)[0] for side in (1, -1)]
            assert adaptive.surface(w)[1][axis] == pytest.approx((loss[0] - loss[1]) / 2e-3, rel=1e-6, abs=1e-8)
        assert adaptive.surface(w)[1] == pytest.approx(adaptive.hessian() @ w, rel=1e-9, abs=1e-12)


def test_sgd_by_its_closed_form(results: Any) -> None:
    values, vectors = np.linalg.eigh(adaptive.hessian())
    for name, lr in results["rates"].items():
        decay = (1 - lr * values) ** np.arange(adaptive.STEPS + 1)[:, None]
        expected = decay * (vectors.T @ adaptive.START) @ vectors.T
        np.testing.assert_allclose(results["runs"][name]["path"], expected, rtol=1e-8, atol=1e-8)


def test_no_single_rate_is_right(results: Any) -> None:
    large, small = results["runs"]["SGD, large rate"], results["runs"]["SGD, small rate"]
    assert large["distance"].min() > 0.99  # never nearer to the floor
    assert np.all(np.diff(np.sign(adaptive.distance(large["path"]))) != 0)  # the other side at each step
    assert small["distance"][100:].max() < 1e-3
    assert small["path"][-1, 0] < 0.95 * adaptive.START[0]  # and hardly on the way
    for lr in np.geomspace(0.01, 2.05, 25):
        w = np.array(adaptive.START)
        optimizer = optim.SGD([w], lr=float(lr))
        for _ in range(adaptive.STEPS):
            optimizer.step([adaptive.surface(w)[1]])
        assert not adaptive.surface(w)[0] < 0.2
    for name in ("Adagrad", "Adagrad, decay", "RMSProp", "Adam"):
        assert results["runs"][name]["loss"][-1] < 0.2 / 30


def test_adagrad_is_the_lectures() -> None:
    """The root of the mean of all squares, written out in NumPy; up to rounding, which the bursts would magnify."""
    run = adaptive.descend(lambda w: adaptive.mean_adagrad(w, lambda step: adaptive.RATE))
    w, squares = np.array(adaptive.START), []
    for step in range(230):
        gradient = adaptive.hessian() @ w
        squares.append(gradient**2)
        sigma = np.sqrt(np.mean(squares, axis=0))
        np.testing.assert_allclose(run["sigma"][step], sigma, rtol=1e-9)
        w = w - adaptive.RATE * gradient / sigma
        np.testing.assert_allclose(run["path"][step + 1], w, rtol=1e-9)


def test_the_papers_adagrad_has_the_decay_built_in() -> None:
    paper = adaptive.descend(lambda w: optim.Adagrad([w], lr=adaptive.RATE))
    decayed = adaptive.descend(lambda w: adaptive.mean_adagrad(w, lambda step: adaptive.RATE / math.sqrt(step + 1)))
    np.testing.assert_allclose(paper["path"], decayed["path"], rtol=1e-9)
    assert adaptive.bursts(paper["distance"]) == []
    assert paper["loss"][-1] > 0.3  # and it is slow with the same η


def test_adagrad_bursts_late(results: Any) -> None:
    run, over = results["runs"]["Adagrad"], results["overshoot"]["Adagrad"]
    found = results["bursts"]["Adagrad"]
    assert len(found) >= 3
    assert found[0] > 200
    for step in found:
        before, peak = run["distance"][step - 150 : step - 60].max(), run["distance"][step : step + 50].max()
        assert before < 1e-3
        assert peak > 500 * before
        assert peak > 0.5
        assert np.all(over[step - 25 : step] > 2)
        assert np.all(np.diff(run["distance"][step - 10 : step + 1]) > 0)
        assert over[step + 60] < 2
        assert run["distance"][step + 100] < 0.02


def test_where_sigma_grows_and_where_it_shrinks(results: Any) -> None:
    """A mean grows where a gradient is above it in size, and shrinks where it is below: in bursts, and between them."""
    run = results["runs"]["Adagrad"]
    sigma = run["sigma"][:, 1]
    size = np.array([abs(adaptive.surface(w)[1][1]) for w in run["path"][1:-1]])
    assert np.all((np.diff(sigma) > 0) == (size > sigma[:-1]))
    quiet = run["distance"][1:-1] < adaptive.QUIET
    assert np.all(np.diff(sigma)[quiet] < 0)
    for step in results["bursts"]["Adagrad"]:
        assert sigma[step + 60] > 1.1 * sigma[step - 1]
    first = results["bursts"]["Adagrad"][0]
    t = np.arange(50, first - 30)
    np.testing.assert_allclose(sigma[t], sigma[50] * np.sqrt(51 / (t + 1)), rtol=1e-3)  # as 1 / √t
    assert results["sigma after"] > 1.3 * results["sigma before"]


def test_decay_cures_the_bursts(results: Any) -> None:
    run = results["runs"]["Adagrad, decay"]
    assert results["bursts"]["Adagrad, decay"] == []
    assert results["overshoot"]["Adagrad, decay"].max() < 2
    assert np.all(np.diff(run["distance"][20:]) < 0)
    assert np.all(np.diff(run["loss"]) < 0)
    assert run["loss"][-1] < 1e-3
    late = slice(-500, None)
    assert results["runs"]["Adagrad"]["loss"][late].max() > 50 * run["loss"][late].max()


def test_bursts_are_found_where_they_are() -> None:
    assert adaptive.bursts(np.array([1, 0.5, 0.1, 0.3])) == []
    assert adaptive.bursts(np.array([1, 0.001, 0.1, 0.3, 0.5, 0.3, 0.1, 0.3, 0.001, 0.3])) == [3, 9]


def test_rmsprop_bounces_without_decay_and_arrives_with_it(results: Any) -> None:
    held, decayed = results["runs"]["RMSProp"], results["runs"]["RMSProp, decay"]
    assert np.linalg.norm(held["path"][1] - adaptive.START) == pytest.approx(
        math.sqrt(2) * 10 * adaptive.RATE, rel=1e-5
    )
    assert abs(held["path"][-100:, 0]).max() < 0.15  # it has arrived along the valley
    assert held["distance"][-100:] == pytest.approx(np.full(100, adaptive.RATE / 2), rel=0.03)
    assert np.all(np.diff(np.sign(adaptive.distance(held["path"][-100:]))) != 0)
    assert held["loss"][-1] == pytest.approx((adaptive.RATE / 2) ** 2 / 2, rel=0.05)
    assert decayed["loss"][-1] < 1e-12
    assert results["bursts"]["RMSProp"][0] < results["bursts"]["Adagrad"][0]


def test_adam_arrives_smoothly(results: Any) -> None:
    run = results["runs"]["Adam"]
    assert results["bursts"]["Adam"] == []
    assert run["loss"][-1] < 1e-9
    assert abs(run["path"][1] - adaptive.START) == pytest.approx(adaptive.RATE, rel=1e-5)  # the correction at work
    assert run["loss"][-1] == min(results["runs"][name]["loss"][-1] for name in ("Adagrad", "RMSProp", "Adam"))


def test_rmsprop_reacts_and_adagrad_remembers(results: Any) -> None:
    reaction = results["react"]
    gradient = reaction["gradient"]
    mean = np.sqrt(np.cumsum(gradient**2) / np.arange(1, len(gradient) + 1))
    np.testing.assert_allclose(reaction["Adagrad"], mean, rtol=1e-12)
    square, moving = 0.01, []
    for value in gradient:
        square = 0.9 * square + 0.1 * value**2
        moving.append(math.sqrt(square))
    np.testing.assert_allclose(reaction["RMSProp"], moving, rtol=1e-12)
    assert moving[119] > 0.9 > 0.5 > mean[119]  # after 20 large gradients
    assert moving[-1] < 0.101
    assert mean[-1] > 0.25  # after 180 small ones


def test_pictures_and_texts(results: Any) -> None:
    chapter = adaptive.CHAPTER
    figures = chapter.draw(results)
    assert len(figures) == len(chapter.pictures) == 6
    for picture in chapter.pictures:
        for text in (picture.caption, picture.alt):
            assert len(text(results) if callable(text) else text) > 60
        assert figures[picture.name].axes[-1].get_xlabel()
        assert all(axes.get_ylabel() for axes in figures[picture.name].axes)
    assert chapter.terms["root mean square"] == "均方根"
