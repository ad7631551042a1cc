"""onepass.torch in torch's OpenMP threads: as many as torch has, none of its own, the same bits, and no hang."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import threading

import pytest

import onepass

torch = pytest.importorskip("torch")
ours = importlib.import_module("onepass.torch")

pytestmark = pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch is built without OpenMP")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)
    yield
    ours.share_threads()


def run(code, threads):
    """The words that a program prints. ``tasks()`` are the threads that it has, ``step()`` is all ours."""
    before = """
        import os, torch, onepass.torch
        params = [torch.nn.Parameter(torch.ones(500, 500))]
        params[0].grad = torch.ones(500, 500)
        optimizer = onepass.torch.Adam(params)
        classes = torch.arange(500)
        def tasks():
            return len(os.listdir("/proc/self/task"))
        def step():
            optimizer.step()
            onepass.torch.cross_entropy(params[0], classes)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(code)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_a_step_starts_no_threads_beside_torchs():
    code = """
        torch.ones(1000, 1000).exp_()
        alone = tasks()
        step()
        print(tasks() - alone)
        print(onepass.torch.share_threads(False))
        step()
        print(tasks() - alone)
    """
    assert run(code, 3) == ["0", "False", "2"]


@linux
def test_torchs_number_of_threads_and_onepasss_hold():
    code = """
        def started():
            before = tasks()
            step()
            return tasks() - before
        onepass.set_threads(1)
        print(started())
        onepass.set_threads(8)
        torch.set_num_threads(1)
        print(started())
        torch.set_num_threads(4)
        print(started() > 0)
        ours = tasks()
        torch.ones(1000, 1000).exp_()
        print(tasks() - ours)
    """
    assert run(code, 2) == ["0", "0", "True", "0"]


@linux
def test_a_forked_child_of_a_program_with_threads_steps_on():
    """libgomp itself hangs there: its threads are gone, and a region waits for them."""
    code = """
        import signal
        step()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            step()
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        optimizer.step()
    """
    assert run(code, 3) == ["0"]


def kernels_alone(shared, number):
    """Nothing but our kernels, of inputs that do not depend on threads."""
    ours.share_threads(shared)
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    x, target = torch.randn(64, 3000).requires_grad_(), torch.randint(3000, (64,))
    images = torch.randn(8, 16, 30, 30).requires_grad_()
    layer, param = ours.BatchNorm2d(16), torch.nn.Parameter(torch.randn(300, 700))
    param.grad = torch.randn(300, 700)
    optimizer = ours.Adam([param], max_norm=1.0, state_dtype="float8")
    torch.set_num_threads(number)
    try:
        ours.cross_entropy(x, target).backward()
        layer(images).backward(images.detach() ** 2)
        for _ in range(3):
            optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return [param.detach(), x.grad, images.grad, layer.weight.grad, layer.running_var]


def test_the_same_bits_in_any_threads():
    expected = kernels_alone(False, 1)
    for shared, number in ((False, 2), (True, 1), (True, 2), (True, 5)):
        for actual, wanted in zip(kernels_alone(shared, number), expected, strict=True):
            assert torch.equal(actual, wanted), (shared, number)


def test_programs_threads_step_at_once():
    found = {}

    def call(own):
        param = torch.nn.Parameter(torch.arange(300_000.0))
        param.grad = torch.linspace(-1, 1, 300_000)
        optimizer = ours.Adam([param])
        for _ in range(20):
            optimizer.step()
        found[own] = param.detach()

    threads = [threading.Thread(target=call, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    call("alone")
    assert len(found) == 5
    for own, param in found.items():
        assert torch.equal(param, found["alone"]), own


def test_other_programs_parts_keep_their_threads():
    """What is called between the steps runs in onepass's own team again."""
    before = onepass.get_threads()
    kernels_alone(True, 1)
    assert onepass.get_threads() == before


def test_nonsense_is_refused():
    with pytest.raises(TypeError, match="enabled: expected True or False, got 'yes'"):
        ours.share_threads("yes")
