"""What a training run looked like, epoch by epoch."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

from onepass._extras import require

__all__ = ["History"]

Record = dict[str, Any]
_SHOWN = ("validation_loss", "validation_accuracy")
_STYLES = {True: ("C0", "o", "-"), False: ("C1", "s", "--")}  # also apart without colors


class History(list[Record]):
    """One dict an epoch, in order.

    Keys: ``epoch`` and ``step`` (how many are done), ``loss`` (mean over the epoch's rows, while
    training), ``accuracy`` (likewise; classification only), ``validation_loss`` and
    ``validation_accuracy`` (if there were validation rows; one more for each of the trainer's metrics, such as
    ``validation_top_5``), ``learning_rate`` (of the last step),
    ``seconds`` and ``skipped`` (steps the optimizer refused, see `StepInfo`).

    >>> history = History([{"epoch": 1, "loss": 0.5, "learning_rate": 0.1, "seconds": 0.2}])
    >>> history.column("loss")
    [0.5]
    >>> print(history.table())
    epoch    loss  learning rate  seconds
        1  0.5000          0.100    0.200
    """

    def column(self, name: str) -> list[Any]:
        """The values of one key, one an epoch; a KeyError names the keys that there are."""
        for record in self:
            if name not in record:
                raise KeyError(f"{name!r} is no key of epoch {record.get('epoch')}, which has {', '.join(record)}")
        return [record[name] for record in self]

    def _metrics(self) -> list[str]:
        """Keys of the metrics that a Trainer was given."""
        return [key for key in self[0] if key.startswith("validation_") and key not in _SHOWN] if self else []

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
            *[(key, key.replace("validation_", f"{held_out} ", 1).replace("_", " "), ".4f") for key in self._metrics()],
            ("learning_rate", "learning rate", "#.3g"),
            ("seconds", "seconds", f".{self._decimals('seconds')}f"),
        ]
        shown = [column for column in columns if self and column[0] in self[0]]
        rows = [[heading for _, heading, _ in shown]]
        rows += [[format(record[key], form) for key, _, form in shown] for record in self]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def plot(self, path: str | PathLike[str] | None = None, held_out: str = "validation") -> Any:
        """The curves of loss, accuracy, metrics and learning rate.

        matplotlib's Figure, and a PNG if there is a ``path``; needs matplotlib. ``held_out`` is what the legends
        call the validation rows.
        """
        if not self:
            raise ValueError("history is empty: nothing to plot")
        figure_module = require("matplotlib.figure")
        ticker = require("matplotlib.ticker")
        panels = [
            ("Loss", [("loss", "training"), ("validation_loss", held_out)]),
            ("Accuracy", [("accuracy", "training"), ("validation_accuracy", held_out)]),
            *[(_title(key), [(key, held_out)]) for key in self._metrics()],
            ("Learning rate", [("learning_rate", "")]),
        ]
        drawn = [(title, [line for line in lines if line[0] in self[0]]) for title, lines in panels]
        drawn = [(title, lines) for title, lines in drawn if lines]
        columns = 2 if len(drawn) == 4 else min(len(drawn), 3)
        rows = -(-len(drawn) // columns)
        figure = figure_module.Figure(figsize=(3.4 * columns, 3.0 * rows), layout="constrained")
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in places[len(drawn) :]:
            axes.set_axis_off()
        epochs = self.column("epoch")
        few = len(self) <= 30
        for axes, (title, lines) in zip(places, drawn, strict=False):
            for key, label in lines:
                color, marker, line = ("C2", "o", "-") if key == "learning_rate" else _STYLES[label == "training"]
                style = {"color": color, "linestyle": line, "marker": marker if few else "", "markersize": 3.5}
                axes.plot(epochs, self.column(key), label=label, **style, clip_on=False, zorder=3)  # whole points
            axes.set(title=title, xlabel="epoch", ylabel=title.lower())
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            if len(self) == 1:
                axes.set(xlim=(epochs[0] - 1, epochs[0] + 1), xticks=epochs)
            if title != "Learning rate":
                axes.legend()
            if title == "Accuracy":
                axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
            elif title in ("Loss", "Learning rate"):
                axes.set_ylim(bottom=0)
        if path is not None:
            figure.savefig(path, dpi=150, format="png")
        return figure


def _title(key: str) -> str:
    words = key.removeprefix("validation_").replace("_", " ")
    return words[:1].upper() + words[1:]
