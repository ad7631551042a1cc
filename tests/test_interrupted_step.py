"""A step that ends with an exception has changed nothing, or all: parameters, states and step counts of every tensor
agree with no step or with one, and the next step gives the bits of an optimizer that was never interrupted."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import optim

F = np.float32
CLASSES = [
    ("SGD", {"momentum": 0.9}),
    ("Adagrad", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adam", {}),
    ("AdamW", {"amsgrad": True}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Rprop", {}),
    ("ASGD", {}),
    ("AdaBound", {}),
]
COUNT = 6


class Foreign:
    """Not an array, and it cannot be made one."""

    def __array__(self, *_args, **_kwargs):
        raise ArithmeticError("no array here")


def params_of(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((3 + i, 5)).astype(F) for i in range(COUNT)]


def pair(name, options, **more):
    """Two optimizers alike, after two steps: the one that is disturbed, and its twin."""
    found = []
    for _ in range(2):
        params = params_of()
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
        optimizer = getattr(optim, name)(groups, **options, **more)
        for seed in (1, 2):
            optimizer.step(params_of(seed))
        found.append(optimizer)
    return found


def everything(optimizer):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [*params, *[np.asarray(v) for entry in optimizer.state_dict()["state"].values() for v in entry.values()]]


def assert_alike(optimizer, twin):
    for a, b in zip(everything(optimizer), everything(twin), strict=True):
        assert_same_bits(a, b)


def raising_after(grads, k):
    yield from grads[:k]
    raise ArithmeticError("the gradients ended")


@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("k", [0, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize(("name", "options"), CLASSES, ids=str)
def test_one_bad_gradient_among_many(name, options, k, max_norm):
    optimizer, twin = pair(name, options, max_norm=max_norm)
    shape = (3 + k, 5)
    read_only = np.ones(shape, F)
    read_only.flags.writeable = False
    params = [p for group in optimizer.param_groups for p in group["params"]]
    bad = [
        (np.ones(shape, np.int64), TypeError),
        (np.ones(shape, complex), TypeError),
        (np.ones(shape, object), TypeError),
        (np.ones((5, 3 + k), F), ValueError),
        (np.ones(shape[:1], F), ValueError),
        (np.ones((0, 5), F), ValueError),
        (F(1.0), TypeError),
        ([[1.0] * 5] * (3 + k), TypeError),
        ("gradient", TypeError),
        (Foreign(), (TypeError, ArithmeticError)),
        (np.ones(shape, np.uint16), TypeError),  # bfloat16's bits, but nobody said so
        (params[k][::-1], ValueError),  # shares memory with what is written
    ]
    for number, (gradient, error) in enumerate(bad):
        grads = params_of(10 + number)
        grads[k] = gradient
        with pytest.raises(error):
            optimizer.step(grads)
        assert_alike(optimizer, twin)
        if number % 3 == 0:  # between the others, a step as if nothing had been
            for one in (optimizer, twin):
                one.step([read_only if i == k else g for i, g in enumerate(params_of(30 + number))])
            assert_alike(optimizer, twin)


@pytest.mark.parametrize("k", [0, COUNT // 2, COUNT])
@pytest.mark.parametrize(("name", "options"), CLASSES, ids=str)
def test_gradients_that_raise_in_the_middle(name, options, k):
    optimizer, twin = pair(name, options)
    with pytest.raises(ArithmeticError, match="ended"):
        optimizer.step(raising_after(params_of(3), k))
    for count in (0, k, COUNT + 1):
        if count != COUNT:
            with pytest.raises(ValueError, match=f"expected {COUNT}"):
                optimizer.step((params_of(3) + params_of(3))[:count])
    with pytest.raises(TypeError):
        optimizer.step(None)
    assert_alike(optimizer, twin)
    optimizer.step(iter(params_of(4)))
    twin.step(params_of(4))
    assert_alike(optimizer, twin)


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize(("name", "options"), CLASSES, ids=str)
def test_nonsense_in_an_option(name, options, group):
    optimizer, twin = pair(name, options)
    nonsense = ["x", None, float("nan"), float("inf"), -1.0, 1j, [], np.ones(2), Foreign(), {"lr": 1}]
    for option in [key for key in optimizer.param_groups[group] if key != "params"]:
        kept = optimizer.param_groups[group][option]
        refused = 0
        for value in nonsense:
            optimizer.param_groups[group][option] = value
            before = copy.deepcopy(everything(optimizer))
            try:
                optimizer.step(params_of(5))
            except (TypeError, ValueError, ArithmeticError):
                refused += 1
                for a, b in zip(everything(optimizer), before, strict=True):
                    assert_same_bits(a, b)
            else:  # it made sense for this option (a negative dampening); the twin takes it too
                twin.param_groups[group][option] = value
                twin.step(params_of(5))
                twin.param_groups[group][option] = kept
        assert refused >= 8, option
        optimizer.param_groups[group][option] = kept
        for one in (optimizer, twin):
            one.step(params_of(6))
        assert_alike(optimizer, twin)


@pytest.mark.parametrize("scale", ["x", None, 0.0, float("nan"), Foreign()])
def test_nonsense_for_grad_scale(scale):
    optimizer, twin = pair("Adam", {})
    with pytest.raises((TypeError, ValueError)):
        optimizer.step(params_of(3), grad_scale=scale)
    assert_alike(optimizer, twin)


# A process of its own: the signal is for its main thread. A worker of the team blocks signals (test_team.py).
INTERRUPTED = """
    import signal, threading, time
    import numpy as np
    import onepass
    from onepass import optim

    onepass.set_threads(2)
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(n, np.float32) for n in (300_000, 7, 1_200_000, 100_000)]
    pool = [[rng.standard_normal(p.size, np.float32) for p in start] for _ in range(4)]

    def make():
        return optim.{name}([{{"params": [p.copy()]}} for p in start], {options})

    def everything(optimizer):
        params = [group["params"][0] for group in optimizer.param_groups]
        return [*params, *[v for entry in optimizer.state_dict()["state"].values() for v in entry.values()]]

    def alike(a, b):
        return all(np.array_equal(x, y) for x, y in zip(everything(a), everything(b), strict=True))

    def interrupt(number, frame):
        if armed:
            raise KeyboardInterrupt

    def after(delay):
        if "{by}" == "timer":
            signal.setitimer(signal.ITIMER_REAL, delay)
            return lambda: signal.setitimer(signal.ITIMER_REAL, 0)
        thread = threading.Thread(target=lambda: (time.sleep(delay), signal.pthread_kill(main, signal.SIGALRM)))
        thread.start()
        return thread.join

    armed, main = False, threading.get_ident()
    signal.signal(signal.SIGALRM, interrupt)
    disturbed, twin = make(), make()
    for optimizer in (disturbed, twin):
        optimizer.step(pool[0])
    began = time.perf_counter()
    disturbed.step(pool[1])
    took = time.perf_counter() - began
    twin.step(pool[1])
    seen = {{"none": 0, "whole": 0, "not interrupted": 0}}
    for turn in range(1000):
        if turn >= 60 and seen["whole"] >= 5:
            break
        grads = pool[turn % 4]
        if turn % 5 == 0:
            disturbed.param_groups[1]["lr"] = twin.param_groups[1]["lr"] = 0.001 * (1 + turn % 9)  # read again
        interrupted, finish = False, lambda: None
        try:
            armed = True
            finish = after(max(1e-6, took * (turn % 60) / 60))
            disturbed.step(grads)
            armed = False
        except KeyboardInterrupt:
            armed, interrupted = False, True
        finish()
        if interrupted and alike(disturbed, twin):
            seen["none"] += 1
        else:
            twin.step(grads)
            assert alike(disturbed, twin), ("half a step", turn, interrupted)
            seen["whole" if interrupted else "not interrupted"] += 1
        disturbed.step(pool[3])
        twin.step(pool[3])
        assert alike(disturbed, twin), ("the next step", turn, interrupted)
    print(seen["none"], seen["whole"], seen["not interrupted"])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
@pytest.mark.parametrize("by", ["timer", "thread"])
@pytest.mark.parametrize(("name", "options"), [("Adam", "lr=0.01"), ("NAdam", "lr=0.01, max_norm=0.5")])
def test_keyboard_interrupt_during_a_step(name, options, by):
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED).format(name=name, options=options, by=by)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    _, whole, _ = map(int, run.stdout.split())
    assert whole >= 5  # interrupts did arrive
