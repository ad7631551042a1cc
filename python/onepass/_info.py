"""What was built, what runs, and where the C++ side of the package lies."""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path
from typing import Any

from onepass import _core


def version() -> str:
    """The version of the library, such as ``"0.1.0"``."""
    return _core.version()


def info() -> dict[str, Any]:
    """Describe the running library.

    Returns:
        A dictionary: ``version``; ``isa``, the instruction-set level in use; ``isa_built`` and ``isa_available``, the
        levels in the library and those that this CPU runs; ``threads``; ``openmp``, the OpenMP runtimes in this process
        as threadpoolctl sees them (None without threadpoolctl).

    >>> sorted(info())
    ['isa', 'isa_available', 'isa_built', 'openmp', 'threads', 'version']
    """
    levels = _core.isa_levels()
    return {
        "version": version(),
        "isa": _core.isa(),
        "isa_built": [name for name, _ in levels],
        "isa_available": [name for name, available in levels if available],
        "threads": _core.get_threads(),
        "openmp": _openmp_runtimes(),
    }


def _openmp_runtimes() -> list[dict[str, Any]] | None:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    return [dict(pool) for pool in threadpool_info() if pool["user_api"] == "openmp"]


def set_threads(threads: int | None) -> None:
    """Set how many threads the kernels use at most; None goes back to the default.

    The default respects OMP_NUM_THREADS, the process's CPU affinity and its cgroup's CPU quota. The number changes
    speed only: results have the same bits with any.

    >>> before = get_threads()
    >>> set_threads(1)
    >>> get_threads()
    1
    >>> set_threads(None)
    >>> get_threads() == before
    True
    """
    if threads is not None and not isinstance(threads, Integral):
        raise TypeError(f"threads: expected an integer or None, got {threads!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected 1 or more, or None for the default, got {threads}")
    _core.set_threads(threads or 0)


def get_threads() -> int:
    """How many threads the kernels use at most."""
    return _core.get_threads()


def _native_dir() -> Path:
    # beside the extension module: in an editable install that is not where the Python files are
    return Path(os.path.dirname(os.path.abspath(_core.__file__)))


def get_include() -> str:
    """The folder to give a C or C++ compiler as ``-I`` for ``onepass/onepass.h``."""
    return str(_native_dir() / "include")


def get_cmake_dir() -> str:
    """The folder with onepassConfig.cmake: pass it to CMake as ``-Donepass_DIR=...``."""
    return str(_native_dir() / "lib" / "cmake" / "onepass")


def get_library() -> str:
    """The shared library with the C ABI of ``onepass/onepass.h``, for ctypes, cffi and linkers.

    >>> get_library().endswith("libonepass.so")
    True
    """
    return str(_native_dir() / "lib" / "libonepass.so")
