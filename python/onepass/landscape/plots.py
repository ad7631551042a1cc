"""How lines and planes are drawn: cividis, and colors of Okabe and Ito ("Color Universal Design", 2008)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onepass._extras import require
from onepass.landscape.directions import Array

if TYPE_CHECKING:
    from onepass.landscape.surfaces import Line, Plane

__all__ = ["draw_contours", "draw_line", "draw_surface", "levels_of"]

LINE, PATH = "#0072B2", "#D55E00"
SURFACE = "cividis"
MISSING = "0.8"  # what is not finite
DECADES = 2.0  # positive losses that span more are drawn on a logarithmic scale
CROWDED = 0.1  # levels go by quantiles where half of the losses lie in this share of the range
TICKS = 8  # labels of the color bar at most
STYLES = ("--", ":", "-.")


def _axes(ax: Any, projection: str | None = None) -> Any:
    if ax is None:
        figure = require("matplotlib.figure").Figure(figsize=(5.6, 4.4), layout="constrained")
        return figure.add_subplot(projection=projection)
    if not hasattr(ax, "plot") or (projection == "3d") != hasattr(ax, "plot_surface"):
        kind = 'of projection="3d"' if projection == "3d" else "of two dimensions"
        raise TypeError(f"ax is {ax!r:.60}, expected matplotlib axes {kind}, or None")
    return ax


def _logarithmic(finite: Array) -> bool:
    return bool(finite.size and finite.min() > 0 and math.log10(finite.max()) - math.log10(finite.min()) > DECADES)


def levels_of(losses: Array, count: int) -> Array:
    """``count`` increasing levels or fewer, from the least to the greatest of the finite losses.

    In a geometric row where losses are positive and span decades; at quantiles where half of them are crowded at one
    end, so that a minimum does not drown in one band; else equally spaced.
    """
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return np.array([0.0, 1.0])
    low, high = float(finite.min()), float(finite.max())
    if high / 2 - low / 2 <= 1e-12 * max(abs(low), abs(high)):  # flat; halves do not overflow
        width = max(abs(low), 1.0) * 1e-6
        return np.array([low - width, low + width])
    if _logarithmic(finite):
        levels = np.geomspace(low, high, count)
    else:
        middle = (float(np.median(finite)) / 2 - low / 2) / (high / 2 - low / 2)
        crowded = min(middle, 1 - middle) < CROWDED
        shares = np.linspace(0, 1, count)
        levels = np.quantile(finite, shares) if crowded else low * (1 - shares) + high * shares
    levels[0], levels[-1] = low, high  # to the bit
    return np.unique(levels)


def _legend(ax: Any, extra: Any = ()) -> None:
    """Above the axes, where it hides nothing."""
    handles = [*ax.get_legend_handles_labels()[0], *extra]
    if handles:
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderpad=0)


def _missing() -> Any:
    return require("matplotlib.patches").Patch(facecolor=MISSING, edgecolor="0.4", label="not finite")


def _outlined(width: float) -> list[Any]:
    return [require("matplotlib.patheffects").withStroke(linewidth=width, foreground="white")]


# ---- lines


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def draw_line(line: Line, ax: Any) -> Any:
    ax = _axes(ax)
    finite = np.isfinite(line.losses)
    few = finite.sum() <= 30
    ax.plot(
        line.positions, np.where(finite, line.losses, np.nan), color=LINE, marker="o" if few else "", markersize=3.5
    )
    if _logarithmic(line.losses[finite]):
        ax.set_yscale("log")
    half = (line.positions[1] - line.positions[0]) / 2
    for first, last in _runs(~finite):
        ax.axvspan(line.positions[first] - half, line.positions[last] + half, color=MISSING, lw=0)
    for index, (name, position) in enumerate(line.marks.items()):
        ax.axvline(position, color=PATH, linewidth=1.2, linestyle=STYLES[index % len(STYLES)], label=name)
    ax.set(xlabel=line.label, ylabel="loss", xlim=line.positions[[0, -1]])
    ax.grid(alpha=0.3)
    _legend(ax, [] if finite.all() else [_missing()])
    return ax


# ---- planes from above


def _number(value: float, _: object = None) -> str:
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e5 else f"{value:.3g}"


def _draw_path(ax: Any, path: Array) -> None:
    """(T, 2) or (T, 3), with its ends marked; rows of NaN are left out."""
    ax.plot(*path.T, color=PATH, linewidth=1.6, path_effects=_outlined(3.0), zorder=10)
    for row, marker, size, name in ((path[0], "o", 7, "start"), (path[-1], "*", 13, "end")):
        ax.plot(
            *row[:, None], linestyle="", marker=marker, markersize=size, color="white" if name == "start" else PATH,
            markeredgecolor="black", label=name, zorder=11,
        )  # fmt: skip


def _draw_marks(ax: Any, marks: Mapping[str, Any], middle: float) -> None:
    """Points with their names beside them, on the side of ``middle``; two or three coordinates each."""
    for name, place in marks.items():
        side = "left" if place[0] <= middle else "right"
        ax.plot(*[[x] for x in place], "X", color="white", markeredgecolor="black", markersize=9, zorder=11)
        ax.text(*place, f"  {name}  ", path_effects=_outlined(2.5), ha=side, va="bottom", zorder=12, clip_on=True)


def draw_contours(plane: Plane, ax: Any, path: Array | None, count: int) -> Any:
    ax = _axes(ax)
    losses = np.ma.masked_invalid(plane.losses)
    if losses.count():
        levels = levels_of(plane.losses, count)
        norm = require("matplotlib.colors").BoundaryNorm(levels, 256)
        filled = ax.contourf(plane.a, plane.b, losses, levels=levels, norm=norm, cmap=SURFACE)
        if len(levels) > 2:
            ax.contour(plane.a, plane.b, losses, levels=levels[1:-1], colors="white", linewidths=0.4, alpha=0.6)
        ticks = levels[:: -(-len(levels) // TICKS)]
        written = require("matplotlib.ticker").FuncFormatter(_number)
        ax.figure.colorbar(filled, ax=ax, label="loss", spacing="uniform", ticks=ticks, format=written)
    ax.set_facecolor(MISSING)
    if path is not None:
        _draw_path(ax, path)
    _draw_marks(ax, plane.marks, plane.a.mean())
    ax.locator_params(nbins=6)
    ax.set(xlabel=plane.labels[0], ylabel=plane.labels[1], xlim=plane.a[[0, -1]], ylim=plane.b[[0, -1]])
    if plane.marks:  # through points: distances and angles are true
        ax.set_aspect("equal")
    _legend(ax, [_missing()] if losses.mask.any() else [])
    return ax


# ---- planes in perspective


def _interpolated(plane: Plane, heights: Array, places: Array) -> Array:
    """(T,) heights of the surface at (T, 2) places, bilinear; NaN beyond it."""
    cells, shares = [], []
    outside = np.zeros(len(places), np.bool_)
    for axis, values in ((plane.a, places[:, 0]), (plane.b, places[:, 1])):
        outside |= (values < axis[0]) | (values > axis[-1])
        cell = np.clip(np.searchsorted(axis, values, side="right") - 1, 0, len(axis) - 2)
        cells.append(cell)
        shares.append((values - axis[cell]) / (axis[cell + 1] - axis[cell]))
    (i, j), (s, t) = cells, shares
    below = (1 - s) * heights[j, i] + s * heights[j, i + 1]
    above = (1 - s) * heights[j + 1, i] + s * heights[j + 1, i + 1]
    return np.where(outside, np.nan, (1 - t) * below + t * above)


def draw_surface(plane: Plane, ax: Any, path: Array | None) -> Any:
    ax = _axes(ax, "3d")
    finite = np.isfinite(plane.losses)
    logarithmic = _logarithmic(plane.losses[finite])
    heights = np.where(finite, plane.losses, np.nan)
    locator = require("matplotlib.ticker").MaxNLocator
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_major_locator(locator(5))
        axis.labelpad = 11
    if logarithmic:
        heights = np.log10(heights)
        ax.zaxis.set_major_locator(locator(5, integer=True))
        ax.zaxis.set_major_formatter(lambda value, _: f"{10**value:.2g}")
    a, b = np.meshgrid(plane.a, plane.b)
    if finite.any():
        limits = {"vmin": np.nanmin(heights), "vmax": np.nanmax(heights)}
        every = {"rcount": len(plane.b), "ccount": len(plane.a)}
        ax.plot_surface(a, b, heights, cmap=SURFACE, **every, linewidth=0, antialiased=False, zorder=1, **limits)
    ax.computed_zorder = False  # what is drawn on the surface is in front of it
    if path is not None:
        _draw_path(ax, np.column_stack([path, _interpolated(plane, heights, path)]))
    for name, place in plane.marks.items():
        height = float(_interpolated(plane, heights, np.array([place]))[0])
        if math.isfinite(height):
            _draw_marks(ax, {name: (*place, height)}, plane.a.mean())
    across, along = (label.replace(" (", "\n(") for label in plane.labels)  # long ones would be cut off
    ax.set(xlabel=across, ylabel=along, zlabel="loss (log scale)" if logarithmic else "loss")
    ax.set_box_aspect(None, zoom=0.85)  # room for the labels
    _legend(ax)
    return ax
