"""Chapter 4 of the lecture: what its figures say of batches is what was computed."""

from __future__ import annotations

import numpy as np
import pytest

import onepass
from examples.lecture import batches
from examples.lecture.batches import ALL, DECAYS, EVERY_EPOCH, ONCE, SMALL, SORTED


@pytest.fixture(scope="module")
def results():
    threads = onepass.get_threads()
    found = batches.compute()
    assert onepass.get_threads() == threads
    return found


def test_times_are_there_for_one_and_all_threads(results):
    assert sorted(results["times"]) == sorted({1, onepass.get_threads()})
    for seconds in results["times"].values():
        assert seconds.shape == (2, len(batches.TIMED_SIZES))
        assert (seconds > 0).all()


def test_large_batches_make_fewer_updates_an_epoch(results):
    assert results["updates_per_epoch"].tolist() == [180, 45, 12, 3, 1]  # 1437 / size, rounded up
    assert (batches.EPOCHS * results["updates_per_epoch"] == results["ends"]["one rate"]["updates"].T).all()


def test_the_minimum_is_one_and_the_contours_are_the_real_loss(results):
    x, target = batches.ones_and_eights()
    loss, gradient = batches.loss_and_gradient(results["minimum"], x, target)
    assert np.abs(gradient).max() < 1e-6
    assert loss == pytest.approx(results["minimum_loss"], rel=1e-12)
    w1, w2, surface = results["surface"]
    assert surface.min() >= loss
    for i, j in ((0, 0), (10, 40), (48, 68)):
        z = x @ (w1[j], w2[i])
        assert surface[i, j] == pytest.approx(np.mean(np.logaddexp(0, z) - target[:, 0] * z), rel=1e-12)


def test_small_batches_take_a_longer_path_to_the_same_region(results):
    whole, small = results["lengths"][ALL][0], results["lengths"][SMALL]
    straight = np.linalg.norm(np.subtract(batches.START, results["minimum"]))
    assert straight < 1.02 * whole < 1.3 * straight  # ends 1 or 2 percent short of the minimum
    assert min(small) > 8 * whole
    for excess in results["excess"].values():
        assert (excess[:, 0] > 8 * results["minimum_loss"]).all()
        assert (excess[:, -1] < 0.05 * results["minimum_loss"]).all()


def test_small_batches_need_as_many_updates_and_fewer_rows(results):
    whole = results["arrivals"][ALL][0]
    for updates in results["arrivals"][SMALL]:
        assert 0.5 * whole <= updates <= 2 * whole
        assert 5 * updates * batches.PATH_SIZE < whole * results["rows"]


def test_the_noise_of_small_batches_stays_unless_the_rate_decays(results):
    late = {name: excess[:, -10:].mean() for name, excess in results["excess"].items()}
    assert results["excess"][SMALL][:, 1].max() < 0.1 * results["excess"][ALL][0, 1]
    assert late[SMALL] > 2 * late[ALL]
    assert late[DECAYS] < 0.1 * late[SMALL]
    path = results["paths"]
    steps = {name: np.linalg.norm(np.diff(path[name], axis=0), axis=1)[-10:].max() for name in (ALL, SMALL)}
    assert steps[SMALL] > 5 * steps[ALL]


@pytest.mark.parametrize("rows", ["training", "test"])
@pytest.mark.parametrize("way", ["one rate", "best rates"])
def test_at_equal_epochs_the_largest_batches_are_worse_beyond_the_spread(results, way, rows):
    accuracy = results["ends"][way][rows]
    small, large = accuracy[0], accuracy[-1]
    assert large.max() < small.min() - 0.05
    assert large.mean() + 2 * large.std() < small.mean() - 2 * small.std()
    if way == "one rate":
        assert (np.diff(accuracy.mean(axis=1)) < 0).all()
        assert large.mean() < 0.5


def test_the_best_rate_helps_large_batches_and_is_not_at_the_end_of_what_was_tried(results):
    one, best = (results["ends"][way]["test"].mean(axis=1) for way in ("one rate", "best rates"))
    assert best[-1] > one[-1] + 0.3
    assert batches.RATES[0] < min(results["best_rates"]) <= max(results["best_rates"]) < batches.RATES[-1]
    assert results["best_rates"] == sorted(results["best_rates"])


def test_at_equal_training_loss_no_batch_size_is_worse_on_the_test_rows(results):
    ends = results["ends"]["same loss"]
    assert (ends["loss"] < batches.SAME_LOSS).all()
    means, spreads = ends["test"].mean(axis=1), ends["test"].std(axis=1)
    assert np.ptp(means) < 0.015  # 5 of 360 rows
    assert np.ptp(means) < 4 * spreads.max()


def test_the_updates_that_are_needed_level_off(results):
    updates = results["ends"]["same loss"]["updates"].mean(axis=1)
    epochs = updates / results["updates_per_epoch"]
    assert updates[0] > 3 * updates[2]
    assert updates[2] < 2 * updates[-1]
    assert (np.diff(epochs) > 0).all()
    assert epochs[-1] > 10 * epochs[0]


def test_sorted_rows_end_worse_and_favour_what_came_last(results):
    ends = {name: accuracy[:, -1] for name, accuracy in results["curves"].items()}
    assert ends[SORTED].max() < ends[EVERY_EPOCH].min() - 0.08
    assert abs(ends[ONCE].mean() - ends[EVERY_EPOCH].mean()) < 0.02
    assert results["said"][SORTED][8:].sum() > 0.28  # a fifth of the rows
    assert np.abs(results["said"][EVERY_EPOCH] - 0.1).max() < 0.03
    assert all(share.sum() == pytest.approx(1) for share in results["said"].values())


def test_every_picture_draws_and_every_text_is_filled(results):
    chapter = batches.CHAPTER
    assert list(chapter.draw(results)) == [picture.name for picture in chapter.pictures]
    texts = [chapter.text(results), *(picture.caption(results) for picture in chapter.pictures)]
    for text in texts:
        assert len(text) > 100
        assert "nan" not in text
        assert "{" not in text
    assert all(picture.alt for picture in chapter.pictures)
