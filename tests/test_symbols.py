"""What is in the object file of an instruction-set level: one exported table and nothing that could leak into code that
runs elsewhere, and no instruction that would change the bits.

The objects are those of the build tree that the environment variable ONEPASS_BUILD_DIR names; without it they are
compiled here.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import onepass

ROOT = Path(__file__).parents[1]
LEVELS = onepass.info()["isa_built"]
ALLOWED_UNDEFINED = {"memcpy", "memmove", "memset", "_GLOBAL_OFFSET_TABLE_"}


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """level -> its object file"""
    named = os.environ.get("ONEPASS_BUILD_DIR")
    build = Path(named) if named else tmp_path_factory.mktemp("build")
    if not named:
        tools = Path(sys.executable).parent  # cmake and ninja of this environment come first
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        cmake = shutil.which("cmake", path=path)
        assert cmake, "cmake: not found; pip install cmake ninja"
        ninja = shutil.which("ninja", path=path)
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        run(cmake, "-S", ROOT, "-B", build, *generator, "-DONEPASS_PYTHON=OFF", "-DCMAKE_BUILD_TYPE=Release")
        targets = [f"onepass_kernels_{level.replace('-', '_')}" for level in LEVELS]
        run(cmake, "--build", build, "--parallel", "2", "--target", *targets)
    found = {}
    for level in LEVELS:
        folder = build / "CMakeFiles" / f"onepass_kernels_{level.replace('-', '_')}.dir"
        files = sorted(folder.rglob("*.o"))
        assert len(files) == 1, f"{folder}: expected one object from one translation unit, found {files}"
        found[level] = files[0]
    return found


def symbols(path):
    """[(letter of nm, name)]"""
    lines = run("nm", path).splitlines()
    return [(line.split()[-2], line.split()[-1]) for line in lines]


@pytest.mark.parametrize("level", LEVELS)
def test_exactly_one_symbol_is_external(objects, level):
    external = [name for letter, name in symbols(objects[level]) if letter.isupper() and letter != "U"]
    assert external == [f"onepass_table_{level.replace('-', '_')}"]


@pytest.mark.parametrize("level", LEVELS)
def test_no_symbol_is_weak_or_unique(objects, level):
    """A weak symbol, such as an inline function of a header, could be the copy that the linker keeps for all."""
    assert [name for letter, name in symbols(objects[level]) if letter in "wWvVu"] == []


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_called_but_memory_moves(objects, level):
    """No libm (its bits differ between machines), no OpenMP, no C++ runtime."""
    undefined = {name for letter, name in symbols(objects[level]) if letter == "U"}
    assert undefined <= ALLOWED_UNDEFINED


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_runs_when_the_library_is_loaded(objects, level):
    """A static initializer of a level would run on a CPU that lacks it."""
    sections = re.findall(r"^\s*\d+ (\S+)", run("objdump", "-h", objects[level]), re.MULTILINE)
    assert ".text" in sections
    assert [name for name in sections if re.match(r"\.(init|ctors|fini|dtors|preinit|text\.startup)", name)] == []


@pytest.mark.parametrize("level", LEVELS)
def test_not_link_time_optimized(objects, level):
    assert ".gnu.lto" not in run("objdump", "-h", objects[level])


@pytest.mark.parametrize("level", LEVELS)
def test_instructions_belong_to_the_level_and_none_is_fused(objects, level):
    """A fused multiply-add rounds once where the other levels round twice."""
    code = run("objdump", "-d", "--no-show-raw-insn", objects[level])
    assert len(code) > 100_000
    if platform.machine() == "aarch64":
        assert not re.search(r"\t(fmadd|fmsub|fnmadd|fnmsub|fmla|fmls)\b", code)
        return
    assert not re.search(r"\tv?fn?m(add|sub|addsub|subadd)\d*[ps][sd]\b", code)
    assert ("%ymm" in code) == (level in ("x86-64-v3", "x86-64-v4"))
    assert ("%zmm" in code) == (level == "x86-64-v4")
    assert "%xmm" in code
    assert not re.search(r"\tv?(rsqrt|rcp)(14|28)?[ps][sd]\b", code)  # approximations differ between CPUs
