"""Chapter 1, where training stops: the gradient's norm says whether, the Hessian's eigenvalues at what."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import root

from onepass import landscape, losses, nn, optim
from onepass.lecture import Chapter, Picture, style
from onepass.lecture.chapter import Results

DECAY = 5e-3  # of the weights
RATES = (0.2, 0.5)
STEPS = 8000
PLURALS = {"local minimum": "local minima", "saddle point": "saddle points", "local maximum": "local maxima"}
LOOKS = dict(zip(PLURALS, zip(style.COLORS, style.MARKERS, strict=True), strict=False))

Array = NDArray[np.float64]


def data() -> tuple[Array, Array]:
    """40 points of a square; the target is the sign of the product of their coordinates: XOR, and not linear."""
    x = np.random.default_rng(0).uniform(-1.5, 1.5, (40, 2))
    return x, np.sign(x[:, :1] * x[:, 1:])


def layers(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, hidden, dtype=np.float64), nn.Tanh(), nn.Linear(hidden, 1, dtype=np.float64))


class Loss:
    """Mean squared error of a 2-4-1 tanh network of 17 weights, and DECAY / 2 times the sum of their squares."""

    def __init__(self) -> None:
        self.network = landscape.from_model(layers(4), losses.MeanSquaredError(), *data())
        self.theta = self.network.theta

    def __call__(self, theta: Array) -> tuple[float, Array]:
        loss, gradient = self.network(theta)
        return loss + DECAY / 2 * float(theta @ theta), gradient + DECAY * theta

    def gradient(self, theta: Array) -> Array:
        return self(theta)[1]


class Angles:
    """The mean squared error of a 2-2-1 network as a function of two angles.

    The two units' weight vectors have length 2 and these directions; everything else stays as it is.
    """

    def __init__(self) -> None:
        model = layers(2)
        for parameter, value in zip(model.parameters()[1:], (1.0, [[1.0, -1.0]], 0.0), strict=True):
            parameter[...] = value
        self.network = landscape.from_model(model, losses.MeanSquaredError(), *data())
        self.rest = self.network.theta[4:]
        self.theta = np.zeros(2)

    def __call__(self, angles: Array) -> tuple[float, Array]:
        direction = np.column_stack([np.cos(angles), np.sin(angles)])
        turned = np.column_stack([-np.sin(angles), np.cos(angles)])  # its derivative
        loss, gradient = self.network(np.concatenate([2 * direction.ravel(), self.rest]))
        return loss, 2 * (gradient[:4].reshape(2, 2) * turned).sum(axis=1)

    def gradient(self, angles: Array) -> Array:
        return self(angles)[1]


def train(loss: Loss, rate: float) -> dict[str, Any]:
    """Gradient descent from small weights."""
    theta = 0.02 * np.random.default_rng(0).standard_normal(loss.theta.size)
    optimizer, path, values, norms = optim.SGD([theta], lr=rate), [], [], []
    for _ in range(STEPS):
        value, gradient = loss(theta)
        path.append(theta.copy())
        values.append(value)
        norms.append(float(np.linalg.norm(gradient)))
        optimizer.step([gradient])
    return {"path": np.array(path), "loss": np.array(values), "norm": np.array(norms)}


def critical_points(loss: Loss | Angles, starts: Array) -> list[Array]:
    """Zeros of the gradient that SciPy's root finder comes to from ``starts``."""
    found = (root(loss.gradient, start, method="hybr") for start in starts)
    return [result.x for result in found if np.linalg.norm(result.fun) < 1e-9]


def network_results() -> dict[str, Any]:
    loss = Loss()
    runs = {f"{rate:g}": train(loss, rate) for rate in RATES}
    slow = runs["0.2"]
    plateau = int(slow["norm"][:100].argmin())
    (saddle,) = critical_points(loss, slow["path"][plateau : plateau + 1])
    starts = np.random.default_rng(1).standard_normal((120, loss.theta.size))
    reports = [landscape.critical_point(loss, theta) for theta in critical_points(loss, starts)]
    bias = np.eye(loss.theta.size)[-1]  # the output's
    return {
        "runs": runs,
        "plateau": plateau,
        "distance": float(np.linalg.norm(saddle - slow["path"][plateau])),
        "saddle": landscape.critical_point(loss, saddle),
        "minimum": landscape.critical_point(loss, slow["path"][-1]),
        "bouncing": landscape.critical_point(loss, runs["0.5"]["path"][-1]),
        "verdicts": [report.verdict for report in reports],
        "thetas": np.array([report.theta for report in reports]),
        "bias curvature": [float(bias @ landscape.hessian_vector_product(loss, r.theta, bias).value) for r in reports],
    }


def angle_results() -> dict[str, Any]:
    loss = Angles()
    side = np.arange(16) * np.pi / 8
    starts = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    found = {}
    for angles in critical_points(loss, starts):
        angles = angles % (2 * np.pi)
        found[tuple(angles.round(4) % 6.2832)] = landscape.critical_point(loss, angles)
    plane = landscape.plane(loss, np.full(2, np.pi), span=(-np.pi, np.pi), points=61)
    return {"plane": plane, "reports": list(found.values())}


def compute() -> dict[str, Any]:
    return {"network": network_results(), "angles": angle_results()}


def draw_training(results: Results) -> Any:
    figure, axes = style.figure(rows=2, columns=2, height=4.6, sharex=True, sharey="row")
    found, steps = results["network"], np.arange(1, STEPS + 1)
    for column, (rate, run) in enumerate(found["runs"].items()):
        for ax, name in zip(axes[:, column], ("loss", "norm"), strict=True):
            ax.plot(steps, run[name], color="0.35", linewidth=1.2)
            if column == 0:
                for kind, index in (("saddle point", found["plateau"]), ("local minimum", STEPS - 1)):
                    color, marker = LOOKS[kind]
                    look = {"color": color, "marker": marker, "markersize": 8, "markeredgecolor": "black"}
                    label = {"label": f"beside a {kind}"} if name == "loss" else {}
                    ax.plot(steps[index], run[name][index], linestyle="", **look, **label, zorder=5)
        axes[0, column].set(title=f"learning rate {rate}")
        axes[1, column].set(xlabel="step", xscale="log", yscale="log")
    axes[0, 0].set(ylabel="loss", ylim=(0, 1.8))
    axes[1, 0].set_ylabel("norm of the gradient")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def draw_spectra(results: Results) -> Any:
    figure, ax = style.figure(height=3.0)
    network = results["network"]
    highest = max((r for r in results["angles"]["reports"] if r.verdict == "local maximum"), key=lambda r: r.loss)
    rows = {"local minimum": network["minimum"], "saddle point": network["saddle"], "local maximum": highest}
    for height, (kind, report) in enumerate(rows.items()):
        color, marker = LOOKS[kind]
        values = report.eigenvalues
        ax.plot(values, np.full(len(values), -height), marker, color=color, alpha=0.6, markeredgecolor="black")
        places, counts = np.unique(np.sign(values) * np.exp(np.log(np.abs(values)).round(1)), return_counts=True)
        for place, count in zip(places[counts > 2], counts[counts > 2], strict=True):  # that lie on each other
            ax.annotate(f"{count} times", (place, -height), (0, 7), textcoords="offset points", ha="center")
    ax.axvline(0, color="black", linewidth=1)
    ax.set_xscale("symlog", linthresh=1e-3, linscale=0.5)
    ax.set_xticks([-10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10], ["-10", "-1", "-0.1", "", "0", "", "0.1", "1", "10"])
    ax.set_yticks([0, -1, -2], [f"{kind}\n({len(r.eigenvalues)} eigenvalues)" for kind, r in rows.items()])
    ax.set(xlabel="eigenvalues of the Hessian", ylim=(-2.5, 0.5), xlim=(-30, 30))
    return figure


def draw_kinds(results: Results) -> Any:
    figure, ax = style.figure(height=5.0)
    plane, reports = results["angles"]["plane"], results["angles"]["reports"]
    degrees = np.degrees(np.pi + plane.a)
    filled = ax.contourf(degrees, degrees, plane.losses, 16)
    figure.colorbar(filled, ax=ax, label="loss")
    for kind in PLURALS:
        color, marker = LOOKS[kind]
        places = np.degrees([report.theta for report in reports if report.verdict == kind])
        look = {"color": color, "marker": marker, "markersize": 9, "markeredgecolor": "white"}
        ax.plot(*places.T, linestyle="", **look, label=f"{len(places)} {PLURALS[kind]}")
    ticks = range(0, 361, 90)
    ax.set(xlabel="direction of unit 1's weights, degrees", ylabel="direction of unit 2's weights, degrees", aspect=1)
    ax.set(xticks=ticks, yticks=ticks, xlim=(0, 360), ylim=(0, 360))
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


def text(results: Results) -> str:
    verdicts, angles = results["network"]["verdicts"], [report.verdict for report in results["angles"]["reports"]]
    return f"""The loss has stopped falling. Can it not fall any further? Look at the norm of the gradient first. If it
is small, training is near a critical point, where ∇L = 0. If it is not, training is elsewhere, and it is the learning
rate or the noise of the batches that keeps it there.

At a critical point the loss nearby is about L + ½ δᵀHδ, and the eigenvalues of the Hessian H say what it is. All
positive: a local minimum, no way leads down. All negative: a local maximum. Both signs: a saddle point, and the
eigenvectors of negative eigenvalues lead down. Zeros among otherwise positive ones: second derivatives cannot tell.

Maxima can be forgotten. The output's bias alone rules them out: the second derivative of the squared error with respect
to it is 2 everywhere, so that some eigenvalue is positive. Of {len(verdicts)} critical points of the network below,
found from random starts, {verdicts.count("saddle point")} are saddle points and {verdicts.count("local maximum")}
maxima. Only where weights cannot grow, being directions of fixed length, there is a highest loss:
{angles.count("local maximum")} of the {len(angles)} critical points of the last picture are maxima."""


def training_caption(results: Results) -> str:
    found = results["network"]
    slow, fast, plateau = found["runs"]["0.2"], found["runs"]["0.5"], found["plateau"]
    jumps = np.linalg.norm(fast["path"][-1] - fast["path"][-3:-1], axis=1)
    largest = found["minimum"].largest
    return f"""A 2-4-1 tanh network learns XOR by gradient descent on all rows, twice from the same small weights. On
the left the loss stops twice because the gradient is small: at step {plateau + 1} its norm is
{slow["norm"][plateau]:.1g}, and the weights are {found["distance"]:.2f} from a saddle point, which they leave; at the
end it is {slow["norm"][-1]:.0e}, beside a minimum. On the right the loss stops at {fast["loss"][-1]:.2f} though the
norm is {fast["norm"][-1]:.1f}: each step jumps by {jumps[1]:.2f} across a valley, and the next one jumps back. In the
minimum, where the largest eigenvalue is {largest:.1f}, steps are stable up to a rate of 2 / {largest:.1f} =
{2 / largest:.2f} only."""


def spectra_caption(results: Results) -> str:
    found = results["network"]
    return f"""Eigenvalues of the Hessian at the minimum and the saddle point of the left run, and at the highest
maximum of the next picture (logarithmic on both sides of 0.001). At the saddle point, where all weights but a bias are
zero, {int((found["saddle"].eigenvalues < 0).sum())} of {found["saddle"].eigenvalues.size} are negative; the minimum's
smallest is {found["minimum"].smallest:.1g}: just above zero, and known to ± {found["minimum"].smallest_error:.1g}."""


def kinds_caption(results: Results) -> str:
    reports = results["angles"]["reports"]
    minimum, saddle, maximum = (sum(report.verdict == kind for report in reports) for kind in PLURALS)
    return f"""Loss of a 2-2-1 network on the same rows, in which only the directions of the two units' weights are
free. Each marker is a zero of the gradient; `critical_point` says which kind. Both axes begin again at 360 degrees, and
then the counts must obey {minimum} - {saddle} + {maximum} = {minimum - saddle + maximum} (Morse): between hills and
valleys there are always passes."""


CHAPTER = Chapter(
    number=1,
    title="Where training stops",
    chinese="训练停在哪里",
    text=text,
    terms={
        "gradient": "梯度", "norm": "范数", "critical point": "临界点", "local minimum": "局部极小值",
        "local maximum": "局部极大值", "saddle point": "鞍点", "Hessian": "海森矩阵", "eigenvalue": "特征值",
        "eigenvector": "特征向量", "learning rate": "学习率", "loss": "损失", "plateau": "平坦区",
    },
    compute=compute,
    pictures=[
        Picture("stops-training", draw_training, training_caption,
                "With a small rate loss and gradient stop together; with a large one the loss alone does."),
        Picture("stops-spectra", draw_spectra, spectra_caption,
                "Eigenvalues: all positive at the minimum, of both signs at the saddle, all negative at the maximum."),
        Picture("stops-kinds", draw_kinds, kinds_caption,
                "Contours of a loss of two angles: minima in the valleys, maxima on the hills, saddles between them."),
    ],
)  # fmt: skip

if __name__ == "__main__":
    CHAPTER.main()
