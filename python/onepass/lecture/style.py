"""How the lecture's pictures look: one width, fonts that a phone can show, colors that everybody can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onepass._extras import require

__all__ = ["COLORS", "MARKERS", "RC", "SURFACE", "WIDTH", "applied", "figure"]

WIDTH = 5.6  # inches: at a phone's 360 points the smallest letters are still 5.5 points
# Okabe and Ito, "Color Universal Design", 2008, the darker ones first; never the only thing that tells lines apart
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SURFACE = "cividis"
RC: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "image.cmap": SURFACE,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 180,
}


@contextmanager
def applied() -> Iterator[None]:
    """matplotlib's own defaults and `RC` over them, whatever the user's matplotlibrc says."""
    matplotlib = require("matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def figure(rows: int = 1, columns: int = 1, height: float = 3.6, **subplots: Any) -> tuple[Any, Any]:
    """matplotlib's Figure of the lecture's width and its axes: one, or an array of them, as `Figure.subplots` returns.

    ``height`` in inches, of the whole figure. Two columns at most; rows under each other are easier to read on a phone.
    """
    if columns > 2:
        raise ValueError(f"columns is {columns}, expected 1 or 2: more are too small on a phone; use rows")
    made = require("matplotlib.figure").Figure(figsize=(WIDTH, height))
    return made, made.subplots(rows, columns, **subplots)
