"""Any data set by its name."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from onepass.data.csv import load_csv
from onepass.data.dataset import DataError, Dataset, split
from onepass.data.digits import load_digits_split
from onepass.data.idx import load_idx
from onepass.data.npz import load_npz

__all__ = ["load"]


def load(source: str | PathLike[str]) -> Dataset:
    """The data set ``digits``, or the one in FILE.npz, FILE.csv or a folder of MNIST-format files.

    Without a test set of its own it gets one: a fixed stratified fifth of its rows (that needs
    scikit-learn). DataError for everything that cannot be trained on.
    """
    name = fspath(source)
    if name == "digits":
        return load_digits_split()
    path = Path(name)
    if path.is_dir():
        return split(load_idx(path), name)
    if not path.exists():
        raise DataError(f"{name} does not exist; expected digits, FILE.npz, FILE.csv or a folder")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return split(load_npz(path), name)
    if suffix == ".csv":
        return split(load_csv(path), name)
    raise DataError(f"{name} is neither .npz nor .csv nor a folder of IDX files")
