"""NumPy archives."""

from __future__ import annotations

import zipfile
from collections.abc import Container
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.data.dataset import DataError, Dataset, check
from onepass.data.memory_map import open_npz

__all__ = ["load_npz", "read_archive"]

NAMES = (("x", "y"), ("x_train", "y_train"), ("X", "y"), ("X_train", "y_train"))
TEST_NAMES = (("x_test", "y_test"), ("X_test", "y_test"))


def read_archive(source: str, wanted: Container[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by their names, or those ``wanted``; DataError where it cannot be read."""
    try:
        with open(source, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{source} is a single array, expected an .npz archive")
            with archive:
                return {name: archive[name] for name in sorted(archive.files) if wanted is None or name in wanted}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source} does not exist") from None
    except Exception as error:  # NumPy and zipfile name no complete list
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{source} cannot be read: {error.strerror}") from None
        if "allow_pickle" in str(error) and zipfile.is_zipfile(source):
            raise DataError(f"{source} holds pickled objects, which are never loaded; save plain arrays") from None
        raise DataError(f"{source} is not an .npz archive, or is damaged") from None


def _names(source: str) -> list[str]:
    with zipfile.ZipFile(source) as archive:
        return sorted(name.removesuffix(".npy") for name in archive.namelist())


def load_npz(path: str | PathLike[str], classes: int | None = None, mmap: bool = False) -> Dataset:
    """The data set in a ``.npz`` file (`numpy.savez`, `numpy.savez_compressed`).

    Arrays: ``x`` (N, ...) real and ``y`` (N,) integer labels 0 .. C-1; instead of these two,
    ``x_train`` and ``y_train``; with either, ``x_test`` and ``y_test`` if there is a test set. A
    capital ``X`` is as good. Pickled objects are never loaded. DataError where the file is missing,
    no archive, damaged, lacks an array, holds two such pairs, or holds something else.

    ``mmap``: the features stay in the file (`open_npz`), which must not be compressed. Then they are not looked
    through for NaN and infinities: training names the row where it meets one.
    """
    source = fspath(path)
    wanted = {name for pair in NAMES + TEST_NAMES for name in pair}
    arrays = open_npz(source, wanted) if mmap else read_archive(source, wanted)
    found = [pair for pair in NAMES if arrays.keys() >= set(pair)]
    if len(found) > 1:
        both = " as well as ".join(" and ".join(pair) for pair in found)
        raise DataError(f"{source} holds {both}; expected one pair to train on, save without the other")
    if not found:
        raise DataError(
            f"{source} holds {', '.join(_names(source)) or 'nothing'}; expected arrays x and y, or x_train and y_train"
        )
    x, y = found[0]
    x_test = arrays.get("x_test", arrays.get("X_test"))
    y_test = arrays.get("y_test")
    if (x_test is None) != (y_test is None):
        raise DataError(f"{source} holds only one of x_test and y_test, expected both or none")
    return check(arrays[x], arrays[y], x_test, y_test, source, classes, values=not mmap)
