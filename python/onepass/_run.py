"""What a checkpoint holds of a running fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from onepass._run_folder import RunFolder
from onepass.callbacks import Callback
from onepass.checkpoint import Checkpoint, CheckpointError
from onepass.history import History, Record

if TYPE_CHECKING:
    from onepass.trainer import Trainer

__all__ = ["Progress", "Run"]

SECONDS = 5.0  # between two checkpoints at the ends of epochs


@dataclass
class Progress:
    """How far an epoch is: batches done, and sums over their rows."""

    batch: int = 0
    total: float = 0.0
    rows: int = 0
    correct: int = 0
    known: bool = True
    skipped: int = 0
    seconds: float = 0.0

    def record(self, epoch: int, step: int) -> Record:
        record: Record = {"epoch": epoch, "step": step, "loss": self.total / self.rows}
        if self.known:
            record["accuracy"] = self.correct / self.rows
        record["skipped"] = self.skipped
        return record


class Run:
    """A fit that is saved in a folder and goes on from there.

    ``agreed`` is what a resumed run must agree in, beside model, optimizer, loss, schedule and callbacks.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        keep: int,
        save_every: int | None,
        trainer: Trainer,
        callbacks: Sequence[Callback],
        agreed: Mapping[str, Any],
    ) -> None:
        self._folder = RunFolder(folder, keep)
        self._save_every = save_every
        self._trainer = trainer
        self._callbacks = callbacks
        schedule = getattr(trainer.schedule, "name", None)
        self._agreed = {
            **agreed,
            "loss": repr(trainer.loss),
            "schedule": schedule if isinstance(schedule, str) else None,
            "callbacks": [type(callback).__name__ for callback in callbacks],
        }
        self._history = History()
        self._loaded: Checkpoint | None = None
        self._saved_at = monotonic()
        self._epoch_began = monotonic()
        self.stopped = False

    def locked(self) -> AbstractContextManager[None]:
        return self._folder.locked()

    def load(self) -> tuple[History, Progress] | None:
        """Model, optimizer and trainer as they were saved; None where nothing was."""
        trainer = self._trainer
        self._loaded = found = self._folder.load(trainer.model, trainer.optimizer, self._check)
        if found is None:
            return None
        meta = found.meta
        trainer.epoch, trainer.step = meta["epoch"], meta["step"]
        self.stopped = meta["stopped"]
        self._history = History(meta["history"])
        progress = Progress(**meta["progress"])
        self._epoch_began = monotonic() - progress.seconds
        return self._history, progress

    def _check(self, found: Checkpoint) -> None:
        saved = found.meta.get("run")
        if not isinstance(saved, dict):
            raise CheckpointError(f"{self._folder.path} holds a checkpoint, but none of Trainer.fit(resume=...)")
        for name, value in self._agreed.items():
            if saved.get(name) != value:
                raise CheckpointError(
                    f"{self._folder.path} holds another run: {name} was {saved.get(name)!r}, now it is {value!r}"
                )

    def load_callbacks(self) -> None:
        """After on_fit_begin, so that nothing of it is lost."""
        if self._loaded is None:
            return
        for index, callback in enumerate(self._callbacks):
            start = f"callback.{index}."
            arrays = {k.removeprefix(start): a for k, a in self._loaded.arrays.items() if k.startswith(start)}
            callback.load_state(self._loaded.meta["callbacks"][index], arrays)
        self._loaded = None

    def step_ended(self, progress: Progress) -> None:
        """Within an epoch."""
        if self._save_every is not None and self._trainer.step % self._save_every == 0:
            self.save(progress)

    def epoch_ended(self, history: History, last: bool) -> None:
        self._history = history
        self._epoch_began = monotonic()
        due = monotonic() - self._saved_at >= SECONDS if self._save_every is None else False
        if last or due or (self._save_every is not None and self._trainer.step % self._save_every == 0):
            self.save(Progress())

    def save(self, progress: Progress) -> Path:
        trainer = self._trainer
        seconds = monotonic() - self._epoch_began
        meta = {
            "run": self._agreed,
            "epoch": trainer.epoch,
            "step": trainer.step,
            "stopped": self.stopped,
            "progress": dataclasses.asdict(dataclasses.replace(progress, seconds=seconds)),
            "history": list(self._history),
            "callbacks": [callback.state() for callback in self._callbacks],
        }
        arrays = {
            f"callback.{index}.{name}": array
            for index, callback in enumerate(self._callbacks)
            for name, array in callback.arrays().items()
        }
        path = self._folder.save(trainer.step, trainer.model, trainer.optimizer, meta, arrays)
        self._saved_at = monotonic()
        return path
