"""Arrays of .npy and .npz files that stay in the file."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Collection
from os import PathLike, fspath
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onepass.data.dataset import DataError

__all__ = ["open_npy", "open_npz"]

LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field

# what NumPy raises where a header is no Python dictionary, or not that of an array
DAMAGED = (ValueError, KeyError, EOFError, TypeError, SyntaxError, TokenError)


def _header(file: BinaryIO, called: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype; the file is afterwards where the elements begin."""
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran_order, dtype = read(file)
    except DAMAGED:
        raise DataError(f"{called} is no array in NumPy's format, or is damaged") from None
    if dtype.hasobject:
        raise DataError(f"{called} holds pickled objects, which are never loaded; save plain arrays")
    if dtype.itemsize == 0 or any(type(size) is bool or size < 0 for size in shape):
        raise DataError(f"{called} is damaged: its header says {dtype} {shape}")
    return shape, fortran_order, dtype


def _map(source: str, called: str, file: BinaryIO, end: int) -> NDArray[Any]:
    """The array whose header begins where ``file`` is, and whose elements end before ``end``."""
    shape, fortran_order, dtype = _header(file, called)
    start = file.tell()
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if start + size > end:
        raise DataError(f"{called} is truncated: {end - start} bytes of elements, expected {size}")
    if fortran_order and len(shape) > 1:
        raise DataError(
            f"{called} is stored in Fortran order, the parts of a row far from each other; save it with "
            "numpy.ascontiguousarray"
        )
    if size == 0 or shape == ():  # nothing to map
        return np.frombuffer(file.read(size), dtype).reshape(shape)
    return np.memmap(source, dtype, "r", start, shape)


def open_npy(path: str | PathLike[str]) -> NDArray[Any]:
    """The array in a ``.npy`` file (`numpy.save`), mapped for reading: pages are read when they are touched.

    DataError where the file is missing, damaged, truncated, in Fortran order or holds pickled objects.

    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "x.npy")
    ...     np.save(path, np.arange(6.0).reshape(3, 2))
    ...     open_npy(path)[1].tolist()
    [2.0, 3.0]
    """
    source = fspath(path)
    try:
        with open(source, "rb") as file:
            end = file.seek(0, 2)
            file.seek(0)
            return _map(source, source, file, end)
    except FileNotFoundError:
        raise DataError(f"{source} does not exist") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None


def open_npz(path: str | PathLike[str], names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays in a ``.npz`` file (`numpy.savez`), mapped for reading; those of ``names`` that it has, or all.

    `numpy.load` ignores ``mmap_mode`` for archives. In an archive elements begin at any byte: `Batches` gathers them
    as fast as others, but a kernel wants a copy. The archive's checksums are not verified, which would read it all.
    DataError where the file is missing, no archive, damaged, in Fortran order, or compressed: what
    `numpy.savez_compressed` wrote cannot be mapped.

    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "data.npz")
    ...     np.savez(path, x=np.arange(6.0).reshape(3, 2), y=np.array([0, 1, 0]))
    ...     {name: array.shape for name, array in open_npz(path).items()}
    {'x': (3, 2), 'y': (3,)}
    """
    source = fspath(path)
    found = {}
    try:
        with open(source, "rb") as file, zipfile.ZipFile(file) as archive:
            whole = file.seek(0, 2)
            for member in sorted(archive.infolist(), key=lambda member: member.filename):
                name = member.filename.removesuffix(".npy")
                if names is not None and name not in names:
                    continue
                called = f"{source}: {name}"
                if member.compress_type != zipfile.ZIP_STORED:
                    raise DataError(f"{called} is compressed and cannot be mapped; save it with numpy.savez")
                if member.flag_bits & 1:
                    raise DataError(f"{called} is encrypted")
                file.seek(member.header_offset)
                signature, *lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
                if signature != b"PK\x03\x04":
                    raise DataError(f"{source} is damaged: the header of {name} is not where its directory says")
                start = file.seek(sum(lengths), 1)
                found[name] = _map(source, called, file, min(start + member.file_size, whole))
    except FileNotFoundError:
        raise DataError(f"{source} does not exist") from None
    except (zipfile.BadZipFile, struct.error):
        raise DataError(f"{source} is not an .npz archive, or is damaged") from None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}") from None
    return found
