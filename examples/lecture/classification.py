"""Softmax makes scores into probabilities; cross-entropy, not mean squared error, is what they are trained with.

Everything here happens to one example of the first of three classes. Its scores (logits) y are moved directly, so that
the error surface can be drawn: y1 and y2 vary, y3 = -1000 is out of the game.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass import kernels, optim
from onepass.lecture import Chapter, Picture
from onepass.lecture.chapter import Results
from onepass.lecture.style import COLORS, MARKERS, SURFACE, figure

Array = NDArray[np.float64]
Loss = Callable[[Array], tuple[float, Array]]

SCORES = np.array([3.0, 1.0, -3.0])
SCALES = (1, 2, 4)
ONE_HOT = np.array([1.0, 0.0, 0.0])
CORNER = np.array([-10.0, 10.0, -1000.0])  # as wrong as it gets: almost all probability on the second class
FARTHER = np.array([-15.0, 15.0, -1000.0])
LEARNING_RATE, STEPS = 0.5, 100
GAP = "gap of the scores, y1 - y2"


def cross_entropy(y: Array) -> tuple[float, Array]:
    """-log p1 and its gradient, softmax(y) - t."""
    loss, gradient = kernels.softmax_cross_entropy(y[None], np.array([0]))
    return float(loss), gradient[0]


def squared_error(y: Array) -> tuple[float, Array]:
    """Σ (p - t)² with p = softmax(y), as the lecture has it, and its gradient."""
    p = kernels.softmax(y)
    loss, g = kernels.mean_squared_error(p, ONE_HOT, "sum")
    return float(loss), p * (g - g @ p)  # g times softmax's Jacobian, diag(p) - p pᵀ


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "squared error": squared_error}


def train(loss: Loss, start: Array, rule: type[optim.Optimizer], steps: int = STEPS) -> dict[str, Array]:
    """Scores and the right class's probability, before the first step and after each."""
    y = start.copy()
    optimizer = rule([y], lr=LEARNING_RATE)
    path = [y.copy()]
    for _ in range(steps):
        optimizer.step([loss(y)[1]])
        path.append(y.copy())
    return {"path": np.array(path), "right": kernels.softmax(np.array(path))[:, 0]}


def most_likely(labels: NDArray[np.int64]) -> dict[str, Any]:
    """The same scores for every example, trained by cross-entropy: which probabilities do they become?"""
    y = np.zeros(3)
    optimizer = optim.SGD([y], lr=1.0)
    for _ in range(200):
        loss, gradient = kernels.softmax_cross_entropy(np.tile(y, (len(labels), 1)), labels)
        optimizer.step([gradient.sum(axis=0)])
    probabilities = kernels.softmax(y)
    return {
        "probabilities": probabilities,
        "frequencies": np.bincount(labels) / len(labels),
        "cross_entropy": float(loss),
        "likelihood": float(probabilities[labels].prod()),
        "examples": len(labels),
    }


def compute() -> dict[str, Any]:
    gaps = np.linspace(-20.0, 20.0, 161)
    axis = np.linspace(-10.0, 10.0, 81)
    y1, y2 = np.meshgrid(axis, axis)
    grid = np.stack([y1.ravel(), y2.ravel(), np.full(y1.size, CORNER[2])], axis=1)
    first = np.zeros(len(grid), dtype=np.int64)
    cross_entropies, _ = kernels.softmax_cross_entropy(grid, first, reduction="none", grad=False)
    squares, _ = kernels.mean_squared_error(kernels.softmax(grid), np.eye(3)[first], "none", grad=False)
    diagonal = np.stack([gaps / 2, -gaps / 2, np.full(gaps.size, CORNER[2])], axis=1)  # from the bad corner to the good
    return {
        "probabilities": {scale: kernels.softmax(scale * SCORES) for scale in SCALES},
        "gaps": gaps,
        "sigmoid": kernels.sigmoid(gaps),
        "softmax_of_two": kernels.softmax(np.stack([gaps, np.zeros_like(gaps)], axis=1))[:, 0],
        "axis": axis,
        "surfaces": {
            "cross-entropy": cross_entropies.reshape(y1.shape),
            "squared error": squares.sum(axis=1).reshape(y1.shape),
        },
        "gradient_norms": {
            name: np.array([np.linalg.norm(loss(y)[1]) for y in diagonal]) for name, loss in LOSSES.items()
        },
        "corner": {name: loss(CORNER) for name, loss in LOSSES.items()},
        # where p1 is small, a step adds 8 p1 times the rate to the gap g = y1 - y2; p1 = exp(g); integrated over steps:
        "steps_needed": float(np.exp(CORNER[1] - CORNER[0]) / (8 * LEARNING_RATE)),
        "runs": {
            "cross-entropy": train(cross_entropy, CORNER, optim.SGD),
            "squared error": train(squared_error, CORNER, optim.SGD),
            "squared error, Adam": train(squared_error, CORNER, optim.Adam),
            "squared error, Adam, farther out": train(squared_error, FARTHER, optim.Adam),
        },
        "most_likely": most_likely(np.repeat([0, 1, 2], [5, 3, 2])),
    }


def draw_softmax(results: Results) -> Any:
    made, (above, below) = figure(2, 1, height=4.6, sharex=True, height_ratios=(2, 3))
    place = np.arange(3)
    bars = above.bar(place, SCORES, width=0.5, color="0.5")
    above.bar_label(bars, [f"{score:g}".replace("-", "\u2212") for score in SCORES], padding=2)
    above.axhline(0, color="black", linewidth=0.8)
    above.set(ylabel="score", ylim=(-4.5, 4.5))
    for k, (scale, probabilities) in enumerate(results["probabilities"].items()):
        label = f"{scale} times the scores" if scale > 1 else "the scores"
        style = {"label": label, "color": COLORS[k], "hatch": ("", "//", "..")[k], "edgecolor": "black"}
        bars = below.bar(place + 0.28 * (k - 1), probabilities, width=0.26, **style)
        below.bar_label(bars, [rounded(probability) for probability in probabilities], padding=2, fontsize=8)
    below.set(ylabel="probability", ylim=(0, 1.12), xticks=place, xticklabels=[f"class {i}" for i in (1, 2, 3)])
    below.legend(loc="upper right")
    return made


def rounded(probability: float) -> str:
    """Two digits, and "≈ 0" or "≈ 1" where they would say that it is exactly that."""
    if probability < 0.005:
        return "≈ 0"
    return "≈ 1" if probability > 0.995 else f"{probability:.2f}"


def draw_sigmoid(results: Results) -> Any:
    made, axes = figure(height=3.0)
    axes.plot(results["gaps"], results["sigmoid"], color=COLORS[0], label="sigmoid of the gap")
    every = slice(None, None, 4)
    style = {"color": COLORS[1], "marker": MARKERS[1], "linestyle": "", "fillstyle": "none", "markersize": 6}
    axes.plot(results["gaps"][every], results["softmax_of_two"][every], label="softmax of two scores", **style)
    axes.set(xlabel=GAP, ylabel="probability of class 1", xlim=(-10.4, 10.4), xticks=range(-10, 11, 5))
    axes.legend(loc="upper left")
    return made


def draw_surfaces(results: Results) -> Any:
    made, panels = figure(1, 2, height=3.7, sharey=True)
    ticks = {"cross-entropy": range(0, 21, 5), "squared error": (0, 0.5, 1, 1.5, 2)}
    for axes, (name, surface) in zip(panels, results["surfaces"].items(), strict=True):
        levels = np.linspace(0, surface.max(), 21)
        drawn = axes.contourf(results["axis"], results["axis"], surface, levels=levels, cmap=SURFACE)
        made.colorbar(drawn, ax=axes, orientation="horizontal", label="loss", ticks=ticks[name])
        path = results["runs"][name]["path"]
        axes.plot(path[:, 0], path[:, 1], ".-", color="white", linewidth=1, markersize=5)
        style = {"linestyle": "", "markeredgecolor": "black", "clip_on": False, "zorder": 3}
        axes.plot(*path[0, :2], "o", color=COLORS[1], markersize=13, label="start", **style)
        axes.plot(*path[-1, :2], "*", color="white", markersize=9, label=f"after {STEPS} steps", **style)
        axes.set(title=name, xlabel="score y1", aspect="equal", xticks=range(-10, 11, 5), yticks=range(-10, 11, 5))
        axes.grid(visible=False)
    panels[0].set_ylabel("score y2")
    panels[1].legend(loc="lower right", frameon=False, labelcolor="white")
    return made


def draw_gradients(results: Results) -> Any:
    made, axes = figure(height=3.2)
    for k, (name, norms) in enumerate(results["gradient_norms"].items()):
        axes.semilogy(results["gaps"], norms, ("-", "--")[k], color=COLORS[k], label=name)
    axes.axvspan(-20, 0, color="0.9", zorder=0)
    axes.text(-19.5, 20, "wrong answer", va="center")
    axes.text(19.5, 20, "right answer", va="center", ha="right")
    axes.set(xlabel=GAP, ylabel="norm of the gradient", xlim=(-20, 20), ylim=(1e-18, 200))
    axes.legend(loc="lower center")
    return made


def draw_runs(results: Results) -> Any:
    made, axes = figure(height=3.8)
    for k, (name, run) in enumerate(results["runs"].items()):
        style = {"color": COLORS[k], "linestyle": ("-", "--", "-.", ":")[k], "marker": MARKERS[k]}
        label = name if "Adam" in name else f"{name}, gradient descent"
        axes.plot(run["right"], markevery=(3 * k, 12), label=label, **style)
    axes.set(xlabel="step", ylabel="probability of the right class", ylim=(-0.04, 1.04), xlim=(0, STEPS))
    axes.legend(loc="center right")
    return made


def text(results: Results) -> str:
    p = results["probabilities"][1]
    fit = results["most_likely"]
    return f"""\
A network that classifies ends in one score (logit) for each class. Softmax makes probabilities of them,
p_i = exp(y_i) / Σ_j exp(y_j): positive and of sum 1. A gap d of two scores makes one probability exp(d) times the
other, so that the largest score takes nearly all: 3, 1 and -3 become {p[0]:.2f}, {p[1]:.2f} and {p[2]:.3f}. With two
classes p1 = 1 / (1 + exp(-(y1 - y2))), the sigmoid of the gap: two classes are no case of their own.

The right class is written as a one-hot vector t. How far is p from it? Mean squared error Σ (p_i - t_i)² seems natural;
cross-entropy -Σ t_i log p_i is what everybody uses. It has a meaning: summed over the examples it is -log of the
probability that the network gives to all their labels together, so to minimize it is to maximize the likelihood.
One set of scores for {fit["examples"]} labels, five, three and two of a class, learns the probabilities
{", ".join(f"{q:.1f}" for q in fit["probabilities"])}, the labels' frequencies: nothing makes these labels more likely.

And it trains. Its gradient with respect to the scores is p - t: the more wrong the answer, the larger, up to 1 for each
score. Squared error's is 2 (p - t) times the derivative of softmax, which is nearly 0 wherever softmax is sure of
itself, also where it is sure of the wrong class. Both losses fall towards the same corner, but one slopes towards it
from everywhere, and the other begins with a plateau: the choice of the loss changes how hard the optimization is.
What to do: leave softmax out of the network and give its scores to a cross-entropy loss (`losses.CrossEntropy`,
as PyTorch's, computes softmax and loss together, and safely)."""


def sigmoid_caption(results: Results) -> str:
    difference = np.abs(results["sigmoid"] - results["softmax_of_two"]).max()
    return (
        "Softmax of two scores is the sigmoid of their gap. Between the package's two kernels, the largest difference "
        f"over the gaps from -20 to 20 is {difference:.1g}."
    )


def surfaces_caption(results: Results) -> str:
    losses = results["corner"]
    return (
        "The loss of one example of class 1 over the scores y1 and y2 (y3 = -1000). At the start, y1 = -10 and "
        f"y2 = 10, the gradient of cross-entropy is {vector(losses['cross-entropy'][1])}, that of squared error "
        f"{vector(losses['squared error'][1])}. Gradient descent, rate {LEARNING_RATE}: on the left it walks down the "
        f"slope; on the right it is on a plateau, and would need {results['steps_needed'] / 1e6:.0f} million steps."
    )


def vector(gradient: Array) -> str:
    return f"({gradient[0]:.2g}, {gradient[1]:.2g})"


def gradients_caption(results: Results) -> str:
    norms = results["gradient_norms"]
    return (
        "From the bad corner to the good one, log scale. Where the answer is right, both gradients vanish, as they "
        f"should. Where it is wrong, cross-entropy's stays at {norms['cross-entropy'][0]:.2f} (√2); squared error's is "
        f"{norms['squared error'][0]:.1e}: about as small as if all were well."
    )


def runs_caption(results: Results) -> str:
    runs = results["runs"]
    first = {name: (run["path"][1, 0] - run["path"][0, 0]) / LEARNING_RATE for name, run in runs.items()}
    return (
        "The same start, rate and number of steps. With cross-entropy p1 becomes "
        f"{runs['cross-entropy']['right'][-1]:.2f}, with squared error it is still "
        f"{runs['squared error']['right'][-1]:.0e}. Adam divides the gradient by its root mean square plus ε = 1e-8, "
        f"and gets squared error going, too: its first step is {first['squared error, Adam']:.2f} of the rate. But "
        "farther out, from (-15, 15), the gradient is far below ε; the first step is "
        f"{first['squared error, Adam, farther out']:.0e} of the rate, and Adam stands still as well."
    )


CHAPTER = Chapter(
    number=10,
    title="Classification: softmax and cross-entropy",
    chinese="分类、softmax 与交叉熵",
    text=text,
    terms={
        "classification": "分类",
        "score (logit)": "分数、logit",
        "softmax": "softmax 函数",
        "sigmoid": "sigmoid 函数",
        "one-hot vector": "独热向量",
        "cross-entropy": "交叉熵",
        "mean squared error": "均方误差",
        "likelihood": "似然",
        "maximum likelihood": "最大似然",
        "error surface": "误差表面",
        "plateau": "平坦区",
    },
    compute=compute,
    pictures=[
        Picture(
            "classification-softmax",
            draw_softmax,
            "Scores, and the probabilities that softmax makes of them. Gaps grow: of twice or four times the "
            "scores almost nothing is left for any class but the first.",
            "Bars: the scores 3, 1 and minus 3 above; below the probabilities of the three classes, for the scores "
            "once, twice and four times.",
        ),
        Picture(
            "classification-sigmoid",
            draw_sigmoid,
            sigmoid_caption,
            "The sigmoid curve from 0 to 1, with the values of softmax as squares on it.",
        ),
        Picture(
            "classification-surfaces",
            draw_surfaces,
            surfaces_caption,
            "Two maps of the loss: cross-entropy slopes from the upper left corner down to the lower right and the run "
            "follows it; squared error has a flat upper left half, and the run stays in its corner.",
        ),
        Picture(
            "classification-gradients",
            draw_gradients,
            gradients_caption,
            "Norm of the gradient against the gap of the scores: alike near 0; to the left, where the answer is wrong, "
            "cross-entropy's is level and squared error's falls to 1e-8.",
        ),
        Picture(
            "classification-runs",
            draw_runs,
            runs_caption,
            "Probability of the right class against steps: cross-entropy and squared error with Adam rise to nearly 1, "
            "squared error with gradient descent and Adam from farther out stay at 0.",
        ),
    ],
)

if __name__ == "__main__":
    CHAPTER.main()
