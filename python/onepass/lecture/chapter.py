"""One idea of the lecture: what is computed, what is drawn, and what is said about it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from onepass.lecture.style import applied

__all__ = ["Chapter", "Picture", "Results", "Text", "said"]

Results = Mapping[str, Any]
Text = str | Callable[[Results], str]


def said(text: Text, results: Results) -> str:
    """A text, or what a function of the results makes of them."""
    return text(results) if callable(text) else text


@dataclass(frozen=True)
class Picture:
    """One figure of a chapter.

    ``name`` is its file's, without ``.png``; ``draw(results)`` makes matplotlib's Figure; ``caption`` says in a few
    lines what is to be seen, ``alt`` in one sentence for who cannot see it. Both are texts or functions of the results,
    so that no number is written by hand.
    """

    name: str
    draw: Callable[[Results], Any]
    caption: Text
    alt: Text

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"name is {self.name!r}, expected letters, digits, - and _: it becomes a file's name")


@dataclass(frozen=True)
class Chapter:
    """One script of the lecture.

    ``compute()`` returns the numbers: a dict of floats, strings, lists and arrays, the same for the same seed but for
    times; ``pictures`` are drawn from them alone. ``text`` is the idea, in paragraphs separated by an empty line;
    ``terms`` are English terms and what they are called in Chinese.
    """

    number: int
    title: str
    chinese: str
    text: Text
    terms: Mapping[str, str]
    compute: Callable[[], Results]
    pictures: Sequence[Picture] = field(default_factory=tuple)

    def draw(self, results: Results) -> dict[str, Any]:
        """Name -> matplotlib's Figure, in the lecture's style."""
        with applied():
            return {picture.name: picture.draw(results) for picture in self.pictures}

    def render(self, results: Results) -> dict[str, bytes]:
        """Name -> a PNG file's content."""
        contents = {}
        with applied():
            for name, figure in self.draw(results).items():
                figure.savefig(buffer := BytesIO(), format="png")
                contents[name] = buffer.getvalue()
        return contents

    def save(self, results: Results, folder: Path) -> list[Path]:
        """Writes each picture as a PNG into ``folder``."""
        contents = self.render(results)
        for name, content in contents.items():
            (folder / f"{name}.png").write_bytes(content)
        return [folder / f"{name}.png" for name in contents]

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """What a script does when it is run by itself: computes, and writes its pictures."""
        parser = argparse.ArgumentParser(description=f"Chapter {self.number} of the lecture: {self.title}.")
        parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: the current folder")
        folder: Path = parser.parse_args(arguments).out
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.save(self.compute(), folder):
            print(path)
