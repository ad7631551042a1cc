"""What holds for every script of the lecture; the claims of each are in a file of their own."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from onepass.lecture import Chapter, find

pytest.importorskip("matplotlib")

TESTS, ROOT = Path(__file__).parent, Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "examples" / "lecture").glob("*.py"))
CHINESE = re.compile(r"[\u4e00-\u9fff]")


load = functools.cache(find.load)


@pytest.fixture(scope="module")
def chapters():
    return {name: load(name) for name in NAMES}


def test_the_lecture_is_complete(chapters):
    assert find.names() == NAMES
    assert sorted(chapter.number for chapter in chapters.values()) == list(range(1, 11))
    for field in ("title", "chinese"):
        assert len({getattr(chapter, field) for chapter in chapters.values()}) == len(chapters)


def test_no_two_pictures_share_a_name(chapters):
    names = Counter(picture.name for chapter in chapters.values() for picture in chapter.pictures)
    assert [name for name, count in names.items() if count > 1] == []


def test_a_term_has_one_chinese_name(chapters):
    names: dict[str, set[str]] = {}
    for chapter in chapters.values():
        for english, chinese in chapter.terms.items():
            names.setdefault(english, set()).add(chinese)
    assert {english: found for english, found in names.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_is_complete(name):
    """Texts that are functions of the results are read where the results are: in the chapter's own test."""
    chapter = load(name)
    assert isinstance(chapter, Chapter)
    assert chapter.title.strip()
    assert CHINESE.search(chapter.chinese)
    assert chapter.terms
    for english, chinese in chapter.terms.items():
        assert re.search("[A-Za-z]", english), english
        assert not CHINESE.search(english), english
        assert CHINESE.search(chinese), english
    assert chapter.pictures
    for text in (chapter.text, *(text for picture in chapter.pictures for text in (picture.caption, picture.alt))):
        assert callable(text) or len(text.split()) >= 5, text
    for picture in chapter.pictures:
        assert picture.caption != picture.alt
    assert (TESTS / f"test_{name}.py").is_file()


def test_the_guide_has_a_line_for_each_chapter(chapters):
    guide = (ROOT / "docs" / "guide" / "lecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", guide, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == sorted(
        (chapter.number, name) for name, chapter in chapters.items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_script_stands_by_itself(name):
    """It imports what the extra train brings, and no other script; no Chinese in pictures, whose fonts have none."""
    source = (ROOT / "examples" / "lecture" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules = [node.module]
        elif isinstance(node, ast.FunctionDef):
            words = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert [word for word in words if isinstance(word, str) and CHINESE.search(word)] == []
        roots = {module.partition(".")[0] for module in modules}
        assert roots <= {"onepass", "numpy", "scipy", *sys.stdlib_module_names}, roots
    assert source.endswith('\n\nif __name__ == "__main__":\n    CHAPTER.main()\n')
