"""Chapter 4: batches. What a batch costs, how noisy its gradient is, where it ends, and why rows are shuffled."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from scipy.optimize import minimize

import onepass
from onepass import data, losses, nn, optim, schedules
from onepass.lecture import Chapter, Picture, style
from onepass.trainer import Trainer

SEEDS = range(5)
RATE = 0.1
EPOCHS = 10


def digits() -> tuple[Any, Any, Any, Any]:
    """x (1437, 64) in 0 .. 1 and y for training, the same of 360 rows for testing."""
    split = data.load_digits_split()
    x, x_test = ((images.reshape(len(images), 64) / 16).astype(np.float32) for images in (split.x, split.x_test))
    return x, split.y, x_test, split.y_test


def network(seed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), seed=seed)


# ---- what an update and an epoch cost

TIMED_SIZES = (1, 4, 16, 64, 256, 1437)


def seconds_of(x: Any, y: Any, size: int) -> tuple[float, float]:
    """Of an update with ``size`` rows, and of an epoch in such batches; medians."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    loss, optimizer = losses.CrossEntropy(), optim.SGD(model.parameters(), lr=RATE)
    epochs = Trainer(model, loss, optimizer).fit(x, y, epochs=3, batch_size=size).column("seconds")
    updates = []
    for _ in range(11):
        started = perf_counter()
        _, gradient = loss(model.forward(x[:size]), y[:size])
        model.backward(gradient, out=False)
        optimizer.step(model.gradients())
        updates.append(perf_counter() - started)
    return median(updates), median(epochs)


def times() -> dict[str, Any]:
    """Threads -> seconds of an update and of an epoch (2, sizes), medians."""
    x, y, _, _ = digits()
    before = onepass.get_threads()
    found: dict[int, list[Any]] = {threads: [] for threads in sorted({1, before})}
    try:
        for size in TIMED_SIZES:
            for threads, seconds in found.items():
                onepass.set_threads(threads)
                seconds.append(seconds_of(x, y, size))
    finally:
        onepass.set_threads(before)
    return {"times": {threads: np.transpose(seconds) for threads, seconds in found.items()}}


# ---- the path on an error surface: two weights tell ones from eights by two pixels

PATH_SIZE, PATH_EPOCHS, PATH_RATE = 16, 30, 2.0
START = (-3.0, 1.0)
ALL, SMALL, DECAYS = "all rows", f"{PATH_SIZE} rows", f"{PATH_SIZE} rows, rate decays"


def ones_and_eights() -> tuple[Any, Any]:
    """The two pixels that tell ones from eights best, standardized (285, 2), and what is an eight (285, 1)."""
    x, y, _, _ = digits()
    chosen = (y == 1) | (y == 8)
    x, target = x[chosen].astype(np.float64), (y[chosen] == 8).astype(np.float64)[:, np.newaxis]
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    best = np.argsort(-np.abs(x.T @ (target - target.mean())).ravel())[:2]
    return np.ascontiguousarray(x[:, best]), target


def loss_and_gradient(w: Any, x: Any, target: Any) -> tuple[float, Any]:
    """Cross-entropy of logistic regression with the weights w (2,), and its gradient (2,)."""
    value, gradient = losses.BinaryCrossEntropyWithLogits()((x @ w)[:, np.newaxis], target)
    return value, x.T @ gradient[:, 0]


def descend(x: Any, target: Any, size: int, seed: int = 0, decay: bool = False) -> Any:
    """The weights before the first update and after each (updates + 1, 2) of PATH_EPOCHS epochs."""
    batches = data.Batches(x, target, size, seed=seed)
    steps = PATH_EPOCHS * len(batches)
    w = np.array(START)
    optimizer = optim.SGD([w], lr=schedules.cosine(PATH_RATE, steps) if decay else PATH_RATE)
    path = [w.copy()]
    for epoch in range(PATH_EPOCHS):
        for some_x, some_target in batches.epoch(epoch):
            optimizer.step([loss_and_gradient(w, some_x, some_target)[1]])
            path.append(w.copy())
    return np.array(path)


def paths() -> dict[str, Any]:
    x, target = ones_and_eights()

    def loss(w: Any) -> float:
        return loss_and_gradient(np.asarray(w), x, target)[0]

    minimum = minimize(loss_and_gradient, START, (x, target), jac=True, tol=1e-10)
    runs = {
        ALL: [descend(x, target, len(x))],
        SMALL: [descend(x, target, PATH_SIZE, seed) for seed in SEEDS],
        DECAYS: [descend(x, target, PATH_SIZE, seed, decay=True) for seed in SEEDS],
    }
    w1, w2 = np.linspace(-3.5, 3.3, 69), np.linspace(-3.3, 1.5, 49)
    found: dict[str, Any] = {"lengths": {}, "excess": {}, "arrivals": {}}
    for name, of in runs.items():
        above = np.array([[loss(w) - minimum.fun for w in path] for path in of])  # (seeds, updates + 1)
        found["lengths"][name] = [float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum()) for path in of]
        found["excess"][name] = above[:, :: above.shape[1] // PATH_EPOCHS]  # (seeds, epochs + 1)
        found["arrivals"][name] = (above < 0.1 * minimum.fun).argmax(axis=1).tolist()  # the first update there
    return {
        "rows": len(x),
        "minimum": minimum.x,
        "minimum_loss": float(minimum.fun),
        "surface": (w1, w2, np.array([[loss((a, b)) for a in w1] for b in w2])),
        "paths": {name: of[0] for name, of in runs.items()},
        **found,
    }


# ---- where it ends

SIZES = (8, 32, 128, 512, 1437)
RATES = (RATE, 0.3, 1.0, 3.0)
SAME_LOSS = 0.05


def accuracies() -> dict[str, Any]:
    """Of each way to train: training loss, training accuracy, test accuracy and updates, arrays (sizes, seeds)."""
    x, y, x_test, y_test = digits()

    def end(size: int, rate: float, seed: int, until_loss: bool = False) -> list[float]:
        model = network(seed)
        trainer = Trainer(model, losses.CrossEntropy(), optim.SGD(model.parameters(), lr=rate), seed=seed)
        epochs = max(size // 128, 1) if until_loss else EPOCHS
        trainer.fit(x, y, epochs, size)
        while until_loss and trainer.evaluate(x, y)["loss"] >= SAME_LOSS and trainer.epoch < 1000:
            trainer.fit(x, y, epochs, size)
        training, test = trainer.evaluate(x, y), trainer.evaluate(x_test, y_test)
        return [training["loss"], training["accuracy"], test["accuracy"], trainer.step]

    ends = np.array([[[end(size, rate, seed) for seed in SEEDS] for rate in RATES] for size in SIZES])
    best = ends[..., 0].mean(axis=2).argmin(axis=1)  # (sizes,), by training loss: the test rows have no say
    same = [[end(size, RATES[i], seed, until_loss=True) for seed in SEEDS] for size, i in zip(SIZES, best, strict=True)]
    ways = {"one rate": ends[:, 0], "best rates": ends[np.arange(len(SIZES)), best], "same loss": np.array(same)}
    names = ("loss", "training", "test", "updates")
    return {
        "best_rates": [RATES[i] for i in best],
        "updates_per_epoch": np.array([len(data.Batches(x, y, size)) for size in SIZES]),
        "ends": {way: dict(zip(names, np.moveaxis(found, -1, 0), strict=True)) for way, found in ways.items()},
    }


# ---- the order of the rows

EVERY_EPOCH, ONCE, SORTED = ORDERS = ("shuffled every epoch", "shuffled once", "sorted by class")
ORDER_SIZE, ORDER_EPOCHS = 32, 20


def orders() -> dict[str, Any]:
    """For each order test accuracy (seeds, epochs), and how often at the end each class is said (10,)."""
    x, y, x_test, y_test = digits()
    curves: dict[str, Any] = {name: [] for name in ORDERS}
    said: dict[str, Any] = {name: np.zeros(10) for name in ORDERS}
    for name in ORDERS:
        for seed in SEEDS:
            rows = np.random.default_rng(seed).permutation(len(y)) if name == ONCE else np.argsort(y, kind="stable")
            batches = data.Batches(x[rows], y[rows], ORDER_SIZE, shuffle=name == EVERY_EPOCH, seed=seed)
            model = network(seed)
            trainer = Trainer(model, losses.CrossEntropy(), optim.SGD(model.parameters(), lr=RATE))
            history = trainer.fit(batches, epochs=ORDER_EPOCHS, validation=(x_test, y_test))
            curves[name].append(history.column("validation_accuracy"))
            classes = trainer.predict(x_test).argmax(axis=1)
            said[name] += np.bincount(classes, minlength=10) / len(classes) / len(SEEDS)
    return {"curves": {name: np.array(found) for name, found in curves.items()}, "said": said}


def compute() -> dict[str, Any]:
    return {**times(), **paths(), **accuracies(), **orders()}


# ---- pictures

LINES = [
    {"color": color, "marker": marker, "linestyle": line}
    for color, marker, line in zip(style.COLORS, style.MARKERS, ("-", "--", ":"), strict=False)
]


def plot_with_range(axes: Any, x: Any, runs: Any, **line: Any) -> None:
    """The mean of runs (runs, points) as a line, from the least to the largest shaded."""
    axes.plot(x, runs.mean(axis=0), **line)
    axes.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=line["color"], alpha=0.2, linewidth=0)


def size_axis(axes: Any, sizes: Any) -> None:
    axes.set(xlabel="batch size (rows)", xscale="log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)


def draw_times(results: Any) -> Any:
    figure, rows = style.figure(2, height=5.4, sharex=True)
    for (threads, seconds), line in zip(results["times"].items(), LINES, strict=False):
        for axes, found in zip(rows, seconds, strict=True):
            axes.plot(TIMED_SIZES, 1e3 * found, label=f"{threads} thread{'s' if threads > 1 else ''}", **line)
    for axes, title in zip(rows, ("one update", "one epoch: all 1437 rows"), strict=True):
        axes.set(title=title, ylabel="time (milliseconds)", yscale="log")
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    size_axis(rows[1], TIMED_SIZES)
    rows[0].legend(loc="upper left")
    return figure


def draw_paths(results: Any) -> Any:
    figure, rows = style.figure(2, height=8, sharex=True)
    w1, w2, surface = results["surface"]
    for axes, name, line, size in zip(rows, (ALL, SMALL), LINES, (4, 2), strict=False):
        levels = results["minimum_loss"] * np.array([1.02, 1.1, 1.3, 1.7, 2.5, 4, 6, 9])
        contours = axes.contour(w1, w2, surface, levels=levels, colors="0.6", linewidths=0.8)
        axes.clabel(contours, contours.levels[[1, 4, 6]], fontsize=8, fmt="%.2f")
        path = results["paths"][name]
        axes.plot(*path.T, **{**line, "linestyle": "-"}, markersize=size, linewidth=size / 4)
        axes.plot(*path[0], "k>", markersize=8, label="start")
        axes.plot(*results["minimum"], "k*", markersize=11, label="minimum")
        axes.set(
            title=f"a batch is {name}: {len(path) - 1} updates in {PATH_EPOCHS} epochs", ylabel="w2", aspect="equal"
        )
        axes.legend(loc="upper right")
    rows[1].set_xlabel("w1")
    return figure


def draw_excess(results: Any) -> Any:
    figure, axes = style.figure(height=3.8)
    for (name, excess), line in zip(results["excess"].items(), LINES, strict=True):
        plot_with_range(axes, np.arange(PATH_EPOCHS + 1), excess, label=f"batch: {name}", markevery=3, **line)
    axes.set(yscale="log", xlabel="epoch", ylabel="loss above the minimum's")
    axes.legend(loc="lower left")
    return figure


def draw_accuracy(results: Any) -> Any:
    figure, rows = style.figure(2, height=6.4, sharex=True)
    labels = (f"{EPOCHS} epochs, rate {RATE}", f"{EPOCHS} epochs, best rate", f"until training loss < {SAME_LOSS}")
    for ends, label, line in zip(results["ends"].values(), labels, LINES, strict=True):
        for axes, name in zip(rows, ("training", "test"), strict=True):
            accuracy = 100 * ends[name]
            axes.errorbar(SIZES, accuracy.mean(axis=1), accuracy.std(axis=1), capsize=4, label=label, **line)
            axes.set(ylabel=f"{name} accuracy (%)", ylim=(0, 103))
    size_axis(rows[1], SIZES)
    rows[0].legend(loc="lower left")
    return figure


def draw_updates(results: Any) -> Any:
    figure, axes = style.figure(height=3.6)
    updates = results["ends"]["same loss"]["updates"].T
    plot_with_range(axes, SIZES, updates, label="updates", **LINES[0])
    plot_with_range(axes, SIZES, updates / results["updates_per_epoch"], label="epochs", **LINES[1])
    axes.set(ylabel=f"needed for a training loss < {SAME_LOSS}", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    size_axis(axes, SIZES)
    axes.legend(loc="center left")
    return figure


def draw_order(results: Any) -> Any:
    figure, (curves, bars) = style.figure(2, height=6.2)
    for (name, found), line in zip(results["curves"].items(), LINES, strict=True):
        plot_with_range(curves, np.arange(1, ORDER_EPOCHS + 1), 100 * found, label=name, **line)
    curves.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(0, 103), xticks=range(0, ORDER_EPOCHS + 1, 5))
    curves.legend(loc="lower right")
    for place, name, line, hatch in ((-0.2, EVERY_EPOCH, LINES[0], ""), (0.2, SORTED, LINES[2], "//")):
        share = 100 * results["said"][name]
        bars.bar(np.arange(10) + place, share, 0.4, color=line["color"], hatch=hatch, edgecolor="white", label=name)
    bars.set(xlabel="class, in the order of the sorted rows", ylabel="test rows given this class (%)", xticks=range(10))
    bars.legend(loc="upper left")
    return figure


# ---- what is said


def percent(values: Any) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}%"


def text(results: Any) -> str:
    one, best = (results["ends"][way]["test"] for way in ("one rate", "best rates"))
    return f"""A gradient is seldom computed on all rows. It is computed on a batch of them, the parameters are updated,
and the next batch follows; when all rows were seen once, an epoch is over. Batches of {SIZES[0]} make
{results["updates_per_epoch"][0]} updates of an epoch of 1437 rows; a full batch makes one.

A large batch has an exact gradient and few updates, a small one a noisy gradient and many. With more rows an update
takes longer, but at first not in proportion: a step of the optimizer costs the same for any batch, and products of
matrices with many rows use the processor better. So an epoch of large batches is quicker than one of very small ones.

At equal epochs, though, small batches get further. With one learning rate, test accuracy after {EPOCHS} epochs falls
from {percent(one[0])} with {SIZES[0]} rows to {percent(one[-1])} with all; if each batch size has its best rate, from
{percent(best[0])} to {percent(best[-1])}. Training accuracy falls as much, so that this is not overfitting: there were
too few updates. Trained to the same training loss instead, all batch sizes do equally well on these test rows. (Keskar
et al., 2017, found that large batches generalize worse even then, on larger networks; the digits do not show it.)

What to do: take a small batch whose epoch is not much slower, raise the rate with the batch size while training stays
stable, and shuffle. A batch is a fair sample of the data only if the order of the rows says nothing about them."""


def caption_times(results: Any) -> str:
    update, epoch = results["times"][1]
    return f"""Medians, of a network with three layers, on the computer that made this picture. With 1 thread an update
with {TIMED_SIZES[-1]} times as many rows takes {update[-1] / update[0]:.0f} times as long, and an epoch of single rows
{epoch[0] / epoch.min():.1f} times as long as the quickest. More threads help where there is enough work to share."""


def caption_paths(results: Any) -> str:
    lengths, arrivals = results["lengths"], results["arrivals"]
    return f"""Two weights tell ones from eights by two pixels; contours: the loss over all {results["rows"]} rows. The
full batch walks a smooth line, {lengths[ALL][0]:.1f} long. At the same rate, {PATH_RATE:g}, the small batches' path is
{lengths[SMALL][0]:.0f} long: each batch has a surface of its own, and near the minimum only its noise is left. To come
within 10% of the least loss both need few updates, {arrivals[ALL][0]} and {arrivals[SMALL][0]}: gradients of
{arrivals[ALL][0] * results["rows"]} rows for the full batch, of {arrivals[SMALL][0] * PATH_SIZE} for the small ones."""


def caption_excess(results: Any) -> str:
    end = {name: excess[:, -1].mean() for name, excess in results["excess"].items()}
    return f"""Loss over all rows above the minimum's {results["minimum_loss"]:.3f}; mean and range of {len(SEEDS)}
seeds. Small batches are near the minimum after one epoch, then stay at the height of their noise ({end[SMALL]:.1g} at
the end). A rate that decays to 0 lets the noise die out: {end[DECAYS]:.1g}; the full batch: {end[ALL]:.1g}."""


def caption_accuracy(results: Any) -> str:
    rates = ", ".join(f"{rate:g} for {size}" for rate, size in zip(results["best_rates"], SIZES, strict=True))
    return f"""Mean and standard deviation of {len(SEEDS)} seeds. At equal epochs large batches are worse, in training
as in testing. The best of the rates {", ".join(f"{rate:g}" for rate in RATES)}, by training loss ({rates}), makes up
for a part of it. With as many epochs as it takes, no difference is left."""


def caption_updates(results: Any) -> str:
    updates = results["ends"]["same loss"]["updates"].mean(axis=1)
    return f"""At each batch size's best rate; mean and range of {len(SEEDS)} seeds. Up to {SIZES[2]} rows a larger
batch saves updates ({updates[0]:.0f} with {SIZES[0]} rows, {updates[2]:.0f} with {SIZES[2]}), then few more
({updates[-1]:.0f} with all rows): the gradient is good enough, and more rows only make it dearer."""


def caption_order(results: Any) -> str:
    every, once, never = (percent(results["curves"][name][:, -1]) for name in ORDERS)
    return f"""Batches of {ORDER_SIZE} rows; mean and range of {len(SEEDS)} seeds. Sorted, a batch holds one class or
two: the network learns to say them and forgets the others. After {ORDER_EPOCHS} epochs: {every} shuffled every epoch,
{never} sorted, and what came last is said too often: {100 * results["said"][SORTED][9]:.0f}% nines. Shuffled once:
{once}, the same here."""


CHAPTER = Chapter(
    number=4,
    title="Batches",
    chinese="批次",
    text=text,
    terms={
        "batch": "批次",
        "batch size": "批次大小",
        "full batch": "全批次",
        "update": "更新",
        "epoch": "轮次",
        "shuffling": "打乱",
        "noisy gradient": "有噪声的梯度",
        "error surface": "误差表面",
        "learning rate": "学习率",
        "overfitting": "过拟合",
        "generalization": "泛化",
    },
    compute=compute,
    pictures=(
        Picture("batches-times", draw_times, caption_times, "An update takes longer with more rows, an epoch shorter."),
        Picture("batches-paths", draw_paths, caption_paths, "A smooth path and a noisy one, to the same minimum."),
        Picture("batches-excess", draw_excess, caption_excess, "Small batches fall at once, then stay at their noise."),
        Picture("batches-accuracy", draw_accuracy, caption_accuracy, "Accuracy falls with the batch size."),
        Picture("batches-updates", draw_updates, caption_updates, "Updates fall and level off, epochs rise."),
        Picture("batches-order", draw_order, caption_order, "Sorted rows learn slowly and favour the last classes."),
    ),
)

if __name__ == "__main__":
    CHAPTER.main()
