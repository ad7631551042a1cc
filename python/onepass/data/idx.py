"""The file format of MNIST: http://yann.lecun.com/exdb/mnist."""

from __future__ import annotations

import gzip
import math
import zlib
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.data.dataset import DataError, Dataset, check

__all__ = ["find_images", "load_idx", "read_idx"]

# third byte of the magic number -> big-endian element type
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | PathLike[str], ndim: int | None = None) -> NDArray[Any]:
    """The array in one IDX file, plain or gzip-compressed; with ``ndim`` it must have that many.

    Layout: bytes 0, 0, type, ndim; ndim big-endian uint32 sizes; the elements in C order.
    """
    source = fspath(path)
    try:
        content = Path(path).read_bytes()
        compressed = content[:2] == b"\x1f\x8b"
        if compressed:
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{source} does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{source} is truncated or damaged (gzip)") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from None

    if len(content) < 4:
        raise DataError(f"{source} is truncated: {len(content)} bytes")
    if content[:2] != b"\0\0" or content[2] not in TYPES or content[3] == 0:
        magic = f"its magic number is 0x{content[:4].hex()}"
        if source.endswith(".gz") and not compressed:
            raise DataError(f"{source} is not gzip-compressed, as its name says, and no IDX file: {magic}")
        raise DataError(f"{source} is no IDX file: {magic}")
    dtype, dims = np.dtype(TYPES[content[2]]), content[3]
    if ndim is not None and dims != ndim:
        raise DataError(f"{source} has {dims} dimensions, expected {ndim}")
    start = 4 + 4 * dims
    if len(content) < start:
        raise DataError(f"{source} is truncated: {len(content)} bytes")
    shape = tuple(np.frombuffer(content, ">u4", dims, 4).tolist())
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) < expected:
        raise DataError(f"{source} is truncated: {len(content)} bytes, expected {expected}")
    if len(content) > expected:
        raise DataError(f"{source} is {len(content)} bytes long, expected {expected}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _find(folder: Path, part: str, kind: str, ndim: int) -> Path | None:
    for separator in "-.":
        for suffix in ("", ".gz"):
            path = folder / f"{part}-{kind}{separator}idx{ndim}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def _places(root: Path) -> tuple[Path, ...]:
    return root, root / "raw", root / "MNIST" / "raw"


def find_images(folder: Path) -> Path:
    """The file of the test images in a folder of MNIST-format files, else of the training images."""
    for place in _places(folder):
        found = _find(place, "t10k", "images", 3) or _find(place, "train", "images", 3)
        if found:
            return found
    raise DataError(f"{folder} has no file t10k-images-idx3-ubyte or train-images-idx3-ubyte (or .gz)")


def _read_pair(root: Path, part: str, files: tuple[Path | None, Path | None]) -> tuple[NDArray[Any], NDArray[Any]]:
    images, labels = files
    if images is None or labels is None:
        absent = "images-idx3-ubyte" if images is None else "labels-idx1-ubyte"
        raise DataError(f"{root} has no file {part}-{absent} (or .gz)")
    return read_idx(images, 3), read_idx(labels, 1)


def load_idx(folder: str | PathLike[str], classes: int | None = None) -> Dataset:
    """The data set in a folder of MNIST-format files (also Fashion-MNIST, KMNIST, EMNIST's parts).

    Files: ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and if there is a test set
    ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``; each plain or ``.gz``, and with a dot
    in place of the dash before ``idx`` as well. They may be in ``folder/raw`` or
    ``folder/MNIST/raw``, where torchvision puts them. ``x`` is (N, height, width). DataError where
    a file is missing, truncated or of another format.
    """
    root = Path(folder)
    if not root.exists():
        raise DataError(f"{root} does not exist")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    for place in _places(root):
        train = _find(place, "train", "images", 3), _find(place, "train", "labels", 1)
        test = _find(place, "t10k", "images", 3), _find(place, "t10k", "labels", 1)
        if any(train) or any(test):
            break
    x, y = _read_pair(root, "train", train)
    x_test, y_test = _read_pair(root, "t10k", test) if any(test) else (None, None)
    return check(x, y, x_test, y_test, str(root), classes)
