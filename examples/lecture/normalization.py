"""Chapter 5, batch normalization: the error surface, the learning rates it allows, and what evaluation makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass import data, landscape, losses, nn, optim
from onepass.callbacks import Callback
from onepass.lecture import Chapter, Picture, style
from onepass.lecture.chapter import Results
from onepass.schedules import Rate, cosine
from onepass.trainer import DivergedError, Trainer

DEPTH, WIDTH = 5, 32  # hidden layers of every network here, and units in each
BATCH = 64
RATES = (0.01, 0.1, 0.3, 1.0, 3.0)
STAGES = (0, 1, 3, 10, 30, 100)  # steps after which curvature is measured
MOMENTA = (0.1, 0.01)  # weights of a new batch in the running statistics
SMALL_BATCHES = (2, 4, 8, 16, 64)
NAMES = {"none": "without", "batch": "batch normalization"}
LOOKS = {
    "none": {"color": style.COLORS[1], "marker": style.MARKERS[1], "linestyle": "--"},
    "batch": {"color": style.COLORS[0], "marker": style.MARKERS[0], "linestyle": "-"},
    "layer": {"color": style.COLORS[2], "marker": style.MARKERS[2], "linestyle": "-."},
}
NORMALIZATION: dict[str, Callable[[], nn.Layer] | None] = {
    "none": None,
    "batch": partial(nn.BatchNorm, WIDTH, dtype=np.float64),
    "layer": partial(nn.LayerNorm, WIDTH, dtype=np.float64),
}

Array = NDArray[np.float64]


def digits() -> tuple[Array, NDArray[np.int64], Array, NDArray[np.int64]]:
    """x (1437, 64), y, x_test (360, 64), y_test; one mean and deviation for all pixels."""
    digits = data.load_digits_split()
    scaling = data.standardize(digits.x)
    return scaling.apply(digits.x, np.float64), digits.y, scaling.apply(digits.x_test, np.float64), digits.y_test


def network(normalization: Callable[[], nn.Layer] | None, seed: int = 0) -> nn.Sequential:
    """64 pixels, DEPTH times (Linear, normalization, ReLU), 10 logits."""
    layers: list[nn.Layer] = []
    for inputs in (64, *[WIDTH] * (DEPTH - 1)):
        layers.append(nn.Linear(inputs, WIDTH, dtype=np.float64))
        if normalization is not None:
            layers.append(normalization())
        layers.append(nn.ReLU())
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10, dtype=np.float64))
    rng = np.random.default_rng(seed)
    nn.initializers.apply(model, rng, nn.initializers.kaiming_normal(), nn.initializers.constant(0.0))
    return model


def trainer(model: nn.Layer, rate: Rate | float, seed: int = 0, callbacks: tuple[Callback, ...] = ()) -> Trainer:
    optimizer = optim.SGD(model.parameters(), lr=rate)
    return Trainer(model, losses.CrossEntropy(), optimizer, callbacks=callbacks, seed=seed)


def descend(function: Any, start: Array, rate: float, steps: int) -> Array:
    """The path (steps + 1, 2) of gradient descent."""
    path, theta = [start], start.copy()
    optimizer = optim.SGD([theta], lr=rate)
    for _ in range(steps):
        optimizer.step([function(theta)[1]])
        path.append(theta.copy())
    return np.array(path)


def two_weights(steps: int = 12) -> dict[str, Any]:
    """y = w1 x1 + w2 x2 with x2 five times as large as x1, as it is and behind a BatchNorm without gamma and beta."""
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([0, 0], [[1, 0.3], [0.3, 1]], 200) * [1, 5]
    y = x @ np.array([[1.0], [0.2]]) + 0.3 * rng.standard_normal((200, 1))
    results = {}
    for name, layers in {"none": [], "batch": [nn.BatchNorm(2, affine=False, dtype=np.float64)]}.items():
        model = nn.Sequential(*layers, nn.Linear(2, 1, bias=False, dtype=np.float64))
        function = landscape.from_model(model, losses.MeanSquaredError(), x, y)
        hessian = landscape.hessian(function, np.zeros(2))
        minimum = -np.linalg.solve(hessian, function(np.zeros(2))[1])  # of a quadratic: one step of Newton's method
        eigenvalues = np.linalg.eigvalsh(hessian)
        path = descend(function, minimum + np.array([-1.6, 1.2]), 1 / eigenvalues[-1], steps)
        results[name] = {
            "plane": landscape.plane(function, minimum, span=(-2, 2)),
            "eigenvalues": eigenvalues,
            "path": path - minimum,
            "excess": np.array([function.loss(theta) for theta in path]) - function.loss(minimum),
        }
    return results


def pixels() -> dict[str, float]:
    """Condition number of the Hessian 2 XᵀX / N, which is that of X squared, of a linear regression on all pixels."""
    x = data.load_digits_split().x.reshape(-1, 64)
    x = x[:, x.std(axis=0) > 0]
    standardized = nn.BatchNorm(x.shape[1], eps=0.0, affine=False, dtype=np.float64).forward(x)
    features = {"raw": x, "centered": x - x.mean(axis=0), "standardized": standardized}
    return {name: float(np.linalg.cond(rows)) ** 2 for name, rows in features.items()}


class Curvature(Callback):
    """Rows of loss, largest and tenth eigenvalue of the Gauss-Newton matrix on 200 digits, after each of STAGES."""

    def __init__(self, x: Array, y: NDArray[np.int64]) -> None:
        self.x, self.y = x[:200], y[:200]
        self.rows: list[tuple[float, float, float]] = []

    def on_fit_begin(self, trainer: Any, epochs: int, steps: int) -> None:
        self.on_step_end(trainer, np.nan)

    def on_step_end(self, trainer: Any, loss: float) -> None:
        if trainer.step in STAGES:
            function = landscape.from_model(trainer.model, losses.CrossEntropy(), self.x, self.y)
            operator = landscape.gauss_newton_operator(function)
            values = landscape.eigenpairs(operator, top=10, bottom=0, tolerance=1e-3).values
            self.rows.append((function.loss(function.theta), values[-1], values[0]))


def curvature(rate: float = 0.1, seeds: int = 2) -> dict[str, Any]:
    """Arrays (seeds, stages)."""
    x, y, _, _ = digits()
    results: dict[str, Any] = {"rate": rate}
    for norm in ("none", "batch"):
        watches = [Curvature(x, y) for _ in range(seeds)]
        for seed, watch in enumerate(watches):
            trainer(network(NORMALIZATION[norm], seed), rate, seed, (watch,)).fit(x, y, epochs=5, batch_size=BATCH)
        columns = np.array([watch.rows for watch in watches]).transpose(2, 0, 1)
        results[norm] = dict(zip(("loss", "largest", "tenth"), columns, strict=True))
    return results


def learning_rates(epochs: int = 12) -> dict[str, Any]:
    """Training loss (epochs,) at each of RATES, NaN where a run has diverged; "none 0.1" is without, at rate 0.1."""
    x, y, _, _ = digits()
    results: dict[str, Any] = {}
    for norm in ("none", "batch"):
        for rate in RATES:
            run, curve = trainer(network(NORMALIZATION[norm]), rate), np.full(epochs, np.nan)
            with suppress(DivergedError):
                for epoch in range(epochs):
                    curve[epoch] = run.fit(x, y, batch_size=BATCH)[-1]["loss"]
            results[f"{norm} {rate:g}"] = curve
    return results


class Recorded(nn.BatchNorm):
    """A BatchNorm that keeps the mean of unit 0 in the last batch it was trained on."""

    batch_mean = np.nan

    def forward(self, x: Array, training: bool = True) -> Array:
        if training:
            self.batch_mean = float(x[:, 0].mean())
        return super().forward(x, training)


def accuracy(model: nn.Layer, x: Array, y: NDArray[np.int64], training: bool, batch_size: int) -> float:
    """Of whole batches, in either mode, by a copy: training mode moves the running statistics."""
    model = copy.deepcopy(model)
    batches = [slice(start, start + batch_size) for start in range(0, len(x) - batch_size + 1, batch_size)]
    return float(np.mean([model.forward(x[batch], training).argmax(axis=1) == y[batch] for batch in batches]))


class Statistics(Callback):
    """Rows of the batch's and the running mean, and of the accuracy in evaluation and in training mode."""

    def __init__(self, layer: Recorded, x: Array, y: NDArray[np.int64]) -> None:
        self.layer, self.x, self.y = layer, x, y
        self.rows: list[tuple[float, float, float, float]] = []

    def on_step_end(self, trainer: Any, loss: float) -> None:
        modes = [accuracy(trainer.model, self.x, self.y, training, len(self.x)) for training in (False, True)]
        self.rows.append((self.layer.batch_mean, self.layer.running_mean[0], *modes))


def running_statistics(epochs: int = 5) -> dict[str, Any]:
    """Two runs whose weights are the same at every step: only what evaluation will use differs."""
    x, y, x_test, y_test = digits()
    results, names = {}, ("batch", "running", "evaluation", "training")
    for momentum in MOMENTA:
        model = network(partial(Recorded, WIDTH, momentum=momentum, dtype=np.float64))
        layer = next(layer for layer in model.layers if isinstance(layer, Recorded))
        watch = Statistics(layer, x_test, y_test)
        trainer(model, 0.3, callbacks=(watch,)).fit(x, y, epochs=epochs, batch_size=BATCH)
        results[f"{momentum:g}"] = dict(zip(names, np.array(watch.rows).T, strict=True))
    return results


def small_batches(epochs: int = 6, seeds: int = 2) -> dict[str, Any]:
    """Test accuracy (seeds, sizes) in either mode; rates in proportion to the batch, so that epochs are comparable."""
    x, y, x_test, y_test = digits()
    results: dict[str, Any] = {}
    for norm in ("batch", "layer"):
        found = np.empty((2, seeds, len(SMALL_BATCHES)))
        for seed in range(seeds):
            for index, size in enumerate(SMALL_BATCHES):
                model = network(NORMALIZATION[norm], seed)
                rate = cosine(0.2 * size / BATCH, steps=epochs * (len(x) // size))
                trainer(model, rate, seed).fit(x, y, epochs=epochs, batch_size=size, drop_last=True)
                for mode in (0, 1):
                    found[mode, seed, index] = accuracy(model, x_test, y_test, bool(mode), size)
        results[norm] = {"evaluation": found[0], "training": found[1]}
    return results


def compute() -> dict[str, Any]:
    return {
        "two weights": two_weights(), "pixels": pixels(), "curvature": curvature(),
        "learning rates": learning_rates(), "statistics": running_statistics(), "small batches": small_batches(),
    }  # fmt: skip


def draw_surface(results: Results) -> Any:
    figure, axes = style.figure(columns=2, height=3.3, sharey=True)
    for ax, name, title in zip(axes, ("none", "batch"), ("features as they are", "standardized"), strict=True):
        found = results["two weights"][name]
        plane, eigenvalues, levels = found["plane"], found["eigenvalues"], np.geomspace(0.02, 200, 13)
        excess = np.clip(plane.losses - plane.losses.min(), levels[0], levels[-1])
        ax.contourf(plane.a, plane.b, excess, levels=levels, norm="log")
        ax.contour(plane.a, plane.b, excess, levels=levels, colors="white", linewidths=0.5)
        ax.plot(*found["path"].T, ".-", color="white", markersize=7, linewidth=1, markeredgecolor="black")
        ax.plot(0, 0, "*", color=style.COLORS[1], markersize=14, markeredgecolor="black")
        title = f"{title}\ncondition number {eigenvalues[1] / eigenvalues[0]:.1f}"
        ax.set(title=title, xlabel="w₁ from its best value", aspect=1)
    axes[0].set(ylabel="w₂ from its best value")
    return figure


def draw_curvature(results: Results) -> Any:
    figure, (top, bottom) = style.figure(rows=2, height=5.4, sharex=True)
    found = results["curvature"]
    for norm in ("none", "batch"):
        for seed, (largest, tenth) in enumerate(zip(found[norm]["largest"], found[norm]["tenth"], strict=True)):
            label = {"label": NAMES[norm]} if seed == 0 else {}
            top.plot(STAGES, largest, **LOOKS[norm], **label, alpha=0.8)
            bottom.plot(STAGES, largest / tenth, **LOOKS[norm], alpha=0.8)
    top.axhline(2 / found["rate"], color="black", linestyle=":")
    top.annotate(f"2 / rate = {2 / found['rate']:g}", (1, 2 / found["rate"]), (0, 4), textcoords="offset points")
    top.set(yscale="log", ylabel="largest eigenvalue λ₁", ylim=(1, 60))
    top.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    top.minorticks_off()
    bottom.set_xscale("symlog", linthresh=1, linscale=0.4)
    bottom.set(ylabel="λ₁ / λ₁₀", xlabel="steps of training", ylim=(0, None), xlim=(-0.3, 130))
    bottom.set_xticks(STAGES, map(str, STAGES))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def draw_rates(results: Results) -> Any:
    figure, axes = style.figure(columns=2, height=3.6, sharex=True, sharey=True)
    for ax, norm in zip(axes, ("none", "batch"), strict=True):
        for index, (rate, color, marker) in enumerate(zip(RATES, style.COLORS, style.MARKERS, strict=False)):
            curve = results["learning rates"][f"{norm} {rate:g}"]
            label = {"label": f"rate {rate:g}"} if norm == "none" else {}
            every = (index % 2, 2)  # two curves that lie on each other show both markers
            ax.plot(np.arange(1, len(curve) + 1), curve, color=color, marker=marker, markevery=every, **label)
        ax.axhline(np.log(10), color="black", linestyle=":")
        ax.set(title=NAMES[norm], xlabel="epoch", yscale="log", ylim=(0.02, 6), xticks=range(0, len(curve) + 1, 2))
    axes[1].annotate("guessing: log 10", (len(curve), np.log(10)), (0, 5), textcoords="offset points", ha="right")
    ticks = ["0.03", "0.1", "0.3", "1", "3"]
    axes[0].set(ylabel="training loss", yticks=[float(tick) for tick in ticks], yticklabels=ticks)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_running(results: Results) -> Any:
    figure, (top, bottom) = style.figure(rows=2, height=5.6, sharex=True)
    found = results["statistics"]
    steps = np.arange(1, len(found["0.1"]["batch"]) + 1)
    top.plot(steps, found["0.1"]["batch"], ".", color="0.5")
    bottom.plot(steps, found["0.1"]["training"], ".-", color="0.5", label="the batch's own", linewidth=0.8)
    for momentum, color, line in zip(MOMENTA, style.COLORS, ("-", "--"), strict=False):
        run = found[f"{momentum:g}"]
        top.plot(steps, run["running"], line, color=color, label=f"running, weight {momentum:g}")
        bottom.plot(steps, run["evaluation"], line, color=color)
    top.set(ylabel="one unit's mean")
    bottom.set(ylabel="accuracy on test rows", xlabel="steps of training", ylim=(0, 1), xlim=(0, None))
    bottom.yaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1.0)
    return figure


def draw_small_batches(results: Results) -> Any:
    figure, ax = style.figure(height=3.8)
    for norm, mode, label, look in (
        ("layer", "evaluation", "layer normalization, both modes", {}),
        ("batch", "evaluation", "batch normalization, running statistics", {}),
        ("batch", "training", "batch normalization, the batch's own", {"linestyle": ":", "marker": style.MARKERS[3]}),
    ):
        values = results["small batches"][norm][mode]
        middle = values.mean(axis=0)
        spread = np.abs(np.array([values.min(axis=0), values.max(axis=0)]) - middle)
        ax.errorbar(SMALL_BATCHES, middle, spread, **{**LOOKS[norm], **look}, label=label, capsize=3)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="rows in a batch", ylabel="accuracy on test rows", ylim=(0, 1))
    ax.set_xticks(SMALL_BATCHES, map(str, SMALL_BATCHES))
    ax.yaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside upper center", ncols=1)
    return figure


def text(results: Results) -> str:
    pixel = results["pixels"]
    return f"""If one feature is a hundred times as large as another, so is what its weight does to the loss: the error
surface is a ravine, and a learning rate that suits its steep direction is far too small for the flat one. Standardized
features, (x - mean) / deviation, make it rounder. For a linear regression on the digits' pixels, the condition number
of the Hessian, λmax / λmin, falls from {pixel["raw"]:.1e} to {pixel["centered"]:.1e} when means are taken away, and to
{pixel["standardized"]:.0f} when deviations are divided by; not to 1, since pixels are correlated.

A hidden layer's output is the next layer's feature, and changes with every step. Its mean and deviation are therefore
taken from each batch anew, and the gradient goes through them: batch normalization. Two parameters a unit, gamma and
beta, let the network have whatever scale and mean it needs.

When the network is used there may be no batch. Then running statistics stand in: moving averages of the batches' means
and variances, which lag behind, and are no better than the batches they come from. Layer normalization takes mean and
variance over the units of one row instead: it has no such trouble."""


def surface_caption(results: Results) -> str:
    before, after = (results["two weights"][name]["excess"] for name in ("none", "batch"))
    return f"""y = w₁x₁ + w₂x₂ with x₂ five times as large as x₁; mean squared error, the same colors on both sides.
{len(before) - 1} steps of gradient descent at rate 1 / λmax from the same place end {before[-1]:.2f} above the minimum
on the left and {after[-1]:.0e} on the right, behind a BatchNorm. Its ellipses are oblique: x₁ and x₂ are correlated."""


def curvature_caption(results: Results) -> str:
    rate, without, batch = (results["curvature"][name] for name in ("rate", "none", "batch"))
    ratio = without["largest"] / batch["largest"]
    least, most = (without["largest"] / without["tenth"]).min(), (batch["largest"] / batch["tenth"]).max()
    return f"""Largest eigenvalues of the Gauss-Newton matrix (the part of the Hessian that is never negative) of
networks with {DEPTH} hidden layers on digits; two runs each, at rate {rate:g}. At the same step λ₁ is {ratio.min():.1f}
to {ratio.max():.0f} times as large without batch normalization, and sticks out more: λ₁ / λ₁₀ is {least:.1f} and more
without, at most {most:.1f} with it. Steps along an eigenvector are stable up to λ = 2 / rate (dotted): without,
training goes to that edge; with, larger rates have room. λmin is 0 in both, so λmax / λmin says nothing."""


def rates_caption(results: Results) -> str:
    curves = results["learning rates"]
    without, batch = (curves[f"{norm} {RATES[0]:g}"][-1] for norm in ("none", "batch"))
    return f"""Without normalization, rates 1 and 3 end at log 10, which is guessing, or diverge: the first steps are so
large that units die (at rate 3 the first epoch is off the axis). With it every rate trains. It is no gain everywhere:
at rate {RATES[0]:g} the loss ends at {batch:.2f} with it, {without:.2f} without."""


def running_caption(results: Results) -> str:
    slow, fast = (results["statistics"][f"{momentum:g}"]["evaluation"] for momentum in sorted(MOMENTA))
    own = results["statistics"]["0.1"]["training"]
    return f"""Above: mean of one unit's input in each batch, and its running mean, which starts at 0. Below: accuracy
on the test rows with their own statistics, all being one batch, or with running ones; the weights are the same. After
20 steps {own[19]:.0%}, {fast[19]:.0%} and {slow[19]:.0%} are right. If a new batch weighs 0.1 (PyTorch's momentum),
they catch up in 40 steps; if 0.01, not in {len(slow)}. Bad validation in the first epochs may be this alone."""


def small_caption(results: Results) -> str:
    batch, layer = results["small batches"]["batch"], results["small batches"]["layer"]["evaluation"].mean(axis=0)
    running, own = batch["evaluation"].mean(axis=0), batch["training"].mean(axis=0)
    return f"""Trained with 2 to 64 rows a batch for the same epochs, the rate in proportion; mean and range of two
runs. Two rows become +1 and -1, whatever they were: {running[0]:.0%} are right. With 4 and 8 the network learns from
noisy statistics, and those of a small batch are worse in use ({own[1]:.0%}, {own[2]:.0%}) than running ones
({running[1]:.0%}, {running[2]:.0%}). Layer normalization does not care: {layer.min():.0%} to {layer.max():.0%}."""


CHAPTER = Chapter(
    number=5,
    title="Batch normalization",
    chinese="批次标准化",
    text=text,
    terms={
        "batch normalization": "批次标准化", "error surface": "误差表面", "feature": "特征",
        "standardization": "标准化", "mean": "平均值", "standard deviation": "标准差", "condition number": "条件数",
        "eigenvalue": "特征值", "learning rate": "学习率", "moving average": "移动平均", "inference": "推断",
        "batch size": "批次大小", "layer normalization": "层标准化",
    },
    compute=compute,
    pictures=[
        Picture("normalization-surface", draw_surface, surface_caption,
                "Contours of the loss: a long ravine for features as they are, near circles for standardized ones."),
        Picture("normalization-curvature", draw_curvature, curvature_caption,
                "In training the largest eigenvalue is several times larger without batch normalization."),
        Picture("normalization-rates", draw_rates, rates_caption,
                "Without normalization large learning rates end at guessing, with it all of them train."),
        Picture("normalization-running", draw_running, running_caption,
                "The running mean follows the batches' means with a delay; accuracy in evaluation lags with it."),
        Picture("normalization-small", draw_small_batches, small_caption,
                "Accuracy against batch size: batch normalization fails at 2 rows, layer normalization never."),
    ],
)  # fmt: skip

if __name__ == "__main__":
    CHAPTER.main()
