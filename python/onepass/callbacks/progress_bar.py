"""The progress of a run on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from onepass._extras import require
from onepass.callbacks.callback import Callback, Run

if TYPE_CHECKING:
    from onepass.history import History, Record

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """One tqdm bar for the whole run, drawn at most twice a second; one line an epoch where the
    stream is no terminal. A stream that fails (a full disk, a closed pipe) ends the bar, not the run.

    Parameters
    ----------
    stream : text stream, default sys.stderr
    held_out : str, default "validation"
        What the lines call the validation rows.
    """

    def __init__(self, stream: TextIO | None = None, held_out: str = "validation") -> None:
        self._stream = stream
        self._held_out = held_out
        self._bar: Any = None
        self._epochs = 0
        self._out: TextIO | None = None  # None: nowhere to write

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        self._out = stream = sys.stderr if self._stream is None else self._stream
        self._epochs = trainer.epoch + epochs
        if stream is not None and stream.isatty():  # None: a process without stderr
            self._bar = require("tqdm").tqdm(
                total=epochs * steps,
                unit="step",
                file=stream,
                mininterval=0.5,
                dynamic_ncols=True,
            )

    def on_step_end(self, trainer: Run, loss: float) -> None:
        if self._bar is not None:
            try:
                self._bar.update()
            except OSError:
                self._give_up()

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        if self._out is None:
            return
        shown = [name for name in ("accuracy", "validation_accuracy") if name in record]
        if self._bar is not None:  # short: the line has to fit a terminal of 80 columns
            last = [f"accuracy {record[name]:.1%}" for name in shown[-1:]]
            self._bar.set_postfix_str(", ".join([f"loss {record['loss']:.3f}", *last]), refresh=False)
            return
        names = [name.replace("validation_", f"{self._held_out} ") for name in shown]
        numbers = [f"{name} {record[key]:.2%}" for name, key in zip(names, shown, strict=True)]
        try:
            print(
                f"epoch {record['epoch']:{len(str(self._epochs))}d}/{self._epochs}:",
                ", ".join([f"loss {record['loss']:.4f}", *numbers]),
                file=self._out,
                flush=True,
            )
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        if self._bar is not None:
            self._bar.disable = True  # its close() and its end write nothing more
        self._bar = self._out = None

    def on_fit_end(self, trainer: Run, history: History) -> None:
        if self._bar is not None:
            try:
                self._bar.close()
            except OSError:
                self._give_up()
            self._bar = None
