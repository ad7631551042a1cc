"""A checked data set for classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._extras import require
from onepass.data.subset import Subset

__all__ = ["DataError", "Dataset", "check", "check_features", "split"]

ROWS = 4096  # checked at a time
LARGEST = float(np.finfo(np.float32).max)  # of a feature: networks compute in float32

Array = NDArray[Any]


class DataError(ValueError):
    """A file, or what is in it, cannot be trained on; the message is one sentence."""


@dataclass(frozen=True)
class Dataset:
    """Features and labels for training and, where there are any, for testing.

    ``x`` (N, ...) real, finite and within float32's range; ``y`` (N,) int64 labels 0 .. classes - 1,
    each of which occurs; ``x_test`` (M, ...) and ``y_test`` (M,) likewise, or None. ``label`` says
    which column of a table the labels were: ``"column 65 (last)"``, counted from 1. Features that are
    memory-mapped are a memory map, or a Subset of one, and nobody has looked at their values.
    """

    x: Array | Subset
    y: NDArray[np.int64]
    x_test: Array | Subset | None = None
    y_test: NDArray[np.int64] | None = None
    label: str | None = None

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1


def check_features(x: Array, where: str, values: bool = True) -> Array:
    """``x``, or a DataError that begins with ``where``: real, finite, rows of features, within float32's range.

    Not ``values``: only dtype and shape, so that nothing is read.
    """
    if x.dtype.kind not in "fiub":
        raise DataError(f"{where} has dtype {x.dtype}, expected real numbers")
    if x.ndim < 2:
        raise DataError(f"{where} has shape {x.shape}, expected (rows, features) or (rows, ...)")
    if x.size == 0:
        raise DataError(f"{where} is empty, its shape is {x.shape}")
    if x.dtype.kind == "f" and values:
        for start in range(0, len(x), ROWS):
            _check_values(x[start : start + ROWS], start, where)
    return x


def _check_values(x: Array, start: int, where: str) -> None:
    """Of the rows from number ``start`` on."""
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if not finite.all():
        raise DataError(f"{where} holds NaN or inf in row {start + int(finite.argmin())}")
    if x.dtype.itemsize > 4:
        largest = np.maximum(x.max(axis=tuple(range(1, x.ndim))), -x.min(axis=tuple(range(1, x.ndim))))
        row = int(largest.argmax())
        if largest[row] > LARGEST:
            raise DataError(f"{where} holds {largest[row]:.3g} in row {start + row}, expected at most {LARGEST:.3g}")


def _labels(y: Array, rows: int, where: str) -> NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{where} has shape {y.shape}, expected one label a row: ({rows},)")
    if len(y) != rows:
        raise DataError(f"{where} has {len(y)} labels for {rows} rows of features")
    if y.dtype.kind not in "fiub":
        raise DataError(f"{where} has dtype {y.dtype}, expected integers")
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.floor(y)) & (np.abs(y) < 2**31)
        if not whole.all():
            row = int(whole.argmin())
            raise DataError(f"{where} holds {y[row]} in row {row}, expected integers 0 .. C-1")
    if y.min() < 0 or y.max() >= 2**31:
        row = int(y.argmin()) if y.min() < 0 else int(y.argmax())
        raise DataError(f"{where} holds {int(y[row])} in row {row}, expected integers 0 .. C-1")
    return np.asarray(y).astype(np.int64)


def check(
    x: Array,
    y: Array,
    x_test: Array | None,
    y_test: Array | None,
    source: str,
    classes: int | None = None,
    values: bool = True,
) -> Dataset:
    """A Dataset of these arrays, or a DataError that begins with ``source``.

    ``classes``: their number, where it is known and not all need to occur. Not ``values``: features are not read.
    """
    x = check_features(x, f"{source}: x", values)
    labels = _labels(y, len(x), f"{source}: y")
    found = np.unique(labels)
    if classes is None:
        classes = int(found[-1]) + 1
        if len(found) == 1:
            raise DataError(f"{source}: all labels are {found[0]}, expected at least two classes")
        if len(found) != classes:
            absent = int(np.flatnonzero(found != np.arange(len(found)))[0])
            raise DataError(f"{source}: no row has label {absent}, expected all of 0 .. {classes - 1} to occur")
    elif found[-1] >= classes:
        raise DataError(f"{source}: y holds label {found[-1]}, expected 0 .. {classes - 1}")
    if x_test is None or y_test is None:
        return Dataset(x, labels)
    x_test = check_features(x_test, f"{source}: x_test", values)
    labels_test = _labels(y_test, len(x_test), f"{source}: y_test")
    if x_test.shape[1:] != x.shape[1:]:
        raise DataError(f"{source}: rows of x_test have shape {x_test.shape[1:]}, those of x {x.shape[1:]}")
    if int(labels_test.max()) >= classes:
        raise DataError(f"{source}: y_test holds label {int(labels_test.max())}, which y never has")
    return Dataset(x, labels, x_test, labels_test)


def split(dataset: Dataset, source: str) -> Dataset:
    """The data set with a fifth of every class set aside for testing, always the same fifth.

    A data set that has test rows already is returned as it is. Of a memory map both parts are a `Subset`.
    """
    if dataset.x_test is not None:
        return dataset
    train_test_split = require("sklearn.model_selection").train_test_split
    try:
        rows = np.arange(len(dataset.y))
        train, test = train_test_split(rows, test_size=0.2, random_state=0, stratify=dataset.y)
    except ValueError:
        counts = np.bincount(dataset.y)
        raise DataError(
            f"{source}: {len(dataset.y)} rows in {len(counts)} classes (the smallest has "
            f"{counts.min()}) are too few to set a fifth of every class aside for testing"
        ) from None
    x, y = dataset.x, dataset.y
    if isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        return Dataset(x[train], y[train], x[test], y[test], dataset.label)
    return Dataset(Subset(x, train), y[train], Subset(x, test), y[test], dataset.label)
