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


def torch_rates(make, steps, lr=0.1, **optimizer):
    """What a scheduler of torch.optim gives, step by step."""
    torch = pytest.importorskip("torch")
    group = torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=optimizer.get("momentum", 0.0))
    scheduler = make(torch.optim.lr_scheduler, group)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(group.param_groups[0]["lr"])
        momenta.append(group.param_groups[0]["momentum"])
        group.step()
        scheduler.step()
    return rates, momenta


@pytest.mark.parametrize(
    ("rate", "make"),
    [
        (schedules.multi_step(0.1, [5, 5, 17], 0.3), lambda s, o: s.MultiStepLR(o, [5, 5, 17], 0.3)),
        (schedules.step_decay(0.1, 7, 0.4), lambda s, o: s.StepLR(o, 7, 0.4)),
        (schedules.exponential(0.1, 0.93), lambda s, o: s.ExponentialLR(o, 0.93)),
        (schedules.polynomial(0.1, 30, power=2.5), lambda s, o: s.PolynomialLR(o, 30, power=2.5)),
        (schedules.polynomial(0.1, 30), lambda s, o: s.LinearLR(o, 1.0, 0.0, total_iters=30)),
        (schedules.cosine(0.1, 45, 0.01), lambda s, o: s.CosineAnnealingLR(o, 45, 0.01)),
        (schedules.cosine_warm_restarts(0.1, 6), lambda s, o: s.CosineAnnealingWarmRestarts(o, 6)),
        (schedules.cosine_warm_restarts(0.1, 6, 3, 0.01), lambda s, o: s.CosineAnnealingWarmRestarts(o, 6, 3, 0.01)),
        (schedules.constant_warmup(0.1, 9, 0.2), lambda s, o: s.ConstantLR(o, 0.2, 9)),
        (schedules.cyclic(0.01, 0.1, 7), lambda s, o: s.CyclicLR(o, 0.01, 0.1, 7, cycle_momentum=False)),
        (
            schedules.cyclic(0.01, 0.1, 5, 3, "triangular2"),
            lambda s, o: s.CyclicLR(o, 0.01, 0.1, 5, 3, "triangular2", cycle_momentum=False),
        ),
        (
            schedules.cyclic(0.01, 0.1, 5, 8, "exp_range", 0.97),
            lambda s, o: s.CyclicLR(o, 0.01, 0.1, 5, 8, "exp_range", 0.97, cycle_momentum=False),
        ),
    ],
    ids=lambda value: repr(value) if isinstance(value, schedules.Schedule) else "",
)
def test_against_torch(rate, make):
    expected, _ = torch_rates(make, 45)
    assert [rate(step) for step in range(45)] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(("steps", "pct_start"), [(50, 0.3), (37, 0.45), (10, 0.25)])
def test_one_cycle_against_torch(anneal, three_phase, steps, pct_start):
    rate = schedules.one_cycle(0.5, steps, pct_start, anneal, three_phase=three_phase)
    expected, momenta = torch_rates(
        lambda s, o: s.OneCycleLR(
            o, 0.5, steps, pct_start=pct_start, anneal_strategy=anneal[:6].replace("cosine", "cos"),
            three_phase=three_phase,
        ),
        steps - 1,
        momentum=0.9,
    )  # fmt: skip
    assert [rate(step) for step in range(steps - 1)] == pytest.approx(expected, rel=1e-9)
    assert [rate.momentum(step) for step in range(steps - 1)] == pytest.approx(momenta, rel=1e-9)
    assert rate(steps - 1) == rate(10**6) == pytest.approx(0.5 / 25 / 1e4)


def test_transformer_and_inverse_sqrt():
    rate = schedules.transformer(512, 4000, 2.0)
    expected = [2.0 / math.sqrt(512) * min(1 / math.sqrt(n), n / 4000**1.5) for n in range(1, 9000, 97)]
    assert [rate(n - 1) for n in range(1, 9000, 97)] == pytest.approx(expected, rel=1e-12)
    assert rate(3999) == max(rate(step) for step in range(9000))
    rate = schedules.inverse_sqrt(0.3, 50)
    assert [rate(step) for step in (0, 50, 51, 5000)] == pytest.approx([0.3, 0.3, 0.3 * (50 / 51) ** 0.5, 0.03])


def test_scale():
    rate = schedules.scale(schedules.cosine(1.0, 10), schedules.step_decay(1.0, 5, 0.5))
    assert [rate(s) for s in range(12)] == [
        schedules.cosine(1.0, 10)(s) * schedules.step_decay(1.0, 5, 0.5)(s) for s in range(12)
    ]
    assert schedules.scale(lambda step: step + 1, 2)(4) == 10


EVERY = [
    schedules.constant(0.1), schedules.step_decay(0.1, 3), schedules.multi_step(0.1, [3, 9]),
    schedules.exponential(0.1, 0.9), schedules.polynomial(0.1, 12), schedules.inverse_sqrt(0.1, 4),
    schedules.cosine(0.1, 12), schedules.cosine_warm_restarts(0.1, 3, 2), schedules.cyclic(0.0, 0.1, 4, 2),
    schedules.one_cycle(0.1, 12), schedules.linear_warmup(0.1, 4), schedules.constant_warmup(0.1, 4),
    schedules.transformer(64, 5), schedules.scale(schedules.cosine(0.1, 9), 0.5),
    schedules.join([schedules.linear_warmup(0.1, 5), schedules.cosine(0.1, 95)], [5]),
]  # fmt: skip


@pytest.mark.parametrize("rate", EVERY, ids=lambda rate: rate.name.partition("(")[0])
def test_every_schedule_is_a_pure_function_with_a_name_and_a_picture(rate, tmp_path):
    forwards = [rate(step) for step in range(40)]
    assert [rate(step) for step in reversed(range(40))] == forwards[::-1]
    assert all(math.isfinite(value) and 0 <= value <= 0.1 + 1e-12 for value in [*forwards, rate(10**12)])
    assert eval(rate.name, vars(schedules)).name == rate.name
    figure = rate.plot(40, tmp_path / "rate.png")
    assert (tmp_path / "rate.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    x, y = figure.axes[0].lines[0].get_data()
    assert (list(x), list(y)) == (list(range(40)), forwards)
    assert len(figure.axes) == (2 if rate.momentum else 1)


def test_all_schedules_are_tested_above():
    named = {rate.name.partition("(")[0] for rate in EVERY}
    assert named == set(schedules.__all__) - {"Rate", "Schedule"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.multi_step(0.1, [5, 3]), r"milestones is \[5, 3\]"),
        (lambda: schedules.polynomial(0.1, 10, power=0), "power is 0"),
        (lambda: schedules.inverse_sqrt(0.1, 0), "steps is 0"),
        (lambda: schedules.cosine_warm_restarts(0.1, 5, 0), "multiple is 0"),
        (lambda: schedules.cyclic(0.1, 0.2, 5, 0), "steps_down is 0"),
        (lambda: schedules.cyclic(0.1, 0.2, 5, mode="square"), "mode is 'square'"),
        (lambda: schedules.cyclic(0.1, 0.2, 5, gamma=1.5), "gamma is 1.5"),
        (lambda: schedules.one_cycle(0.1, 1), "steps is 1"),
        (lambda: schedules.one_cycle(0.1, 10, pct_start=1.0), "pct_start is 1.0"),
        (lambda: schedules.one_cycle(0.1, 10, anneal="sine"), "anneal is 'sine'"),
        (lambda: schedules.one_cycle(0.1, 10, base_momentum=1.0), "base_momentum is 1.0"),
        (lambda: schedules.one_cycle(0.1, 10, div_factor=0), "div_factor is 0"),
        (lambda: schedules.constant_warmup(0.1, 5, 2.0), "factor is 2.0"),
        (lambda: schedules.transformer(0, 5), "d_model is 0"),
        (lambda: schedules.scale(schedules.constant(1.0), -1.0), "factor is -1.0"),
        (lambda: schedules.constant(1.0).plot(0), "steps is 0"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.multi_step(1.0, 30), r"milestones is 30, expected a sequence of steps: \[30\]"),
        (lambda: schedules.join([schedules.constant(1.0)], 3), "boundaries is 3, expected a sequence of steps"),
        (lambda: schedules.cosine("fast", 3), "lr is 'fast', expected a number"),
        (lambda: schedules.cosine(1.0, "3"), "steps is '3', expected an integer"),
    ],
)
def test_options_of_another_type_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_number_is_no_schedule_to_scale():
    with pytest.raises(TypeError, match=r"schedule is 0\.1, expected a function of the step"):
        schedules.scale(0.1, 2.0)
