"""Imports what only an extra brings, at the moment it is needed."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

__all__ = ["require"]

_PROJECT = {"sklearn": "scikit-learn"}


def require(module: str, extra: str = "train") -> ModuleType:
    """The imported module, or an ImportError naming the command that installs it, or what it fails with."""
    try:
        return import_module(module)
    except ImportError as error:
        root = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != root:
            raise
        project = _PROJECT.get(root, root)
        raise ImportError(f"{project} is not installed; pip install 'onepass[{extra}]'", name=root) from None
    except Exception as error:  # a package that refuses to start, such as matplotlib with an unknown MPLBACKEND
        setting = f" with MPLBACKEND={os.environ['MPLBACKEND']}" if _blames_backend(module, error) else ""
        raise ImportError(f"{module} cannot be imported{setting}: {error}", name=module) from error


def _blames_backend(module: str, error: Exception) -> bool:
    return module.startswith("matplotlib") and "MPLBACKEND" in os.environ and "backend" in str(error)
