"""Rows from anything with ``__len__`` and ``__getitem__``: the bits of arrays, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import data, losses, nn, optim, tuning
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


class Rows:
    """A sequence and nothing more."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


PAIRS = Rows([(row, int(label)) for row, label in zip(X, Y, strict=True)])


def make():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3), seed=1)
    return Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.01), seed=4)


def result(trainer, history):
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in history]
    return [array.tobytes() for array in trainer.model.state().values()], records


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (Rows(X), Y),
        (Rows(X), Rows(Y)),
        (list(X), Y.tolist()),
        (X, tuple(Y)),
        (PAIRS, None),
        (data.Subset(Rows(X), np.arange(70)), data.Subset(data.Subset(Y, np.arange(70)[::-1]), np.arange(70)[::-1])),
        (np.asfortranarray(X), Y),
        (np.repeat(X, 2, axis=1)[:, ::2], np.repeat(Y, 3)[::3]),
    ],
    ids=["rows", "both", "lists", "tuple", "pairs", "subsets", "fortran", "strided"],
)
def test_trains_to_the_bits_of_arrays(x, y):
    expected, trainer = make(), make()
    history = expected.fit(X, Y, epochs=2, batch_size=16, validation=(X, Y), drop_last=True)
    validation = data.Batches(x, y, 1024, shuffle=False)
    found = trainer.fit(x, y, epochs=2, batch_size=16, validation=validation, drop_last=True)
    assert result(trainer, found) == result(expected, history)
    assert trainer.evaluate(x, y, 32) == expected.evaluate(X, Y, 32)
    np.testing.assert_array_equal(trainer.predict(data.Batches(x, y, 32, shuffle=False)), expected.predict(X, 32))
    if y is not None:
        np.testing.assert_array_equal(trainer.predict(x, 32), expected.predict(X, 32))


def test_torch_datasets():
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    expected, trainer = make(), make()
    history = expected.fit(X, Y, epochs=2, batch_size=16)
    assert result(trainer, trainer.fit(dataset, epochs=2, batch_size=16)) == result(expected, history)


def test_a_subset_of_a_torch_dataset_has_the_same_rows():
    torch = pytest.importorskip("torch")
    indices = [3, 60, 3, 0]
    theirs = torch.utils.data.Subset(torch.from_numpy(X), indices)
    ours = data.Subset(X, indices)
    assert len(ours) == len(theirs) == 4
    for i in (0, 1, 2, 3, -1):
        np.testing.assert_array_equal(ours[i], theirs[i].numpy())
    with pytest.raises(IndexError):
        ours[4]


@pytest.mark.parametrize(
    ("indices", "error", "match"),
    [
        ([70], IndexError, "indices holds 70, but x has 70 rows"),
        ([0, -1], IndexError, "indices holds -1"),
        ([0.5], TypeError, "indices is float64"),
        ([[0]], TypeError, r"indices is int64 \(1, 1\)"),
    ],
)
def test_subset_refuses(indices, error, match):
    with pytest.raises(error, match=match):
        data.Subset(X, indices)


def changed(row, value):
    rows = list(X)
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (changed(17, X[0, :5]), ValueError, r"x\[17\] has shape \(5,\), expected \(6,\) as x\[0\]"),
        (changed(17, 0.0), ValueError, r"x\[17\] has shape \(\), expected \(6,\)"),
        (changed(17, X[0].astype(np.float64)), TypeError, r"x\[17\] is float64, expected float32 as x\[0\]"),
        (changed(17, X[0].astype(np.int64)), TypeError, r"x\[17\] is int64, expected float32"),
        (changed(17, ["a"] * 6), TypeError, r"x\[17\] is a list of dtype <U1, expected numbers"),
        (changed(17, [[1.0], [1.0, 2.0]]), ValueError, r"x\[17\] is ragged"),
        (changed(17, None), TypeError, r"x\[17\] is a NoneType of dtype object, expected numbers"),
        (changed(0, "abc"), TypeError, r"x\[0\] is a str of dtype <U3, expected numbers"),
        ([], ValueError, "x has 0 rows"),
        (list(X[:9]), ValueError, "x has 9 rows and y has 70"),
        (X.astype(object), TypeError, "x has dtype object, expected numbers"),
        (X[0, 0], TypeError, "x is a float32, expected an array, or a sequence"),
        (np.array(1.0), ValueError, r"x has no rows, its shape is \(\)"),
        ("rows", TypeError, "x is a str"),
        (Rows, TypeError, "x is a type"),
    ],
)
def test_batches_refuse_rows(x, error, match):
    with pytest.raises(error, match=match):
        list(data.Batches(x, Y, 16).epoch(0))


def test_rows_of_a_smaller_type_fit():
    rows = [np.float64(1.5), 2, np.float32(3.0)]
    ((x, _),) = data.Batches(rows, [0, 1, 2], 3, shuffle=False).epoch(0)
    assert x.dtype == np.float64
    assert x.tolist() == [1.5, 2.0, 3.0]


@pytest.mark.parametrize(
    ("pairs", "error", "match"),
    [
        (X, TypeError, "y is None, expected the targets; only a sequence of pairs"),
        (data.Subset(X, [1, 2]), TypeError, "y is None, expected the targets"),
        ([], ValueError, "x has 0 rows"),
        (list(X), TypeError, r"x\[0\] is a ndarray, expected a pair \(x, y\), as there is no y"),
        ([(X[0], 1), (X[1], 1, 2)], TypeError, r"x\[1\] is a tuple, expected a pair"),
        ([(X[0], 1), (X[1, :2], 1)], ValueError, r"x\[1\]\[0\] has shape \(2,\), expected \(6,\) as x\[0\]\[0\]"),
        ([(X[0], 1), (X[1], 1.5)], TypeError, r"x\[1\]\[1\] is float64, expected int64 as x\[0\]\[1\]"),
    ],
)
def test_batches_refuse_pairs(pairs, error, match):
    with pytest.raises(error, match=match):
        list(data.Batches(pairs, None, 2).epoch(0))


def test_a_data_frame_says_what_to_give():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X)
    with pytest.raises(TypeError, match=r"x is a DataFrame, whose \[i\] is no row; give x\.to_numpy\(\)"):
        make().fit(frame, Y)
    with pytest.raises(TypeError, match=r"validation\[1\] is a Series.*give validation\[1\]\.to_numpy\(\)"):
        make().fit(X, Y, validation=(X, pandas.Series(Y)))


def test_what_a_sequence_raises_comes_up():
    class Broken(Rows):
        def __getitem__(self, index):
            if index == 5:
                raise OSError("the network is down")
            return super().__getitem__(index)

    for prefetch in (0, 2):
        with pytest.raises(OSError, match="the network is down"):
            make().fit(data.Batches(Broken(X), Y, 16, prefetch=prefetch))


def test_non_contiguous_arrays_are_not_copied_whole():
    """`numpy.take` makes them contiguous first, at every batch."""
    import tracemalloc

    x = np.zeros((100_000, 40), np.float32)[:, ::2]
    batches = data.Batches(x, np.arange(100_000), 16)
    epoch = batches.epoch(0)
    next(epoch)
    tracemalloc.start()
    next(epoch)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("transform", "limit"),
    [(None, 16_000), (data.transforms.Standardize(np.zeros(50), np.ones(50)), 100_000)],  # NumPy casts in 64 KiB
)
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_steady_state_allocates_no_arrays(transform, limit, drop_last):
    import tracemalloc

    x, y = np.zeros((16_000, 50), np.float32), np.zeros(16_000, np.int64)
    epoch = data.Batches(x, y, 1024, drop_last=drop_last, transform=transform).epoch(0)
    next(epoch)
    tracemalloc.start()
    for _ in epoch:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit  # a batch has 205 kB


def test_finding_takes_batches_and_sequences():
    for x, y in ((data.Batches(X, Y, 16, seed=4, drop_last=True), None), (Rows(X), Y), (PAIRS, None)):
        trainer = make()
        before = result(trainer, [])
        found = tuning.lr_find(trainer, x, y, batch_size=16)
        assert 1e-6 < found.suggestion < 10
        sizes = tuning.find_batch_size(trainer, x, y, smallest=8, largest=64, rounds=1)
        assert sizes.batch_sizes == [8, 16, 32, 64]
        assert result(trainer, []) == before


def test_finding_is_the_same_with_arrays_as_batches():
    arrays, batches = make(), make()
    found = tuning.lr_find(arrays, X, Y, batch_size=16)
    again = tuning.lr_find(batches, data.Batches(X, Y, 16, seed=4))
    assert found == again


def test_predict_refuses_batches_that_shuffle():
    with pytest.raises(ValueError, match="x are Batches that shuffle"):
        make().predict(data.Batches(X, Y, 16))
