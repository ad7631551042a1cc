"""A plan that is given addresses of gradients steps as one that is given the arrays, and holds nothing."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import optim
from onepass._core import same_objects, same_values
from onepass.kernels import global_norm

SHAPES = [(17,), (5, 7), (), (0, 3)]


class Held(np.ndarray):
    """An array that a weak reference can watch."""


@pytest.fixture
def twins(rng, dtype):
    start = [np.asarray(rng.normal(size=shape), dtype) for shape in SHAPES]
    optimizers = [optim.Adam([a.copy() for a in start], lr=0.1) for _ in range(2)]
    optimizers[0]._read_groups()
    return optimizers


def step_at(optimizer, addresses):
    optimizer._plan.step_at(addresses, optimizer._hyper, 2.0, math.inf, 0)


def grads_for(optimizer, rng):
    return [np.asarray(rng.normal(size=p.shape), p.dtype) for p in optimizer.weights]


def addresses_of(grads):
    return [None if grad is None else grad.ctypes.data for grad in grads]


def test_addresses_are_arrays_that_nobody_wraps(twins, rng):
    first, second = twins
    for i, grad in enumerate(grads_for(first, rng)):
        first._plan.show_grad(i, grad)
    for step in range(6):
        grads = grads_for(first, rng)
        if step % 3 == 1:
            grads[1] = None
        if step == 3:  # laid out otherwise
            grads[1] = np.asfortranarray(grads[1])
            first._plan.show_grad(1, grads[1])
        if step == 5:
            first._plan.show_grad(1, grads[1])
        present = [grad for grad in grads if grad is not None]
        assert first._plan.norm_at(addresses_of(grads)) == global_norm(present)
        step_at(first, addresses_of(grads))
        second.step(grads, grad_scale=2.0)
        assert first._plan.steps == second._plan.steps
        for a, b in zip(first.weights, second.weights, strict=True):
            assert_same_bits(a, b)


def test_arrays_and_addresses_may_alternate(twins, rng):
    first, second = twins
    for step in range(6):
        grads = grads_for(first, rng)
        if step % 2:
            for i, grad in enumerate(grads):
                first._plan.show_grad(i, grad)
            step_at(first, addresses_of(grads))
        else:
            first.step(grads, grad_scale=2.0)
        second.step(grads, grad_scale=2.0)
    first.step([None] * 4)
    second.step([None] * 4)
    assert first._plan.steps == second._plan.steps == [6] * 4
    for a, b in zip(first.weights, second.weights, strict=True):
        assert_same_bits(a, b)


def test_no_array_is_held():
    optimizer = optim.SGD([np.ones(3)], lr=0.5)
    optimizer._read_groups()
    grad = np.ones(3).view(Held)
    watch, address = weakref.ref(grad), grad.ctypes.data
    optimizer._plan.show_grad(0, grad)
    step_at(optimizer, [address])
    del grad
    gc.collect()
    assert watch() is None


def test_what_is_refused(twins, rng):
    first, _ = twins
    grads = grads_for(first, rng)
    before = [p.copy() for p in first.weights]
    with pytest.raises(ValueError, match=r"grad\[0\]: no array was shown"):
        step_at(first, addresses_of(grads))
    for i, grad in enumerate(grads):
        first._plan.show_grad(i, grad)
    good = addresses_of(grads)
    with pytest.raises(ValueError, match=r"grad\[1\]: shares memory with param\[0\]"):
        step_at(first, [good[0], first.weights[0].ctypes.data, *good[2:]])
    with pytest.raises(ValueError, match=r"grad\[1\]: shares memory with exp_avg\[1\]"):
        step_at(first, [good[0], first._states[1][0].ctypes.data, *good[2:]])
    with pytest.raises(ValueError, match="aligned"):
        step_at(first, [good[0] + 1, *good[1:]])
    with pytest.raises(ValueError, match=r"grad\[0\]: data is null"):
        step_at(first, [0, *good[1:]])
    with pytest.raises(ValueError, match="expected 4"):
        step_at(first, good[:3])
    with pytest.raises(TypeError):
        step_at(first, ["address", *good[1:]])
    with pytest.raises(ValueError, match="no such parameter"):
        first._plan.show_grad(4, grads[0])
    for p, old in zip(first.weights, before, strict=True):
        assert_same_bits(p, old)
    assert first._plan.steps == [0] * 4


def test_objects_are_compared_by_identity():
    a, b = np.ones(2), np.ones(2)
    assert same_objects([a, b], [a, b])
    assert not same_objects([a, b], [a, a])
    assert not same_objects([a], [a, b])
    entries = {1: {"x": a, "y": b}, 2: "something else", 3: {}, 4: {"x": b}}
    assert same_values(entries, [a, b, b])
    assert not same_values(entries, [a, b])
    assert not same_values(entries, [a, b, b, a])
    assert not same_values(entries, [a, a, b])
