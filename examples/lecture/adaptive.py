"""A rate for each parameter: Adagrad, its late bursts and what cures them, RMSProp and Adam, on one long surface."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass import optim, schedules
from onepass.lecture import Chapter, Picture
from onepass.lecture.chapter import Results
from onepass.lecture.style import COLORS, MARKERS, figure

Array = NDArray[np.float64]

ALONG, ACROSS, TILT = 1e-4, 1.0, 0.01  # curvatures of the valley, and how much its floor leans
START = (-100.0, 0.0)
RATE, STEPS = 0.2, 2000
HELD = 200  # steps before the decay begins
QUIET, FAR = 0.01, 0.2  # distances from the floor, between which a burst rises


def distance(w: Array) -> Array:
    """From the floor of the valley, along w2, of points (..., 2)."""
    return w[..., 1] - TILT * w[..., 0]


def surface(w: Array) -> tuple[Array, Array]:
    """Loss = (ALONG w1² + ACROSS distance²) / 2 of points (..., 2), and its gradient."""
    away = distance(w)
    loss = (ALONG * w[..., 0] ** 2 + ACROSS * away**2) / 2
    return loss, np.stack([ALONG * w[..., 0] - TILT * ACROSS * away, ACROSS * away], axis=-1)


def hessian() -> Array:
    return np.array([[ALONG + TILT**2 * ACROSS, -TILT * ACROSS], [-TILT * ACROSS, ACROSS]])


def root_mean_square(optimizer: optim.Optimizer) -> Array:
    """What the optimizer divides by: σ, one a parameter."""
    state = optimizer.state_dict()["state"][0]
    if "state_sum" in state:
        return np.sqrt(state["state_sum"] / state["step"])
    if "square_avg" in state:
        return np.sqrt(state["square_avg"])
    return np.sqrt(state["exp_avg_sq"] / (1 - optimizer.param_groups[0]["betas"][1] ** state["step"]))


def descend(make: Callable[[Array], optim.Optimizer]) -> dict[str, Array]:
    """STEPS steps from START: path, loss and distance (STEPS + 1), and the σ of each step (STEPS, 2)."""
    w = np.array(START)
    optimizer = make(w)
    adaptive = not isinstance(optimizer, optim.SGD)
    path, sigmas = [w.copy()], []
    for _ in range(STEPS):
        optimizer.step([surface(w)[1]])
        path.append(w.copy())
        if adaptive:
            sigmas.append(root_mean_square(optimizer))
    points = np.array(path)
    return {"path": points, "loss": surface(points)[0], "distance": abs(distance(points)), "sigma": np.array(sigmas)}


def mean_adagrad(w: Array, rate: schedules.Rate) -> optim.Optimizer:
    """The lecture's Adagrad: w - η g / σ with σ² the mean of all squared gradients so far.

    That of Duchi, Hazan and Singer (2011) divides by the root of their sum, which is √t times as much after t steps; so
    it is theirs, with a rate of η √t.
    """
    return optim.Adagrad([w], lr=schedules.scale(rate, lambda step: math.sqrt(step + 1)))


def bursts(away: Array) -> list[int]:
    """The steps at which the distance reaches FAR, after it was below QUIET."""
    found, quiet = [], False
    for step, value in enumerate(away):
        if value > FAR and quiet:
            found.append(step)
        quiet = value < QUIET or (quiet and value <= FAR)
    return found


def react() -> dict[str, Array]:
    """σ of Adagrad and RMSProp when gradients are small, then large, then small again."""
    gradients = np.concatenate([np.full(100, 0.1), np.full(20, 1.0), np.full(180, 0.1)])
    w = np.zeros(2)
    optimizers = {
        "Adagrad": mean_adagrad(w[:1], schedules.constant(RATE)),
        "RMSProp": optim.RMSprop([w[1:]], lr=RATE, alpha=0.9, initial_square_avg=0.01),
    }
    sigmas: dict[str, list[float]] = {name: [] for name in optimizers}
    for gradient in gradients:
        for name, optimizer in optimizers.items():
            optimizer.step([np.array([gradient])])
            sigmas[name].append(float(root_mean_square(optimizer)[0]))
    return {"gradient": gradients, **{name: np.array(values) for name, values in sigmas.items()}}


def compute() -> dict[str, Any]:
    largest = float(np.linalg.eigvalsh(hessian())[-1])
    decay = schedules.inverse_sqrt(RATE, HELD)
    cosine = schedules.cosine(RATE, STEPS)
    rates = {"SGD, large rate": 2 / largest, "SGD, small rate": 0.2 / largest}
    runs = {
        **{name: descend(lambda w, lr=lr: optim.SGD([w], lr=lr)) for name, lr in rates.items()},
        "Adagrad": descend(lambda w: mean_adagrad(w, schedules.constant(RATE))),
        "Adagrad, decay": descend(lambda w: mean_adagrad(w, decay)),
        "RMSProp": descend(lambda w: optim.RMSprop([w], lr=RATE)),
        "RMSProp, decay": descend(lambda w: optim.RMSprop([w], lr=cosine)),
        "Adam": descend(lambda w: optim.Adam([w], lr=RATE)),
    }
    steps = np.arange(STEPS)
    overshoot = {  # the step across, as a multiple of the distance
        "Adagrad": RATE * ACROSS / runs["Adagrad"]["sigma"][:, 1],
        "Adagrad, decay": np.array([decay(int(t)) for t in steps]) * ACROSS / runs["Adagrad, decay"]["sigma"][:, 1],
    }
    first = bursts(runs["Adagrad"]["distance"])
    sigma = runs["Adagrad"]["sigma"][:, 1]
    return {
        "runs": runs,
        "rates": rates,
        "overshoot": overshoot,
        "bursts": {name: bursts(run["distance"]) for name, run in runs.items()},
        "sigma before": float(sigma[: first[0]].min()),
        "sigma after": float(sigma[first[0] : first[0] + 30].max()),
        "react": react(),
    }


def draw_paths(results: Results, names: list[str]) -> Any:
    made, rows = figure(len(names), height=2.6 * len(names), sharex=True, sharey=True)
    a, b = np.meshgrid(np.linspace(-108, 12, 200), np.linspace(-2.2, 1.2, 200))
    loss = surface(np.stack([a, b], axis=-1))[0]
    for index, (axes, name) in enumerate(zip(rows, names, strict=True)):
        path = results["runs"][name]["path"]
        axes.contour(a, b, loss, levels=np.geomspace(0.003, 3, 9), colors="0.75", linewidths=0.8)
        axes.plot(*path.T, "-", color=COLORS[index], lw=0.9)
        axes.plot(*path[::50].T, MARKERS[index], color=COLORS[index], ms=3.5)
        axes.plot(*START, "ko", ms=5)
        axes.plot(0, 0, "k*", ms=11)
        axes.set(ylabel="w2", title=title(results, name), xlim=(-108, 12), ylim=(-2.2, 1.2))
    rows[-1].set(xlabel="w1 (● start, ★ minimum; a mark every 50 steps)")
    return made


def title(results: Results, name: str) -> str:
    if name in results["rates"]:
        return f"SGD, rate {results['rates'][name]:.3g}"
    if name == "Adagrad, decay":
        return f"Adagrad, η = {RATE} · √({HELD} / t) from step {HELD} on"
    if name == "RMSProp, decay":
        return f"RMSProp, η from {RATE} to 0 along a cosine"
    return f"{name}, η = {RATE}"


def draw_sgd(results: Results) -> Any:
    return draw_paths(results, ["SGD, large rate", "SGD, small rate"])


def draw_adagrad(results: Results) -> Any:
    return draw_paths(results, ["Adagrad", "Adagrad, decay"])


def draw_others(results: Results) -> Any:
    return draw_paths(results, ["RMSProp", "RMSProp, decay", "Adam"])


def draw_burst(results: Results) -> Any:
    made, (away, sigma, over) = figure(3, height=7.0, sharex=True)
    steps = np.arange(1, STEPS + 1)
    for index, name in enumerate(("Adagrad", "Adagrad, decay")):
        run = results["runs"][name]
        style = {"color": COLORS[index], "ls": ("-", "--")[index], "lw": 1.3}
        away.semilogy(steps, run["distance"][1:], **style, label=("η constant", "η with decay")[index])
        sigma.semilogy(steps, run["sigma"][:, 1], **style)
        over.plot(steps, results["overshoot"][name], **style)
    over.axhline(2, color="0.4", lw=1, ls=":")
    over.annotate(
        "above 2: farther away after the step than before", (1000, 2.68), ha="center", va="bottom", fontsize=9
    )
    away.set(ylabel="distance from the\nfloor (log scale)", ylim=(1e-7, 10))
    away.legend(loc="lower left")
    sigma.set(ylabel="σ of w2\n(log scale)")
    over.set(ylabel="step across /\ndistance", xlabel="step", ylim=(0, 3))
    return made


def draw_loss(results: Results) -> Any:
    made, rows = figure(2, height=6.4, sharex=True, sharey=True)
    shown = (
        ("SGD, large rate", "SGD, small rate", "Adagrad", "RMSProp", "Adam"),
        ("Adagrad, decay", "RMSProp, decay"),
    )
    for axes, names, heading in zip(rows, shown, ("constant η", "η with decay"), strict=True):
        for name in names:
            index = ("SGD, large rate", "SGD, small rate", "Adagrad", "RMSProp", "Adam").index(
                name.replace(", decay", "")
            )
            loss = results["runs"][name]["loss"]
            style = {"color": COLORS[index], "marker": MARKERS[index], "markevery": 200 + 7 * index, "lw": 1.2}
            axes.semilogy(loss, **style, label=name)
        axes.set(ylabel="loss (log scale)", title=heading, ylim=(1e-9, 10))
        axes.legend(loc="lower left", ncols=1)
    rows[-1].set(xlabel="step")
    return made


def draw_sigma(results: Results) -> Any:
    made, axes = figure(height=3.4)
    reaction = results["react"]
    axes.semilogy(reaction["gradient"], color="0.6", lw=3, label="size of the gradient")
    axes.semilogy(reaction["Adagrad"], "--", color=COLORS[1], label="σ of Adagrad, mean of all squares")
    axes.semilogy(reaction["RMSProp"], "-", color=COLORS[0], label="σ of RMSProp, α = 0.9")
    axes.set(xlabel="step", ylabel="size (log scale)", ylim=(0.07, 4))
    axes.legend(loc="upper right")
    return made


TEXT = """\
On an error surface that is long in one direction and steep in the other, no single learning rate is right. The steep
direction allows only small ones, and with those the flat direction takes for ever. Each parameter wants a rate of its
own: large where its gradients are small, small where they are large.

Adagrad divides the rate by the root mean square of the parameter's gradients so far: w ← w - (η / σ) g, with
σ² = (g₀² + … + gₜ²) / (t + 1). That is how the lecture has it. The Adagrad of the paper (Duchi, Hazan and Singer
2011), which is the package's, divides by the root of the sum; with a rate of η √(t + 1) it is the same, and that is
how it is done here.

The mean has a long memory, and yet it forgets. While the path runs along the floor, small gradients across pile up, σ
across shrinks like 1 / √t, and the step across grows with η / σ. Once it is more than twice the distance, each step
ends farther away than it began: the path shoots out. Out there gradients are large, σ grows, and it comes back.

The cure is to let η shrink over time: learning-rate decay. (The paper's sum never forgets: it has a decay of 1 / √t
built in, from the first step.) RMSProp forgets on purpose: σ² ← α σ² + (1 - α) g², so that it follows when the ground
changes. Adam is RMSProp with momentum, both corrected for having begun at zero."""


def adagrad_caption(results: Results) -> str:
    found = results["bursts"]["Adagrad"]
    held, decayed = (results["runs"][name]["loss"] for name in ("Adagrad", "Adagrad, decay"))
    return (
        "One η, but a σ for each parameter: down the wall and round the corner, along the floor. With η constant the "
        f"path shoots out {len(found)} times in {STEPS} steps, at steps {', '.join(map(str, found))}. With a decay it "
        f"does not. The price is some speed: it ends at a loss of {decayed[-1]:.1g}, while the other is at "
        f"{held[-1]:.1g} between two bursts and was at {held[-500:].max():.2g} in the last one."
    )


CHAPTER = Chapter(
    number=8,
    title="A learning rate for each parameter: Adagrad, RMSProp, Adam",
    chinese="自适应学习率",
    text=TEXT,
    terms={
        "adaptive learning rate": "自适应学习率",
        "error surface": "误差表面",
        "root mean square": "均方根",
        "learning rate decay": "学习率衰减",
        "learning rate schedule": "学习率调度",
        "moving average": "移动平均",
        "parameter-dependent": "参数相关",
    },
    compute=compute,
    pictures=[
        Picture(
            "adaptive-sgd",
            draw_sgd,
            lambda r: (
                "One rate for both parameters fails. Above, the largest that does not diverge: from wall to wall for "
                f"all of {STEPS} steps, which fill the band. Below, a tenth of it: down at once, and then w1 creeps "
                f"from {START[0]:g} to {r['runs']['SGD, small rate']['path'][-1, 0]:.0f}."
            ),
            "Two paths of gradient descent in a long valley: one bounces between its walls, one hardly moves along it.",
        ),
        Picture(
            "adaptive-adagrad",
            draw_adagrad,
            adagrad_caption,
            "Two paths of Adagrad along the floor of the valley: with constant rate there are bursts across, with "
            "decay none.",
        ),
        Picture(
            "adaptive-burst",
            draw_burst,
            lambda r: (
                "Why it bursts. While distances (top) and with them gradients are small, σ (middle) shrinks and the "
                "step across (bottom) grows. Above 2 the distance grows from step to step; in the first burst σ "
                f"jumps from {r['sigma before']:.2f} to {r['sigma after']:.2f}, and all is calm until σ has shrunk "
                f"again. With decay the step across stays at {r['overshoot']['Adagrad, decay'].max():.1f} times the "
                "distance."
            ),
            "Three curves against the step: the distance from the floor has four peaks with constant rate; at each, "
            "the root mean square jumps up and the step across falls below two distances. With decay there are none.",
        ),
        Picture(
            "adaptive-sigma",
            draw_sigma,
            "The gradient is small for 100 steps, large for 20, and small again. σ of RMSProp follows within a few "
            "steps, both ways. That of Adagrad grows late, and then remembers the large ones for long.",
            "A pulse in the size of the gradient; RMSProp's root mean square follows it quickly, Adagrad's rises "
            "less and hardly falls.",
        ),
        Picture(
            "adaptive-others",
            draw_others,
            lambda r: (
                "RMSProp's first step is 1 / √(1 - α) = 10 times η, since its average begins at zero. It forgets "
                "within about 100 steps, so that bursts come sooner and smaller; in the end its step is about η "
                "whatever the gradient, and with constant η it bounces at ±η / 2 (loss "
                f"{r['runs']['RMSProp']['loss'][-1]:.2g}). With decay it arrives "
                f"({r['runs']['RMSProp, decay']['loss'][-1]:.0e}). Adam corrects the beginning, remembers ten times "
                f"longer, and its momentum averages the bouncing away ({r['runs']['Adam']['loss'][-1]:.0e})."
            ),
            "Three paths along the valley: RMSProp with bursts that become a constant bouncing, the same with decay, "
            "which arrives, and Adam, which is smooth.",
        ),
        Picture(
            "adaptive-loss",
            draw_loss,
            lambda r: (
                f"The same surface, the same start, {STEPS} steps. η is {RATE} for all three adaptive methods, so "
                "that bursts can be seen; it was tuned for none of them. On another surface the order may be another."
            ),
            "Losses against the step: gradient descent stays high with both rates, Adagrad falls with bursts, "
            "RMSProp stops at a floor, Adam falls farthest; with decay Adagrad has no bursts and RMSProp falls "
            "through its floor.",
        ),
    ],
)


if __name__ == "__main__":
    CHAPTER.main()
