"""Chapter 3, many networks: at a critical point, the loss tells how many of the eigenvalues are positive."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, root
from scipy.stats import spearmanr

from onepass import landscape, losses, nn
from onepass.lecture import Chapter, Picture, style
from onepass.lecture.chapter import Results

WIDTH = 4  # hidden units
ROWS = 20
DECAY = 1e-3  # of the weights
NETWORKS = 60
STARTS = 12  # of the search for critical points, along the training of each network
EARLY = 40  # steps of a training from which the search starts
VERDICTS = ("local minimum", "saddle point", "degenerate", "not critical", "undecided")

Array = NDArray[np.float64]


class Loss:
    """Mean squared error of a 2-4-1 tanh network on random targets, and DECAY / 2 times the square of all weights."""

    def __init__(self, decay: float) -> None:
        rng = np.random.default_rng(5)
        x, y = rng.standard_normal((ROWS, 2)), rng.standard_normal((ROWS, 1))
        first, second = nn.Linear(2, WIDTH, dtype=np.float64), nn.Linear(WIDTH, 1, dtype=np.float64)
        self.network = landscape.from_model(nn.Sequential(first, nn.Tanh(), second), losses.MeanSquaredError(), x, y)
        self.theta, self.decay = self.network.theta, decay

    def __call__(self, theta: Array) -> tuple[float, Array]:
        loss, gradient = self.network(theta)
        return loss + self.decay / 2 * float(theta @ theta), gradient + self.decay * theta

    def gradient(self, theta: Array) -> Array:
        return self(theta)[1]


def train(loss: Loss, start: Array) -> list[Array]:
    """The path of BFGS from ``start`` to where the gradient is zero."""
    path = [start]
    minimize(
        loss, start, jac=True, method="BFGS", callback=lambda theta: path.append(theta.copy()),
        options={"gtol": 1e-8, "maxiter": 1000},
    )  # fmt: skip
    return path


def search(loss: Loss, path: list[Array], rng: np.random.Generator) -> list[Array]:
    """Where the gradient is zero, by SciPy's root finder (Powell's hybrid method) from beside early points of a path.

    It looks for a zero of ∇L and does not care whether L falls on the way: saddles serve it as well as minima.
    """
    found = []
    for index in rng.integers(0, min(EARLY, len(path)), STARTS):
        start = path[index] + rng.choice([0.1, 0.3]) * rng.standard_normal(loss.theta.size)
        result = root(loss.gradient, start, method="hybr", options={"maxfev": 1000})
        if np.linalg.norm(result.fun) < 1e-7:
            found.append(result.x)
    return found


def described(loss: Loss, thetas: list[Array]) -> dict[str, Any]:
    """What `critical_point` says of each."""
    reports = [landscape.critical_point(loss, theta) for theta in thetas]
    return {
        "loss": np.array([report.loss for report in reports]),
        "ratio": np.array([report.minimum_ratio for report in reports]),
        "flat": np.array([report.minimum_ratio_error for report in reports]),
        "gradient": np.array([report.gradient_norm for report in reports]),
        "smallest": np.array([report.smallest for report in reports]),
        "verdicts": [report.verdict for report in reports],
        "theta": np.array(thetas),
    }


def compute() -> dict[str, Any]:
    loss, rng = Loss(DECAY), np.random.default_rng(1)
    paths = [train(loss, rng.standard_normal(loss.theta.size)) for _ in range(NETWORKS)]
    found = [theta for path in paths for theta in search(loss, path, rng)]
    plain = Loss(0.0)
    results: dict[str, Any] = {
        "trained": described(loss, [path[-1] for path in paths]),
        "found": described(loss, found),
        "without decay": described(plain, [train(plain, path[0])[-1] for path in paths[:15]]),
    }
    saddles = results["found"]
    results["correlation"] = float(spearmanr(saddles["loss"], saddles["ratio"]).statistic)
    results["distinct"] = len(set(saddles["loss"].round(6)))
    return results


def draw_scatter(results: Results) -> Any:
    figure, ax = style.figure(height=4.4)
    found, trained = results["found"], results["trained"]
    saddle = np.array(found["verdicts"]) == "saddle point"
    for ratio, loss, label, index in (
        (found["ratio"][saddle], found["loss"][saddle], "saddle points", 1),
        (found["ratio"][~saddle], found["loss"][~saddle], "minima among the critical points found", 2),
        (np.full(NETWORKS, 1.02), trained["loss"], "where training ends, all at 100% too", 0),
    ):
        look = {"color": style.COLORS[index], "marker": style.MARKERS[index], "alpha": 0.6, "edgecolor": "black"}
        ax.scatter(ratio, loss, s=30, linewidth=0.4, **look, label=f"{len(loss)} {label}")
    unsure = found["flat"] > 0  # eigenvalues that are zero within their error
    ax.hlines(found["loss"][unsure], found["ratio"][unsure], (found["ratio"] + found["flat"])[unsure], color="0.3")
    ax.set(xlabel="minimum ratio: share of positive eigenvalues", ylabel="loss", ylim=(0, None))
    ax.xaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside upper center")
    return figure


def draw_verdicts(results: Results) -> Any:
    figure, ax = style.figure(height=2.9)
    rows = {"found": "critical points\nfound", "trained": "trained", "without decay": "trained without\nweight decay"}
    left = np.zeros(len(rows))
    for verdict, color, hatch in zip(VERDICTS, style.COLORS, ("", "//", "..", "xx", "--"), strict=False):
        share = np.array([np.mean([each == verdict for each in results[name]["verdicts"]]) for name in rows])
        if share.any():
            ax.barh(list(rows.values()), share, left=left, color=color, hatch=hatch, edgecolor="white", label=verdict)
        left += share
    ax.set(xlim=(0, 1), xlabel="share of the points")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def text(results: Results) -> str:
    found, size = results["found"], results["trained"]["theta"].shape[1]
    saddles = found["verdicts"].count("saddle point")
    return f"""Where the gradient is zero, the eigenvalues of the Hessian say what the place is. A minimum needs all of
them to be positive; the share that is, the minimum ratio, says how much like a minimum a critical point is. If signs
were thrown like coins, {size} of them would all be positive once in {2**size} times, and in a network with a million
weights never: what looks like a dead end in few dimensions has a way down in many.

The signs are not coins. The higher the loss, the more directions lead down; near the lowest losses hardly any is left
(Bray and Dean 2007 for random functions, Dauphin et al. 2014 for networks). Of {len(found["loss"])} critical points of
a network with {size} weights, found by a root finder that does not care for the loss, {saddles} are saddle points.
Training is no such search: all {NETWORKS} runs ended at minima. So if a loss stays high and the gradient is small,
suspect a saddle or a plateau first, and look at the smallest eigenvalue: there is likely a way out."""


def scatter_caption(results: Results) -> str:
    found, trained = results["found"], results["trained"]
    bar = " A bar reaches over eigenvalues that are zero within their error." if found["flat"].any() else ""
    return f"""A 2-{WIDTH}-1 tanh network on {ROWS} rows with random targets; {len(found["loss"])} points where a search
from beside early steps of training found ∇L = 0, at {results["distinct"]} different losses, the ratio between
{(found["ratio"] + found["flat"]).min():.0%} and 100%. The rank correlation of loss and ratio is
{results["correlation"]:.2f}. Training, to a gradient below {max(1e-7, trained["gradient"].max()):.0e}, ends at minima
of {len(set(trained["loss"].round(6)))} different losses between {trained["loss"].min():.2f} and
{trained["loss"].max():.2f}. Weight decay adds {DECAY:g} to every eigenvalue here; without it fewer would be
positive.{bar}"""


def verdicts_caption(results: Results) -> str:
    found, plain = results["found"]["verdicts"], Counter(results["without decay"]["verdicts"])
    largest, kept = (np.linalg.norm(results[name]["theta"], axis=1).max() for name in ("without decay", "trained"))
    return f"""What `critical_point` calls them. {found.count("local minimum")} of {len(found)} critical points found
are minima, and so are all trained networks. Without weight decay {plain["degenerate"]} of {plain.total()} trained
networks are degenerate: along some direction the curvature is zero within its error, and second derivatives cannot tell
a minimum from a valley that falls without end, in which weights go on growing (the largest norm is {largest:.0f}, with
decay {kept:.0f})."""


CHAPTER = Chapter(
    number=3,
    title="Many networks: are minima rare?",
    chinese="局部极小值有多罕见",
    text=text,
    terms={
        "critical point": "临界点", "local minimum": "局部极小值", "saddle point": "鞍点", "eigenvalue": "特征值",
        "Hessian": "海森矩阵", "minimum ratio": "最小值比例", "loss": "损失", "dimension": "维度",
        "weight decay": "权重衰减", "degenerate": "退化",
    },
    compute=compute,
    pictures=[
        Picture("minima-scatter", draw_scatter, scatter_caption,
                "Loss against minimum ratio: the higher the loss, the smaller the share of positive eigenvalues."),
        Picture("minima-verdicts", draw_verdicts, verdicts_caption,
                "Most critical points found are saddle points; trained networks are minima, without decay degenerate."),
    ],
)  # fmt: skip

if __name__ == "__main__":
    CHAPTER.main()
