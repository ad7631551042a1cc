"""A chapter's results as JSON, and as the rows of a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["LARGEST", "plain", "rows"]

LARGEST = 1000  # elements of an array that is written out


def plain(value: Any) -> Any:
    """``value`` of what JSON knows: dicts, lists, numbers, strings, None.

    Arrays become lists; those of more than `LARGEST` elements and objects of other types are left out, with a word on
    what they were.

    >>> plain({"loss": np.float32(0.5), "path": np.zeros((2, 2)), "plane": np.zeros((101, 101))})
    {'loss': 0.5, 'path': [[0.0, 0.0], [0.0, 0.0]], 'plane': {'left out': 'float64 (101, 101)'}}
    """
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        if value.size > LARGEST:
            return {"left out": f"{value.dtype} {value.shape}"}
        return [plain(entry) for entry in value] if value.ndim else plain(value.item())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"left out": type(value).__name__}


def rows(results: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of each number and short text; those of dicts in dicts too, named by both keys.

    >>> list(rows({"loss": np.float32(1 / 3), "sgd": {"steps": 100}, "path": np.zeros(50)}))
    [('loss', '0.333333'), ('sgd · steps', '100')]
    """
    for key, value in results.items():
        name = str(key).replace("_", " ")
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value.item()
        if isinstance(value, Mapping):
            yield from ((f"{name} · {inner}", text) for inner, text in rows(value))
        elif isinstance(value, (bool, np.bool_)):
            yield name, "yes" if value else "no"
        elif isinstance(value, (int, np.integer)):
            yield name, str(value)
        elif isinstance(value, (float, np.floating)):
            yield name, f"{value:.6g}"
        elif isinstance(value, str) and len(value) <= 80:
            yield name, value
