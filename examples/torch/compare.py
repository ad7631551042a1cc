"""torch's fused AdamW, ours with float32 states and ours with 8-bit states, on language_model.py: a picture, a table.

    python -m examples.torch.compare --picture docs/embedding/language_model.png

Three models begin with the same weights and see the same batches. They take turns, step by step in an order drawn anew,
so that whatever else the machine does hits all of them. About four minutes on two quiet cores; `--quick` some seconds.
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from typing import Any

import torch

from examples.torch.language_model import OPTIMIZERS, QUICK, Settings, Training, documentation, state_bytes

LABELS = {
    "torch": "torch.optim.AdamW(fused=True)",
    "onepass": "onepass.torch.AdamW",
    "onepass-8bit": 'onepass.torch.AdamW(state_dtype="float8")',
}
SHORT = {"torch": "torch\nfused", "onepass": "onepass\nfloat32", "onepass-8bit": "onepass\n8-bit"}
COLORS = {"torch": "#000000", "onepass": "#0072B2", "onepass-8bit": "#D55E00"}  # Okabe and Ito 2008
LINES: dict[str, dict[str, Any]] = {  # the first two lie on each other
    "torch": {"linewidth": 4.0, "alpha": 0.3},
    "onepass": {"linewidth": 1.4},
    "onepass-8bit": {"linewidth": 1.4, "linestyle": (0, (4, 2))},
}
HATCHES = {"torch": "", "onepass": "//", "onepass-8bit": ".."}
WARM = 10  # steps whose times do not count


def trained(settings: Settings) -> dict[str, Training]:
    """All three, trained in turns."""
    text = documentation()
    trainings = {name: Training(name, settings, text) for name in OPTIMIZERS}
    order, turns = list(trainings), random.Random(settings.seed)
    for step in range(1, settings.steps + 1):
        turns.shuffle(order)
        for name in order:
            trainings[name].step()
        if step % (settings.steps // 10) == 0:
            print(f"step {step}: " + ", ".join(f"{t.losses[-1]:.4f}" for t in trainings.values()), flush=True)
    return trainings


def measured(training: Training) -> dict[str, float]:
    """Losses in nats a byte; times in ms, medians; states in bytes and in bytes a parameter."""
    parameters = sum(p.numel() for p in training.model.parameters())
    kept = state_bytes(training.optimizer)
    last = training.losses[-training.settings.steps // 10 :]
    return {
        "loss": statistics.mean(last),
        "validation": training.validation_loss(),
        "step": 1e3 * statistics.median(training.seconds[WARM:]),
        "optimizer": 1e3 * statistics.median(training.optimizer_seconds[WARM:]),
        "bytes": kept,
        "each": kept / parameters,
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """In Markdown."""
    lines = [
        "| optimizer | loss, last tenth | validation loss | a step | the optimizer's part | its states | a parameter |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        lines.append(
            f"| `{LABELS[name]}` | {row['loss']:.4f} | {row['validation']:.4f} | {row['step']:.1f} ms | "
            f"{row['optimizer']:.2f} ms | {row['bytes'] / 1e6:.2f} MB | {row['each']:.2f} bytes |"
        )
    return "\n".join(lines)


def smooth(losses: list[float], width: int) -> list[float]:
    """Means of `width` losses that follow each other."""
    return [statistics.mean(losses[i : i + width]) for i in range(len(losses) - width + 1)]


def draw(trainings: dict[str, Training], rows: dict[str, dict[str, float]]) -> Any:
    from matplotlib.figure import Figure

    settings = next(iter(trainings.values())).settings
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    curves, bars = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    width = max(1, settings.steps // 20)
    axes = curves.subplots()
    for name, training in trainings.items():
        label = f"{LABELS[name]}: {rows[name]['validation']:.3f} on held-back text"
        means = smooth(training.losses, width)
        axes.plot(range(width, settings.steps + 1), means, color=COLORS[name], label=label, **LINES[name])
    axes.set(xlabel="step", ylabel=f"training loss, nats a byte\n(mean of {width} steps)", ylim=(0, None))
    axes.set_title("Training loss", loc="left", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=9)
    panels = (
        ("step", "A whole step", "ms, median", "{:.1f}"),
        ("optimizer", "The optimizer's part", "ms, median", "{:.2f}"),
        ("bytes", "Its states", "MB", "{:.2f}"),
    )
    for axes, (key, title, unit, form) in zip(bars.subplots(1, 3), panels, strict=True):
        scale = 1e-6 if key == "bytes" else 1.0
        for at, (name, row) in enumerate(rows.items()):
            height = scale * row[key]
            axes.bar(at, height, 0.7, facecolor="white", edgecolor=COLORS[name], hatch=HATCHES[name], linewidth=1.6)
            axes.annotate(form.format(height), (at, height), (0, 3), textcoords="offset points", ha="center")
        axes.set_xticks(range(len(rows)), [SHORT[name] for name in rows], fontsize=9)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylabel(unit)
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model for some seconds")
    parser.add_argument("--picture", type=Path, default=Path("language_model.png"), help="default: %(default)s")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    trainings = trained(settings)
    parameters = sum(p.numel() for p in trainings["torch"].model.parameters())
    rows = {name: measured(training) for name, training in trainings.items()}
    print(f"\n{parameters} parameters, {settings.steps} steps of {settings.batch} x {settings.context} bytes, "
          f"{torch.get_num_threads()} threads\n\n{table(rows)}")  # fmt: skip
    draw(trainings, rows).savefig(arguments.picture, dpi=130)


if __name__ == "__main__":
    main()
