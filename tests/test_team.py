"""The team of threads: any number of callers and threads at once, short jobs after one another.

These tests are also run under the thread sanitizer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import kernels, optim

SIZES = (1, 5_000, 70_001, 300_007)  # the last two are shared out


def problem(size, seed=0):
    param, grad = np.random.default_rng(seed).standard_normal((2, size), np.float32)
    return param, grad, np.zeros_like(param), np.zeros_like(param)


def three_steps(arrays, threads):
    for step in (1, 2, 3):
        kernels.adam(*arrays, step=step, threads=threads)
    return arrays


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("callers", [2, 5])
def test_callers_at_once_get_the_bits_that_each_gets_alone(callers):
    expected = {size: three_steps(problem(size), 1) for size in SIZES}
    start, wrong = threading.Barrier(callers), []

    def call(own):
        start.wait()
        for turn in range(12):
            size, threads = SIZES[(own + turn) % len(SIZES)], 1 + (own + turn) % 4
            arrays = three_steps(problem(size), threads)
            if any(not np.array_equal(a, b) for a, b in zip(arrays, expected[size], strict=True)):
                wrong.append((own, turn, size, threads))

    threads = [threading.Thread(target=call, args=(own,)) for own in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_short_jobs_after_one_another_are_all_done():
    """A worker that comes late for one job must neither work on it nor miss the next."""
    sizes = np.random.default_rng(1).integers(60_000, 120_000, 400)
    array = np.zeros(120_000, np.float32)
    grad = np.full(120_000, -1.0, np.float32)
    expected = np.zeros_like(array)
    for turn, size in enumerate(sizes):
        kernels.sgd(array[:size], grad[:size], step=1, lr=1.0, threads=2 + turn % 3)
        expected[:size] += 1
    assert_same_bits(array, expected)


@pytest.mark.parametrize("threads", [2, 7, 300])
def test_more_threads_than_cpus_and_than_the_team_has(threads):
    expected = three_steps(problem(SIZES[-1]), 1)
    for actual, wanted in zip(three_steps(problem(SIZES[-1]), threads), expected, strict=True):
        assert_same_bits(actual, wanted)


def test_beside_a_pool_of_blas():
    a = np.random.default_rng(2).standard_normal((200, 200))
    expected, product = three_steps(problem(SIZES[-1]), 1), a @ a
    for _ in range(5):
        for actual, wanted in zip(three_steps(problem(SIZES[-1]), None), expected, strict=True):
            assert_same_bits(actual, wanted)
        np.testing.assert_array_equal(a @ a, product)


def test_no_thread_is_started_before_there_is_work_for_it():
    counts = run(
        """
        import os, threading, time
        import numpy as np
        import onepass
        from onepass import optim
        one = threading.Thread(target=int)  # a sanitizer's own thread comes with the first
        one.start()
        one.join()
        time.sleep(0.2)  # until it is gone from the list of tasks
        tasks = lambda: len(os.listdir("/proc/self/task"))
        start = tasks()
        optim.SGD([np.zeros(1000, np.float32)]).step([np.zeros(1000, np.float32)])
        small = tasks()
        onepass.set_threads(3)
        big = np.zeros(10**6, np.float32)
        optim.SGD([big]).step([big.copy()])
        print(start, small, tasks())
        """
    )
    start, small, big = map(int, counts)
    assert small == start
    assert big == start + 2


def test_workers_leave_signals_to_the_program():
    """A signal that a worker took would not wake Python's main thread."""
    masks = run(
        """
        import os, pathlib, threading
        import numpy as np
        import onepass
        from onepass import optim
        one = threading.Thread(target=int)  # a sanitizer's own thread comes with the first
        one.start()
        one.join()
        before = set(os.listdir("/proc/self/task"))
        onepass.set_threads(2)
        big = np.zeros(10**6, np.float32)
        optim.SGD([big]).step([big.copy()])
        for task in set(os.listdir("/proc/self/task")) - before:
            status = pathlib.Path(f"/proc/self/task/{task}/status").read_text()
            print(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")))
        """
    )
    assert len(masks) == 1
    interrupt, terminate = 1 << (2 - 1), 1 << (15 - 1)
    assert int(masks[0], 16) & (interrupt | terminate) == interrupt | terminate


def test_optimizers_in_several_threads_keep_their_own_counts():
    optimizers = [optim.Adam([np.ones(70_001, np.float32)], lr=0.1) for _ in range(3)]
    grad = np.ones(70_001, np.float32)
    threads = [threading.Thread(target=lambda o=o: [o.step([grad]) for _ in range(20)]) for o in optimizers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = optimizers[0].state_dict()["state"][0]
    assert first["step"] == 20
    for other in optimizers[1:]:
        assert_same_bits(other.state_dict()["state"][0]["exp_avg"], first["exp_avg"])
        assert_same_bits(other.param_groups[0]["params"][0], optimizers[0].param_groups[0]["params"][0])
