"""What the chapter on momentum claims, against closed forms and exactly rounded sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from examples.lecture import momentum


@pytest.fixture(scope="module")
def results() -> Any:
    return momentum.compute()


def test_gradient_of_the_hill_by_central_differences() -> None:
    w, h = np.linspace(-5, 7, 241), 1e-5
    numeric = (momentum.hill(w + h)[0] - momentum.hill(w - h)[0]) / (2 * h)
    np.testing.assert_allclose(momentum.hill(w)[1], numeric, atol=1e-9)


def test_the_hill_has_a_plateau_a_small_minimum_and_a_deep_one() -> None:
    w = np.linspace(-4.5, 6, 100_001)
    _, gradient = momentum.hill(w)
    turns = w[1:][np.diff(np.sign(gradient)) != 0]
    assert turns == pytest.approx([1.21, 1.91, 4.01], abs=0.01)  # minimum, maximum, minimum
    small, top, deep = momentum.hill(turns)[0]
    assert deep < small - 0.5
    assert small < top < small + 0.12
    plateau = (w > -1) & (w < 0.4)
    assert np.all(gradient[plateau] < 0)  # no critical point, but nearly flat
    assert abs(gradient[plateau]).max() < 0.07 * abs(gradient).max()


def test_without_momentum_it_stops_in_the_small_minimum(results: Any) -> None:
    path = results["rolling"]["0.0"]["path"]
    assert path[-1] == pytest.approx(1.2137, abs=1e-3)
    assert abs(momentum.hill(path[-1:])[1]) < 1e-12  # it has arrived: more steps change nothing
    assert np.all(np.diff(path) >= 0)


def test_with_momentum_it_crosses_plateau_and_hill(results: Any) -> None:
    keep = str(results["momentum"])
    path, loss = results["rolling"][keep]["path"], results["rolling"][keep]["loss"]
    assert path[-1] == pytest.approx(4.0072, abs=1e-3)
    assert loss[-1] < 0.03 < 0.9 < results["rolling"]["0.0"]["loss"][-1]
    assert path.max() > 5  # past the minimum, and back
    assert np.diff(loss).max() > 0.05  # it has gone uphill
    assert results["on plateau"]["0.0"] > 20 * results["on plateau"][keep] > 0


def test_too_little_momentum_is_not_enough(results: Any) -> None:
    least = results["smallest that gets through"]
    assert 0.8 < least < results["momentum"]
    ends = [momentum.descend(momentum.hill, [-4.0], 0.1, m, 1500)["path"][-1, 0] for m in (least - 0.01, least)]
    assert ends == pytest.approx([1.2137, 4.0072], abs=1e-3)


def test_movement_is_the_weighted_sum_of_all_past_gradients(results: Any) -> None:
    errors = results["errors"]
    assert errors.keys() == {"buffer", "movement", "whole"}
    assert max(errors.values()) < 8  # units of rounding
    assert errors["buffer"] > 0  # the two are computed differently


def test_weighted_sums_on_other_surfaces() -> None:
    """Written out once more, in exact sums; and a wrong exponent is seen."""
    for keep in (0.3, 0.9):
        run = momentum.descend(momentum.hill, [-4.0, 0.3, 5.0], 0.05, keep, 60)
        for step in (1, 2, 17, 60):
            for axis in range(3):
                terms = [-0.05 * keep ** (step - 1 - i) * run["gradient"][i, axis] for i in range(step)]
                moved = run["path"][step, axis] - run["path"][step - 1, axis]
                scale = abs(run["path"][step, axis]) + sum(map(abs, terms))
                assert abs(moved - math.fsum(terms)) < 4 * 2**-52 * scale
        assert max(momentum.sum_errors(run, 0.05, keep).values()) < 8
        assert min(momentum.sum_errors(run, 0.05, keep + 1e-6).values()) > 1e6


def test_along_the_ravine_gradients_add_up_and_across_they_cancel(results: Any) -> None:
    along, across = results["terms"].T
    assert np.all(along > 0)
    assert along.sum() > 3 * along.max()
    assert np.all(across[1:] * across[:-1] < 0)
    assert abs(across.sum()) < abs(across).max() < abs(across).sum() / 3


def test_ravine_without_momentum_by_its_closed_form(results: Any) -> None:
    lr, _ = results["best"]["SGD"]
    steps = np.arange(400)
    distances = (1 - lr * momentum.CURVATURES) ** steps[:, None] * [-10.0, 1.0]
    loss = results["ravine"]["SGD"]["loss"]
    np.testing.assert_allclose(loss[:400], distances**2 @ momentum.CURVATURES / 2, rtol=1e-10)
    np.testing.assert_allclose(loss[101:400] / loss[100:399], (99 / 101) ** 2, rtol=1e-10)


def test_ravine_with_momentum_by_its_closed_form(results: Any) -> None:
    """At Polyak's best values the iteration has one double root r, ±(√κ - 1) / (√κ + 1): w = (a + b t) r^t."""
    path = results["ravine"]["momentum"]["path"]
    for axis, (root, start) in enumerate(((9 / 11, -10.0), (-9 / 11, 1.0))):
        first = (1 - results["best"]["momentum"][0] * momentum.CURVATURES[axis]) * start
        t = np.arange(60)
        expected = (start + (first / root - start) * t) * root**t
        np.testing.assert_allclose(path[:60, axis], expected, rtol=1e-9, atol=1e-9 * abs(start))


def test_momentum_arrives_first_though_each_has_its_best_rate(results: Any) -> None:
    plain, with_momentum = results["arrival"]["SGD"], results["arrival"]["momentum"]
    assert plain > 5 * with_momentum > 0
    for factor in (0.8, 0.95, 1.005):  # SGD is slower with any other rate
        lr = factor * results["best"]["SGD"][0]
        run = momentum.descend(momentum.ravine(momentum.CURVATURES), [-10.0, 1.0], lr, 0.0, 1200)
        arrived = momentum.arrival(run["loss"])
        assert arrived > plain or arrived == -1


def test_without_momentum_the_rate_of_momentum_explodes(results: Any) -> None:
    assert results["best"]["momentum"][0] * momentum.CURVATURES[1] > 2
    assert results["ravine"]["SGD, the rate of momentum"]["loss"][-1] > 1e20
    assert results["arrival"]["SGD, the rate of momentum"] == -1


def test_pictures_and_texts(results: Any) -> None:
    chapter = momentum.CHAPTER
    figures = chapter.draw(results)
    assert list(figures) == ["momentum-ball", "momentum-arrows", "momentum-ravine", "momentum-weights"]
    for picture in chapter.pictures:
        for text in (picture.caption, picture.alt):
            assert len(text(results) if callable(text) else text) > 60
        assert figures[picture.name].axes[-1].get_xlabel()
        assert all(axes.get_ylabel() for axes in figures[picture.name].axes)
    assert chapter.terms["momentum"] == "动量"
