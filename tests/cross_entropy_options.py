"""The options of a cross-entropy that tests go through, and how a case with them is called."""

from __future__ import annotations

import itertools

OPTIONS = [
    {"reduction": reduction, "label_smoothing": smoothing, "weighted": weighted}
    for reduction, smoothing, weighted in itertools.product(["mean", "sum", "none"], [0.0, 0.1], [False, True])
]


def ids(value):
    return ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
