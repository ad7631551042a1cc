"""Batches: every row once an epoch, seeded. Loaders: what they read, and what they refuse."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from onepass import data


@pytest.mark.parametrize("rows", [1, 2, 7, 32, 67])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 32, 100])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once_an_epoch(rows, batch_size, shuffle):
    x, y = np.arange(rows * 3.0).reshape(rows, 3), np.arange(rows)
    batches = data.Batches(x, y, batch_size, shuffle=shuffle)
    for epoch in range(3):
        seen = []
        sizes = []
        for xb, yb in batches.epoch(epoch):
            np.testing.assert_array_equal(xb, x[yb])  # rows of x and y stay together
            seen += yb.tolist()
            sizes.append(len(xb))
        assert sorted(seen) == list(range(rows))
        assert len(sizes) == len(batches)
        assert all(size == batch_size for size in sizes[:-1])


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (np.full((5, 2), 1e308), "that their sum overflows in column 0; divide them first"),
        (np.r_[np.full((4096, 1), 4e304), np.full((4096, 1), 4e304)], "that their sum overflows; divide"),  # two blocks
        (np.array([[0.0, 1e200], [0.0, -1e200]]), "that their sum of squares overflows in column 1"),
        (np.array([[1.7e308, -1.7e308]] * 2).reshape(2, 2, 1), "that their sum of squares overflows; divide"),
        (np.tile([1e154, -1e154], 20).reshape(2, 20, 1), "that their sum of squares overflows; divide"),  # of all
    ],
)
def test_standardizing_refuses_what_overflows(x, match):
    with pytest.raises(data.DataError, match=match):
        data.standardize(x)


@pytest.mark.parametrize("name", ["batch_size", "seed", "prefetch"])
@pytest.mark.parametrize("value", [2.0, "2", None])
def test_numbers_that_are_no_integers_are_refused(name, value):
    arguments = {"batch_size": 2, name: value}
    with pytest.raises(TypeError, match=f"{name} is {value!r}, expected an integer"):
        data.Batches(np.zeros(4), np.zeros(4), **arguments)
    data.Batches(np.zeros(4), np.zeros(4), **{**arguments, name: np.int64(2)})


def test_drop_last_leaves_out_the_smaller_batch():
    batches = data.Batches(np.zeros((10, 2)), np.arange(10), 4, drop_last=True)
    epoch = [yb.copy() for _, yb in batches.epoch(0)]
    assert len(batches) == 2
    assert [len(yb) for yb in epoch] == [4, 4]
    assert len(set(np.concatenate(epoch).tolist())) == 8


def test_order_depends_on_seed_and_epoch_alone():
    x, y = np.zeros((50, 1)), np.arange(50)

    def order(seed, epoch, batch_size=7):
        batches = data.Batches(x, y, batch_size, seed=seed)
        for _ in batches.epoch(epoch + 5):  # what was drawn before must not matter
            pass
        return np.concatenate([yb.copy() for _, yb in batches.epoch(epoch)]).tolist()

    assert order(3, 1) == order(3, 1) == order(3, 1, batch_size=50)
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_batches_are_gathered_into_the_same_memory():
    batches = data.Batches(np.zeros((10, 2)), np.arange(10), 4)
    (first, _), (second, _), (last, _) = batches.epoch(0)
    assert first is second
    assert last.shape == (2, 2)
    assert np.shares_memory(first, last)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"y": np.zeros(3)}, "y has 3"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "0 rows"),
        ({"batch_size": 5, "drop_last": True}, "not one batch"),
    ],
)
def test_batches_refuse(arguments, match):
    with pytest.raises(ValueError, match=match):
        data.Batches(**{"x": np.zeros((4, 2)), "y": np.zeros(4), "batch_size": 2, **arguments})


def test_digits_split_is_fixed_and_stratified():
    pytest.importorskip("sklearn")
    dataset = data.load_digits_split()
    assert dataset.x.shape == (1437, 8, 8)
    assert dataset.x_test.shape == (360, 8, 8)
    assert dataset.classes == 10
    fifth = np.bincount(dataset.y_test) / np.bincount(np.r_[dataset.y, dataset.y_test])
    np.testing.assert_allclose(fifth, 0.2, atol=0.005)
    again = data.load("digits")
    np.testing.assert_array_equal(again.x_test, dataset.x_test)


@pytest.mark.parametrize("shape", [(500, 3), (500, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardize(shape, dtype):
    x = np.random.default_rng(0).normal(3, 2, shape)
    x[:, 0] = 7 if len(shape) == 2 else x[:, 0]  # a constant column
    scaling = data.standardize(x)
    scaled = scaling.apply(x, dtype)
    assert scaled.dtype == dtype
    assert scaled.shape == (500, np.prod(shape[1:]))
    if len(shape) == 2:
        np.testing.assert_array_equal(scaled[:, 0], 0)
        np.testing.assert_allclose(scaled[:, 1:].mean(0, dtype=float), 0, atol=1e-6)
        np.testing.assert_allclose(scaled[:, 1:].std(0, dtype=float), 1, rtol=1e-6)
    else:
        assert len(np.unique(scaling.std)) == 1
        np.testing.assert_allclose(scaled.mean(dtype=float), 0, atol=1e-6)
        np.testing.assert_allclose(scaled.std(dtype=float), 1, rtol=1e-6)


def test_standardize_reads_any_rows_to_the_same_bits():
    """In blocks, of arrays, parts of them and sequences."""
    x = np.random.default_rng(0).normal(3, 2, (5000, 4)).astype(np.float32)
    expected = data.standardize(x)
    for rows in (list(x), data.Subset(x, np.arange(5000)), np.asfortranarray(x)):
        found = data.standardize(rows)
        np.testing.assert_array_equal((found.mean, found.std), (expected.mean, expected.std))
        np.testing.assert_array_equal(found.apply(rows), expected.apply(x))
    np.testing.assert_allclose(expected.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(expected.std, x.std(axis=0, dtype=np.float64), rtol=1e-12)
    x[4711, 2] = np.nan
    with pytest.raises(data.DataError, match="x holds NaN or inf in row 4711"):
        data.standardize(x)


# --- npz ---------------------------------------------------------------------------------------

X = np.arange(24.0).reshape(8, 3)
Y = np.arange(8) % 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool])
@pytest.mark.parametrize("labels", [np.int64, np.uint8, np.float32])
def test_npz(tmp_path, dtype, labels):
    path = tmp_path / "a.npz"
    np.savez(path, x=X.astype(dtype), y=Y.astype(labels))
    dataset = data.load_npz(path)
    np.testing.assert_array_equal(dataset.x, X.astype(dtype))
    np.testing.assert_array_equal(dataset.y, Y)
    assert dataset.y.dtype == np.int64
    assert dataset.x_test is None


def test_npz_with_test_rows(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x_train=X, y_train=Y[:, None], x_test=X[:2], y_test=Y[:2])
    dataset = data.load(path)
    assert dataset.y.shape == (8,)
    np.testing.assert_array_equal(dataset.x_test, X[:2])


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"a": X, "b": Y}, r"holds a, b; expected arrays x and y"),
        ({}, "holds nothing"),
        ({"x": X}, "expected arrays x and y"),
        ({"x": X, "y": Y, "x_test": X}, "only one of x_test and y_test"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "rows of x_test have shape"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "y_test holds label 2"),
        ({"x": X, "y": Y[:5]}, "5 labels for 8 rows"),
        ({"x": X, "y": X}, "one label a row"),
        ({"x": X[:, 0], "y": Y}, "expected .rows, features."),
        ({"x": X.astype(str), "y": Y}, "expected real numbers"),
        ({"x": X + 1j, "y": Y}, "expected real numbers"),
        ({"x": X[:0], "y": Y[:0]}, "is empty"),
        ({"x": X[:, :0], "y": Y}, "is empty"),
        ({"x": np.where(X == 7, np.nan, X), "y": Y}, "NaN or inf in row 2"),
        ({"x": np.where(X == 7, np.inf, X), "y": Y}, "NaN or inf in row 2"),
        ({"x": X, "y": Y + 0.5}, "0.5 in row 0, expected integers"),
        ({"x": X, "y": Y * np.nan}, "nan in row 0, expected integers"),
        ({"x": X, "y": Y - 1}, "holds -1 in row 0"),
        ({"x": X, "y": Y * 2}, "no row has label 1"),
        ({"x": X, "y": Y + 1}, "no row has label 0"),
        ({"x": X, "y": Y * 0}, "all labels are 0"),
        ({"x": X, "y": Y.astype(str)}, "expected integers"),
        ({"x": X, "y": Y.astype(np.uint64) * np.uint64(2**63)}, "expected integers"),
    ],
)
def test_npz_refuses(tmp_path, arrays, match):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(data.DataError, match=match) as caught:
        data.load_npz(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_npz_never_unpickles(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([[1], ["a"]], dtype=object), y=Y[:2])
    with pytest.raises(data.DataError, match="pickled objects, which are never loaded"):
        data.load_npz(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 no zip", b"\x80\x04N."])
def test_npz_refuses_what_is_no_archive(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"not an \.npz archive"):
        data.load_npz(path)


def test_npz_refuses_truncated_and_damaged_archives(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(50, 20)), y=np.arange(50) % 2)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(data.DataError):
            data.load_npz(path)
    damaged = bytearray(whole)
    damaged[500:600] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(data.DataError, match="damaged"):
        data.load_npz(path)


def test_npz_refuses_a_single_array(tmp_path):
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(data.DataError, match="single array"):
        data.load_npz(path)


@pytest.mark.parametrize("name", ["a.npz", "a.csv", "folder", "a.xyz"])
def test_missing_files(tmp_path, name):
    with pytest.raises(data.DataError, match="does not exist"):
        data.load(tmp_path / name)
    for load in (data.load_npz, data.load_csv, data.load_idx):
        with pytest.raises(data.DataError, match="does not exist"):
            load(tmp_path / name)


def test_unknown_suffix(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1,2,0\n")
    with pytest.raises(data.DataError, match=r"neither \.npz nor \.csv"):
        data.load(path)


# --- csv ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "x", "y"),
    [
        ("1,2,0\n3,4,1\n", [[1, 2], [3, 4]], [0, 1]),
        ("1,2,0\n3,4,1", [[1, 2], [3, 4]], [0, 1]),
        ("a,b,c\n1,2,0\n3,4,1\n", [[1, 2], [3, 4]], [0, 1]),
        ("Label,b,c\n0,1,2\n1,3,4\n", [[1, 2], [3, 4]], [0, 1]),
        ("b,y,c\n1,0,2\n3,1,4\n", [[1, 2], [3, 4]], [0, 1]),
        ("\ufeffa,b,c\r\n1,2,0\r\n\r\n3,4,1\r\n", [[1, 2], [3, 4]], [0, 1]),
        (' -1e3, "2.5" ,1.0\n3,4,0\n', [[-1000, 2.5], [3, 4]], [1, 0]),
    ],
)
def test_csv(tmp_path, text, x, y):
    path = tmp_path / "a.csv"
    path.write_bytes(text.replace('"', "").encode())
    dataset = data.load_csv(path)
    assert dataset.x.tolist() == x
    assert dataset.y.tolist() == y


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,label\n", "is empty"),
        ("1\n2\n", "line 1 has one cell"),
        ("1,2,0\n3,1\n", "line 2 has 2 cells, expected 3"),
        ("a,b,c\n1,2,0\n\n3,4,5,1\n", "line 4 has 4 cells, expected 3"),
        ("1,2,0\n3,abc,1\n", "line 2, cell 2 is 'abc', expected a number"),
        ("1,2,0\n3,,1\n", "line 2, cell 2 is '', expected a number"),
        ("1,x,0\n3,4,1\n", "line 1, cell 2 is 'x'"),
        ("1,2,0\nnan,4,1\n", "NaN or inf in row 1"),
        ("1,2,0\n3,4,1.5\n", "1.5 in row 1, expected integers"),
        ("1,2,0\n3,4,-1\n", "-1"),
        ("1,2,1\n3,4,1\n", "all labels are 1"),
        ("1,2,0\n3,4,2\n", "no row has label 1"),
    ],
)
def test_csv_refuses(tmp_path, text, match):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(data.DataError, match=match) as caught:
        data.load_csv(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "label", "column"),
    [
        ("", None, "column 3 (last)"),
        ("", 1, "column 1"),
        ("", "1", "column 1"),
        ("a,b,c", None, "column 3 (c, last)"),
        ("a,LABELS,c", None, "column 2 (LABELS)"),
        ("a,b,Target", None, "column 3 (Target)"),
        ("a,label,c", "A", "column 1 (a)"),
        ("label,y,c", "y", "column 2 (y)"),
        ("a,b,c", 2, "column 2 (b)"),
    ],
)
def test_the_label_column(tmp_path, header, label, column):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n0,1,0\n1,0,1\n1,1,1\n")
    dataset = data.load_csv(path, label)
    assert dataset.label == column
    index = int(column.split()[1]) - 1
    assert dataset.y.tolist() == [[0, 1, 1], [1, 0, 1], [0, 1, 1]][index]


@pytest.mark.parametrize(
    ("header", "label", "match"),
    [
        ("label,a,Y", None, r"2 columns that may be the label, column 1 \(label\), column 3 \(Y\); choose one"),
        ("a,b,a", "a", r"column 1 \(a\), column 3 \(a\)"),
        ("a,b,c", "d", "no column 'd': its columns are a, b, c"),
        ("", "d", "no column 'd': it has no header"),
        ("", "0", r"label is column 0, expected 1 \.\. 3"),
        ("", 4, r"label is column 4, expected 1 \.\. 3"),
        ("", "-1", r"label is column -1, expected 1 \.\. 3"),
    ],
)
def test_the_label_column_refused(tmp_path, header, label, match):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n0,1,0\n1,0,1\n")
    with pytest.raises(data.DataError, match=match):
        data.load_csv(path, label)


def test_only_a_csv_has_label_columns(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    for source in ("digits", tmp_path / "a.npz", tmp_path):
        with pytest.raises(data.DataError, match=r"no columns to choose from; expected FILE\.csv"):
            data.load(source, "y")
    with pytest.raises(data.DataError, match="name is empty"):
        data.load("")


def test_npz_with_two_pairs_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, x_train=X, y_train=Y)
    with pytest.raises(data.DataError, match="holds x and y as well as x_train and y_train"):
        data.load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_features_beyond_float32_are_refused(tmp_path, value):
    x = X.astype(np.float64)
    x[1, 0] = value
    np.savez(tmp_path / "a.npz", x=x, y=Y)
    with pytest.raises(data.DataError, match=r"x holds 1e\+(300|39) in row 1, expected at most 3.4e\+38"):
        data.load_npz(tmp_path / "a.npz")


def test_scaling_that_overflows_is_refused():
    scaling = data.standardize(np.array([[0.0], [1e-10]]))
    with pytest.raises(data.DataError, match="in row 1 that scaling it overflows"):
        scaling.apply(np.array([[0.0], [1e35]]))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"1;2;0\n3;4;1\n", "one cell.*semicolons"),
        (b"1\t2\t0\n", "one cell.*tabs"),
        (b"1,5;2,5;0\n3,5;4,5;1\n", "line 1, cell 2 is '5;2', expected a number.*semicolons"),
        ("größe,label\n1,0\n".encode("latin-1"), "not a text file in UTF-8: byte 0xf6"),
    ],
)
def test_csv_says_what_it_seems_to_be(tmp_path, content, match):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(data.DataError, match=match):
        data.load_csv(tmp_path / "a.csv")


def test_gz_that_is_no_gzip(tmp_path):
    write_idx(tmp_path, suffix=".gz")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(data.DataError, match="is not gzip-compressed, as its name says"):
        data.load_idx(tmp_path)


def test_csv_refuses_binary_and_folders(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(data.DataError, match="not a text file"):
        data.load_csv(path)
    with pytest.raises(data.DataError, match="cannot be read"):
        data.load_csv(tmp_path)


def test_too_few_rows_to_split(tmp_path):
    pytest.importorskip("sklearn")
    path = tmp_path / "a.csv"
    path.write_text("1,2,0\n3,4,1\n")
    with pytest.raises(data.DataError, match="too few to set a fifth"):
        data.load(path)


# --- idx ---------------------------------------------------------------------------------------

IMAGES = np.arange(10 * 4 * 3, dtype=np.uint8).reshape(10, 4, 3)
LABELS = (np.arange(10) % 2).astype(np.uint8)


def idx(array, code=8):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(folder, separator="-", suffix="", parts=("train", "t10k")):
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for kind, array in (("images", IMAGES), ("labels", LABELS)):
            content = idx(array)
            path = folder / f"{part}-{kind}{separator}idx{array.ndim}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)


@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_idx(tmp_path, separator, suffix, place):
    write_idx(tmp_path / place, separator, suffix)
    dataset = data.load_idx(tmp_path)
    np.testing.assert_array_equal(dataset.x, IMAGES)
    np.testing.assert_array_equal(dataset.y_test, LABELS)


def test_idx_without_test_files(tmp_path):
    write_idx(tmp_path, parts=["train"])
    assert data.load_idx(tmp_path).x_test is None


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("train-images-idx3-ubyte", None, "has no file train-images"),
        ("train-labels-idx1-ubyte", None, "has no file train-labels"),
        ("t10k-labels-idx1-ubyte", None, "has no file t10k-labels"),
        ("train-images-idx3-ubyte", b"", "truncated: 0 bytes"),
        ("train-images-idx3-ubyte", b"\x89PNG and so on", "magic number is 0x89504e47"),
        ("train-images-idx3-ubyte", idx(IMAGES)[:9], "truncated: 9 bytes"),
        ("train-images-idx3-ubyte", idx(IMAGES)[:-1], "truncated: 135 bytes, expected 136"),
        ("train-images-idx3-ubyte", idx(IMAGES) + b"x", "137 bytes long, expected 136"),
        ("train-images-idx3-ubyte", idx(LABELS), "1 dimensions, expected 3"),
        ("train-images-idx3-ubyte", idx(IMAGES, code=7), "no IDX file"),
        ("train-images-idx3-ubyte", gzip.compress(idx(IMAGES))[:-9], "gzip"),
        ("train-images-idx3-ubyte", b"\x1f\x8b and no gzip", "gzip"),
        ("train-images-idx3-ubyte", idx(IMAGES[:0]), "is empty"),
        ("train-labels-idx1-ubyte", idx(LABELS[:-1]), "9 labels for 10 rows"),
        ("t10k-labels-idx1-ubyte", idx(LABELS + 7), "label 8, which y never has"),
        (
            "train-images-idx3-ubyte",
            struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3),
            "truncated: 16 bytes",
        ),
    ],
)
def test_idx_refuses(tmp_path, name, content, match):
    write_idx(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(data.DataError, match=match) as caught:
        data.load_idx(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_idx_refuses_an_empty_folder_and_a_file(tmp_path):
    with pytest.raises(data.DataError, match="has no file train-images"):
        data.load_idx(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(data.DataError, match="not a folder"):
        data.load_idx(tmp_path / "file")
