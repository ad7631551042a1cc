"""The installed package serves a C++ project: CMake finds it, its headers stand alone, its C ABI is C."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import onepass
from onepass import data, kernels

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


def build(source, folder, *options):
    ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    warnings = [f"-DCMAKE_{language}_FLAGS=-Wall -Wextra -Wconversion -Werror" for language in ("C", "CXX")]
    run(tool("cmake"), "-S", source, "-B", folder, *ninja, "-DCMAKE_BUILD_TYPE=Release", *warnings, *options)
    run(tool("cmake"), "--build", folder)


@pytest.fixture(scope="module", params=["onepass_DIR", "CMAKE_PREFIX_PATH"])
def programs(request, tmp_path_factory):
    """The folder of the programs that were built with the installed package, found either way."""
    package = Path(onepass.get_cmake_dir())
    given = {"onepass_DIR": package, "CMAKE_PREFIX_PATH": package.parents[2]}[request.param]
    folder = tmp_path_factory.mktemp("consumer")
    build(HERE / "consumer", folder, f"-D{request.param}={given}")
    return folder


@pytest.mark.parametrize("library", ["onepass", "shared"])
def test_a_project_with_its_own_trainer_loop(programs, library):
    program = programs / f"consumer_{library}"
    outputs = {run(program, env={**os.environ, "OMP_NUM_THREADS": threads}) for threads in "13"}
    assert len(outputs) == 1, "the same bits at any thread count"
    first, last, accuracy = (
        float(number) for number in re.search(r"loss (\S+) to (\S+), accuracy (\S+)", outputs.pop()).groups()
    )
    assert last < 0.5 * first
    assert accuracy > 0.9


@pytest.mark.parametrize("library", ["onepass", "shared"])
def test_a_program_in_c_and_its_own_threads(programs, library):
    output = run(programs / f"consumer_c_{library}")
    assert f"ABI {header('ABI_VERSION')}" in output


def header(name):
    text = (Path(onepass.get_include()) / "onepass" / "onepass.h").read_text()
    return re.search(rf"#define ONEPASS_{name} (\S+)", text)[1]


def test_pkg_config_finds_it(tmp_path):
    if shutil.which("pkg-config", path=TOOLS) is None:
        pytest.skip("pkg-config is not installed")
    folder = Path(onepass.get_library()).parent / "pkgconfig"
    environment = {**os.environ, "PKG_CONFIG_PATH": str(folder)}
    found = partial(run, tool("pkg-config"), env=environment)
    assert found("--modversion", "onepass").strip() == onepass.__version__
    flags = found("--cflags", "--libs", "onepass").split()
    program = tmp_path / "program"
    run(
        tool("gcc"),
        "-std=c11",
        HERE / "consumer" / "main.c",
        "-o",
        program,
        *flags,
        "-lm",
        f"-Wl,-rpath,{folder.parent}",
    )
    assert "ABI" in run(program)


def test_the_shared_library_exports_the_c_abi_alone():
    """And the extension nothing of it: its copy of the library is its own."""
    declared = set(
        re.findall(r"\b(onepass_\w+)\(", (Path(onepass.get_include()) / "onepass" / "onepass.h").read_text())
    )
    declared |= {f"onepass_{update}" for update in kernels.UPDATES}
    exported = {line.split()[-1] for line in run("nm", "-D", "--defined-only", onepass.get_library()).splitlines()}
    assert {name for name in exported if "onepass" in name} <= declared
    assert {f"onepass_{update}" for update in kernels.UPDATES} <= exported
    names = run("nm", "-D", "--defined-only", onepass._core.__file__)
    assert "onepass_" not in names


def test_the_digits_example_reaches_the_accuracy_of_the_command(tmp_path):
    """examples/cpp: a whole trainer without Python, in under 200 lines."""
    example = HERE.parent / "examples" / "cpp"
    linked = subprocess.run(
        [tool("gcc"), "-x", "c", "-", "-lblas", "-o", tmp_path / "a"], input=b"int main(void) { return 0; }"
    )
    if linked.returncode != 0:
        pytest.skip("there is no BLAS to link with; on Debian install libopenblas-dev")
    assert len((example / "digits.cpp").read_text().splitlines()) < 200
    build(example, tmp_path, f"-Donepass_DIR={onepass.get_cmake_dir()}")
    digits = data.load_digits_split()
    for name, x, y in (("train", digits.x, digits.y), ("test", digits.x_test, digits.y_test)):
        np.savetxt(tmp_path / f"{name}.csv", np.column_stack([x.reshape(len(x), -1), y]), delimiter=",", fmt="%g")
    outputs = {
        run(
            tmp_path / "digits", tmp_path / "train.csv", tmp_path / "test.csv", env={**os.environ, "OMP_NUM_THREADS": n}
        )
        for n in "12"
    }
    assert len(outputs) == 1
    assert float(re.search(r"test accuracy (\S+)", outputs.pop())[1]) >= 97.0


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
