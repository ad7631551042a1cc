"""The folder of a resumable run: numbered checkpoints, of which the newest good one counts."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from onepass import checkpoint
from onepass.checkpoint import Checkpoint, CheckpointError, DamagedCheckpointError
from onepass.nn import Layer
from onepass.optim import Optimizer

__all__ = ["RunFolder"]

Array = NDArray[Any]
LOCK = ".lock"


class RunFolder:
    """``folder`` with ``step-000000123/model.safetensors`` and ``checkpoint.json`` in each; the ``keep`` newest stay.

    A checkpoint exists once its ``model.safetensors`` does, and that appears in one move. What a killed save or removal
    leaves is a folder without it, and is cleared away.
    """

    def __init__(self, folder: str | PathLike[str], keep: int) -> None:
        self.path = Path(folder)
        self.keep = keep

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder if needed and holds it for this process; CheckpointError where another one does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise CheckpointError(f"{self.path} is not a folder") from None
        try:
            import fcntl
        except ImportError:  # no POSIX system: nothing to hold it with
            yield
            return
        with open(self.path / LOCK, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CheckpointError(f"{self.path} is in use by another process that trains") from None
            yield

    def _checkpoints(self) -> list[Path]:
        """Those that are there, oldest first."""
        found = [path for path in self.path.iterdir() if re.fullmatch(r"step-\d{9,}", path.name)]
        return sorted((p for p in found if (p / checkpoint.TENSORS).is_file()), key=lambda p: int(p.name[5:]))

    def load(self, model: Layer, optimizer: Optimizer, check: Callable[[Checkpoint], None]) -> Checkpoint | None:
        """The newest good checkpoint, read into ``model`` and ``optimizer`` once ``check`` has let it pass.

        None where there is none.
        A damaged one is passed over with a warning; if all are damaged, or one is of another model or optimizer, a
        CheckpointError, and both are as they were.
        """
        damaged: list[str] = []
        for path in reversed(self._checkpoints()):
            try:
                check(checkpoint.load(path))
                found = checkpoint.load(path, model, optimizer)
            except DamagedCheckpointError as error:
                damaged.append(str(error))
                continue
            if damaged:
                warnings.warn(f"{'; '.join(damaged)}; going on from {path}", RuntimeWarning, stacklevel=4)
            return found
        if damaged:
            raise DamagedCheckpointError(f"{'; '.join(damaged)}; no good checkpoint is left in {self.path}")
        return None

    def save(
        self, step: int, model: Layer, optimizer: Optimizer, meta: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> Path:
        """Writes the checkpoint of ``step``, then removes those beyond ``keep``."""
        path = self.path / f"step-{step:09d}"
        self._clear()
        try:
            checkpoint.save(path, model, optimizer, meta, arrays)
        except BaseException:
            self._clear()
            raise
        for old in self._checkpoints()[: -self.keep]:
            self._remove(old)
        return path

    def _remove(self, path: Path) -> None:
        (path / checkpoint.TENSORS).unlink(missing_ok=True)  # first: what follows may be cut short
        shutil.rmtree(path, ignore_errors=True)

    def _clear(self) -> None:
        """Leftovers of saves and removals that were killed."""
        for path in self.path.iterdir():
            if path.is_dir() and re.fullmatch(r"step-\d{9,}", path.name):
                if not (path / checkpoint.TENSORS).is_file():
                    shutil.rmtree(path, ignore_errors=True)
                    continue
                for left in path.glob(".*.tmp"):
                    if left.name.split(".")[-2] != str(os.getpid()):
                        left.unlink(missing_ok=True)
