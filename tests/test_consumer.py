"""The installed package serves a C++ project: CMake finds it, its headers stand alone, its C ABI is C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import onepass

HERE = Path(__file__).parent
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # this environment's cmake first


def run(*command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def tool(name):
    path = shutil.which(name, path=TOOLS)
    assert path, f"{name}: not found"
    return path


@pytest.mark.parametrize("finding", ["onepass_DIR", "CMAKE_PREFIX_PATH"])
def test_a_project_with_its_own_trainer_loop(finding, tmp_path):
    folder = Path(onepass.get_cmake_dir())
    given = {"onepass_DIR": folder, "CMAKE_PREFIX_PATH": folder.parents[2]}[finding]
    ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    run(
        tool("cmake"), "-S", HERE / "consumer", "-B", tmp_path, *ninja, f"-D{finding}={given}",
        "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Werror",
    )  # fmt: skip
    run(tool("cmake"), "--build", tmp_path)
    outputs = {run(tmp_path / "consumer", env={**os.environ, "OMP_NUM_THREADS": threads}) for threads in "13"}
    assert len(outputs) == 1, "the same bits at any thread count"
    first, last, accuracy = (
        float(number) for number in re.search(r"loss (\S+) to (\S+), accuracy (\S+)", outputs.pop()).groups()
    )
    assert last < 0.5 * first
    assert accuracy > 0.9


@pytest.mark.parametrize(
    ("compiler", "standard", "header"), [("gcc", "c11", "onepass.h"), ("g++", "c++20", "onepass.hpp")]
)
def test_headers_stand_alone(compiler, standard, header, tmp_path):
    source = tmp_path / ("one.c" if compiler == "gcc" else "one.cpp")
    source.write_text(f'#include "onepass/{header}"\n#include "onepass/{header}"\n')
    run(
        tool(compiler), f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only",
        f"-I{onepass.get_include()}", source,
    )  # fmt: skip
