"""Every example in a docstring and every Python block of the README runs."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shlex
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


MARKS = {"needs torch", "needs keras", "needs jax", "needs optax", "continues"}


def blocks(path):
    """[(line number, marks, code)] of a Markdown file's Python blocks.

    Marks stand in a comment above the block, separated by commas: ``<!-- needs torch, continues -->``. A block that
    continues runs after all the blocks of its section, the part of the page under a heading of the second level, and
    needs what they need.
    """
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"(?:<!-- (?P<marks>[^>]*) -->\n)?```python\n(?P<code>.*?)```", text, re.DOTALL)
    result, section, before, needed = [], 0, "", set()
    for match in found:
        marks = set(filter(None, (match["marks"] or "").split(", ")))
        assert marks <= MARKS, f"{path}: unknown marks {marks - MARKS}"
        heading = text.rfind("\n## ", 0, match.start())
        if heading != section:
            section, before, needed = heading, "", set()
        needed |= marks
        if "continues" in marks:
            marks = needed
        line = text[: match.start("code")].count("\n") + 1
        result.append((line, set(marks), (before if "continues" in marks else "") + match["code"]))
        before += match["code"]
    return result


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    adapter = name.split(".")[1:2]
    if adapter in (["jax"], ["torch"]):
        pytest.importorskip(*adapter)
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


@pytest.mark.parametrize(("path", "line", "marks", "code"), BLOCKS, ids=[f"{path}:{line}" for path, line, *_ in BLOCKS])
def test_python_block(path, line, marks, code, tmp_path):
    """Of the README and of every page in docs, each in a process and a folder of its own."""
    for mark in sorted(marks - {"continues"}):
        name = mark.removeprefix("needs ")
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    # Keras itself warns with NumPy 2: its variables' __array__ takes no copy
    warnings = ["-W", "error", *(["-W", "ignore::DeprecationWarning"] if "needs keras" in marks else [])]
    run = subprocess.run(
        [sys.executable, *warnings, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr


def test_readme_has_python_blocks():
    assert len(blocks(ROOT / "README.md")) >= 3


# ---- links


def _without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """Of a page's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", _without_code(path.read_text(encoding="utf-8")), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return {f"{name}-{n}" if (n := found[:i].count(name)) else name for i, name in enumerate(found)}


def broken_links(path):
    """Those of a page's links that lead nowhere in this repository."""
    text = re.sub(r"`[^`\n]*`", "", _without_code(path.read_text(encoding="utf-8")))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", GUIDES, ids=[str(path.relative_to(ROOT)) for path in GUIDES])
def test_links_lead_somewhere(path):
    assert broken_links(path) == []


def test_broken_links_are_found(tmp_path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# A `name`, and more\n## Twice\n## Twice\n```sh\n# no heading\n```\n", encoding="utf-8")
    good = "[a](other.md) [b](other.md#a-name-and-more) [c](other.md#twice-1) [d](https://example.org/) `x[0](y)`\n"
    page.write_text(f"{good}[e](#own)\n# Own\n", encoding="utf-8")
    assert broken_links(page) == []
    page.write_text("[a](none.md) [b](other.md#none) [c](other.md#no-heading) [d](#own)", encoding="utf-8")
    assert broken_links(page) == ["none.md", "other.md#none", "other.md#no-heading", "#own"]


def test_the_index_of_the_guide_names_every_page():
    index = (ROOT / "docs" / "guide" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs" / "guide").glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\((\w+\.md)\)", index))


# ---- the page of the command

COMMAND = ROOT / "docs" / "guide" / "command.md"


def test_the_console_lines_of_the_commands_page_run(tmp_path):
    """In order, in one folder, with the files that the page's first block makes."""
    text = COMMAND.read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    commands = [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]
    assert len(commands) >= 10
    for command in commands:
        program = {"onepass": ["-m", "onepass"], "python": []}[command[0]]
        run = subprocess.run(
            [sys.executable, *program, *command[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, f"{command}: {run.stderr}"


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export", "lecture"])
def test_the_commands_page_has_every_option(command):
    text = COMMAND.read_text(encoding="utf-8")
    section = re.search(rf"^## onepass {command}$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]
    run = subprocess.run(
        [sys.executable, "-m", "onepass", command, "--help"], capture_output=True, text=True, check=True
    )
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"-\n\s+", "-", run.stdout))) - {"--help"}
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section))
    assert options <= shown, f"not on the page: {sorted(options - shown)}"
    assert shown <= options | {"--help"}, f"no options: {sorted(shown - options)}"


# ---- the page of the C ABI


def test_the_page_of_the_c_abi_names_every_function():
    header = (ROOT / "csrc" / "include" / "onepass" / "onepass.h").read_text(encoding="utf-8")
    declared = set(
        re.findall(r"^(?:onepass_status|const char\*|int\w+|size_t|void|const \w+\*) (onepass_\w+)\(", header, re.M)
    )
    page = (ROOT / "docs" / "embedding" / "c.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `onepass_")]
    named = {name for row in rows for name in re.findall(r"`(onepass_\w+)`", row.split("|")[1])}
    assert len(declared) > 50
    assert named - {"onepass_sgd", "onepass_adam"} == declared
