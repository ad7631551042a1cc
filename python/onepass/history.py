"""What a training run looked like, epoch by epoch."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

from onepass._extras import require

__all__ = ["History"]

Record = dict[str, Any]


class History(list[Record]):
    """One dict an epoch, in order.

    Keys: ``epoch`` and ``step`` (how many are done), ``loss`` (mean over the epoch's rows, while
    training), ``accuracy`` (likewise; classification only), ``validation_loss`` and
    ``validation_accuracy`` (if there were validation rows), ``learning_rate`` (of the last step),
    ``seconds`` and ``skipped`` (steps the optimizer refused, see `StepInfo`).

    >>> history = History([{"epoch": 1, "loss": 0.5, "learning_rate": 0.1, "seconds": 0.2}])
    >>> history.column("loss")
    [0.5]
    >>> print(history.table())
    epoch    loss  learning rate  seconds
        1  0.5000          0.100    0.200
    """

    def column(self, name: str) -> list[Any]:
        """The values of one key, one an epoch."""
        return [record[name] for record in self]

    def _decimals(self, name: str) -> int:
        """Such that the column's smallest number has three significant digits, six decimals at most."""
        smallest = min((record[name] for record in self if record.get(name, 0) > 0), default=1.0)
        return min(max(2 - math.floor(math.log10(smallest)), 0), 6)

    def table(self, held_out: str = "validation") -> str:
        """A plain-text table; ``held_out`` is what its heading calls the validation rows."""
        columns = [
            ("epoch", "epoch", "d"),
            ("loss", "loss", ".4f"),
            ("accuracy", "train accuracy", ".2%"),
            ("validation_loss", f"{held_out} loss", ".4f"),
            ("validation_accuracy", f"{held_out} accuracy", ".2%"),
            ("learning_rate", "learning rate", "#.3g"),
            ("seconds", "seconds", f".{self._decimals('seconds')}f"),
        ]
        shown = [column for column in columns if self and column[0] in self[0]]
        rows = [[heading for _, heading, _ in shown]]
        rows += [[format(record[key], form) for key, _, form in shown] for record in self]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def plot(self, path: str | PathLike[str], held_out: str = "validation") -> None:
        """Writes a PNG with the curves of loss, accuracy and learning rate. Needs matplotlib."""
        if not self:
            raise ValueError("history is empty: nothing to plot")
        figure_module = require("matplotlib.figure")
        ticker = require("matplotlib.ticker")
        panels = [
            ("Loss", [("loss", "training"), ("validation_loss", held_out)]),
            ("Accuracy", [("accuracy", "training"), ("validation_accuracy", held_out)]),
            ("Learning rate", [("learning_rate", "")]),
        ]
        drawn = [(title, [line for line in lines if line[0] in self[0]]) for title, lines in panels]
        drawn = [(title, lines) for title, lines in drawn if lines]
        figure = figure_module.Figure(figsize=(4.2 * len(drawn), 3.6), layout="constrained")
        epochs = self.column("epoch")
        marker = "o" if len(self) <= 30 else ""
        for axes, (title, lines) in zip(figure.subplots(1, len(drawn)), drawn, strict=True):
            colors = ("C2",) if title == "Learning rate" else ("C0", "C1")
            for (key, label), color in zip(lines, colors, strict=False):
                style = {"color": color, "label": label, "marker": marker, "markersize": 3}
                axes.plot(epochs, self.column(key), **style, clip_on=False, zorder=3)  # whole points at the edge
            axes.set(title=title, xlabel="epoch", ylabel=title.lower())
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            if len(self) == 1:
                axes.set(xlim=(epochs[0] - 1, epochs[0] + 1), xticks=epochs)
            if len(lines) > 1:
                axes.legend()
            if title == "Accuracy":
                axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
            else:
                axes.set_ylim(bottom=0)
        figure.savefig(path, dpi=150, format="png")
