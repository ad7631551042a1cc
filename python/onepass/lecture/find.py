"""The lecture's scripts: where they are, and the chapter that each of them defines."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from onepass.lecture.chapter import Chapter

__all__ = ["folder", "load", "names"]

INSTALLED = Path(__file__).with_name("scripts")  # a wheel has them there
SOURCE = Path(__file__).parents[3] / "examples" / "lecture"


def folder() -> Path:
    """Where the scripts are: in the installed package, else in the source tree."""
    return INSTALLED if INSTALLED.is_dir() else SOURCE


def names() -> list[str]:
    """Names of the scripts, in the order of the alphabet: their files' without ``.py``."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.name.startswith("_"))


def load(name: str) -> Chapter:
    """Runs the script's definitions and returns its ``CHAPTER``; nothing is computed yet."""
    path = folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"onepass.lecture.scripts.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    chapter = getattr(module, "CHAPTER", None)
    if not isinstance(chapter, Chapter):
        raise TypeError(f"{path.name} defines no CHAPTER: expected CHAPTER = Chapter(...)")
    return chapter
