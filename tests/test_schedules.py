"""Learning-rate schedules against their formulas."""

from __future__ import annotations

import math

import pytest

from onepass import schedules


def test_constant():
    rate = schedules.constant(0.25)
    assert [rate(step) for step in (0, 1, 10**9)] == [0.25] * 3


def test_step_decay():
    rate = schedules.step_decay(1.0, every=3, factor=0.1)
    assert [rate(step) for step in range(7)] == [1, 1, 1, 0.1, 0.1, 0.1, pytest.approx(0.01)]


def test_exponential():
    rate = schedules.exponential(2.0, 0.9)
    assert rate(0) == 2.0
    assert rate(7) == pytest.approx(2 * 0.9**7, rel=1e-15)


@pytest.mark.parametrize("minimum", [0.0, 0.01])
def test_cosine(minimum):
    rate = schedules.cosine(0.1, steps=100, minimum=minimum)
    assert rate(0) == 0.1
    assert rate(50) == pytest.approx((0.1 + minimum) / 2, rel=1e-12)
    assert rate(25) == pytest.approx(minimum + (0.1 - minimum) * (1 + math.sqrt(0.5)) / 2)
    assert rate(100) == rate(1000) == minimum
    values = [rate(step) for step in range(101)]
    assert values == sorted(values, reverse=True)


def test_linear_warmup():
    rate = schedules.linear_warmup(0.3, steps=3, start=0.0)
    assert [rate(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])
    assert rate(2) == 0.3
    assert schedules.linear_warmup(0.3, steps=2, start=0.1)(0) == pytest.approx(0.2)


def test_join_counts_each_part_from_zero():
    parts = [schedules.linear_warmup(1.0, 4), schedules.cosine(1.0, 10), schedules.constant(0.5)]
    rate = schedules.join(parts, [4, 14])
    assert [rate(step) for step in range(4)] == [parts[0](step) for step in range(4)]
    assert [rate(step) for step in range(4, 14)] == [parts[1](step) for step in range(10)]
    assert rate(14) == rate(99) == 0.5


def test_a_schedule_keeps_no_state():
    rate = schedules.join([schedules.linear_warmup(0.1, 5), schedules.cosine(0.1, 95)], [5])
    forwards = [rate(step) for step in range(120)]
    assert [rate(step) for step in reversed(range(120))] == forwards[::-1]


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: schedules.constant(-0.1), "lr"),
        (lambda: schedules.constant(math.nan), "lr"),
        (lambda: schedules.constant(math.inf), "lr"),
        (lambda: schedules.cosine(0.1, 0), "steps"),
        (lambda: schedules.cosine(0.1, 10, minimum=-1), "minimum"),
        (lambda: schedules.linear_warmup(0.1, 0), "steps"),
        (lambda: schedules.linear_warmup(0.1, 5, start=-1), "start"),
        (lambda: schedules.step_decay(0.1, every=0), "every"),
        (lambda: schedules.step_decay(0.1, every=5, factor=0), "factor"),
        (lambda: schedules.exponential(0.1, 1.5), "factor"),
        (lambda: schedules.join([], []), "schedules"),
        (lambda: schedules.join([schedules.constant(1)], [3]), "boundaries"),
        (lambda: schedules.join([schedules.constant(1)] * 3, [5, 4]), "boundaries"),
    ],
)
def test_errors_name_the_argument(make, names):
    with pytest.raises(ValueError, match=names):
        make()
