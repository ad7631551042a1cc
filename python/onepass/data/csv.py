"""Tables in text files."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable
from dataclasses import replace
from os import PathLike, fspath

import numpy as np
from numpy.typing import NDArray

from onepass.data.dataset import DataError, Dataset, check

__all__ = ["load_csv", "read_table"]

Table = NDArray[np.float64]

LABEL_NAMES = ("label", "labels", "y", "target", "class")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label_column(label: str | int | None, names: list[str] | None, columns: int, source: str) -> tuple[int, str]:
    """Index of the label's column, and how to call it."""
    wanted = str(label).strip().lower() if label is not None else ""
    if label is None:
        found = [index for index, name in enumerate(names or []) if name.lower() in LABEL_NAMES]
        remedy = "choose one with label"
    elif wanted.lstrip("-").isdecimal():
        if not 1 <= int(wanted) <= columns:
            raise DataError(f"{source}: label is column {int(wanted)}, expected 1 .. {columns} or a name of the header")
        found = [int(wanted) - 1]
        remedy = ""
    else:
        found = [index for index, name in enumerate(names or []) if name.lower() == wanted]
        remedy = "choose one by its number"
        if not found:
            header = f"its columns are {', '.join(names)}" if names else "it has no header; give the column's number"
            raise DataError(f"{source} has no column {label!r:.40}: {header:.300}")
    if len(found) > 1:
        assert names is not None
        both = ", ".join(f"column {index + 1} ({names[index]})" for index in found)
        raise DataError(f"{source} has {len(found)} columns that may be the label, {both}; {remedy}")
    index = found[0] if found else columns - 1
    name = names[index] if names else "last" if index == columns - 1 else ""
    if names and not found:
        name = f"{name}, last"
    return index, f"column {index + 1}" + (f" ({name})" if name else "")


def _hint(row: list[str]) -> str:
    for character, name in ((";", "semicolons"), ("\t", "tabs")):
        if any(character in cell for cell in row):
            return f"; its cells seem to be separated by {name}, expected commas"
    return ""


def _read(source: str, begin: Callable[[list[str] | None, int], object], least: int) -> tuple[Table, list[str] | None]:
    """The numbers (rows, columns) and the header, if there is one; ``begin(header, columns)`` is called after it."""
    cells = array("d")
    columns = rows = 0
    names: list[str] | None = None
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if not row:
                    continue
                line = f"{source}, line {reader.line_num}"
                if columns == 0:
                    columns = len(row)
                    if columns < least:
                        raise DataError(f"{line} has one cell, expected features and a label{_hint(row)}")
                    if not any(map(_is_number, row)):
                        names = [cell.strip() for cell in row]
                        begin(names, columns)
                        continue
                if len(row) != columns:
                    raise DataError(f"{line} has {len(row)} cells, expected {columns}{_hint(row)}")
                try:
                    cells.extend(map(float, row))
                except ValueError:
                    column, cell = next((i, c) for i, c in enumerate(row) if not _is_number(c))
                    raise DataError(
                        f"{line}, cell {column + 1} is {cell!r:.40}, expected a number{_hint([cell])}"
                    ) from None
                rows += 1
    except FileNotFoundError:
        raise DataError(f"{source} does not exist") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not a text file in UTF-8: byte 0x{error.object[error.start]:02x}") from None
    except csv.Error:
        raise DataError(f"{source} is not a text file of comma-separated numbers") from None
    if rows == 0:
        raise DataError(f"{source} is empty, expected rows of numbers")
    return np.frombuffer(cells, dtype=np.float64).reshape(rows, columns), names


def load_csv(path: str | PathLike[str], label: str | int | None = None, classes: int | None = None) -> Dataset:
    """The data set in a comma-separated table of numbers.

    The first line is a header if none of its cells is a number. ``label`` is the label's column: its
    name in the header (any case) or its number, counted from 1. None: the column that the header
    calls ``label``, ``labels``, ``y``, ``target`` or ``class`` (any case), otherwise the last one.
    Labels are 0 .. C-1; all other columns are features. Empty lines are skipped. DataError where the
    file is missing, empty or no text, where two columns may be the label, for rows of unequal length
    and for cells that are no numbers, naming the line.
    """
    source = fspath(path)
    table, names = _read(source, lambda header, columns: _label_column(label, header, columns, source), 2)
    index, called = _label_column(label, names, table.shape[1], source)
    try:
        checked = check(np.delete(table, index, axis=1), table[:, index], None, None, source, classes)
    except DataError as error:
        raise DataError(str(error).replace(f"{source}: ", f"{source}: label: {called}; ", 1)) from None
    return replace(checked, label=called)


def read_table(path: str | PathLike[str], label: str | int | None = None, count: int | None = None) -> Table:
    """The numbers (rows, columns) of a comma-separated table, without the column ``label`` (as in `load_csv`).

    If ``label`` is None and the table has one column more than ``count``, the one that the header calls label, labels,
    y, target or class is left out.
    """
    source = fspath(path)
    table, names = _read(source, lambda header, columns: None, 1)
    named = names is not None and any(name.lower() in LABEL_NAMES for name in names)
    if label is None and not (named and table.shape[1] - 1 == count):
        return table
    try:
        index, _ = _label_column(label, names, table.shape[1], source)
    except DataError as error:
        raise DataError(str(error).replace("choose one with label", "leave one out with label")) from None
    return np.delete(table, index, axis=1)
