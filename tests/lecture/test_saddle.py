"""Chapter 2's claims, against closed forms: L = (1 - w1 w2)², its derivatives, and gradient descent's two factors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from examples.lecture import saddle


@pytest.fixture(scope="module")
def results():
    return saddle.compute()


def closed_form(w):
    return (1 - np.prod(w, axis=-1)) ** 2


def test_the_network_is_the_product_of_its_weights():
    for layers in (2, 3):
        f = saddle.network(layers)
        for w in np.random.default_rng(layers).normal(size=(10, layers)):
            loss, gradient = f(w)
            assert loss == pytest.approx(closed_form(w), rel=1e-12, abs=1e-15)
            np.testing.assert_allclose(gradient, -2 * (1 - w.prod()) * w.prod() / w, rtol=1e-12, atol=1e-14)


def test_the_error_surface(results):
    surface = results["surface"]
    w1, w2 = np.meshgrid(np.linspace(-2, 2, 81), np.linspace(-2, 2, 81))
    np.testing.assert_allclose(surface.losses, (1 - w1 * w2) ** 2, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(surface.a, w1[0], atol=1e-15)
    np.testing.assert_allclose(surface.b, w2[:, 0], atol=1e-15)


def test_the_origin_is_a_saddle(results):
    np.testing.assert_array_equal(results["gradient"], 0)
    np.testing.assert_allclose(results["hessian"], [[0, -2], [-2, 0]], atol=1e-8)
    np.testing.assert_allclose(results["eigenvalues"], [-2, 2], rtol=1e-8)
    down, up = results["eigenvectors"].T
    assert abs(down @ [1, 1]) == pytest.approx(math.sqrt(2), rel=1e-8)
    assert abs(up @ [1, -1]) == pytest.approx(math.sqrt(2), rel=1e-8)
    report = results["report"]
    assert report.verdict == "saddle point"
    assert report.loss == 1
    assert report.gradient_norm == 0
    assert (report.smallest, report.largest) == pytest.approx((-2, 2), rel=1e-8)


def test_along_the_eigenvectors_the_loss_is_what_half_lambda_u_squared_says(results):
    for name, eigenvalue in (("down", -2), ("up", 2)):
        line = results["taylor"][name]
        assert line.slope == 0
        assert line.curvature == pytest.approx(eigenvalue, rel=1e-8)
        np.testing.assert_allclose(line.losses, (1 + eigenvalue / 4 * line.steps**2) ** 2, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(line.second_order, 1 + eigenvalue / 2 * line.steps**2, rtol=1e-7, atol=1e-8)
        away = np.abs(line.steps) > 0.01
        assert (np.sign(line.losses - 1)[away] == np.sign(eigenvalue)).all()


def test_the_difference_to_the_model_shrinks_as_u_to_the_fourth(results):
    near = results["near"]
    difference = near.losses - near.second_order
    np.testing.assert_allclose(difference, near.steps**4 / 4, rtol=1e-3)
    slopes = np.diff(np.log(difference)) / np.diff(np.log(near.steps))
    np.testing.assert_allclose(slopes, 4, atol=0.01)


def test_scipy_calls_the_saddle_a_success_and_the_package_does_not(results):
    assert results["scipy"]["success"]
    assert results["scipy"]["steps"] == 0
    assert results["scipy"]["loss"] == 1
    np.testing.assert_array_equal(results["scipy"]["end"], 0)
    assert results["scipy_verdict"] == "saddle point"


def test_escape_from_exactly_the_saddle_ends_in_a_minimum(results):
    escape = results["escape"]
    np.testing.assert_array_equal(escape.path[0], 0)
    assert escape.success
    assert escape.loss < 1e-8
    assert closed_form(escape.theta) < 1e-8
    assert escape.theta.prod() == pytest.approx(1, abs=1e-4)
    assert escape.report.verdict == "degenerate"  # a valley: the Hessian there is 2 (w2, w1) (w2, w1)'
    assert escape.report.largest == pytest.approx(2 * escape.theta @ escape.theta, rel=1e-3)
    assert escape.report.smallest == pytest.approx(0, abs=1e-4)
    way_down = results["way_down"]
    np.testing.assert_array_equal(way_down[0], 0)
    assert closed_form(way_down[-1]) <= escape.loss + 1e-12
    assert (np.diff(closed_form(way_down)) < 0).all()
    assert abs(way_down[1] @ [1, -1]) < 1e-6  # the first step: along (1, 1) or against it


def test_on_the_ridge_gradient_descent_walks_into_the_saddle(results):
    run = results["ridge"][0.0]
    w1, w2 = run["path"].T
    np.testing.assert_array_equal(w1, -w2)  # rounds alike on both sides: it stays on the ridge to the last bit
    distance = np.linalg.norm(run["path"], axis=1)
    assert (np.diff(distance) < 0).all()
    # the factor of a step towards the saddle: 1 - rate * 2 (1 + w1²), the eigenvalue 2 in the end
    np.testing.assert_allclose(distance[1:] / distance[:-1], 1 - 0.2 * (1 + w1[:-1] ** 2), rtol=1e-12)
    assert run["losses"].min() == run["losses"][-1] == 1
    assert run["left"] is None


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3])
def test_beside_the_ridge_it_leaves(results, size):
    run = results["ridge"][size]
    distance = np.linalg.norm(run["path"], axis=1)
    nearest = int(distance.argmin())
    assert distance[nearest] < 2 * math.sqrt(size)
    assert run["losses"][nearest] == pytest.approx(1, abs=10 * size)
    assert run["losses"][-1] < 1e-12
    assert run["path"][-1].prod() == pytest.approx(1, abs=1e-6)
    leaving = run["path"][nearest + 8 : run["left"] - 8].sum(axis=1)  # along (1, 1), near the saddle
    np.testing.assert_allclose(leaving[1:] / leaving[:-1], 1.2, rtol=0.03)


def test_a_thousand_times_closer_costs_the_same_number_of_steps(results):
    left = [results["ridge"][size]["left"] for size in (1e-3, 1e-6, 1e-9)]
    np.testing.assert_allclose(np.diff(left), math.log(1000) / math.log(1.2), atol=1.0)


def test_three_layers_are_degenerate_at_the_origin(results):
    deep = results["deep"]
    np.testing.assert_allclose(deep["hessian"], np.zeros((3, 3)), atol=1e-8)
    assert deep["report"].verdict == "degenerate"
    assert deep["report"].gradient_norm == 0
    assert deep["escape"].success
    assert deep["escape"].theta.prod() == pytest.approx(1, abs=1e-4)
    for layers in (2, 3):
        line = deep["taylor"][layers]
        np.testing.assert_allclose(line.losses, (1 - line.steps**layers) ** 2, rtol=1e-12, atol=1e-14)
    right, left = deep["taylor"][3].losses[line.steps > 0.1], deep["taylor"][3].losses[line.steps < -0.1]
    assert right[0] < 1 < left[-1]


def test_three_layers_need_steps_as_the_inverse_of_their_weights(results):
    runs = results["deep"]["runs"]
    # two: a grows by 1.2 a step; three: 1 / a shrinks by 2 * rate a step, up to terms that do not grow with 1 / a
    assert runs[2]["left"] == pytest.approx(math.log(math.sqrt(1 - math.sqrt(0.5)) / 0.01) / math.log(1.2), abs=2)
    assert runs[3]["left"] == pytest.approx(1 / (2 * 0.1 * 0.01), rel=0.02)
    for run in runs.values():
        assert run["losses"][-1] < 1e-12


def test_numbers_repeat(results):
    again = saddle.compute()
    np.testing.assert_array_equal(results["escape"].theta, again["escape"].theta)
    np.testing.assert_array_equal(results["eigenvectors"], again["eigenvectors"])
    np.testing.assert_array_equal(results["surface"].losses, again["surface"].losses)


def test_pictures_and_texts(results, tmp_path):
    chapter = saddle.CHAPTER
    assert [path.stat().st_size > 0 for path in chapter.save(results, tmp_path)] == [True] * len(chapter.pictures)
    texts = [chapter.text, *(p.caption for p in chapter.pictures), *(p.alt for p in chapter.pictures)]
    filled = [t(results) if callable(t) else t for t in texts]
    assert all(t.strip() and "{" not in t and "None" not in t and "nan" not in t.split() for t in filled)
    assert "the eigenvalues -2 and\n2. Both signs" in filled[0]
