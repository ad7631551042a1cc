"""The lecture as one HTML page: no server, no network, no script; pictures are part of the file."""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from inspect import cleandoc
from pathlib import Path
from textwrap import dedent
from typing import Any

from onepass.lecture.chapter import Chapter, Results, said
from onepass.lecture.numbers import plain, rows

__all__ = ["Section", "page"]

STYLE = Path(__file__).with_name("page.css")
TITLE, CHINESE = "When a network does not train, and what helps", "神经网络训练不起来怎么办"
ABOUT = (
    "The gradient is small: is it a minimum, or a saddle? The gradient is not small, and still the loss stands: what "
    "now? Each picture was computed with onepass, by the same code that trains networks. At the end of each chapter "
    "are its terms with their Chinese names, its numbers, and the command that repeats it."
)


@dataclass(frozen=True)
class Section:
    """A chapter with its numbers: all texts are made, so that the page cannot fail any more."""

    name: str
    number: int
    title: str
    chinese: str
    text: str
    terms: Mapping[str, str]
    captions: Mapping[str, tuple[str, str]]  # picture's name -> caption, alternative text
    pictures: Mapping[str, bytes]  # picture's name -> PNG
    rows: Sequence[tuple[str, str]]
    numbers: Mapping[str, Any]  # of what JSON knows

    @classmethod
    def of(cls, name: str, chapter: Chapter, results: Results, pictures: Mapping[str, bytes]) -> Section:
        return cls(
            name=name,
            number=chapter.number,
            title=chapter.title,
            chinese=chapter.chinese,
            text=said(chapter.text, results),
            terms=chapter.terms,
            captions={p.name: (said(p.caption, results), said(p.alt, results)) for p in chapter.pictures},
            pictures=pictures,
            rows=list(rows(results)),
            numbers={"number": chapter.number, "title": chapter.title, "results": plain(results)},
        )


def inline(text: str) -> str:
    """Escaped, on one line; what stands between backticks is code.

    >>> inline("a < b in `f(x)`")
    'a &lt; b in <code>f(x)</code>'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(" ".join(text.split())))


def paragraphs(text: str) -> str:
    """Paragraphs are separated by an empty line; one whose lines are all indented is a formula and keeps its lines."""
    made = []
    for part in re.split(r"\n[ \t]*\n", cleandoc(text)):
        lines = part.splitlines()
        if lines and all(line.startswith("  ") for line in lines):
            made.append(f'<p class="formula">{escape(dedent(part))}</p>')
        elif lines:
            made.append(f"<p>{inline(part)}</p>")
    return "\n".join(made)


def chinese(text: str) -> str:
    return f'<span lang="zh-Hans">{escape(text)}</span>'


def picture(name: str, content: bytes, caption: str, alt: str) -> str:
    width, height = struct.unpack(">II", content[16:24])  # of the header chunk, the first one of a PNG
    data = b64encode(content).decode("ascii")
    return f"""<figure id="picture-{escape(name)}">
<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(" ".join(alt.split()))}">
<figcaption>{inline(caption)}</figcaption>
</figure>"""


def table(section: Section) -> str:
    if not section.rows:
        return ""
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in section.rows
    )
    label = escape(f"Numbers of chapter {section.number}")
    return f"""<details>
<summary>Numbers</summary>
<div class="scroll" role="region" aria-label="{label}" tabindex="0">
<table>
{body}
</table>
</div>
</details>"""


def section(part: Section) -> str:
    figures = (picture(name, content, *part.captions[name]) for name, content in part.pictures.items())
    terms = (f"<li>{escape(english)} {chinese(name)}</li>" for english, name in part.terms.items())
    name = escape(part.name)
    return _lines(
        f'<section id="chapter-{name}" aria-labelledby="title-{name}">',
        f'<h2 id="title-{name}">{part.number} · {escape(part.title)} {chinese(part.chinese)}</h2>',
        paragraphs(part.text),
        *figures,
        '<ul class="terms" aria-label="Terms">',
        *terms,
        "</ul>",
        table(part),
        f'<p class="repeat"><code>onepass lecture --only {name}</code> repeats it; the script is '
        f'<code>examples/lecture/{name}.py</code>. <a href="#contents">Contents</a></p>',
        "</section>",
    )


def page(sections: Iterable[Section], version: str) -> str:
    """The whole file's text; the same for the same sections."""
    parts = list(sections)
    contents = (
        f'<li><span class="number">{part.number}</span> <span><a href="#chapter-{escape(part.name)}">'
        f"{escape(part.title)}</a> {chinese(part.chinese)}</span></li>"
        for part in parts
    )
    return _lines(
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(TITLE)}</title>",
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>",
        "</head>",
        "<body>",
        "<header>",
        f"<h1>{escape(TITLE)} {chinese(CHINESE)}</h1>",
        f"<p>{escape(ABOUT)}</p>",
        "</header>",
        '<nav id="contents" aria-label="Contents">',
        "<ol>",
        *contents,
        "</ol>",
        "</nav>",
        "<main>",
        *map(section, parts),
        "</main>",
        f"<footer><p>Made by onepass {escape(version)}. Every random number comes from a fixed seed: the numbers "
        "repeat, measured times apart.</p></footer>",
        "</body>",
        "</html>",
    )


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part) + "\n"
