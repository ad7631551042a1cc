"""``onepass lecture``."""

from __future__ import annotations

import argparse
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onepass.cli.output import Output, UsageError, fail
from onepass.cli.results import check_out, staged

if TYPE_CHECKING:
    from collections.abc import Callable

    from onepass.lecture.chapter import Chapter
    from onepass.lecture.page import Section

__all__ = ["run"]

T = TypeVar("T")
EXTRAS = ("scipy.linalg", "matplotlib.figure", "sklearn", "threadpoolctl")
PAGE, NUMBERS = "index.html", "results.json"


def _attempt(name: str, function: Callable[..., T], *arguments: Any) -> T | None:
    """What the function returns; None after one line that says how the chapter failed, and where in its script."""
    try:
        return function(*arguments)
    except Exception as error:
        file = f"{name}.py"
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).name == file]
        where = f" (line {lines[-1]} of {file})" if lines else ""
        fail(1, f"chapter {name} failed: {type(error).__name__}: {error}{where}")
        return None


def _load(names: list[str]) -> dict[str, Chapter]:
    """Name -> chapter, in the order of the lecture; without those that cannot be loaded."""
    from onepass.lecture import find

    loaded = {name: chapter for name in names if (chapter := _attempt(name, find.load, name)) is not None}
    chapters = dict(sorted(loaded.items(), key=lambda item: (item[1].number, item[0])))
    owner: dict[str, str] = {}
    for name, chapter in chapters.items():
        for picture in chapter.pictures:
            if picture.name in owner:
                raise UsageError(f"two pictures are called {picture.name}: in {owner[picture.name]} and in {name}")
            owner[picture.name] = name
    return chapters


def _section(name: str, chapter: Chapter) -> Section:
    from onepass.lecture.page import Section

    results = chapter.compute()
    return Section.of(name, chapter, results, chapter.render(results))


def run(options: argparse.Namespace, output: Output) -> int:
    from onepass._extras import require
    from onepass.lecture import find

    names = list(dict.fromkeys(options.only or find.names()))
    if not names:
        raise UsageError(
            f"no scripts of the lecture in {find.folder()}; install onepass again, or run it in its source tree"
        )
    out = Path(options.out)
    check_out(out, (PAGE, NUMBERS))
    for module in EXTRAS:
        require(module)
    chapters = _load(names)
    check_out(out, tuple(f"{picture.name}.png" for chapter in chapters.values() for picture in chapter.pictures))
    sections = []
    for name, chapter in chapters.items():
        start = time.perf_counter()
        section = _attempt(name, _section, name, chapter)
        if section is None:
            continue
        sections.append(section)
        output.line(f"{chapter.number:2}  {name}: {chapter.title}, {time.perf_counter() - start:.1f} s")
    if not sections:
        return fail(1, f"no chapter succeeded; nothing was written in {out}")
    _write(out, sections)
    output.line(f"wrote {out / PAGE}")
    output.complain(f"to stdout; the page is {out / PAGE}")
    return 0 if len(sections) == len(names) else 1


def _write(out: Path, sections: list[Section]) -> None:
    import onepass
    from onepass.checkpoint import strict_json
    from onepass.lecture.page import page

    with staged(out) as folder:
        for section in sections:
            for name, content in section.pictures.items():
                (folder / f"{name}.png").write_bytes(content)
        numbers = {section.name: section.numbers for section in sections}
        (folder / NUMBERS).write_text(
            strict_json({"version": onepass.__version__, "chapters": numbers}), encoding="utf-8"
        )
        (folder / PAGE).write_text(page(sections, onepass.__version__), encoding="utf-8")
