"""What the chapter on bouncing in a valley claims, against closed forms, SciPy and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from examples.lecture import valley
from onepass import optim


@pytest.fixture(scope="module")
def results() -> Any:
    return valley.compute()


def test_gradient_of_the_valley_by_central_differences(rng: np.random.Generator) -> None:
    w = rng.standard_normal((50, 2)) * [5, 2]
    _, gradient = valley.valley(w)
    for axis, unit in enumerate(np.eye(2) * 1e-5):
        numeric = (valley.valley(w + unit)[0] - valley.valley(w - unit)[0]) / 2e-5
        np.testing.assert_allclose(gradient[:, axis], numeric, atol=1e-9)


def test_large_rate_goes_to_and_fro_between_two_points(results: Any) -> None:
    """One step from u to -u: 2u = rate tanh(u), whose root is SciPy's."""
    optimize = pytest.importorskip("scipy.optimize")
    height = optimize.brentq(lambda u: 2 * u - valley.LARGE * np.tanh(u), 0.5, 10)
    path = results["runs"]["large rate"]["path"]
    np.testing.assert_allclose(abs(path[100:, 1]), height, rtol=1e-9)
    assert np.all(np.diff(np.sign(path[:, 1])) != 0)
    np.testing.assert_allclose(path[:, 0], -8 * (1 - valley.LARGE * valley.FLOOR) ** np.arange(len(path)), rtol=1e-9)


def test_loss_is_flat_and_the_gradient_is_not_small(results: Any) -> None:
    run = results["runs"]["large rate"]
    late_loss, late_norm = run["loss"][valley.DECAY :], run["norm"][valley.DECAY :]
    assert np.ptp(late_loss) < 0.01 * late_loss.mean()
    assert late_loss[-1] > 0.5 * run["loss"][0]
    assert late_norm.min() > 0.95 * run["norm"].max()  # hardly less than anywhere on the way


def test_neither_place_is_a_critical_point(results: Any) -> None:
    for judgement, run in (
        (results["judgement"], results["runs"]["large rate"]["norm"][-1]),
        (results["digits"]["judgement"], results["digits"]["runs"]["constant rate"]["norm"][valley.NETWORK_DECAY]),
    ):
        assert judgement["verdict"] == "not critical"
        assert judgement["gradient norm"] == pytest.approx(run, rel=1e-9)
        assert judgement["gradient norm"] > 1000 * judgement["critical up to"]


def test_a_smaller_rate_gets_down_at_once(results: Any) -> None:
    held, run = results["runs"]["large rate"], results["runs"]["large, then small"]
    np.testing.assert_array_equal(run["loss"][: valley.DECAY + 1], held["loss"][: valley.DECAY + 1])
    assert run["loss"][valley.DECAY + 10] < 0.01 * held["loss"][valley.DECAY + 10]
    assert run["norm"][valley.DECAY + 20] < 0.02
    assert np.all(np.diff(run["loss"][valley.DECAY :]) < 0)


def test_rmsprop_gets_down_without_bouncing(results: Any) -> None:
    run = results["runs"]["RMSProp"]
    assert run["loss"][-1] < 1e-3
    assert np.all(run["path"][:80, 1] > 0)  # never on the other wall on its way down
    assert abs(run["path"][-1]).max() < 0.1


def test_a_small_rate_from_the_start_is_slow_along_the_valley() -> None:
    small = valley.descend(lambda w: optim.SGD([w], lr=valley.SMALL))
    large = valley.descend(lambda w: optim.SGD([w], lr=valley.LARGE))
    assert small["path"][valley.DECAY, 0] < -6 < -1.5 < large["path"][valley.DECAY, 0]


def test_gradient_of_the_network_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    digits = valley.Digits()
    theta = [parameter.copy() for parameter in digits.model.parameters()]
    loss, gradient = digits.loss_and_gradient(theta)
    weights = [torch.tensor(p, requires_grad=True) for p in theta]
    w1, b1, w2, b2 = weights
    x, y = torch.tensor(digits.x), torch.tensor(digits.y)
    hidden = torch.tanh(torch.nn.functional.linear(x, w1.reshape(32, 64), b1))
    expected = torch.nn.functional.mse_loss(torch.nn.functional.linear(hidden, w2.reshape(10, 32), b2), y)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for ours, theirs in zip(gradient, weights, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-9, atol=1e-13)


def test_loss_of_the_network_is_stuck_and_its_gradient_is_not_small(results: Any) -> None:
    found = results["digits"]
    held = found["runs"]["constant rate"]
    early, late = held["norm"][50:150].mean(), held["norm"][-valley.WINDOW :].mean()
    assert late > 0.8 * early  # it does not shrink
    assert found["norm before"] > 10 * found["norm after"]
    assert 0 < found["fall before"] < 0.1
    assert np.sum(np.diff(held["loss"][200:400]) > 0) > 60  # up as well as down


def test_a_decayed_rate_lets_the_loss_of_the_network_fall_at_once(results: Any) -> None:
    found = results["digits"]
    held = found["runs"]["constant rate"]
    assert found["fall after"] > 0.1
    assert found["fall after"] > 2 * found["fall before"]  # ten steps against a hundred
    for name, run in found["runs"].items():
        if name == "constant rate":
            continue
        np.testing.assert_array_equal(run["loss"][: valley.NETWORK_DECAY], held["loss"][: valley.NETWORK_DECAY])
        after = run["loss"][valley.NETWORK_DECAY + 10 :]
        assert after.max() < held["loss"][: valley.NETWORK_DECAY].min()  # below all that was seen until then
        assert np.sum(np.diff(after) > 0) < 10


def test_the_network_lies_between_two_walls(results: Any) -> None:
    profile = results["digits"]["profile"]
    where, loss = profile["multiples"], profile["loss"]
    floor = int(loss.argmin())
    assert 0.3 < where[floor] < 0.7
    assert np.all(np.diff(loss[: floor + 1]) < 0)
    assert np.all(np.diff(loss[floor:]) > 0)
    step = np.interp(1.0, where, loss)
    assert abs(step - profile["here"]) < 0.35 * (profile["here"] - loss[floor])  # as high up on the other wall
    assert np.interp(0.1, where, loss) < profile["here"]  # a tenth of the step goes down
    assert np.interp(0.0, where, loss) == pytest.approx(profile["here"], rel=1e-2)


def test_the_curvature_is_at_the_edge_of_stability(results: Any) -> None:
    found = results["digits"]
    assert found["curvature"] == pytest.approx(2 / valley.NETWORK_RATE, rel=0.15)
    where, loss = found["profile"]["multiples"], found["profile"]["loss"]
    parabola = np.polynomial.Polynomial.fit(where, loss, 4).deriv(2)(0.0)  # along the gradient, in steps of SGD
    norm = found["runs"]["constant rate"]["norm"][valley.NETWORK_DECAY]
    assert found["curvature"] == pytest.approx(parabola / (valley.NETWORK_RATE * norm) ** 2, rel=0.02)


def test_pictures_and_texts(results: Any) -> None:
    chapter = valley.CHAPTER
    figures = chapter.draw(results)
    assert list(figures) == ["valley-path", "valley-loss", "valley-digits", "valley-profile"]
    for picture in chapter.pictures:
        for text in (picture.caption, picture.alt):
            assert len(text(results) if callable(text) else text) > 60
        assert figures[picture.name].axes[-1].get_xlabel()
        assert all(axes.get_ylabel() for axes in figures[picture.name].axes)
    assert chapter.terms["critical point"] == "临界点"
