"""Hands SciPy's BLAS to the compiled core, which calls it single-threaded inside its own team of threads."""

from __future__ import annotations

import ctypes
import functools

from onepass import _core

_SETTERS = ("scipy_openblas_set_num_threads", "openblas_set_num_threads")


@functools.cache
def connect() -> None:
    """Do it once; later calls cost a dictionary look-up.

    Raises:
        ImportError: SciPy or threadpoolctl is not installed.
    """
    try:
        from scipy.linalg import cython_blas
        from threadpoolctl import ThreadpoolController
    except ImportError as error:
        raise ImportError(
            f"matrix products need {error.name}: pip install 'onepass[train]'", name=error.name
        ) from error
    table = cython_blas.__pyx_capi__
    # NumPy may have an OpenBLAS of its own beside SciPy's; ours is the one that cython_blas is linked to
    pools = ThreadpoolController().select(internal_api="openblas").lib_controllers
    pools.sort(key=lambda pool: "scipy" not in str(pool.filepath).rsplit("/", 2)[-2])
    setter = getter = 0
    for pool in pools[:1]:
        for name in _SETTERS:
            library = pool.dynlib
            if hasattr(library, name):
                setter = _address(library[name])
                getter = _address(library[name.replace("_set_", "_get_")])
    _core.set_blas(table["sgemm"], table["dgemm"], setter, getter)


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
