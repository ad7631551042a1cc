"""NumPy archives."""

from __future__ import annotations

import zipfile
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.data.dataset import DataError, Dataset, check

__all__ = ["load_npz"]

NAMES = (("x", "y"), ("x_train", "y_train"), ("X", "y"), ("X_train", "y_train"))
TEST_NAMES = (("x_test", "y_test"), ("X_test", "y_test"))


def load_npz(path: str | PathLike[str]) -> Dataset:
    """The data set in a ``.npz`` file (`numpy.savez`, `numpy.savez_compressed`).

    Arrays: ``x`` (N, ...) real and ``y`` (N,) integer labels 0 .. C-1; instead of these two,
    ``x_train`` and ``y_train``; with either, ``x_test`` and ``y_test`` if there is a test set. A
    capital ``X`` is as good. Pickled objects are never loaded. DataError where the file is missing,
    no archive, damaged, lacks an array, holds two such pairs, or holds something else.
    """
    source = fspath(path)
    arrays: dict[str, NDArray[Any]] = {}
    wanted = {name for pair in NAMES + TEST_NAMES for name in pair}
    try:
        with open(source, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{source} is a single array, expected an .npz archive")
            with archive:
                names = sorted(archive.files)
                for name in wanted.intersection(names):
                    arrays[name] = archive[name]
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

    found = [pair for pair in NAMES if arrays.keys() >= set(pair)]
    if len(found) > 1:
        both = " as well as ".join(" and ".join(pair) for pair in found)
        raise DataError(f"{source} holds {both}; expected one pair to train on, save without the other")
    if not found:
        raise DataError(
            f"{source} holds {', '.join(names) or 'nothing'}; expected arrays x and y, or x_train and y_train"
        )
    x, y = found[0]
    x_test = arrays.get("x_test", arrays.get("X_test"))
    y_test = arrays.get("y_test")
    if (x_test is None) != (y_test is None):
        raise DataError(f"{source} holds only one of x_test and y_test, expected both or none")
    return check(arrays[x], arrays[y], x_test, y_test, source)
