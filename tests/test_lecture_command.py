"""The command ``onepass lecture`` with chapters made for the purpose, and the page that it writes."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest

import onepass
from onepass import cli
from onepass.lecture import Chapter, Picture, find
from onepass.lecture.page import paragraphs

for extra in ("scipy", "sklearn", "threadpoolctl", "matplotlib"):
    pytest.importorskip(extra)

CHAPTER = """
import numpy as np
from onepass.lecture import Chapter, Picture
from onepass.lecture.style import figure

def compute():
    return {{"loss": np.float32(0.5), "never": np.float32("nan"), "endless": np.inf, "arrived": np.True_,
             "path": np.eye(2), "plane": np.zeros((40, 40)),
             "by rate": {{0.1: {{"steps": np.int64(7)}}}}, "object": object()}}

def draw(results):
    made, axes = figure(height=2.0)
    axes.plot([0, 1], [results["loss"], 1])
    return made

CHAPTER = Chapter(
    number={number}, title={title!r}, chinese="动量",
    text="One & two:\\n`a <i> b`.\\n\\n  y = w1 w2 x\\n    <b>\\n\\nlast",
    terms={{"sad<dle": "鞍点", "Adam & Eve": "亚当"}}, compute=compute,
    pictures=[Picture({picture!r}, draw, lambda r: f"Loss <b>{{r['loss']}}", 'says "no" & ends')],
)
"""


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Where the command looks for scripts: an empty folder; the current folder is another one."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(find, "INSTALLED", folder)
    monkeypatch.chdir(tmp_path / "here")
    return folder


def write(folder, name, number, title="A title", picture=None, more=""):
    text = CHAPTER.format(number=number, title=title, picture=picture or f"{name}-picture")
    (folder / f"{name}.py").write_text(text + more, encoding="utf-8")


def lecture(*arguments):
    return cli.main(["lecture", *map(str, arguments)])


class Page(HTMLParser):
    """Reads a page and complains about what is not closed, closed twice, named twice or not there."""

    VOID = frozenset({"meta", "img", "br", "hr", "link"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.images, self.text = [], [], [], [], ""
        self.tags, self.languages, self.headings = set(), set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        if tag in ("p", "h2", "figure", "section", "ul", "table"):
            assert "p" not in self.open, f"<{tag}> in a paragraph"
        attributes = dict(attributes)
        self.tags.add(tag)
        if "id" in attributes:
            assert re.fullmatch(r"[\w-]+", attributes["id"])
            self.ids.append(attributes["id"])
        if "lang" in attributes:
            self.languages.add((tag, attributes["lang"]))
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        for name in ("aria-labelledby", "aria-describedby"):
            if name in attributes:
                self.links.append(f"#{attributes[name]}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def check(path):
    """The parsed page, after what must hold for each."""
    from matplotlib.image import imread

    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    page = Page(text)
    assert sorted(set(page.ids)) == sorted(page.ids)
    assert page.links
    assert [link for link in page.links if link.removeprefix("#") not in page.ids] == []
    assert page.headings[0] == 1
    assert set(page.headings[1:]) == {2}
    assert page.tags & {"script", "link", "iframe", "object", "base"} == set()
    assert not re.search(r"@import|url\(|https?:", text)
    assert ("html", "en") in page.languages
    assert {language for _, language in page.languages} == {"en", "zh-Hans"}
    for image in page.images:
        start, _, data = image["src"].partition(",")
        assert start == "data:image/png;base64"
        assert imread(BytesIO(b64decode(data, validate=True))).shape[:2] == (int(image["height"]), int(image["width"]))
        assert image["alt"]
    return page


def test_all_chapters_in_the_order_of_their_numbers(scripts, capsys):
    write(scripts, "zebra", 1, "First")
    write(scripts, "apple", 10, "Last")
    write(scripts, "middle", 2)
    write(scripts, "_draft", 3)
    assert lecture() == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert err == ""
    assert [re.sub(r"\d+\.\d s$", "N s", line) for line in out.splitlines()] == [
        " 1  zebra: First, N s",
        " 2  middle: A title, N s",
        "10  apple: Last, N s",
        f"wrote {Path('lecture') / 'index.html'}",
    ]
    folder = Path("lecture")
    names = ["apple-picture.png", "index.html", "middle-picture.png", "results.json", "zebra-picture.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    page = check(folder / "index.html")
    assert page.links[:3] == ["#chapter-zebra", "#chapter-middle", "#chapter-apple"]
    embedded = [b64decode(image["src"].partition(",")[2]) for image in page.images]
    assert embedded == [(folder / f"{name}-picture.png").read_bytes() for name in ("zebra", "middle", "apple")]
    assert list(Path().iterdir()) == [folder]


def test_texts_are_escaped_and_complete(scripts):
    write(scripts, "one", 4, 'A <script> & "quotes"')
    assert lecture() == 0
    page = check(Path("lecture/index.html"))
    words = " ".join(page.text.split())
    for text in (
        '4 · A <script> & "quotes" 动量', "One & two: a <i> b.", "Loss <b>0.5", "sad<dle 鞍点", "Adam & Eve 亚当",
        "onepass lecture --only one", "examples/lecture/one.py", f"onepass {onepass.__version__}",
    ):  # fmt: skip
        assert text in words
    assert "y = w1 w2 x\n  <b>" in page.text
    assert page.images[0]["alt"] == 'says "no" & ends'
    table = re.search(r"<table>(.*)</table>", Path("lecture/index.html").read_text(encoding="utf-8"), re.DOTALL)[1]
    cells = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', table)
    assert cells == [
        ("loss", "0.5"),
        ("never", "nan"),
        ("endless", "inf"),
        ("arrived", "yes"),
        ("by rate · 0.1 · steps", "7"),
    ]


def test_paragraphs():
    assert paragraphs("\n    a\n    b\n\n    \n    c\n") == "<p>a b</p>\n<p>c</p>"
    assert paragraphs("a\n\n  x = 1\n   y = 2\n\n b\nc") == '<p>a</p>\n<p class="formula">x = 1\n y = 2</p>\n<p>b c</p>'
    assert paragraphs("") == ""


def test_numbers_are_strict_json(scripts):
    write(scripts, "one", 4)
    assert lecture() == 0

    def refuse(name):
        raise AssertionError(name)

    found = json.loads(Path("lecture/results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found == {
        "version": onepass.__version__,
        "chapters": {
            "one": {
                "number": 4,
                "title": "A title",
                "results": {
                    "loss": 0.5,
                    "never": None,
                    "endless": None,
                    "arrived": True,
                    "path": [[1, 0], [0, 1]],
                    "plane": {"left out": "float64 (40, 40)"},
                    "by rate": {"0.1": {"steps": 7}},
                    "object": {"left out": "object"},
                },
            }
        },
    }


def test_the_same_numbers_make_the_same_files(scripts):
    import matplotlib

    write(scripts, "one", 4)
    assert lecture() == 0
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "figure.dpi": 40}):  # a user's own style
        assert lecture("--out", "again") == 0
    files = sorted(path.name for path in Path("lecture").iterdir())
    assert len(files) == 3
    for name in files:
        assert Path("again", name).read_bytes() == Path("lecture", name).read_bytes(), name


def test_only(scripts, capsys):
    for number, name in enumerate(("one", "two", "three"), 1):
        write(scripts, name, number)
    assert lecture("--only", "three", "--only", "one", "--only", "three", "--out", "a/b") == 0
    page = check(Path("a/b/index.html"))
    assert page.links[:2] == ["#chapter-one", "#chapter-three"]
    assert "chapter-two" not in page.ids
    assert sorted(path.name for path in Path("a/b").glob("*.png")) == ["one-picture.png", "three-picture.png"]
    capsys.readouterr()
    assert lecture("--only", "four") == 2
    message = "argument --only: 'four' is no chapter, expected one of one, three, two"
    assert capsys.readouterr().err == f"onepass: {message}\n"
    assert lecture("--help") == 0
    assert "the chapters: one, three, two" in capsys.readouterr().out


def test_what_was_there_is_replaced_and_what_is_somebody_elses_stays(scripts):
    write(scripts, "one", 1)
    Path("lecture").mkdir()
    for name in ("index.html", "one-picture.png", "notes.txt"):
        Path("lecture", name).write_text("old")
    assert lecture() == 0
    check(Path("lecture/index.html"))
    assert Path("lecture/one-picture.png").read_bytes().startswith(b"\x89PNG")
    assert Path("lecture/notes.txt").read_text() == "old"
    assert len(list(Path("lecture").iterdir())) == 4


# ---- what goes wrong

FAULTS = {
    "CHAPTER = None": r"TypeError: bad\.py defines no CHAPTER: expected CHAPTER = Chapter\(\.\.\.\)",
    "x = (": r"SyntaxError: .+",
    "1 / 0": r"ZeroDivisionError: division by zero \(line LAST of bad\.py\)",
    "def fail(*_): raise ValueError('two\\nlines')\nCHAPTER = replace(CHAPTER, compute=fail)": (
        r"ValueError: two lines \(line \d+ of bad\.py\)"
    ),
    "CHAPTER = replace(CHAPTER, text=lambda r: r['no'])": r"KeyError: 'no' \(line LAST of bad\.py\)",
    "def fail(*_): raise MemoryError\nCHAPTER.pictures[0] = replace(CHAPTER.pictures[0], draw=fail)": (
        r"MemoryError: \(line \d+ of bad\.py\)"
    ),
    "CHAPTER.pictures[0] = replace(CHAPTER.pictures[0], alt=lambda r: f'{r.x}')": (
        r"AttributeError: .+ \(line LAST of bad\.py\)"
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chapter_that_fails_is_one_line_and_the_others_go_on(scripts, capsys, fault):
    write(scripts, "good", 2)
    write(scripts, "bad", 1, more=f"from dataclasses import replace\n{fault}\n")
    assert lecture() == 1
    out, err = capsys.readouterr()
    last = len((scripts / "bad.py").read_text(encoding="utf-8").splitlines())
    assert re.fullmatch("onepass: chapter bad failed: " + FAULTS[fault].replace("LAST", str(last)), err.rstrip("\n")), (
        err
    )
    assert err.count("\n") == 1
    assert out.splitlines()[-1] == f"wrote {Path('lecture') / 'index.html'}"
    page = check(Path("lecture/index.html"))
    assert [name for name in page.ids if name.startswith("chapter-")] == ["chapter-good"]
    assert list(json.loads(Path("lecture/results.json").read_text(encoding="utf-8"))["chapters"]) == ["good"]


def test_where_no_chapter_succeeds_nothing_is_written(scripts, capsys):
    write(scripts, "bad", 1, more="1 / 0\n")
    assert lecture() == 1
    assert capsys.readouterr().err.splitlines()[-1] == "onepass: no chapter succeeded; nothing was written in lecture"
    assert list(Path().iterdir()) == []


def test_a_picture_of_two_chapters_is_found_before_the_work(scripts, capsys):
    write(scripts, "one", 1, picture="same", more="def compute(): raise AssertionError\n")
    write(scripts, "two", 2, picture="same")
    assert lecture() == 2
    assert capsys.readouterr().err == "onepass: two pictures are called same: in one and in two\n"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "../a", "a.png", "a/b"])
def test_a_pictures_name_must_do_for_a_file(name):
    with pytest.raises(ValueError, match="expected letters, digits, - and _"):
        Picture(name, lambda results: None, "caption", "alt")


def test_no_scripts_at_all(scripts, capsys):
    assert lecture() == 2
    assert capsys.readouterr().err.startswith(f"onepass: no scripts of the lecture in {scripts}; install onepass again")
    assert lecture("--help") == 0
    assert "none found" in capsys.readouterr().out


OUT = {
    "file": "argument --out: file is not a folder",
    "file/a": "argument --out: cannot write in file/a: Not a directory",
    "/proc/none": "argument --out: cannot write in /proc/none: ",
    "page": f"argument --out: {Path('page', 'index.html')} is a folder, expected a file or nothing",
    "picture": f"argument --out: {Path('picture', 'one-picture.png')} is a folder, expected a file or nothing",
    "": "argument --out: is empty",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("out", OUT)
def test_a_folder_that_cannot_be_written_is_found_before_the_work(scripts, capsys, out):
    write(scripts, "one", 1, more="def fail(): raise AssertionError\nobject.__setattr__(CHAPTER, 'compute', fail)\n")
    Path("file").write_text("mine")
    Path("page/index.html").mkdir(parents=True)
    Path("picture/one-picture.png").mkdir(parents=True)
    before = sorted(Path().rglob("*"))
    assert lecture("--out", out) == 2
    stdout, stderr = capsys.readouterr()
    assert stderr.startswith(f"onepass: {OUT[out]}")
    assert (stdout, stderr.count("\n")) == ("", 1)
    assert sorted(Path().rglob("*")) == before


def test_an_interrupt_leaves_everything_as_it_was(scripts, capsys):
    write(scripts, "one", 1)
    assert lecture() == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    write(scripts, "two", 2, more="def fail(): raise KeyboardInterrupt\nobject.__setattr__(CHAPTER, 'compute', fail)\n")
    capsys.readouterr()
    assert lecture() == 130
    assert capsys.readouterr().err == "onepass: interrupted\n"
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert lecture("--out", "new") == 130
    assert not Path("new").exists()


def test_a_full_disk_is_one_line_and_nothing_is_half_written(scripts, capsys):
    resource = pytest.importorskip("resource")
    write(scripts, "one", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        assert lecture() == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err == "onepass: cannot write the result in lecture: File too large\n"
    assert list(Path().iterdir()) == []


# ---- scripts by themselves, and where they are


def test_a_script_draws_its_pictures_by_itself(scripts):
    write(scripts, "one", 1, more="CHAPTER.main()\n")
    command = [sys.executable, scripts / "one.py", "--out", "pictures"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{Path('pictures') / 'one-picture.png'}\n"
    assert Path("pictures/one-picture.png").read_bytes().startswith(b"\x89PNG")


def test_scripts_are_found_in_the_wheel_else_in_the_source_tree(monkeypatch, tmp_path):
    root = Path(__file__).parents[1]
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    assert 'wheel.force-include."examples/lecture" = "onepass/lecture/scripts"' in project
    assert Path(*find.INSTALLED.parts[-3:]) == Path("onepass/lecture/scripts")
    assert Path(*find.SOURCE.parts[-2:]) == Path("examples/lecture")
    monkeypatch.setattr(find, "INSTALLED", tmp_path / "none")
    assert find.folder() == find.SOURCE


def test_a_chapters_pictures_are_what_render_returns():
    from onepass.lecture.style import figure

    def draw(results):
        made, axes = figure(height=2)
        axes.plot([0, results["end"]])
        return made

    chapter = Chapter(1, "t", "t", "t", {}, lambda: {"end": math.pi}, [Picture("p", draw, "c", "a")])
    assert list(chapter.render(chapter.compute())) == ["p"]
