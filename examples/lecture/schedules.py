"""Chapter 9: learning-rate schedules. Decay, warm-up, RAdam; and Adam against SGD with momentum, and between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onepass import callbacks, data, losses, nn, optim, schedules
from onepass.lecture import Chapter, Picture, style
from onepass.trainer import Trainer


def digits() -> tuple[Any, Any, Any, Any]:
    """x (1437, 64) in 0 .. 1 and y for training, the same of 360 rows for testing."""
    split = data.load_digits_split()
    x, x_test = ((images.reshape(len(images), 64) / 16).astype(np.float32) for images in (split.x, split.x_test))
    return x, split.y, x_test, split.y_test


# ---- schedules, and RAdam beside

EPOCHS, BATCH = 12, 64
STEPS = EPOCHS * 23  # 1437 rows
WARMUP = 100
CONSTANT, DECAY, WARM, BOTH, RADAM, RADAM_DECAY = WAYS = (
    "constant",
    "decay",
    "warm-up",
    "warm-up and decay",
    "RAdam",
    "RAdam and decay",
)


def schedule(way: str, rate: float) -> schedules.Schedule:
    if way in (CONSTANT, RADAM):
        return schedules.constant(rate)
    if way in (DECAY, RADAM_DECAY):
        return schedules.cosine(rate, STEPS)
    after = schedules.constant(rate) if way == WARM else schedules.cosine(rate, STEPS - WARMUP)
    return schedules.join([schedules.linear_warmup(rate, WARMUP), after], [WARMUP])


SMALL_GRADIENT, LONG = 1e-3, 10_000


def step_sizes(make: Callable[[Any], optim.Optimizer]) -> Any:
    """How far each of LONG steps moves a parameter whose gradient is always SMALL_GRADIENT."""
    parameter, moved = np.zeros(1), np.empty(LONG + 1)
    optimizer = make([parameter])
    for step in range(LONG + 1):
        moved[step] = parameter[0]
        optimizer.step([np.full(1, SMALL_GRADIENT)])
    return -np.diff(moved)


def shapes() -> dict[str, Any]:
    makers: dict[str, Callable[[Any], optim.Optimizer]] = {
        "Adam": lambda parameters: optim.Adam(parameters, lr=1.0),
        # as long as Adam's second moment remembers: 2 / (1 - beta2) steps (Ma and Yarats, AAAI 2021)
        "Adam, warm-up": lambda parameters: optim.Adam(parameters, lr=schedules.linear_warmup(1.0, 2000)),
        "RAdam, β2 = 0.999": lambda parameters: optim.RAdam(parameters, lr=1.0),
        "RAdam, β2 = 0.99": lambda parameters: optim.RAdam(parameters, lr=1.0, betas=(0.9, 0.99)),
    }
    rates = {way: [schedule(way, 1.0)(step) for step in range(STEPS)] for way in (CONSTANT, DECAY, WARM, BOTH)}
    return {"schedules": rates, "step_sizes": {name: step_sizes(make) for name, make in makers.items()}}


# ---- a deep network without batch normalization, trained by Adam with a large rate

RATES = (0.002, 0.006, 0.02, 0.06)
LARGE = 0.02
SEEDS = range(4)


def deep_network(seed: int) -> nn.Sequential:
    hidden = [layer for _ in range(6) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *hidden, nn.Linear(64, 10), seed=seed)


class DeadUnits(callbacks.Callback):
    """The share of hidden units that are 0 for every row of x, and so have no gradient; before and after each epoch."""

    def __init__(self, x: Any) -> None:
        self.x, self.shares = x, []

    def look(self, model: Any) -> None:
        y, dead = self.x, []
        for layer in model.layers:
            y = layer.forward(y, False)
            if isinstance(layer, nn.ReLU):
                dead.append(np.mean(y.max(axis=0) <= 0))
        self.shares.append(float(np.mean(dead)))

    def on_fit_begin(self, trainer: Any, epochs: int, steps: int) -> None:
        self.look(trainer.model)

    def on_epoch_end(self, trainer: Any, record: Any) -> None:
        self.look(trainer.model)


def warmups() -> dict[str, Any]:
    """For each way: training accuracy at the end (rates, seeds); at the rate LARGE losses and dead units by epoch."""
    x, y, x_test, y_test = digits()
    names = ("accuracy", "test", "losses", "dead")
    found: dict[str, dict[str, Any]] = {name: {way: [] for way in WAYS} for name in names}
    for way in WAYS:
        for rate in RATES:
            for seed in SEEDS:
                model, dead = deep_network(seed), DeadUnits(x)
                optimizer = (optim.RAdam if way in (RADAM, RADAM_DECAY) else optim.Adam)(model.parameters())
                trainer = Trainer(model, losses.CrossEntropy(), optimizer, schedule(way, rate), [dead], seed)
                history = trainer.fit(x, y, EPOCHS, BATCH)
                found["accuracy"][way].append(trainer.evaluate(x, y)["accuracy"])
                found["test"][way].append(trainer.evaluate(x_test, y_test)["accuracy"])
                found["losses"][way].append(history.column("loss"))
                found["dead"][way].append(dead.shares)
    for of in found.values():
        for way, values in of.items():
            of[way] = np.reshape(values, (len(RATES), len(SEEDS), *np.shape(values)[1:]))
    return {"warmup": found}


# ---- fast and good: Adam, SGD with momentum, and what combines them

TRAINING, VALIDATION = 600, 200  # rows; the other 997 are the test's
COMPARED_EPOCHS, COMPARED_BATCH, COMPARED_SEEDS = 30, 32, range(8)
TARGET = 0.1
TOLERANCE = 0.01
SGD = "SGD, momentum"
MAKERS: dict[str, Callable[[Any, float], optim.Optimizer]] = {
    SGD: lambda parameters, rate: optim.SGD(parameters, lr=10 * rate, momentum=0.9),
    "Adam": lambda parameters, rate: optim.Adam(parameters, lr=rate),
    "SWATS": lambda parameters, rate: optim.SWATS(parameters, lr=rate, tolerance=TOLERANCE),
    "AdaBound": lambda parameters, rate: optim.AdaBound(parameters, lr=rate),
    "Lookahead": lambda parameters, rate: optim.Lookahead(optim.Adam(parameters, lr=rate)),
}
COMPARED_RATES = (0.003, 0.01, 0.03, 0.1)  # ten times as much for SGD


def compare() -> dict[str, Any]:
    """For each optimizer arrays (rates, seeds): validation and test accuracy, epochs until the loss is below TARGET."""
    x, y, x_test, y_test = digits()
    x, y = np.concatenate([x, x_test]), np.concatenate([y, y_test])

    def run(make: Callable[[Any, float], optim.Optimizer], rate: float, seed: int) -> tuple[Any, ...]:
        order = np.random.default_rng(seed).permutation(len(x))  # every seed has a split of its own
        parts = np.split(order, [TRAINING, TRAINING + VALIDATION])
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), seed=seed)
        optimizer = make(model.parameters(), rate)
        trainer = Trainer(model, losses.CrossEntropy(), optimizer, seed=seed)
        rows = x[parts[0]], y[parts[0]]
        # the loss of all training rows after each epoch
        history = trainer.fit(*rows, COMPARED_EPOCHS, COMPARED_BATCH, validation=rows)
        validation, test = (trainer.evaluate(x[part], y[part])["accuracy"] for part in parts[1:])
        switched = getattr(optimizer, "phases", None) == ["sgd"]
        return history.column("validation_loss"), validation, test, switched

    found = {}
    for name, make in MAKERS.items():
        runs = [[run(make, rate, seed) for seed in COMPARED_SEEDS] for rate in COMPARED_RATES]
        curves, validation, test, switched = (np.array([[r[i] for r in row] for row in runs]) for i in range(4))
        below = curves < TARGET
        epochs = np.where(below.any(axis=2), below.argmax(axis=2) + 1.0, np.inf)
        found[name] = {"losses": curves, "validation": validation, "test": test, "epochs": epochs, "switched": switched}
        found[name]["chosen"] = choose(validation, epochs)
    rate = COMPARED_RATES[found["SWATS"]["chosen"]]
    strict = [run(lambda parameters, lr: optim.SWATS(parameters, lr=lr), rate, seed)[3] for seed in COMPARED_SEEDS]
    return {"optimizers": found, "switched_at_the_papers_tolerance": sum(strict)}


def standard_error(values: Any) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def choose(validation: Any, epochs: Any) -> int:
    """The fastest of the rates whose validation accuracy is within one standard error of the best."""
    accuracy = validation.mean(axis=1)
    best = accuracy.argmax()
    return int(
        np.where(accuracy >= accuracy[best] - standard_error(validation[best]), epochs.mean(axis=1), np.inf).argmin()
    )


def compute() -> dict[str, Any]:
    return {**shapes(), **warmups(), **compare()}


# ---- pictures

LINES = [
    {"color": color, "marker": marker, "linestyle": line}
    for color, marker, line in zip(style.COLORS, style.MARKERS, ("-", "--", ":", "-.", "-", "--"), strict=False)
]


def draw_shapes(results: Any) -> Any:
    figure, (rates, sizes) = style.figure(2, height=6.6)
    for place, ((way, found), line) in enumerate(zip(results["schedules"].items(), LINES, strict=False)):
        rates.plot(found, label=way, markevery=(10 * place, 40), **line)
    rates.set(xlabel="step", ylabel="rate / its peak", ylim=(0, 1.05))
    steps = np.arange(1, LONG + 1)
    for (name, found), line in zip(results["step_sizes"].items(), LINES, strict=False):
        sizes.plot(steps, found, label=name, markevery=[0, 9, 99, 999, LONG - 1], **line)
    sizes.set(xlabel="step", ylabel="movement / rate", xscale="log", yscale="log")
    for axes in (rates, sizes):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return figure


def draw_warmup(results: Any) -> Any:
    figure, (curves, dead) = style.figure(2, height=6.6, sharex=True)
    rate = RATES.index(LARGE)
    for way, line in zip(WAYS, LINES, strict=True):
        loss, share = (results["warmup"][name][way][rate].mean(axis=0) for name in ("losses", "dead"))
        curves.plot(np.arange(1, EPOCHS + 1), loss, label=way, **line)
        dead.plot(np.arange(EPOCHS + 1), 100 * share, label=way, **line)
    curves.set(ylabel="training loss", yscale="log")
    curves.yaxis.set_major_formatter("{x:g}")
    dead.set(xlabel="epoch", ylabel="dead hidden units (%)", ylim=(0, 100))
    figure.legend(*curves.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def draw_rates(results: Any) -> Any:
    figure, axes = style.figure(height=5)
    for place, (way, line) in enumerate(zip(WAYS, LINES, strict=True)):
        accuracy = 100 * results["warmup"]["accuracy"][way]
        mean = accuracy.mean(axis=1)
        spread = [mean - accuracy.min(axis=1), accuracy.max(axis=1) - mean]
        beside = np.array(RATES) * 1.07 ** (place - 2.5)  # so that no bar hides another
        axes.errorbar(beside, mean, spread, capsize=3, label=way, **line)
    axes.set(xlabel="peak learning rate", ylabel="training accuracy (%)", xscale="log", ylim=(0, 103))
    axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
    axes.set_xticks([], minor=True)
    axes.legend(loc="lower left")
    return figure


def draw_compared(results: Any) -> Any:
    figure, (curves, ends) = style.figure(2, height=7)
    for (name, found), line in zip(results["optimizers"].items(), LINES, strict=False):
        loss, epochs, test = (found[key][found["chosen"]] for key in ("losses", "epochs", "test"))
        curves.plot(np.arange(1, COMPARED_EPOCHS + 1), loss.mean(axis=0), label=name, markevery=3, **line)
        ends.errorbar(
            epochs.mean(), 100 * test.mean(), 100 * test.std(), epochs.std(), capsize=3, label=name, **{**line, "ms": 9}
        )
    curves.set(xlabel="epoch", ylabel="training loss", yscale="log")
    curves.legend(loc="upper right")
    ends.set(xlabel=f"epochs until the training loss is below {TARGET}", ylabel="test accuracy at the end (%)")
    ends.set_xlim(0, None)
    ends.margins(y=1)
    return figure


# ---- what is said


def percent(values: Any) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}%"


def text(results: Any) -> str:
    accuracy, dead = results["warmup"]["accuracy"], results["warmup"]["dead"][CONSTANT][RATES.index(LARGE)]
    best = {way: accuracy[way][accuracy[way].mean(axis=1).argmax()] for way in WAYS}
    epochs = {name: found["epochs"][found["chosen"]].mean() for name, found in results["optimizers"].items()}
    return f"""A good learning rate is not the same all along. Far from a minimum large steps save time; near it they
jump about, and with decay, a rate that falls towards 0, the run comes to rest. At the beginning large steps do harm,
above all Adam's. It divides the mean gradient by the root mean square of the gradients so far; after one step there is
one: every parameter moves by the whole rate, however small its gradient, and on the word of a single batch. Warm-up
begins with small steps, until the averages rest on many batches.

Here is where it matters: seven hidden layers, no batch normalization, Adam with the rate {LARGE:g}. Without warm-up
{100 * dead[:, 1].mean():.0f}% of the hidden units are dead after the first epoch: they are 0 for every image and pass
no gradient on, and the share hardly falls again. Warm-up saves the units, but alone it goes on jumping; decay alone
comes to rest, but with few units left; it takes both. A smaller constant rate is no substitute: the best one ends with
{percent(best[CONSTANT])} of the training rows right, the best warm-up with decay with {percent(best[BOTH])}.

RAdam (Liu et al., 2020) has the warm-up in its formula: its factor r_t is small as long as few gradients are known, and
comes near 1 after a few times 1 / (1 - β2) steps. No length has to be chosen, but a short run never leaves it.

Adam or SGD with momentum? Adam is said to be faster, SGD to end better on test data, and some combine the two: SWATS
switches from Adam to SGD (Keskar and Socher, 2017), AdaBound narrows Adam's rates down to SGD's (Luo et al., 2019),
Lookahead returns again and again to an average of Adam's way (Zhang et al., 2019). On these digits Adam needs
{100 * (1 - epochs["Adam"] / epochs[SGD]):.0f}% fewer epochs than SGD to the same training loss, and on the test rows
all end alike, within the spread. That refutes none of those papers, whose networks were much larger, but theirs is no
law either: compare on your own task, at several rates and with several seeds."""


def caption_shapes(results: Any) -> str:
    radam = results["step_sizes"]["RAdam, β2 = 0.999"]
    return f"""Above: four schedules of {STEPS} steps. Below: how far a parameter moves whose gradient is always
{SMALL_GRADIENT:g}, measured. Adam moves by the whole rate from the first step. RAdam does not divide in its first 5
steps and moves by rate times gradient; then its factor r_t, {radam[5]:.2f} at step 6 and {radam[STEPS - 1]:.2f} at step
{STEPS}, works like a warm-up; the linear one beside it lasts 2 / (1 - β2) = 2000 steps (Ma and Yarats, 2021)."""


def caption_warmup(results: Any) -> str:
    dead = {way: 100 * share[RATES.index(LARGE)].mean(axis=0) for way, share in results["warmup"]["dead"].items()}
    return f"""Adam and RAdam with the peak rate {LARGE:g}, warm-up of {WARMUP} steps; means of {len(SEEDS)} seeds. One
epoch at the full rate raises the share of dead units from {dead[CONSTANT][0]:.0f}% to {dead[CONSTANT][1]:.0f}%; with
warm-up it is {dead[BOTH][1]:.0f}%, with RAdam {dead[RADAM][1]:.0f}%. The training loss follows: least with warm-up and
decay."""


def caption_rates(results: Any) -> str:
    return f"""The same for four rates: mean, and the least and largest of {len(SEEDS)} seeds. A constant rate has to be
small. Warm-up and decay make a larger one possible, and with it a better end. RAdam with decay, still in its own
warm-up after {STEPS} steps, wants the largest."""


def caption_compared(results: Any) -> str:
    found = results["optimizers"]
    epochs, test = ({name: of[key][of["chosen"]] for name, of in found.items()} for key in ("epochs", "test"))
    ends = "; ".join(f"{name} {epochs[name].mean():.1f} epochs, {percent(test[name])}" for name in found)
    pairs, swats = 100 * (test["Adam"] - test[SGD]), found["SWATS"]
    return f"""One hidden layer, {TRAINING} training rows, {COMPARED_EPOCHS} epochs; mean and standard deviation of
{len(COMPARED_SEEDS)} seeds, each with its own split; for each the fastest of the rates that are best by validation,
within its error. {ends}. Adam minus SGD, seed by seed: {pairs.mean():+.2f} ± {standard_error(pairs):.2f} points. SWATS
became SGD in {swats["switched"][swats["chosen"]].sum()} runs, with a tolerance of {TOLERANCE:g}; with the paper's,
1e-9, in {results["switched_at_the_papers_tolerance"]}: so short a run is all Adam's."""


CHAPTER = Chapter(
    number=9,
    title="Learning-rate schedules",
    chinese="学习率调度",
    text=text,
    terms={
        "learning rate": "学习率",
        "learning-rate schedule": "学习率调度",
        "learning-rate decay": "学习率衰减",
        "warm-up": "预热",
        "adaptive learning rate": "自适应学习率",
        "momentum": "动量",
        "optimizer": "优化器",
        "root mean square": "均方根",
        "training loss": "训练损失",
        "generalization": "泛化",
    },
    compute=compute,
    pictures=(
        Picture("schedules-shapes", draw_shapes, caption_shapes, "Four schedules; RAdam's steps grow as in a warm-up."),
        Picture("schedules-warmup", draw_warmup, caption_warmup, "Without warm-up most hidden units die at once."),
        Picture("schedules-rates", draw_rates, caption_rates, "Warm-up and decay are best at a larger rate."),
        Picture(
            "schedules-optimizers", draw_compared, caption_compared, "Adam is faster than SGD; accuracies are alike."
        ),
    ),
)

if __name__ == "__main__":
    CHAPTER.main()
