"""Tables in text files."""

from __future__ import annotations

import csv
from array import array
from os import PathLike, fspath

import numpy as np

from onepass.data.dataset import DataError, Dataset, check

__all__ = ["load_csv"]

LABEL_NAMES = ("label", "y", "target", "class")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def load_csv(path: str | PathLike[str]) -> Dataset:
    """The data set in a comma-separated table of numbers.

    The first line is a header if none of its cells is a number. The labels 0 .. C-1 are in the
    column the header calls ``label``, ``y``, ``target`` or ``class``, otherwise in the last one;
    all other columns are features. Empty lines are skipped. DataError where the file is missing,
    empty or no text, for rows of unequal length and for cells that are no numbers, naming the line.
    """
    source = fspath(path)
    cells = array("d")
    columns = rows = 0
    label = -1
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if not row:
                    continue
                line = f"{source}, line {reader.line_num}"
                if columns == 0:
                    columns = len(row)
                    if columns < 2:
                        raise DataError(f"{line} has one cell, expected features and a label")
                    if not any(map(_is_number, row)):
                        names = [cell.strip().lower() for cell in row]
                        label = next((names.index(n) for n in LABEL_NAMES if n in names), -1)
                        continue
                if len(row) != columns:
                    raise DataError(f"{line} has {len(row)} cells, expected {columns}")
                try:
                    cells.extend(map(float, row))
                except ValueError:
                    column, cell = next((i, c) for i, c in enumerate(row) if not _is_number(c))
                    raise DataError(f"{line}, cell {column + 1} is {cell!r:.40}, expected a number") from None
                rows += 1
    except FileNotFoundError:
        raise DataError(f"{source} does not exist") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{source} is not a text file of comma-separated numbers") from None
    if rows == 0:
        raise DataError(f"{source} is empty, expected rows of numbers")
    table = np.frombuffer(cells, dtype=np.float64).reshape(rows, columns)
    return check(np.delete(table, label, axis=1), table[:, label], None, None, source)
