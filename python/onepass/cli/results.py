"""The folder that a command leaves behind, a training's above all: written at once or not at all, and read again."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from onepass.cli.output import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from onepass import data, nn
    from onepass.history import History
    from onepass.trainer import Trainer

__all__ = ["FILES", "Trained", "check_out", "network", "read", "staged", "write"]

FILES = ("checkpoint.json", "curves.png", "history.json", "model.safetensors")
ACTIVATIONS = {
    "relu": "ReLU",
    "leaky-relu": "LeakyReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
}


class Trained(NamedTuple):
    """What `read` returns: the model with its parameters, the scaling before it, and what is known about both."""

    model: nn.Sequential
    scaling: data.Scaling
    meta: dict[str, Any]

    def predict(self, x: Any, called: str) -> Any:
        """Logits (N, classes) of raw rows (N, ...)."""
        import math

        import numpy as np

        from onepass import data

        features = math.prod(x.shape[1:])
        if features != self.meta["features"]:
            raise UsageError(f"{called}: rows of {features} features, expected {self.meta['features']}")
        try:
            return np.concatenate(
                [
                    self.model.forward(rows[at : at + 1024], False).copy()
                    for _, rows in self.scaling.blocks(x, self.meta["settings"]["dtype"])
                    for at in range(0, len(rows), 1024)
                ]
            )
        except data.DataError as error:
            raise UsageError(f"{called}: {error}") from None


def network(features: int, classes: int, settings: Mapping[str, Any]) -> nn.Sequential:
    """The multilayer perceptron that the options of ``onepass train`` describe."""
    from onepass import nn

    dtype, batch_norm = settings["dtype"], settings["batch_norm"]
    activation = getattr(nn, ACTIVATIONS[settings.get("activation", "relu")])
    layers: list[nn.Layer] = []
    width = features
    for size in settings["hidden"]:
        layers.append(nn.Linear(width, size, bias=not batch_norm, dtype=dtype))
        if batch_norm:
            layers.append(nn.BatchNorm(size, dtype=dtype))
        layers.append(activation())
        if settings.get("dropout"):
            layers.append(nn.Dropout(settings["dropout"]))
        width = size
    layers.append(nn.Linear(width, classes, dtype=dtype))
    return nn.Sequential(*layers, seed=settings["seed"])


def read(folder: str) -> Trained:
    """What ``onepass train`` wrote in ``folder``."""
    from onepass import checkpoint, data

    try:
        saved = checkpoint.load(folder)
        known = {"settings", "features", "classes"} <= saved.meta.keys()
        if not known or not {"feature_mean", "feature_std"} <= saved.arrays.keys():
            raise UsageError(f"{folder} holds a checkpoint, but none that onepass train wrote")
        model = network(saved.meta["features"], saved.meta["classes"], saved.meta["settings"])
        checkpoint.load(folder, model)
    except checkpoint.CheckpointError as error:
        raise UsageError(str(error)) from None
    return Trained(model, data.Scaling(saved.arrays["feature_mean"], saved.arrays["feature_std"]), saved.meta)


def _missing(folder: Path) -> list[Path]:
    """``folder`` and those above it that are not there, the uppermost first."""
    missing: list[Path] = []
    while not os.path.lexists(folder) and folder != folder.parent:
        missing.insert(0, folder)
        folder = folder.parent
    return missing


def _remove(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # one that is not empty keeps those above it
        for folder in reversed(folders):
            folder.rmdir()


def check_out(out: Path, files: Sequence[str] = FILES) -> None:
    """Before an hour of training rather than after it: can ``files`` be written in ``out``?"""
    import tempfile

    missing = _missing(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix=".onepass-", dir=out).cleanup()
    except FileExistsError:
        raise UsageError(f"argument --out: {out} is not a folder") from None
    except OSError as error:
        raise UsageError(f"argument --out: cannot write in {out}: {error.strerror}") from None
    finally:
        _remove(missing)
    for name in files:
        if (out / name).is_dir():
            raise UsageError(f"argument --out: {out / name} is a folder, expected a file or nothing")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder for files that are moved to ``out`` when all are there: a failure leaves nothing behind."""
    import shutil

    new = not out.exists()
    missing = _missing(out.parent)
    staging = (out.parent if new else out) / f".onepass-{os.getpid()}.tmp"
    try:
        staging.mkdir(parents=True)
        yield staging
        if new:
            os.replace(staging, out)
        else:
            for path in sorted(staging.iterdir()):
                os.replace(path, out / path.name)
        shutil.rmtree(staging, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        _remove(missing)
        if isinstance(error, OSError):
            raise UsageError(f"cannot write the result in {out}: {error.strerror or error}") from None
        raise


def write(out: Path, trainer: Trainer, scaling: data.Scaling, meta: dict[str, Any], history: History) -> None:
    """The `FILES` of a training."""
    from onepass import checkpoint

    with staged(out) as folder:
        arrays = {"feature_mean": scaling.mean, "feature_std": scaling.std}
        checkpoint.save(folder, trainer.model, trainer.optimizer, meta, arrays)
        (folder / "history.json").write_text(checkpoint.strict_json(history), encoding="utf-8")
        history.plot(folder / "curves.png", held_out="test")
