"""onepass: fused CPU kernels for training, and a thin training API on top.

>>> import numpy as np, onepass
>>> from onepass import optim
>>> weights, gradient = np.ones(3, np.float32), np.full(3, 0.5, np.float32)
>>> optimizer = optim.Adam([weights], lr=0.1)
>>> _ = optimizer.step([gradient])
>>> weights.round(3)
array([0.9, 0.9, 0.9], dtype=float32)

``kernels`` are the functions, ``reference`` the same in NumPy, ``optim`` the optimizers, ``schedules`` the learning
rates; ``nn``, ``losses``, ``data`` and ``trainer`` train networks and need ``pip install 'onepass[train]'``.
"""

from __future__ import annotations

from onepass._info import (
    get_cmake_dir,
    get_include,
    get_library,
    get_threads,
    info,
    set_threads,
    version as _version,
)

__version__ = _version()
__all__ = ["__version__", "get_cmake_dir", "get_include", "get_library", "get_threads", "info", "set_threads"]
