"""Chapter 9 of the lecture: what its figures say of schedules and optimizers is what was computed."""

from __future__ import annotations

import numpy as np
import pytest

from examples.lecture import schedules
from examples.lecture.schedules import BOTH, CONSTANT, DECAY, LARGE, RADAM, RADAM_DECAY, RATES, SGD, STEPS, WARM, WARMUP

AT_LARGE = RATES.index(LARGE)


@pytest.fixture(scope="module")
def results():
    return schedules.compute()


@pytest.fixture(scope="module")
def accuracy(results):
    """Way -> mean training accuracy at the end (rates,)."""
    return {way: found.mean(axis=1) for way, found in results["warmup"]["accuracy"].items()}


def test_schedules_are_the_closed_forms(results):
    step = np.arange(STEPS)
    rising = (step + 1) / WARMUP
    left = np.maximum(step - WARMUP, 0) / (STEPS - WARMUP)
    expected = {
        CONSTANT: np.ones(STEPS),
        DECAY: (1 + np.cos(np.pi * step / STEPS)) / 2,
        WARM: np.minimum(rising, 1),
        BOTH: np.where(step < WARMUP, rising, (1 + np.cos(np.pi * left)) / 2),
    }
    assert results["schedules"].keys() == expected.keys()
    for way, rates in results["schedules"].items():
        np.testing.assert_allclose(rates, expected[way], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta2", [0.999, 0.99])
def test_radam_warms_up_by_its_factor(results, beta2):
    """r_t of Liu et al. (ICLR 2020), equation 5, for a gradient that is always the same."""
    t = np.arange(1, schedules.LONG + 1)
    limit = 2 / (1 - beta2) - 1
    rho = limit - 2 * t * beta2**t / (1 - beta2**t)
    known = rho > 5
    assert known.argmax() == 5  # from the sixth step on
    rho = rho[known]
    r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
    moved = results["step_sizes"][f"RAdam, β2 = {beta2}"]
    np.testing.assert_allclose(moved[~known], schedules.SMALL_GRADIENT, rtol=1e-6)
    np.testing.assert_allclose(moved[known], r, rtol=1e-3)  # eps beside a gradient of 0.001, and v's rounding
    assert (np.diff(moved[5:]) > -1e-9).all()
    assert moved[-1] > 0.99


def test_adam_moves_by_the_whole_rate_from_the_first_step(results):
    np.testing.assert_allclose(results["step_sizes"]["Adam"], 1, rtol=1e-4)
    warmed = np.minimum(np.arange(1, schedules.LONG + 1) / 2000, 1)
    np.testing.assert_allclose(results["step_sizes"]["Adam, warm-up"], warmed, rtol=1e-4)


def test_a_short_run_never_leaves_radams_warmup(results):
    assert results["step_sizes"]["RAdam, β2 = 0.999"][STEPS - 1] < 0.5


def test_units_die_in_the_first_epoch_unless_there_is_warmup(results):
    dead = {way: share[AT_LARGE] for way, share in results["warmup"]["dead"].items()}  # (seeds, epochs + 1)
    before = dead[CONSTANT][:, 0]
    for way in (CONSTANT, DECAY):
        assert (dead[way][:, 1] > before + 0.15).all()
        assert (dead[way][:, 1:].mean(axis=0) > 0.5).all()  # and they stay so
    for way in (WARM, BOTH, RADAM, RADAM_DECAY):
        assert (dead[way][:, 1] < before + 0.05).all()
        assert (dead[way].mean(axis=0) < 0.45).all()
        assert dead[way][:, 0].tolist() == before.tolist()  # the same networks at the start


def test_at_a_large_rate_it_takes_warmup_and_decay(results, accuracy):
    at_large = {way: found[AT_LARGE] for way, found in accuracy.items()}
    assert at_large[BOTH] > at_large[CONSTANT] + 0.1
    for way in (DECAY, WARM):
        assert at_large[BOTH] > at_large[way] + 0.04
    for way in (RADAM, RADAM_DECAY):
        assert at_large[way] > at_large[CONSTANT] + 0.05
    losses = {way: found[AT_LARGE, :, -1].mean() for way, found in results["warmup"]["losses"].items()}
    assert min(losses, key=losses.get) == BOTH
    assert losses[BOTH] < 0.4 * losses[CONSTANT]


def test_a_smaller_constant_rate_is_no_substitute(accuracy):
    assert accuracy[CONSTANT].argmax() not in (0, len(RATES) - 1)  # the best rate is among those that were tried
    assert accuracy[BOTH].max() > accuracy[CONSTANT].max() + 0.005
    assert accuracy[BOTH].max() > accuracy[DECAY].max() + 0.005


def test_warmup_and_radam_make_larger_rates_possible(accuracy):
    assert accuracy[BOTH][AT_LARGE] > accuracy[BOTH].max() - 0.04
    assert accuracy[CONSTANT][AT_LARGE] < accuracy[CONSTANT].max() - 0.08
    assert accuracy[RADAM_DECAY].argmax() == len(RATES) - 1
    for way in (CONSTANT, DECAY, WARM):
        assert accuracy[way][-1] < accuracy[RADAM][-1] - 0.2


def chosen(found, key):
    return found[key][found["chosen"]]


def test_adam_is_faster_than_sgd_with_momentum(results):
    found = results["optimizers"]
    fastest = {name: of["epochs"].mean(axis=1).min() for name, of in found.items()}
    assert fastest["Adam"] < 0.85 * fastest[SGD]  # each at its fastest rate
    assert chosen(found["Adam"], "epochs").mean() < 0.85 * chosen(found[SGD], "epochs").mean()
    assert fastest["AdaBound"] < fastest[SGD]
    assert chosen(found["Adam"], "losses")[:, -1].mean() < 0.6 * chosen(found[SGD], "losses")[:, -1].mean()


def test_all_end_alike_on_the_test_rows(results):
    test = {name: chosen(found, "test") for name, found in results["optimizers"].items()}
    means = [accuracy.mean() for accuracy in test.values()]
    assert min(means) > 0.94
    assert max(means) - min(means) < 2 * max(accuracy.std() for accuracy in test.values())
    assert abs((test["Adam"] - test[SGD]).mean()) < 0.005


def test_the_choice_is_by_validation(results):
    for found in results["optimizers"].values():
        accuracy = found["validation"].mean(axis=1)
        error = found["validation"][accuracy.argmax()].std(ddof=1) / np.sqrt(len(schedules.COMPARED_SEEDS))
        good = [i for i, value in enumerate(accuracy) if value >= accuracy.max() - error]
        assert found["chosen"] == min(good, key=lambda i: found["epochs"][i].mean())


def test_swats_switches_only_with_a_wide_tolerance(results):
    swats = results["optimizers"]["SWATS"]
    assert 0 < chosen(swats, "switched").sum() <= len(schedules.COMPARED_SEEDS)
    assert results["switched_at_the_papers_tolerance"] == 0
    assert not any(found["switched"].any() for name, found in results["optimizers"].items() if name != "SWATS")


def test_every_picture_draws_and_every_text_is_filled(results):
    chapter = schedules.CHAPTER
    assert list(chapter.draw(results)) == [picture.name for picture in chapter.pictures]
    texts = [chapter.text(results), *(picture.caption(results) for picture in chapter.pictures)]
    for text in texts:
        assert len(text) > 100
        assert "nan" not in text
        assert "{" not in text
    assert all(picture.alt for picture in chapter.pictures)
