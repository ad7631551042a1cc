"""Rows without labels, to predict."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.data.csv import read_table
from onepass.data.dataset import DataError, check_features
from onepass.data.digits import load_digits_split
from onepass.data.idx import find_images, read_idx
from onepass.data.npz import read_archive

__all__ = ["load_features"]

NAMES = ("x", "X", "x_test", "X_test")


def load_features(
    source: str | PathLike[str], label: str | int | None = None, count: int | None = None
) -> NDArray[Any]:
    """The rows (N, ...) of FILE.npy, FILE.npz, FILE.csv, an IDX file, a folder of MNIST-format files, or ``digits``.

    An archive's array is ``x``, else ``x_test``, else its only one; a folder's are the test images where there are
    some; of ``digits`` the test rows. ``label`` names a column of a table that is left out. A table with one column
    more than ``count`` leaves out the one that its header calls label, labels, y, target or class. DataError for
    everything that is no such rows.

    >>> load_features("digits").shape
    (360, 8, 8)
    """
    name = fspath(source)
    if name == "digits":
        rows = load_digits_split().x_test
        assert isinstance(rows, np.ndarray)
        return rows
    path = Path(name)
    if not name or not path.exists():
        raise DataError(
            f"{name or 'the empty name'} does not exist; expected digits, FILE.npy, FILE.npz, FILE.csv or IDX files"
        )
    suffix = path.suffix.lower()
    if label is not None and suffix != ".csv":
        raise DataError(f"label is {label!r}, but {name} has no columns to leave out; expected FILE.csv")
    if path.is_dir():
        return check_features(read_idx(find_images(path), 3), name)
    if suffix == ".csv":
        return check_features(read_table(path, label, count), name)
    if suffix == ".npz":
        arrays = read_archive(name)
        found = [key for key in NAMES if key in arrays] or list(arrays)
        if len(found) > 1 and found[0] not in NAMES:
            raise DataError(f"{name} holds {', '.join(found)}; expected an array x")
        if not found:
            raise DataError(f"{name} holds nothing, expected an array x")
        return check_features(arrays[found[0]], f"{name}: {found[0]}")
    if suffix == ".npy":
        try:
            return check_features(np.load(name, allow_pickle=False), name)
        except DataError:
            raise
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}") from None
        except (ValueError, EOFError):
            raise DataError(f"{name} is no array, holds pickled objects, or is damaged") from None
    return check_features(read_idx(name), name)
