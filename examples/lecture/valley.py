"""The loss is stuck, but the gradient is not small: bouncing between the walls of a valley."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass import callbacks, data, losses, nn, optim, schedules
from onepass.landscape.critical import CriticalPoint, critical_point
from onepass.lecture import Chapter, Picture
from onepass.lecture.chapter import Results
from onepass.lecture.style import COLORS, MARKERS, figure
from onepass.trainer import Trainer

Array = NDArray[np.float64]

FLOOR = 0.01  # curvature along the valley; across, it is 1 at the bottom and 0 far up the walls
START = (-8.0, 2.6)
LARGE, SMALL, STEPS, DECAY = 4.0, 0.4, 200, 50
RMSPROP = 0.05
NETWORK_RATE, NETWORK_STEPS, NETWORK_DECAY = 1.5, 500, 400
WINDOW = 100  # steps over which the wandering loss is averaged


def valley(w: Array) -> tuple[Any, Array]:
    """Loss = FLOOR w1² / 2 + log cosh(w2) of points (..., 2): walls that end up straight; and its gradient."""
    loss = FLOOR / 2 * w[..., 0] ** 2 + np.log(np.cosh(w[..., 1]))
    return loss, np.stack([FLOOR * w[..., 0], np.tanh(w[..., 1])], axis=-1)


def descend(make: Callable[[Array], optim.Optimizer]) -> dict[str, Array]:
    """STEPS steps from START: path, loss and gradient norm, STEPS + 1 of each."""
    w = np.array(START)
    optimizer = make(w)
    path = [w.copy()]
    for _ in range(STEPS):
        optimizer.step([valley(w)[1]])
        path.append(w.copy())
    points = np.array(path)
    loss, gradient = valley(points)
    return {"path": points, "loss": loss, "norm": np.linalg.norm(gradient, axis=1)}


def norm(arrays: Sequence[NDArray[Any]]) -> float:
    return math.sqrt(sum(float(np.sum(array**2)) for array in arrays))


class Watch(callbacks.Callback):
    """Notes the loss and the norm of the gradient of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_step_end(self, trainer: callbacks.Run, loss: float) -> None:
        self.losses.append(loss)
        self.norms.append(norm(trainer.model.gradients()))


class Digits:
    """A network of 64-32-10 that is trained on all digits at once, so that no noise of batches comes in."""

    def __init__(self) -> None:
        digits = data.load_digits_split()
        self.x = digits.x.reshape(-1, 64) / 16.0
        self.y = np.eye(10)[digits.y]
        self.loss = losses.MeanSquaredError()
        layers = (nn.Linear(64, 32, dtype=np.float64), nn.Tanh(), nn.Linear(32, 10, dtype=np.float64))
        self.model = nn.Sequential(*layers, seed=0)

    def train(self, optimizer: optim.Optimizer, steps: int) -> dict[str, Array]:
        watch = Watch()
        trainer = Trainer(self.model, self.loss, optimizer, callbacks=[watch])
        trainer.fit(self.x, self.y, epochs=steps, batch_size=len(self.x))
        return {"loss": np.array(watch.losses), "norm": np.array(watch.norms)}

    def loss_and_gradient(self, theta: Sequence[Array]) -> tuple[float, list[Array]]:
        for parameter, values in zip(self.model.parameters(), theta, strict=True):
            parameter[...] = values
        loss, grad = self.loss(self.model.forward(self.x), self.y)
        self.model.backward(grad, False)
        return loss, [gradient.copy() for gradient in self.model.gradients()]


def judged(point: CriticalPoint) -> dict[str, Any]:
    return {"verdict": point.verdict, "gradient norm": point.gradient_norm, "critical up to": point.gtol}


def train_digits() -> dict[str, Any]:
    stuck = Digits()
    held = stuck.train(optim.SGD(stuck.model.parameters(), lr=NETWORK_RATE), NETWORK_DECAY)
    theta = [parameter.copy() for parameter in stuck.model.parameters()]
    loss, gradient = stuck.loss_and_gradient(theta)

    judgement = judged(critical_point(stuck.loss_and_gradient, theta, samples=0))

    # across the valley: from where it is stuck, against the gradient, in multiples of the step that SGD takes
    multiples = np.linspace(-0.5, 1.6, 64)
    profile = [
        stuck.loss_and_gradient([p - m * NETWORK_RATE * g for p, g in zip(theta, gradient, strict=True)])[0]
        for m in multiples
    ]
    small = 1e-4 / norm(gradient)
    ends = [
        stuck.loss_and_gradient([p + side * small * g for p, g in zip(theta, gradient, strict=True)])[1]
        for side in (1, -1)
    ]
    slopes = [sum(float(np.sum(a * g)) for a, g in zip(end, gradient, strict=True)) for end in ends]
    curvature = (slopes[0] - slopes[1]) / (2 * small * norm(gradient) ** 2)

    left = NETWORK_STEPS - NETWORK_DECAY
    runs = {}
    for name, make in {
        "constant rate": lambda p: optim.SGD(p, lr=NETWORK_RATE),
        "a tenth from the dotted line on": lambda p: optim.SGD(p, lr=NETWORK_RATE / 10),
        "RMSProp from the dotted line on": lambda p: optim.RMSprop(p, lr=5e-4, alpha=0.9),
    }.items():
        stuck.loss_and_gradient(theta)
        after = stuck.train(make(stuck.model.parameters()), left)
        runs[name] = {key: np.concatenate([held[key], after[key]]) for key in held}
    losses_held, after = held["loss"], runs["a tenth from the dotted line on"]
    before = losses_held[-WINDOW:].mean()
    return {
        "fall before": 1 - before / losses_held[-2 * WINDOW : -WINDOW].mean(),
        "fall after": 1 - after["loss"][NETWORK_DECAY + 10] / before,
        "norm before": held["norm"][-WINDOW:].mean(),
        "norm after": after["norm"][NETWORK_DECAY + 10 :].mean(),
        "judgement": judgement,
        "runs": runs,
        "profile": {"multiples": multiples, "loss": np.array(profile), "here": loss},
        "curvature": curvature,
    }


def compute() -> dict[str, Any]:
    decay = schedules.multi_step(LARGE, [DECAY], factor=SMALL / LARGE)
    runs = {
        "large rate": descend(lambda w: optim.SGD([w], lr=LARGE)),
        "large, then small": descend(lambda w: optim.SGD([w], lr=decay)),
        "RMSProp": descend(lambda w: optim.RMSprop([w], lr=RMSPROP, alpha=0.9)),
    }
    stuck = runs["large rate"]["path"][-1]
    return {"runs": runs, "judgement": judged(critical_point(valley, stuck)), "digits": train_digits()}


def draw_path(results: Results) -> Any:
    made, rows = figure(3, height=7.2, sharex=True, sharey=True)
    a, b = np.meshgrid(np.linspace(-9, 2, 150), np.linspace(-3.3, 3.3, 150))
    loss = valley(np.stack([a, b], axis=-1))[0]
    titles = (
        f"SGD, rate {LARGE}",
        f"SGD, rate {LARGE}, from step {DECAY} on {SMALL}",
        f"RMSProp, rate {RMSPROP}",
    )
    for index, (axes, name, title) in enumerate(zip(rows, results["runs"], titles, strict=True)):
        path = results["runs"][name]["path"]
        axes.contour(a, b, loss, levels=np.linspace(0.1, 3.1, 7), colors="0.75", linewidths=0.8)
        axes.plot(*path.T, MARKERS[index] + "-", color=COLORS[index], ms=3, lw=0.8)
        axes.plot(*START, "ko", ms=6)
        axes.plot(*path[-1], "o", color="white", mec="black", ms=7)
        axes.plot(0, 0, "k*", ms=10)
        axes.set(ylabel="w2", title=title)
    rows[-1].set(xlabel="w1 (● start, ○ end, ★ minimum)")
    return made


def draw_curves(runs: Results, changed: int) -> tuple[Any, Any]:
    """Loss above gradient norm, against the step; a dotted line where the rate changes."""
    made, (above, below) = figure(2, height=5.6, sharex=True)
    for index, (name, run) in enumerate(runs.items()):
        look = {"color": COLORS[index], "ls": ("-", "--", "-.")[index], "lw": 1.4}
        above.plot(run["loss"], **look, label=name)
        below.plot(run["norm"], **look)
    for axes in (above, below):
        axes.axvline(changed, color="0.4", lw=1, ls=":")
        axes.set_ylim(bottom=0)
    above.set(ylabel="loss")
    above.legend(loc="upper right")
    below.set(ylabel="norm of the gradient", xlabel=f"step (dotted line: {changed})")
    return made, above


def draw_loss(results: Results) -> Any:
    return draw_curves(results["runs"], DECAY)[0]


def draw_digits(results: Results) -> Any:
    made, above = draw_curves(results["digits"]["runs"], NETWORK_DECAY)
    ticks = (0.02, 0.03, 0.05, 0.1, 0.2)
    above.set(yscale="log", ylim=(0.02, 0.2), ylabel="loss (log scale)")
    above.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    above.set_yticks([], minor=True)
    return made


def draw_profile(results: Results) -> Any:
    made, axes = figure(height=3.6)
    profile = results["digits"]["profile"]
    axes.plot(profile["multiples"], profile["loss"], color="0.45")
    points = (
        (0.0, "stuck here", (-26, -18), MARKERS[0]),
        (1.0, "a step of SGD\nends here", (10, -34), MARKERS[1]),
        (0.1, "with a tenth\nof the rate, here", (4, -44), MARKERS[2]),
    )
    for index, (multiple, name, offset, marker) in enumerate(points):
        loss = float(np.interp(multiple, profile["multiples"], profile["loss"]))
        axes.plot(multiple, loss, marker, color=COLORS[index], ms=8, mec="black", zorder=3)
        axes.annotate(name, (multiple, loss), offset, textcoords="offset points", ha="center", fontsize=9)
    axes.set(xlabel="way against the gradient (1: a step of SGD)", ylabel="loss", ylim=(0, None))
    return made


def share(value: float) -> str:
    return f"{100 * value:.0f} %"


TEXT = """\
The loss no longer falls, and one says: a critical point. Look at the gradient first. Often it is not small at all, and
then the place is neither a minimum nor a saddle: there is a way down, and the step is too long for it.

In a valley a step against the gradient that is too long ends on the other wall, as high up as it began; the next one
comes back. The loss stays, the gradient changes its sign and keeps its size. Nothing is wrong with the direction, only
with the length.

So a smaller learning rate helps, and at once. From the start it would have been slow along the valley: take a large
rate first and a small one later (decay), or let each parameter have its own (RMSProp, the next chapter)."""


def curves_caption(results: Results) -> str:
    held, point = results["runs"]["large rate"], results["judgement"]
    down = results["runs"]["large, then small"]["loss"][DECAY + 10]
    return (
        f"With the large rate the loss stays at {held['loss'][-1]:.3f} and the norm of the gradient at "
        f"{held['norm'][-1]:.3f}. What landscape.critical_point says of the last point is: {point['verdict']}; it "
        f"would take a gradient of {point['critical up to']:.0e} or less. A smaller rate from step {DECAY} on brings "
        f"the loss down to {down:.1g} in ten steps."
    )


def digits_caption(results: Results) -> str:
    found = results["digits"]
    return (
        f"A real network (64-32-10, all digits in one batch, so without any noise). In the {WINDOW} steps before the "
        f"dotted line the loss, on average, was {share(found['fall before'])} lower than in the {WINDOW} before "
        f"those, while the norm of the gradient wandered around {found['norm before']:.2f} (verdict: "
        f"{found['judgement']['verdict']}). With a tenth of the rate the loss is {share(found['fall after'])} below "
        f"that average ten steps later, and the norm at {found['norm after']:.3f}."
    )


CHAPTER = Chapter(
    number=7,
    title="Stuck, but the gradient is not small",
    chinese="训练卡住时梯度不一定小",
    text=TEXT,
    terms={
        "loss": "损失",
        "gradient": "梯度",
        "norm": "范数",
        "critical point": "临界点",
        "error surface": "误差表面",
        "valley": "山谷",
        "learning rate": "学习率",
        "oscillate": "震荡",
    },
    compute=compute,
    pictures=[
        Picture(
            "valley-path",
            draw_path,
            lambda r: (
                "A valley whose walls end up straight. With the large rate the path ends in two points, "
                f"{2 * abs(r['runs']['large rate']['path'][-1, 1]):.1f} apart, and goes to and fro between them for "
                "ever. With a smaller rate later, or with RMSProp, it comes down to the floor."
            ),
            "Three paths in a valley: one zigzags between the walls to the end, one zigzags and then drops to the "
            "minimum, one runs smoothly along the floor.",
        ),
        Picture(
            "valley-loss",
            draw_loss,
            curves_caption,
            "Loss and gradient norm against the step: with the large rate both are flat and far from zero; with the "
            "smaller rate and with RMSProp both go to zero.",
        ),
        Picture(
            "valley-digits",
            draw_digits,
            digits_caption,
            "Loss and gradient norm of a network on digits: with constant rate the loss wanders and the gradient "
            "stays; with a tenth of the rate both drop at once.",
        ),
        Picture(
            "valley-profile",
            draw_profile,
            lambda r: (
                "The walls are there: the network's loss on the line through the point where it is stuck, against "
                "the gradient. The floor is about half a step away, and a whole step ends on the other wall. The "
                f"curvature on this line is {r['digits']['curvature']:.2f}, and a step overshoots to the same height "
                f"at 2 / rate = {2 / NETWORK_RATE:.2f}. That they are so near is no accident: training makes the "
                "valley narrower until the rate just about fits (Cohen et al., ICLR 2021, the edge of stability)."
            ),
            "A parabola: the stuck point on its left wall, the point after a step of SGD on its right wall at nearly "
            "the same height, and the floor between them.",
        ),
    ],
)


if __name__ == "__main__":
    CHAPTER.main()
