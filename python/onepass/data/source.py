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


def load(
    source: str | PathLike[str],
    label: str | int | None = None,
    hold_out: bool = True,
    classes: int | None = None,
    mmap: bool = False,
) -> Dataset:
    """The data set ``digits``, or the one in FILE.npz, FILE.csv or a folder of MNIST-format files.

    Without a test set of its own it gets one, unless ``hold_out`` is false: a fixed stratified fifth of its rows (that
    needs scikit-learn). ``label`` is `load_csv`'s. ``classes``: how many there are, where not all of them need to occur
    because nothing is trained. ``mmap`` leaves the features in FILE.npz: see `load_npz`. DataError for everything that
    cannot be used.
    """
    name = fspath(source)
    if not name:
        raise DataError("the data's name is empty; expected digits, FILE.npz, FILE.csv or a folder")
    if label is not None and (name == "digits" or Path(name).suffix.lower() in ("", ".npz")):
        raise DataError(f"label is {label!r}, but {name} has no columns to choose from; expected FILE.csv")
    path = Path(name)
    if mmap and (path.is_dir() or path.suffix.lower() != ".npz"):
        raise DataError(f"{name} cannot be mapped into memory, expected FILE.npz")
    if name == "digits":
        return load_digits_split()
    if path.is_dir():
        return _held_out(load_idx(path, classes), name, hold_out)
    if not path.exists():
        raise DataError(f"{name} does not exist; expected digits, FILE.npz, FILE.csv or a folder")
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _held_out(load_npz(path, classes, mmap), name, hold_out)
    if suffix == ".csv":
        return _held_out(load_csv(path, label, classes), name, hold_out)
    raise DataError(f"{name} is neither .npz nor .csv nor a folder of IDX files")


def _held_out(dataset: Dataset, name: str, hold_out: bool) -> Dataset:
    return split(dataset, name) if hold_out else dataset
