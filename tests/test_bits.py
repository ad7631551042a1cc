"""The same bits at every instruction-set level, number of threads, alignment and size (the grid of bits_worker.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import onepass
from onepass import kernels

WORKER = Path(__file__).with_name("bits_worker.py")
LEVELS = onepass.info()["isa_available"]


@pytest.fixture(scope="module")
def reports():
    """The worker's report for each level that this CPU runs; all levels run side by side."""
    running = {
        level: subprocess.Popen(
            [sys.executable, str(WORKER)],
            env={**os.environ, "ONEPASS_ISA": level, "OMP_WAIT_POLICY": "passive"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for level in LEVELS
    }
    try:
        reports = {level: json.loads(process.communicate(timeout=600)[0]) for level, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return reports


@pytest.mark.parametrize("level", LEVELS)
def test_worker_ran_the_level_it_was_told(reports, level):
    assert reports[level]["isa"] == level


@pytest.mark.parametrize("level", LEVELS)
def test_threads_and_alignment_change_no_bit(reports, level):
    assert reports[level]["differences"] == []


@pytest.mark.parametrize("level", LEVELS)
def test_level_gives_the_bits_of_the_lowest(reports, level):
    expected, actual = reports[LEVELS[0]]["hashes"], reports[level]["hashes"]
    assert actual.keys() == expected.keys()
    assert [case for case in expected if actual[case] != expected[case]] == []


def test_grid_holds_every_kernel_type_and_size(reports):
    cases = [key.split(" | ") for key in reports[LEVELS[0]]["hashes"]]
    names = {name.split(" ")[0] for name, *_ in cases}
    functions = {"cross_entropy", "softmax", "log_softmax", "batch_norm", "global_norm", "relu", "linear"}
    functions |= {"conv2d", "max_pool2d", "avg_pool2d"}
    functions |= {"linear_cross_entropy", "layer_norm", "rms_norm", "group_norm", "instance_norm"}
    functions |= {"leaky_relu", "gelu", "silu", "sigmoid", "tanh", "bias_activation", "dropout", "nll_loss"}
    functions |= {"huber_loss", "smooth_l1_loss", "binary_cross_entropy"}
    assert names == functions | {"mean_squared_error"} | kernels.UPDATES.keys()
    for name in {name for name, *_ in cases}:
        for dtype in ("float32",) if "float16" in name else ("float32", "float64"):
            sizes = {int(n) for other, kind, n, _ in cases if (other, kind) == (name, dtype)}
            assert sizes >= set(range(1, 68)), name
            assert max(sizes) > 400, name


def test_hashes_tell_cases_apart(reports):
    """A worker that hashed too little would find everything equal."""
    hashes = reports[LEVELS[0]]["hashes"]
    ordinary = [value for key, value in hashes.items() if key.endswith("normal")]
    assert len(set(ordinary)) > 0.98 * len(ordinary)


def test_large_sizes_really_run_on_several_threads(reports):
    """Small work runs serially; a grid that stayed below that threshold would compare one thread with itself."""
    for report in reports.values():
        assert report["teams"].keys() == {key.split(" | ")[0] for key in report["hashes"]}
        assert [name for name, team in report["teams"].items() if team < 3] == []


def import_with(level):
    return subprocess.run(
        [sys.executable, "-c", "import onepass; print(onepass.info()['isa'])"],
        env={**os.environ, "ONEPASS_ISA": level},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("level", ["x86-64-v9", "X86-64-V3", "avx2", " "])
def test_unknown_level_is_an_error_at_import(level):
    run = import_with(level)
    assert run.returncode != 0
    assert f"ImportError: onepass: ONEPASS_ISA={level} is not available" in run.stderr
    assert all(level in run.stderr for level in onepass.info()["isa_built"])


@pytest.mark.parametrize("level", sorted(set(onepass.info()["isa_built"]) - set(LEVELS)) or ["none is missing"])
def test_level_that_this_cpu_lacks_is_refused_by_name(level):
    run = import_with(level)
    assert run.returncode != 0
    assert f"ImportError: onepass: ONEPASS_ISA={level} is not available" in run.stderr


def test_without_a_name_the_highest_available_level_is_used():
    run = import_with("")
    assert run.stdout.strip() == LEVELS[-1], run.stderr
