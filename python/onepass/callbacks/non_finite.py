"""The end of a run whose parameters are no numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onepass.callbacks.callback import Callback, Run

if TYPE_CHECKING:
    from onepass.history import Record
    from onepass.nn.layer import Array

__all__ = ["TerminateOnNonFinite"]


class TerminateOnNonFinite(Callback):
    """Ends the run after an epoch in which parameters became NaN or infinite, or steps were skipped for their gradient.

    (A loss that is not finite ends it at once, with a DivergedError and the parameters as they were.)

    Parameters
    ----------
    skipped : int, default 10
        So many skipped steps in an epoch are too many: `StepInfo.skipped`, with ``max_norm``.

    ``reason`` says why it ended the run, or is None.

    >>> TerminateOnNonFinite().reason is None
    True
    """

    def __init__(self, skipped: int = 10) -> None:
        if skipped < 1:
            raise ValueError(f"skipped is {skipped}, expected >= 1")
        self.skipped = skipped
        self.reason: str | None = None

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        self.reason = None

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        bad = [name for name, array in trainer.model.state().items() if not _finite(array)]
        if bad:
            self.reason = f"{', '.join(bad)} is not finite after epoch {record['epoch']}"
        elif record["skipped"] >= self.skipped:
            self.reason = f"{record['skipped']} steps of epoch {record['epoch']} were skipped for a non-finite gradient"
        if self.reason is not None:
            trainer.stop()


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
