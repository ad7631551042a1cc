"""Every example in a docstring and every Python block of the README runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onepass
from onepass import optim

ROOT = Path(__file__).parents[1]
MODULES = ["onepass", *sorted(m.name for m in pkgutil.walk_packages(onepass.__path__, "onepass."))]
MODULES = [name for name in MODULES if name not in ("onepass._core", "onepass.__main__")]


def blocks(path):
    """[(line number, whether it is marked as needing torch, code)] of a Markdown file's Python blocks."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"(?P<mark><!-- needs torch -->\n)?```python\n(?P<code>.*?)```", text, re.DOTALL)
    return [(text[: m.start("code")].count("\n") + 1, bool(m["mark"]), m["code"]) for m in found]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE, extraglobs={"np": np})
    assert result.failed == 0


@pytest.mark.parametrize("name", ["kernels", "reference"])
def test_every_public_kernel_has_an_example(name):
    module = importlib.import_module(f"onepass.{name}")
    updates = importlib.import_module("onepass.kernels").UPDATES
    public = {
        k: v
        for k, v in vars(module).items()
        if inspect.isfunction(v) and v.__module__.startswith(module.__name__) and k not in updates and k[0] != "_"
    }
    assert len(public) >= 11
    assert [k for k, v in public.items() if ">>> " not in (v.__doc__ or "")] == []


@pytest.mark.parametrize("name", [name for name in optim.__all__ if name not in ("Optimizer", "StepInfo")])
def test_every_optimizer_has_an_example_and_its_formula(name):
    document = getattr(importlib.import_module("onepass.optim"), name).__doc__
    assert ">>> " in document
    assert re.search(r"\b(19|20)\d\d\b", document), "the paper's year"


GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [(path.relative_to(ROOT), *block) for path in GUIDES for block in blocks(path)]


@pytest.mark.parametrize(
    ("path", "line", "needs_torch", "code"), BLOCKS, ids=[f"{path}:{line}" for path, line, _, _ in BLOCKS]
)
def test_python_block(path, line, needs_torch, code, tmp_path):
    """Of the README and of every page in docs, each in a process and a folder of its own."""
    if needs_torch:
        pytest.importorskip("torch")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr


def test_readme_has_python_blocks():
    assert len(blocks(ROOT / "README.md")) >= 3
