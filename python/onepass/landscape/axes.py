"""Where a picture is drawn."""

from __future__ import annotations

from typing import Any

from onepass._extras import require

__all__ = ["axes_or_new"]


def axes_or_new(ax: Any = None) -> Any:
    """``ax``, or the axes of a new figure (not pyplot's: nothing has to be closed)."""
    if ax is not None:
        return ax
    return require("matplotlib.figure").Figure(layout="constrained").add_subplot()
