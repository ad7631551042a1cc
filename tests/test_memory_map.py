"""Memory-mapped .npy and .npz: the same bits as in memory, and never more of the file in memory than is used."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from onepass import data, losses, nn, optim
from onepass.data import _read_ahead
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


def trained(x, y, **options):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 3), seed=1)
    trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.01))
    history = trainer.fit(x, y, epochs=2, batch_size=16, validation=None if y is None else (x, y), **options)
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in history]
    return [a.tobytes() for a in model.state().values()], records, trainer.predict(x, 32).tobytes()


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=Y, flag=np.array(3), none=np.zeros((0, 4)))
    return tmp_path / "data.npz"


def is_mapped(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return type(array).__name__ == "mmap"


@pytest.mark.parametrize("ahead", [False, True])
def test_trains_to_the_bits_of_memory(tmp_path, npz, monkeypatch, ahead):
    """From .npy, from .npz, where elements are not aligned, and with the kernel asked for rows ahead."""
    if ahead:
        monkeypatch.setattr(_read_ahead, "SHARE", 0.0)
    expected = trained(X, Y)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    assert trained(data.open_npy(tmp_path / "x.npy"), data.open_npy(tmp_path / "y.npy")) == expected
    mapped = data.open_npz(npz)
    assert trained(mapped["x"], mapped["y"]) == expected
    assert trained(np.load(tmp_path / "x.npy", mmap_mode="r"), Y) == expected
    with_subset = trained(data.Subset(mapped["x"], np.arange(90)), data.Subset(Y, np.arange(90)))
    assert with_subset == expected


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.dtype(">i2")])
@pytest.mark.parametrize("shape", [(31,), (31, 5), (31, 2, 3)])
def test_batches_of_elements_at_any_byte(tmp_path, offset, dtype, shape):
    x = RNG.integers(0, 100, shape).astype(dtype)
    (tmp_path / "raw").write_bytes(bytes(offset) + x.tobytes())
    mapped = np.memmap(tmp_path / "raw", dtype, "r", offset, shape)
    for shuffle in (True, False):
        for prefetch in (0, 2):
            seen = 0
            for xb, yb in data.Batches(mapped, np.arange(31), 4, shuffle, prefetch=prefetch).epoch(3):
                assert xb.dtype == dtype
                assert xb.flags.aligned
                np.testing.assert_array_equal(xb, x[yb])
                seen += len(yb)
            assert seen == 31


def test_reading_ahead_asks_for_the_pages_of_the_rows(tmp_path, monkeypatch):
    """One row is 40 bytes; the array begins at byte 128, and the pages have 4096 bytes or more."""
    np.save(tmp_path / "x.npy", np.zeros((5000, 10), np.float32))
    mapped = data.open_npy(tmp_path / "x.npy")
    assert _read_ahead.ReadAhead.of(np.asarray(mapped)) is None  # far smaller than memory
    assert _read_ahead.ReadAhead.of(np.zeros(10)) is None
    monkeypatch.setattr(_read_ahead, "SHARE", 0.0)
    assert _read_ahead.ReadAhead.of(np.asarray(mapped)[:0]) is None
    with pytest.raises(ValueError, match="x has 0 rows: not one batch"):
        data.Batches(mapped[:0], np.zeros(0), 1)
    ahead = _read_ahead.ReadAhead.of(np.asarray(mapped)[1000:])
    asked = []
    ahead._mapping = type("Mapping", (), {"madvise": lambda self, *arguments: asked.append(arguments)})()
    ahead.ask(np.array([0, 3999, 7]))
    page = _read_ahead.mmap.PAGESIZE
    for (_, start, length), row in zip(asked, (1000, 4999, 1007), strict=True):
        assert start % page == 0
        assert start <= 128 + 40 * row
        assert start + length == 128 + 40 * (row + 1)
        assert length < page + 40


def test_open_npz(npz):
    mapped = data.open_npz(npz)
    assert sorted(mapped) == ["flag", "none", "x", "y"]
    np.testing.assert_array_equal(mapped["x"], X)
    np.testing.assert_array_equal(mapped["y"], Y)
    assert mapped["flag"] == 3
    assert mapped["none"].shape == (0, 4)
    assert is_mapped(mapped["x"])
    assert not mapped["x"].flags.writeable
    assert list(data.open_npz(npz, {"y", "absent"})) == ["y"]


def test_an_archive_behind_other_bytes(tmp_path, npz):
    """zipfile allows it; offsets count from where the archive begins."""
    path = tmp_path / "behind.npz"
    path.write_bytes(b"#!something\n" + npz.read_bytes())
    np.testing.assert_array_equal(data.open_npz(path)["x"], X)


def test_load_npz_leaves_the_features_in_the_file(tmp_path, npz):
    path = tmp_path / "with_test.npz"
    np.savez(path, x_train=X, y_train=Y, x_test=X[:9], y_test=Y[:9])
    for mapped, whole in ((data.load_npz(npz, mmap=True), data.load_npz(npz)), (data.load_npz(path, mmap=True),) * 2):
        np.testing.assert_array_equal(mapped.x, whole.x)
        np.testing.assert_array_equal(mapped.y, whole.y)
        assert is_mapped(mapped.x)
        assert type(mapped.y) is np.ndarray
        assert mapped.y.dtype == np.int64
    assert is_mapped(data.load_npz(path, mmap=True).x_test)


def test_load_npz_of_a_map_checks_labels_and_shapes_but_reads_no_features(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.full((4, 2), np.nan), y=np.array([0, 1, 0, 1]))
    assert np.isnan(data.load_npz(path, mmap=True).x).all()
    with pytest.raises(data.DataError, match="NaN or inf in row 0"):
        data.load_npz(path)
    for arrays, match in (
        ({"x": X, "y": Y[:5]}, "5 labels for 90 rows"),
        ({"x": X[:, 0], "y": Y}, "expected .rows, features."),
        ({"x": X, "y": Y * 2}, "no row has label 1"),
        ({"a": X}, "holds a; expected arrays x and y"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(data.DataError, match=match):
            data.load_npz(path, mmap=True)


def test_compressed_archives_say_how_to_save(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=X, y=Y)
    with pytest.raises(
        data.DataError, match=r"a\.npz: x is compressed and cannot be mapped; save it with numpy\.savez$"
    ):
        data.open_npz(path)
    with pytest.raises(data.DataError, match="is compressed"):
        data.load_npz(path, mmap=True)


@pytest.mark.parametrize("open_", [data.open_npy, data.open_npz])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 no zip", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{"])
def test_foreign_files_are_refused(tmp_path, open_, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(data.DataError, match="damaged"):
        open_(tmp_path / "a")
    with pytest.raises(data.DataError, match="does not exist"):
        open_(tmp_path / "b")
    with pytest.raises(data.DataError, match="cannot be read"):
        open_(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"(3, 2), ", b"(-1, 2),"),
        (b"(3, 2)", b"(3,-2)"),
        (b"(3, 2), ", b"(True,2)"),
        (b"'<f8'", b"'<U0'"),
        (b"'<f8'", b"'<08'"),
        (b", 'shape'", b",b'shape'"),
        (b"{", b"("),
        (b"}", b" "),
    ],
)
def test_damaged_headers_are_refused(tmp_path, old, new):
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    content = (tmp_path / "x.npy").read_bytes()
    assert content.count(old) == 1
    (tmp_path / "x.npy").write_bytes(content.replace(old, new))
    with pytest.raises(data.DataError, match="damaged"):
        data.open_npy(tmp_path / "x.npy")


def test_other_members_of_an_archive_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"no array at all")
    with pytest.raises(data.DataError, match=r"a\.npz: x is no array in NumPy's format"):
        data.open_npz(path)


def test_truncated_files_are_refused(tmp_path, npz):
    np.save(tmp_path / "x.npy", X)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-1])
    with pytest.raises(data.DataError, match=f"is truncated: {X.nbytes - 1} bytes of elements, expected {X.nbytes}"):
        data.open_npy(tmp_path / "x.npy")
    archive = npz.read_bytes()
    for size in range(0, len(archive), 97):
        npz.write_bytes(archive[:size])
        with pytest.raises(data.DataError):
            data.open_npz(npz)


def test_objects_and_fortran_order_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1], ["a"]], object))
    with pytest.raises(data.DataError, match="pickled objects, which are never loaded"):
        data.open_npy(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    with pytest.raises(data.DataError, match=r"Fortran order.*numpy\.ascontiguousarray"):
        data.open_npy(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.asfortranarray(Y))
    np.testing.assert_array_equal(data.open_npy(tmp_path / "y.npy"), Y)


def test_nan_in_a_map_is_named_by_its_row(tmp_path):
    x = X.copy()
    x[61, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    mapped = data.open_npy(tmp_path / "x.npy")
    for options in ({}, {"micro_batch": 4}, {"accumulate": 2}):
        with pytest.raises(ArithmeticError, match="; x holds NaN or inf in row 61: repair the data"):
            trained(mapped, Y, **options)
    batches = data.Batches(mapped, Y, 16, transform=lambda x, y, generator: (x, y))
    with pytest.raises(ArithmeticError, match="; x, transformed, holds NaN or inf: repair the data"):
        trained(batches, None)


LARGER_THAN_MEMORY = """
import os, resource, sys
import numpy as np
from onepass import data, losses, nn, optim, tuning
from onepass.callbacks import Callback
from onepass.data import transforms
from onepass.trainer import Trainer

x = data.open_npy(sys.argv[1]) if sys.argv[2] == "npy" else data.open_npz(sys.argv[1])["x"]
assert x.nbytes > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
y = np.arange(len(x)) % 3
model = nn.Sequential(nn.Linear(x.shape[1], 4), nn.Linear(4, 3))
trainer = Trainer(model, losses.CrossEntropy(), optim.SGD(model.parameters(), lr=0.01))
trainer.fit(x[:128], y[:128])  # SciPy and the buffers

def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

class Enough(Exception):
    pass

class StopAfter(Callback):
    left = 12
    def on_step_end(self, trainer, loss):
        self.left -= 1
        if not self.left:
            raise Enough

before = peak()
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))  # a copy of the whole is a MemoryError
for prefetch in (0, 2):
    trainer.callbacks = [StopAfter()]
    try:
        trainer.fit(data.Batches(x, y, 32, prefetch=prefetch, transform=transforms.Scale(1.0)))
    except Enough:
        pass
trainer.callbacks = [StopAfter()]
try:
    trainer.fit(x, y, batch_size=32)
except Enough:
    pass
trainer.callbacks = []
held_out = data.Subset(x, np.arange(0, len(x), len(x) // 200))
trainer.fit(data.Batches(x, y, 32, sampler=data.ClassBalanced(y, rows=320)), validation=(held_out, y[:len(held_out)]))
trainer.evaluate(x[-500:], y[-500:])
trainer.predict(held_out)
tuning.lr_find(trainer, data.Batches(x, y, 4, sampler=data.Weighted(y, rows=400)))
tuning.find_batch_size(trainer, x, y, smallest=8, largest=16, rounds=1)
data.Batches(x, y, 32, shuffle=False).epoch(0)
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_larger_than_memory(tmp_path, kind):
    """A sparse file of more bytes than the machine has; what is touched of it and copied from it stays small."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs Linux' /proc")
    columns = 2048
    rows = (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 5 // 4) // (4 * columns)
    path = tmp_path / f"x.{kind}"
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
    if kind == "npy":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + rows * columns * 4)
    else:
        write_sparse_archive(path, header, rows * columns * 4)
    assert path.stat().st_blocks * 512 < 1 << 20
    done = subprocess.run([sys.executable, "-c", LARGER_THAN_MEMORY, path, kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1 << 30


def write_sparse_archive(path, header, size):
    """One stored member ``x.npy`` of zeros; zipfile would write them all."""
    import io

    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, header)
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        member = zipfile.ZipInfo("x.npy")
        member.file_size = start.tell() + size  # announces 64-bit sizes in the local header
        with archive.open(member, "w", force_zip64=True) as file:
            file.write(start.getvalue())
        archive.fp.seek(size, 1)
        archive.fp.truncate(archive.fp.tell())
        member.file_size = member.compress_size = start.tell() + size
        archive.start_dir = archive.fp.tell()
