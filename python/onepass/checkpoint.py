"""Checkpoints: a folder with ``model.safetensors`` and ``checkpoint.json``, never a pickle.

``model.safetensors`` holds everything: the arrays and, in its header, what is no array. It is
replaced in one move, so that a folder has the old state or the new one whenever the machine
stops. ``checkpoint.json`` repeats the header for people and other programs; `load` does not
read it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onepass._extras import require
from onepass.nn import Layer
from onepass.optim import Optimizer

__all__ = ["Checkpoint", "CheckpointError", "DamagedCheckpointError", "load", "save", "strict_json"]

FORMAT = "onepass checkpoint"
VERSION = 1
TENSORS, TEXT = "model.safetensors", "checkpoint.json"
KEY = "onepass"  # of the safetensors header's metadata

Array = NDArray[Any]


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, of another program, or of another model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's file is truncated or no checkpoint at all."""


class Checkpoint(NamedTuple):
    """What `load` returns: ``meta`` as given to `save`, and the extra ``arrays``."""

    meta: dict[str, Any]
    arrays: dict[str, Array]


@contextmanager
def _replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary name in ``path``'s folder; what is written there replaces ``path`` at the end.

    The content is on the disk before the name changes, and the name before the context is left.
    After an exception ``path`` is as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes a new file that only its owner may read
        descriptor = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save(
    folder: str | PathLike[str],
    model: Layer,
    optimizer: Optimizer | None = None,
    meta: Mapping[str, Any] | None = None,
    arrays: Mapping[str, Array] | None = None,
) -> tuple[Path, Path]:
    """Writes the state of ``model`` and ``optimizer`` into ``folder``, which is made if needed.

    ``meta`` is anything JSON can hold; ``arrays`` are kept beside the state under their own names.
    Tensor names: ``model.<name>``, ``optimizer.<parameter>.<name>``, ``extra.<name>``. Returns the
    two paths. TypeError where ``meta`` is not JSON; OSError where the disk is full, the old files are
    then as they were.
    """
    failure = require("safetensors").SafetensorError
    numpy_format = require("safetensors.numpy")
    tensors = {f"model.{name}": array for name, array in model.state().items()}
    tensors.update({f"extra.{name}": array for name, array in (arrays or {}).items()})
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "meta": dict(meta or {})}
    if optimizer is not None:
        state = optimizer.state_dict()
        numbers: dict[str, dict[str, Any]] = {}
        for index, entries in state["state"].items():
            numbers[str(index)] = {}
            for name, value in entries.items():
                if isinstance(value, np.ndarray):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    numbers[str(index)][name] = value
        header["optimizer"] = {**state, "state": numbers}
    text = json.dumps(header, default=_plain)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with _replacing(target / TENSORS) as path:
        contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        try:
            numpy_format.save_file(contiguous, path, metadata={KEY: text})
        except failure as error:  # no OSError, even where the system's number is all it says
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code) if number else str(error), str(target / TENSORS)) from None
    with _replacing(target / TEXT) as path:
        path.write_text(strict_json(json.loads(text)), encoding="utf-8")
    return target / TENSORS, target / TEXT


def strict_json(value: object) -> str:
    """Indented JSON, a number that is NaN or infinite as null.

    >>> strict_json([1.5, float("nan")]).split()
    ['[', '1.5,', 'null', ']']
    """

    def finite(value: object) -> object:
        if isinstance(value, dict):
            return {key: finite(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=2, allow_nan=False, default=_plain) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    hint = "; give it in arrays, under a name" if isinstance(value, np.ndarray) else ""
    raise TypeError(f"{type(value).__name__} cannot be saved in a checkpoint: {value!r:.60}{hint}")


def load(folder: str | PathLike[str], model: Layer | None = None, optimizer: Optimizer | None = None) -> Checkpoint:
    """Reads a checkpoint into ``model`` and ``optimizer``, in place.

    Everything is checked first: on a CheckpointError both are as they were.
    """
    safetensors = require("safetensors")
    path = Path(folder) / TENSORS
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())  # the file itself cannot be iterated over
            tensors: dict[str, Array] = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise DamagedCheckpointError(f"{path} is truncated or no safetensors file: {error}") from None
    try:
        header = json.loads(metadata[KEY])
        known = header["format"] == FORMAT
        version, meta = header["version"], header["meta"]
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise DamagedCheckpointError(f"{path} is a safetensors file, but no checkpoint of onepass")
    if version != VERSION:
        raise CheckpointError(f"{path} has version {version}, this onepass reads {VERSION}")

    parts: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}, "extra": {}}
    for name, array in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = array
    try:
        if model is not None:
            model.check_state(parts["model"])
        if optimizer is not None:
            optimizer.load_state_dict(_optimizer_state(header, parts["optimizer"], path))
        if model is not None:
            model.load_state(parts["model"])
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit: {error}") from None
    return Checkpoint(meta, parts["extra"])


def _optimizer_state(header: dict[str, Any], tensors: dict[str, Array], path: Path) -> dict[str, Any]:
    if "optimizer" not in header:
        raise CheckpointError(f"{path} holds no optimizer")
    saved = header["optimizer"]
    state = {int(index): dict(entries) for index, entries in saved["state"].items()}
    for name, array in tensors.items():
        index, _, entry = name.partition(".")
        state[int(index)][entry] = array
    groups = [
        {  # JSON has no tuples: betas
            key: tuple(value) if isinstance(value, list) and key != "params" else value for key, value in group.items()
        }
        for group in saved["param_groups"]
    ]
    return {**saved, "param_groups": groups, "state": state}
