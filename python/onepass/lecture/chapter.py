"""One idea of the lecture: what is computed, what is drawn, and what is said about it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onepass._extras import require
from onepass.lecture.style import RC

__all__ = ["Chapter", "Picture", "Results"]

Results = Mapping[str, Any]
Text = str | Callable[[Results], str]


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
        with require("matplotlib").rc_context(RC):
            return {picture.name: picture.draw(results) for picture in self.pictures}

    def save(self, results: Results, folder: Path) -> list[Path]:
        """Writes each picture as a PNG into ``folder``."""
        with require("matplotlib").rc_context(RC):
            paths = []
            for name, figure in self.draw(results).items():
                paths.append(folder / f"{name}.png")
                figure.savefig(paths[-1], format="png")
        return paths

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """What a script does when it is run by itself: computes, and writes its pictures."""
        parser = argparse.ArgumentParser(description=f"Chapter {self.number} of the lecture: {self.title}.")
        parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: the current folder")
        folder: Path = parser.parse_args(arguments).out
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.save(self.compute(), folder):
            print(path)
