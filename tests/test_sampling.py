"""Samplers: their distributions against theory and torch's, and that seed and epoch decide everything."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import data

stats = pytest.importorskip("scipy.stats")

LABELS = np.repeat([0, 1, 2, 4], [700, 200, 90, 10])[np.random.default_rng(0).permutation(1000)]
WEIGHTS = np.r_[0.0, np.arange(1.0, 20.0), 0.0]


def fits(counts, probabilities):
    """Pearson's chi-square test; for the fixed seeds of these tests."""
    counts, expected = np.asarray(counts), np.asarray(probabilities) * np.sum(counts)
    assert expected.min() > 5
    return stats.chisquare(counts, expected).pvalue > 0.01


def generator(seed):
    return np.random.Generator(np.random.Philox(seed))


def test_classes_are_equally_likely_and_rows_within_each():
    rows = data.ClassBalanced(LABELS, rows=40_000).draw(generator(1))
    classes, counts = np.unique(LABELS[rows], return_counts=True)
    assert classes.tolist() == [0, 1, 2, 4]
    assert fits(counts, np.full(4, 0.25))
    for label in classes:
        members = np.flatnonzero(label == LABELS)
        assert fits(np.bincount(rows, minlength=1000)[members], np.full(len(members), 1 / len(members)))
    assert not fits(
        np.bincount(LABELS[np.random.default_rng(0).integers(1000, size=40_000)])[[0, 1, 2, 4]], np.full(4, 0.25)
    )


def test_draws_are_independent():
    """Of the class before: a pair of neighbours is as likely as the product."""
    drawn = LABELS[data.ClassBalanced(LABELS, rows=40_001).draw(generator(2))]
    places = np.searchsorted([0, 1, 2, 4], drawn)
    assert fits(np.bincount(4 * places[:-1] + places[1:], minlength=16), np.full(16, 1 / 16))


@pytest.mark.parametrize("scale", [1.0, 1e300, 1e-300])
def test_weighted_with_replacement(scale):
    rows = data.Weighted(WEIGHTS * scale, rows=50_000).draw(generator(3))
    counts = np.bincount(rows, minlength=21)
    assert counts[0] == counts[20] == 0
    assert fits(counts[1:20], WEIGHTS[1:20] / WEIGHTS.sum())


def test_weighted_without_replacement_against_torch():
    """How often each row is among three that are drawn, and which one comes first."""
    torch = pytest.importorskip("torch")
    weights, times = [0.0, 1.0, 2.0, 4.0, 8.0], 8000
    sampler = data.Weighted(weights, rows=3, replacement=False)
    random = generator(4)
    ours = np.array([sampler.draw(random) for _ in range(times)])
    assert all(len(set(row)) == 3 for row in ours.tolist())
    torch.manual_seed(5)
    theirs = torch.multinomial(torch.tensor([weights] * times), 3).numpy()
    assert fits(np.bincount(ours[:, 0])[1:], np.array(weights[1:]) / 15)
    table = [np.bincount(drawn.ravel(), minlength=5)[1:] for drawn in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_weighted_without_replacement_where_weights_are_tiny():
    """Rows of weight 0 are never drawn, and the tiny ones in proportion to each other."""
    assert data.Weighted([0.0, 1e-320, 1.0], rows=2, replacement=False).draw(generator(0)).tolist() == [2, 1]
    assert data.Weighted([0.0, 1e-300, 1e300], rows=2, replacement=False).draw(generator(0)).tolist() == [2, 1]
    sampler = data.Weighted([1e-320, 0.0, 3e-320, 1.0], rows=2, replacement=False)
    random = generator(7)
    drawn = np.array([sampler.draw(random) for _ in range(2000)])
    assert (drawn[:, 0] == 3).all()
    counts = np.bincount(drawn[:, 1], minlength=4)
    assert counts[1] == counts[3] == 0
    assert fits(counts[[0, 2]], [0.25, 0.75])


def test_weighted_agrees_with_class_balanced():
    """One over the class's frequency as a weight."""
    weights = 1 / np.bincount(LABELS, minlength=5)[LABELS]
    rows = data.Weighted(weights, rows=40_000).draw(generator(6))
    assert fits(np.bincount(LABELS[rows])[[0, 1, 2, 4]], np.full(4, 0.25))


def test_a_draw_that_rounds_up_to_the_total_is_the_last_row_with_a_weight():
    class Largest:
        def random(self, count):
            return np.full(count, 1.0)

    assert data.Weighted([1.0, 1.0, 0.0], rows=2).draw(Largest()).tolist() == [1, 1]


@pytest.mark.parametrize(
    "sampler",
    [data.ClassBalanced(LABELS, rows=330), data.Weighted(LABELS), data.Weighted(LABELS + 1, 50, replacement=False)],
    ids=["balanced", "weighted", "without replacement"],
)
def test_seed_and_epoch_decide_the_order(sampler):
    x = np.arange(1000)

    def order(seed, epoch, batch_size=32, start=0, **options):
        batches = data.Batches(x, LABELS, batch_size, seed=seed, sampler=sampler, **options)
        assert len(batches) == -(-sampler.rows // batch_size)
        for _ in batches.epoch(epoch + 1):
            pass
        rows = []
        for xb, yb in batches.epoch(epoch, start):
            np.testing.assert_array_equal(LABELS[xb], yb)
            rows += xb.tolist()
        return rows

    expected = order(1, 2)
    assert len(expected) == sampler.rows
    assert order(1, 2, batch_size=17) == order(1, 2, prefetch=2) == expected
    assert order(1, 2, start=1) == expected[32:]
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


class Every(data.Sampler):
    """One's own: the rows backwards."""

    population = rows = 1000
    drawn = np.arange(1000)[::-1]

    def draw(self, generator):
        return self.drawn


def test_ones_own_sampler():
    batches = data.Batches(np.arange(1000), LABELS, 400, sampler=Every())
    assert np.concatenate([x.copy() for x, _ in batches.epoch(0)]).tolist() == list(range(999, -1, -1))
    assert batches.state_key()["sampler"] == {"sampler": "Every", "rows": 1000}


@pytest.mark.parametrize(
    ("drawn", "match"),
    [
        (np.arange(1, 1001), r"Every\.draw returned 1 \.\. 1000, expected numbers 0 \.\. 999"),
        (np.arange(-1, 999), r"returned -1 \.\. 998"),
        (np.arange(999), r"returned int64 \(999,\), expected integers \(1000,\)"),
        (np.zeros(1000), r"returned float64 \(1000,\)"),
    ],
)
def test_what_a_sampler_draws_is_checked(drawn, match):
    sampler = Every()
    sampler.drawn = drawn
    with pytest.raises(ValueError, match=match):
        next(data.Batches(np.arange(1000), LABELS, 400, sampler=sampler).epoch(0))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: data.Weighted([1.0, -1.0]), ValueError, "weights holds -1.0 in row 1"),
        (lambda: data.Weighted([1.0, np.nan]), ValueError, "weights holds nan in row 1"),
        (lambda: data.Weighted([0.0, 0.0]), ValueError, "weights are all 0"),
        (lambda: data.Weighted([[1.0]]), ValueError, r"weights has shape \(1, 1\)"),
        (lambda: data.Weighted([]), ValueError, r"weights has shape \(0,\)"),
        (lambda: data.Weighted([1.0], rows=0), ValueError, "rows is 0, expected >= 1"),
        (lambda: data.Weighted([1, 0, 1], replacement=False), ValueError, "only 2 rows have a weight above 0"),
        (lambda: data.ClassBalanced([0.0, 1.0]), TypeError, "labels is float64, expected integers"),
        (lambda: data.ClassBalanced([[0], [1]]), ValueError, r"labels has shape \(2, 1\)"),
        (lambda: data.ClassBalanced([0, 1], rows=0), ValueError, "rows is 0"),
        (lambda: data.ClassBalanced([0, 1], rows=1.5), TypeError, r"rows is 1\.5, expected an integer"),
        (lambda: data.Weighted([1.0], rows=1.0), TypeError, r"rows is 1\.0, expected an integer"),
        (
            lambda: data.Batches([0.0], [0], 1, sampler=data.Weighted([1, 1])),
            ValueError,
            "draws from 2 rows, but x has 1",
        ),
        (lambda: data.Batches([0.0], [0], 1, sampler=[0]), TypeError, r"sampler is \[0\], expected an object"),
        (
            lambda: data.Batches([0.0], [0], 1, shuffle=False, sampler=data.Weighted([1])),
            ValueError,
            "shuffle is False beside a sampler",
        ),
    ],
)
def test_samplers_refuse(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_rare_classes_are_learned():
    """What it is for: 2 % of the rows; balanced accuracy with and without."""
    from onepass import losses, nn, optim
    from onepass.trainer import Trainer

    random = np.random.default_rng(0)
    y = (random.random(2000) < 0.02).astype(np.int64)
    x = (random.normal(size=(2000, 2)) + 1.5 * y[:, None]).astype(np.float32)
    recall = []
    for sampler in (None, data.ClassBalanced(y)):
        model = nn.Sequential(nn.Linear(2, 2), seed=0)
        trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.02))
        trainer.fit(data.Batches(x, y, 50, sampler=sampler), epochs=5)
        predicted = trainer.predict(x).argmax(axis=1)
        recall.append((predicted[y == 1] == 1).mean())
    assert recall[0] < 0.3
    assert recall[1] > 0.75
