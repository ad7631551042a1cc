"""Momentum: what a movement remembers, and where that helps: on a plateau, in a small minimum, in a ravine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass import optim
from onepass.lecture import Chapter, Picture
from onepass.lecture.chapter import Results
from onepass.lecture.style import COLORS, MARKERS, figure

Array = NDArray[np.float64]
Surface = Callable[[Array], tuple[Any, Array]]

CURVATURES = np.array([1.0, 100.0])  # of the ravine, along and across
GENTLE = np.array([0.7, 5.0])  # of the surface on which single steps can be seen
ARRIVED = 1e-6  # loss in the ravine
ROUNDING = float(np.finfo(np.float64).eps)


def hill(w: Array) -> tuple[Any, Array]:
    """Loss and gradient, elementwise: a slope, a plateau, a small dip, a deep one, and a wall behind it."""
    slope, wall = np.tanh(1.2 * (w + 3)), np.exp(3 * (w - 6))
    small, deep = np.exp(-(((w - 1.2) / 0.4) ** 2)), np.exp(-(((w - 4) / 0.9) ** 2))
    loss = 1.7 - 0.6 * slope - 0.02 * w - 0.12 * small - deep + 0.3 * np.log1p(wall)
    gradient = (
        -0.72 * (1 - slope**2) - 0.02 + 1.5 * (w - 1.2) * small + deep * (w - 4) / 0.405 + 0.9 * wall / (1 + wall)
    )
    return loss, gradient


def ravine(curvatures: Array) -> Surface:
    """loss = (λ1 w1² + λ2 w2²) / 2"""
    return lambda w: (0.5 * float(curvatures @ w**2), curvatures * w)


def descend(surface: Surface, start: list[float], lr: float, momentum: float, steps: int) -> dict[str, Array]:
    """Path (steps + 1, n), its losses and gradients, and the buffer that SGD had after each of the steps (steps, n)."""
    w = np.array(start)
    optimizer = optim.SGD([w], lr=lr, momentum=momentum)
    path, losses, gradients, buffers = [], [], [], []
    for step in range(steps + 1):
        loss, gradient = surface(w)
        path.append(w.copy())
        losses.append(float(np.sum(loss)))
        gradients.append(gradient)
        if step < steps:
            optimizer.step([gradient])
            if momentum:
                buffers.append(optimizer.state_dict()["state"][0]["momentum_buffer"].copy())
    return {
        name: np.array(of)
        for name, of in zip(("path", "loss", "gradient", "buffer"), (path, losses, gradients, buffers), strict=True)
    }


def contributions(run: dict[str, Array], lr: float, momentum: float, step: int) -> Array:
    """What the gradients of steps 0 .. step - 1 are in movement number ``step``: -lr momentum^(step - 1 - i) g_i."""
    age = np.arange(step - 1, -1, -1)
    return -lr * (momentum**age)[:, None] * run["gradient"][:step]


def sum_errors(run: dict[str, Array], lr: float, momentum: float) -> dict[str, float]:
    """How far movements are from the weighted sums, the largest in units of rounding (2^-52, relative).

    buffer: lr times the optimizer's buffer, relative to the sum of absolute terms; movement: w after a step minus w
    before it, where the weight's own rounding comes in, relative to its size and that sum; whole: w at the end minus w
    at the start, which is -lr Σ (1 - m^(t-i)) / (1 - m) g_i, relative to the sum of absolute terms.
    """
    errors: dict[str, list[float]] = {"buffer": [], "movement": []}
    path, steps = run["path"], len(run["buffer"])
    for step in range(1, steps + 1):
        terms = contributions(run, lr, momentum, step)
        for axis in range(path.shape[1]):
            exact, size = math.fsum(terms[:, axis]), math.fsum(abs(terms[:, axis]))
            moved = path[step, axis] - path[step - 1, axis]
            errors["buffer"].append(abs(-lr * run["buffer"][step - 1, axis] - exact) / size)
            errors["movement"].append(abs(moved - exact) / (abs(path[step - 1, axis]) + size))
    weights = (1 - momentum ** np.arange(steps, 0, -1)) / (1 - momentum)
    terms = -lr * weights[:, None] * run["gradient"][:steps]
    whole = np.abs(path[-1] - path[0] - terms.sum(axis=0)) / np.abs(terms).sum(axis=0)
    return {name: max(values) / ROUNDING for name, values in {**errors, "whole": list(whole)}.items()}


def arrival(losses: Array) -> int:
    """The first step from which on the loss stays at ARRIVED or below; -1: never."""
    above = np.flatnonzero(losses > ARRIVED)
    return 0 if len(above) == 0 else -1 if above[-1] == len(losses) - 1 else int(above[-1]) + 1


def compute() -> dict[str, Any]:
    rate, keep = 0.1, 0.95
    rolling = {momentum: descend(hill, [-4.0], rate, momentum, 1500) for momentum in (0.0, keep)}
    through = [m for m in np.arange(80, 100) / 100 if descend(hill, [-4.0], rate, m, 400)["path"][-1, 0] > 3]

    low, high = CURVATURES
    ratio = math.sqrt(high / low)
    best = {  # rates that contract fastest: without momentum; with it (Polyak 1964)
        "SGD": (2 / (low + high), 0.0),
        "momentum": (4 / (math.sqrt(low) + math.sqrt(high)) ** 2, ((ratio - 1) / (ratio + 1)) ** 2),
    }
    start = [-10.0, 1.0]
    runs = {name: descend(ravine(CURVATURES), start, lr, momentum, 1200) for name, (lr, momentum) in best.items()}
    lr, momentum = best["momentum"]
    runs["SGD, the rate of momentum"] = descend(ravine(CURVATURES), start, lr, 0.0, 30)

    seen = descend(ravine(GENTLE), [-4.0, 1.6], 0.15, 0.7, 8)
    return {
        "rate": rate,
        "momentum": keep,
        "rolling": {str(m): {"path": run["path"][:, 0], "loss": run["loss"]} for m, run in rolling.items()},
        "on plateau": {
            str(m): int(np.sum((run["path"] > -1.5) & (run["path"] < 0.5) & (np.arange(1501) < 1500)[:, None]))
            for m, run in rolling.items()
        },
        "smallest that gets through": float(min(through)),
        "best": best,
        "ravine": {name: {"path": run["path"], "loss": run["loss"]} for name, run in runs.items()},
        "arrival": {name: arrival(run["loss"]) for name, run in runs.items()},
        "seen": {**seen, "lr": 0.15, "momentum": 0.7},
        "terms": contributions(runs["momentum"], lr, momentum, 12),
        "errors": sum_errors(descend(ravine(CURVATURES), start, lr, momentum, 200), lr, momentum),
    }


def draw_ball(results: Results) -> Any:
    made, (above, below) = figure(2, height=6.2, gridspec_kw={"height_ratios": (3, 2)})
    w = np.linspace(-4.6, 6.4, 600)
    above.plot(w, hill(w)[0], color="0.55", zorder=1)
    names = {"0.0": "without momentum", str(results["momentum"]): f"momentum {results['momentum']}"}
    for index, (key, name) in enumerate(names.items()):
        path, loss = results["rolling"][key]["path"], results["rolling"][key]["loss"]
        shown = path[:61] if index else path[::10]
        lift = 0.07 + 0.11 * index
        above.plot(shown, hill(shown)[0] + lift, MARKERS[index], color=COLORS[index], alpha=0.55, ms=4, mew=0)
        above.plot(
            path[-1], loss[-1] + lift, MARKERS[index], color=COLORS[index], ms=10, mec="black", label=f"{name}: the end"
        )
        steps = np.arange(1, len(loss))
        below.semilogx(steps, loss[1:], "--" if index == 0 else "-", color=COLORS[index], label=name)
    above.annotate("plateau", (-0.6, 1.12), (-0.6, 0.75), ha="center", arrowprops={"arrowstyle": "-", "color": "0.4"})
    above.annotate(
        "small\nminimum", (1.2, 0.93), (1.1, 0.38), ha="center", arrowprops={"arrowstyle": "-", "color": "0.4"}
    )
    above.set(xlabel="parameter w", ylabel="loss", ylim=(-0.05, 2.6))
    above.legend(loc="upper right")
    below.set(xlabel="step (log scale)", ylabel="loss", ylim=(0, 2.5))
    below.legend(loc="lower left")
    return made


def draw_arrows(results: Results) -> Any:
    made, axes = figure(height=3.9)
    seen = results["seen"]
    path, last = seen["path"], 6
    a, b = np.meshgrid(np.linspace(-4.6, 1.6, 200), np.linspace(-1.8, 2.1, 200))
    axes.contour(
        a, b, GENTLE[0] * a**2 + GENTLE[1] * b**2, levels=np.geomspace(0.3, 40, 9), colors="0.8", linewidths=0.8
    )
    for step in range(last):
        here = path[step]
        before = seen["momentum"] * (here - path[step - 1]) if step else np.zeros(2)
        downhill = -seen["lr"] * seen["gradient"][step]
        for vector, origin, color, style, name in (
            (before, here, COLORS[2], ":", "momentum · last movement"),
            (downhill, here + before, COLORS[1], "--", "-rate · gradient"),
            (path[step + 1] - here, here, COLORS[0], "-", "movement: their sum"),
        ):
            if np.any(vector):
                axes.annotate(
                    "",
                    origin + vector,
                    origin,
                    arrowprops={
                        "arrowstyle": "-|>",
                        "color": color,
                        "ls": style,
                        "lw": 1.6,
                        "shrinkA": 0,
                        "shrinkB": 0,
                    },
                )
            if step == 0:
                axes.plot([], [], style, color=color, label=name)
    axes.plot(*path[: last + 1].T, "o", color="black", ms=4)
    axes.annotate("start", path[0], (6, 4), textcoords="offset points")
    axes.plot(0, 0, "*", color="black", ms=10)
    axes.set(xlabel="w1 (★ minimum)", ylabel="w2", aspect="equal")
    axes.legend(loc="upper right")
    return made


def draw_weights(results: Results) -> Any:
    made, rows = figure(2, height=5.0, sharex=True)
    terms = results["terms"]
    steps = np.arange(len(terms))
    for axis, (axes, what) in enumerate(zip(rows, ("along the ravine, w1", "across it, w2"), strict=True)):
        axes.bar(steps, terms[:, axis], color=COLORS[axis], width=0.65, hatch=("", "//")[axis], edgecolor="white")
        axes.axhline(0, color="black", lw=0.8)
        total = terms[:, axis].sum()
        axes.bar(len(terms) + 0.8, total, color="black", width=0.65)
        axes.annotate("sum", (len(terms) + 0.8, 0), (0, -4), textcoords="offset points", ha="center", va="top")
        axes.set(ylabel=f"share of the movement\n{what}")
        axes.margins(y=0.25)
    rows[1].set(xlabel=f"step i whose gradient it is (movement number {len(terms)})", xticks=steps)
    return made


def draw_ravine(results: Results) -> Any:
    made, (above, middle, below) = figure(3, height=7.2, gridspec_kw={"height_ratios": (2, 2, 3)})
    middle.sharex(above)
    middle.sharey(above)
    a, b = np.meshgrid(np.linspace(-10.8, 3, 300), np.linspace(-4.2, 4.2, 300))
    for index, (axes, name) in enumerate(((above, "SGD"), (middle, "momentum"))):
        lr, momentum = results["best"][name]
        title = f"rate {lr:.4f}, momentum {momentum:.2f}" if momentum else f"rate {lr:.4f}, no momentum"
        axes.contour(
            a,
            b,
            CURVATURES[0] * a**2 + CURVATURES[1] * b**2,
            levels=np.geomspace(5, 2500, 8),
            colors="0.8",
            linewidths=0.8,
        )
        axes.plot(*results["ravine"][name]["path"][:41].T, MARKERS[index] + "-", color=COLORS[index], ms=3, lw=0.9)
        axes.plot(0, 0, "*", color="black", ms=10)
        axes.set(xlabel="w1 (★ minimum)", ylabel="w2", title=f"40 steps, {title}")
        loss, arrived = results["ravine"][name]["loss"], results["arrival"][name]
        below.semilogy(loss[:1001], ("--", "-")[index], color=COLORS[index], label=f"{title}: {arrived} steps")
    below.axhline(ARRIVED, color="0.5", lw=1, ls=":")
    below.set(xlabel="step", ylabel="loss (log scale)", xlim=(0, 1000), ylim=(1e-9, 1e3))
    below.legend(loc="upper right", title=f"to a loss of {ARRIVED:g}, each at its best rate")
    return made


TEXT = """\
Gradient descent forgets: each step looks at the gradient under its feet and at nothing else. Where the ground is
flat it creeps, in every dip it stops, and between two walls it is thrown from one to the other.

With momentum a movement is m times the last movement, plus the step downhill. Written out, the movement of step t is
a weighted sum of all gradients so far: -η (m^(t-1) g₀ + m^(t-2) g₁ + … + m g₍ₜ₋₂₎ + g₍ₜ₋₁₎). Old gradients count
less, and none is forgotten at once. Where gradients agree they add up, to 1 / (1 - m) single steps at most; where
they change sign they cancel.

It is no guarantee. If the hill is too high or m too small, the ball stays; if m is large, it rolls past the minimum
and has to come back. Most begin with m = 0.9."""


CHAPTER = Chapter(
    number=6,
    title="Momentum",
    chinese="动量",
    text=TEXT,
    terms={
        "momentum": "动量",
        "gradient descent": "梯度下降",
        "learning rate": "学习率",
        "movement": "移动",
        "plateau": "平坦区",
        "local minimum": "局部极小值",
        "ravine": "峡谷",
        "weighted sum": "加权和",
    },
    compute=compute,
    pictures=[
        Picture(
            "momentum-ball",
            draw_ball,
            lambda r: (
                f"A ball on a line, with learning rate {r['rate']} for both. Without momentum (every tenth step is "
                f"drawn) it spends {r['on plateau']['0.0']} steps on the plateau, where the gradient is small but not "
                f"zero, and stops in the first, small minimum. Momentum {r['momentum']} (every step is drawn) carries "
                f"it over the plateau in {r['on plateau'][str(r['momentum'])]} steps, over the hill, past the deep "
                "minimum and back to it. With this rate that takes a momentum of "
                f"{r['smallest that gets through']:.2f} or more."
            ),
            "Above, a curve with a slope, a plateau, a small and a deep minimum: the ball without momentum ends in "
            "the small one, the ball with momentum in the deep one. Below, their losses against the step.",
        ),
        Picture(
            "momentum-arrows",
            draw_arrows,
            lambda r: (
                f"What a step is made of (rate {r['seen']['lr']}, momentum {r['seen']['momentum']}): a part of the "
                "last movement, dotted, then the step downhill, dashed; solid is where it goes. The movement is not "
                "the gradient's direction."
            ),
            "Contours of a bowl and a few steps; each solid arrow is the sum of a dotted arrow in the direction of "
            "the last movement and a dashed one downhill.",
        ),
        Picture(
            "momentum-ravine",
            draw_ravine,
            lambda r: (
                f"A ravine {CURVATURES[1] / CURVATURES[0]:g} times as curved across as along, and for each method the "
                f"rate that is best. The loss is below {ARRIVED:g} after {r['arrival']['SGD']} steps without "
                f"momentum, after {r['arrival']['momentum']} with it. With κ the ratio of the curvatures, each step "
                "without momentum leaves (κ - 1) / (κ + 1) of the distance; with it, in the long run, (√κ - 1) / (√κ "
                "+ 1) (Polyak 1964). The rate that momentum can take would make the loss explode without it."
            ),
            "Two paths in a narrow ravine, and below them the losses against the step: with momentum the loss falls "
            "several times as fast.",
        ),
        Picture(
            "momentum-weights",
            draw_weights,
            lambda r: (
                f"What each past gradient gives to movement number {len(r['terms'])} of the run with momentum in the "
                "ravine. Along it all have one sign and add up; across it they alternate, and the sum is smaller "
                "than its newest part alone. The optimizer's movement is this weighted sum, in float64 to "
                f"{r['errors']['buffer']:.1f} units of rounding (2⁻⁵²)."
            ),
            "Two bar charts of what each past gradient gives to one movement: above all bars have one sign, below "
            "they alternate and grow towards the newest; a black bar shows each sum.",
        ),
    ],
)


if __name__ == "__main__":
    CHAPTER.main()
