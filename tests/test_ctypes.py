"""The shared library through ctypes and cffi: the C ABI needs no binding, and a host may lend its own threads."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from measure import assert_same_bits

import onepass
from onepass import kernels

cffi = pytest.importorskip("cffi")

RANGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, RANGE, ctypes.c_void_p)
INVALID_VALUE = 4


class Array(ctypes.Structure):
    """onepass_array"""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


def view(array):
    """A NumPy array of float32 as onepass_array, strides included."""
    sizes = (ctypes.c_int64 * array.ndim)(*array.shape)
    strides = (ctypes.c_int64 * array.ndim)(*array.strides)
    return Array(array.ctypes.data, sizes, strides, array.ndim, 0)


@pytest.fixture(scope="module")
def library():
    loaded = ctypes.CDLL(onepass.get_library())
    loaded.onepass_last_error.restype = ctypes.c_char_p
    loaded.onepass_set_parallel_for.argtypes = (PARALLEL_FOR, ctypes.c_void_p, ctypes.c_int32)
    yield loaded
    loaded.onepass_set_parallel_for(PARALLEL_FOR(), None, 0)


def softmax(library, x, out, threads=0):
    status = library.onepass_softmax(ctypes.byref(view(x)), 1, ctypes.byref(view(out)), threads)
    return status, library.onepass_last_error().decode()


def test_a_call_gives_the_bits_of_the_package(library, rng):
    x = rng.standard_normal((300, 400), np.float32)[:, ::3]
    out = np.empty_like(x)
    assert softmax(library, x, out) == (0, library.onepass_last_error().decode())
    assert_same_bits(out, kernels.softmax(x))


def test_an_error_is_a_status_and_a_sentence(library):
    x = np.zeros((2, 3), np.float32)
    status, message = softmax(library, x, np.zeros((3, 2), np.float32))
    assert status == 2
    assert "(2, 3)" in message


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_kernels_run_in_the_hosts_threads_to_the_same_bits(library, rng, threads):
    x = rng.standard_normal((4096, 300), np.float32)
    out, seen, ranges = np.empty_like(x), set(), []

    with ThreadPoolExecutor(threads) as pool:

        def chunk(call, context, task):
            seen.add(threading.get_ident())
            call(context, task, task + 1)

        @PARALLEL_FOR
        def parallel_for(host, tasks, call, context):
            ranges.append((host, tasks))
            list(pool.map(lambda task: chunk(call, context, task), range(tasks)))

        library.onepass_set_parallel_for(parallel_for, 7, threads)
        try:
            assert library.onepass_get_threads() == threads
            assert softmax(library, x, out)[0] == 0
        finally:
            library.onepass_set_parallel_for(PARALLEL_FOR(), None, 0)
    assert_same_bits(out, kernels.softmax(x))
    if threads == 1:
        assert ranges == []  # nothing to share out
    else:
        assert [(host, 1 < tasks <= 16 * threads) for host, tasks in ranges] == [(7, True)]
        assert threading.get_ident() not in seen
    assert library.onepass_get_threads() == onepass.get_threads()


def test_a_parallel_for_is_of_the_thread_that_set_it(library):
    calls = []

    @PARALLEL_FOR
    def parallel_for(host, tasks, call, context):
        calls.append(tasks)
        call(context, 0, tasks)

    x = np.ones((4096, 300), np.float32)
    library.onepass_set_parallel_for(parallel_for, None, 2)
    try:
        other = threading.Thread(target=softmax, args=(library, x, np.empty_like(x)))
        other.start()
        other.join()
        assert calls == []
        assert softmax(library, x, x)[0] == 0
        assert len(calls) == 1
    finally:
        library.onepass_set_parallel_for(PARALLEL_FOR(), None, 0)


@pytest.mark.parametrize(
    "run",
    [
        lambda call, context, tasks: None,
        lambda call, context, tasks: call(context, 1, tasks),
        lambda call, context, tasks: call(context, 0, tasks + 1),
        lambda call, context, tasks: [call(context, 0, tasks), call(context, tasks - 1, tasks)],
        lambda call, context, tasks: [call(context, 0, tasks // 2), call(context, 0, tasks - tasks // 2)],
    ],
    ids=["nothing", "not the first", "beyond the last", "one twice", "the first half twice"],
)
def test_a_host_that_does_not_run_each_task_once_is_noticed(library, run):
    @PARALLEL_FOR
    def parallel_for(host, tasks, call, context):
        run(call, context, tasks)

    x = np.ones((4096, 300), np.float32)
    library.onepass_set_parallel_for(parallel_for, None, 2)
    try:
        status, message = softmax(library, x, np.empty_like(x))
    finally:
        library.onepass_set_parallel_for(PARALLEL_FOR(), None, 0)
    assert status == INVALID_VALUE
    assert message == "parallel_for: returned before all tasks had run, each once"


def test_a_call_may_ask_for_fewer_threads_than_the_host_has_but_not_for_more(library):
    shared_out = []

    @PARALLEL_FOR
    def parallel_for(host, tasks, call, context):
        shared_out.append(tasks)
        call(context, 0, tasks)

    x = np.ones((4096, 300), np.float32)
    library.onepass_set_parallel_for(parallel_for, None, 3)
    try:
        assert [softmax(library, x, np.empty_like(x), threads)[0] for threads in (1, 2, 64)] == [0, 0, 0]
    finally:
        library.onepass_set_parallel_for(PARALLEL_FOR(), None, 0)
    assert shared_out == [32, 48]  # sixteen for each thread; on one thread nothing is shared out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_the_hosts_threads(library):
    x = np.ones((4096, 300), np.float32)
    with ThreadPoolExecutor(2) as pool:

        @PARALLEL_FOR
        def parallel_for(host, tasks, call, context):
            list(pool.map(lambda task: call(context, task, task + 1), range(tasks)))

        library.onepass_set_parallel_for(parallel_for, None, 2)
        try:
            assert softmax(library, x, np.empty_like(x))[0] == 0
            child = os.fork()
            if child == 0:
                signal.alarm(10)  # its end, should it wait for threads that it does not have
                os._exit(softmax(library, x, np.empty_like(x))[0])
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert library.onepass_get_threads() == 2  # the parent's are there as before
        finally:
            library.onepass_set_parallel_for(PARALLEL_FOR(), None, 0)


def test_a_pool_without_threads_is_refused(library):
    never = PARALLEL_FOR(lambda *arguments: None)
    assert library.onepass_set_parallel_for(never, None, 0) == INVALID_VALUE
    assert b"1 or more, got 0" in library.onepass_last_error()


@pytest.mark.parametrize(
    ("asked", "status"), [((0, 1, 1), 0), ((0, 0, 1), 0), ((0, 2, 1), 7), ((1, 0, 1), 7), ((0, 1, 2), 7)]
)
def test_which_programs_the_library_serves(library, asked, status):
    """Of version 0.1 and ABI 1: older headers of the same ABI, no newer ones."""
    assert library.onepass_require(*asked) == status
    if status:
        assert f"compiled for {asked[0]}.{asked[1]} with ABI {asked[2]}" in library.onepass_last_error().decode()


def test_cffi_reads_the_header_and_makes_a_step(rng):
    compiler = shutil.which("gcc")
    assert compiler, "gcc: not found"
    header = Path(onepass.get_include()) / "onepass" / "onepass.h"
    source = subprocess.run([compiler, "-E", "-P", header], capture_output=True, text=True, check=True).stdout
    own = source[source.index("typedef enum onepass_status") :]  # behind what stdint.h declares
    ffi = cffi.FFI()
    ffi.cdef("\n".join(line for line in own.splitlines() if not line.startswith("#")))
    lib = ffi.dlopen(onepass.get_library())
    assert ffi.string(lib.onepass_version()).decode() == onepass.__version__

    param, grad = rng.standard_normal((2, 1000), np.float32)
    expected, states = param.copy(), np.zeros((2, 1000), np.float32)
    kernels.adam(expected, grad, *np.zeros((2, 1000), np.float32), step=1, lr=0.01)

    shape = ffi.new("int64_t[1]", [1000])
    tensor, plan = ffi.new("onepass_update_tensor *"), ffi.new("onepass_plan **")
    for place, array in zip((tensor.param, tensor.grad, *tensor.states[0:2]), (param, grad, *states), strict=True):
        place.data, place.shape, place.ndim = ffi.cast("void *", array.ctypes.data), shape, 1
    assert lib.onepass_plan_create(lib.ONEPASS_UPDATE_adam, tensor, 1, plan) == lib.ONEPASS_OK
    info = lib.onepass_update_registry(lib.ONEPASS_UPDATE_adam)
    hyper = ffi.new("onepass_adam_hyper *", {"step": 1, "grad_scale": 1.0, "max_value": float("inf")})
    for i in range(info.field_count):
        field = info.fields[i]
        if not field.flag:
            setattr(hyper, ffi.string(field.name).decode(), field.value)
    hyper.lr = 0.01
    assert lib.onepass_adam(plan[0], hyper, 1, 0) == lib.ONEPASS_OK
    lib.onepass_plan_destroy(plan[0])
    assert_same_bits(param, expected)


def test_an_openmp_runtime_of_the_process_lends_its_threads():
    """Found behind a handle, or among the process's own symbols; with the same bits; none is an error."""
    code = f"""
        import ctypes, os, sys
        import numpy as np
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_ctypes as own
        library = ctypes.CDLL({str(onepass.get_library())!r})
        library.onepass_set_parallel_for.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
        library.onepass_openmp_threads.argtypes = (ctypes.c_void_p,)
        library.onepass_find_openmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        library.onepass_last_error.restype = ctypes.c_char_p
        parallel_for, host = ctypes.c_void_p(), ctypes.c_void_p()
        found = lambda handle: library.onepass_find_openmp(handle, ctypes.byref(parallel_for), ctypes.byref(host))
        tasks = lambda: len(os.listdir("/proc/self/task"))
        assert found(None) == 7 and b"GOMP_parallel" in library.onepass_last_error()
        assert library.onepass_find_openmp(None, None, None) == 4
        x = np.random.default_rng(0).standard_normal((2000, 300)).astype(np.float32)
        alone, out = np.empty_like(x), np.empty_like(x)
        assert own.softmax(library, x, alone, 1)[0] == 0
        gomp = ctypes.CDLL("libgomp.so.1")
        assert found(gomp._handle) == 0
        assert library.onepass_openmp_threads(host) == 3
        start = tasks()
        assert library.onepass_set_parallel_for(parallel_for, host, 3) == 0
        assert own.softmax(library, x, out)[0] == 0
        assert (out == alone).all()
        print(tasks() - start, library.onepass_openmp_threads(None))
        first = host.value
        ctypes.CDLL("libgomp.so.1", ctypes.RTLD_GLOBAL)
        assert found(None) == 0 and host.value == first
    """
    if not os.path.exists("/proc/self/task"):
        pytest.skip("reads /proc")
    environment = {**os.environ, "OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["2", "1"]
