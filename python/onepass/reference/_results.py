"""What all of the reference shares."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onepass._checks import check_like, check_writable

Array = NDArray[Any]
Reduction = Literal["mean", "sum", "none"]


def give(value: Array, model: Array, out: Array | None) -> Array:
    # rounded once, to the model's type
    with np.errstate(all="ignore"):
        rounded: Array = value.astype(model.dtype)
        if out is None:
            return rounded
        check_like("out", out, "the result", rounded)
        check_writable("out", out)
        out[...] = rounded
    return out


def check_reduction(name: str) -> None:
    if name not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {name!r}")
