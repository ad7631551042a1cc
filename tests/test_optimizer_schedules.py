"""A schedule as the lr of an optimizer: the rate that its step count says, assigned by hand, gives the same bits."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from measure import assert_same_bits

from onepass import checkpoint, losses, nn, optim, schedules
from onepass.trainer import DivergedError, Trainer

RATE = schedules.join([schedules.linear_warmup(0.1, 3), schedules.cosine(0.1, 10, minimum=1e-3)], [3])
OTHER = schedules.exponential(0.02, 0.8)
NAMES = sorted(name for name in optim.__all__ if name not in ("EMA", "SWA", "Lookahead", "Optimizer", "StepInfo"))
every_class = pytest.mark.parametrize("name", NAMES)


def make(name, arrays, lr, **options):
    """AdaBound must know the rate that its final_lr belongs to."""
    return getattr(optim, name)(arrays, lr=lr, **({"base_lr": 0.1} if name == "AdaBound" else {}), **options)


def draw(rng):
    return [rng.normal(size=shape).astype(t) for shape, t in (((3, 5), "f4"), ((7,), "f8"), ((33,), "f4"))]


def copies(arrays):
    return [a.copy() for a in arrays]


def assert_same(params, others, what=""):
    for i, (p, q) in enumerate(zip(params, others, strict=True)):
        assert_same_bits(p, q, f"{what} params[{i}]")


@every_class
def test_it_is_the_rate_assigned_before_every_step(name, rng):
    params = draw(rng)
    twins = copies(params)
    optimizer, twin = make(name, params, RATE), make(name, twins, RATE(0))
    for step in range(16):
        twin.param_groups[0]["lr"] = RATE(step)
        assert optimizer.learning_rates() == twin.learning_rates() == [RATE(step)]
        grads = draw(rng)
        optimizer.step(grads)
        twin.step(grads)
        assert_same(params, twins, f"step {step}")
    assert optimizer.param_groups[0]["lr"] is RATE


@every_class
def test_each_group_has_its_own_and_counts_the_most_steps_of_its_parameters(name, rng):
    params = draw(rng)
    twins = copies(params)

    def groups(arrays, first, second):
        return [{"params": arrays[:2], "lr": first}, {"params": arrays[2:], "lr": second}, {"params": []}]

    optimizer = make(name, groups(params, RATE, OTHER), 0.005)
    twin = make(name, groups(twins, 0.1, 0.02), 0.005)
    made = [0, 0, 0]
    for step in range(20):
        rates = [RATE(max(made[:2])), OTHER(made[2]), 0.005]
        for group, rate in zip(twin.param_groups, rates, strict=True):
            group["lr"] = rate
        assert optimizer.learning_rates() == rates
        grads = [None if rng.random() < 0.4 else g for g in draw(rng)]
        optimizer.step(grads)
        twin.step(grads)
        made = [count + (g is not None) for count, g in zip(made, grads, strict=True)]
        assert_same(params, twins, f"step {step}")
    assert len(set(made)) > 1


def test_a_schedule_beside_a_number_and_assigned_in_the_middle(rng):
    params = draw(rng)
    twins = copies(params)
    optimizer, twin = optim.Adam(params, lr=0.5), optim.Adam(twins, lr=0.5)
    for step in range(12):
        if step == 4:
            optimizer.param_groups[0]["lr"] = RATE
        if step == 9:
            optimizer.param_groups[0]["lr"] = 0.25
        twin.param_groups[0]["lr"] = RATE(step) if 4 <= step < 9 else 0.5 if step < 4 else 0.25
        if step == 7:  # another option, while there is a schedule
            optimizer.param_groups[0]["weight_decay"] = twin.param_groups[0]["weight_decay"] = 0.3
        grads = draw(rng)
        optimizer.step(grads)
        twin.step(grads)
        assert_same(params, twins, f"step {step}")


class Counted:
    """A schedule that knows what it was asked."""

    def __init__(self, schedule):
        self.schedule, self.asked = schedule, []

    def __call__(self, step):
        self.asked.append(step)
        return self.schedule(step)


def test_a_step_asks_once_and_a_skipped_step_not_at_all(rng):
    params = draw(rng)
    twins = copies(params)
    rate = Counted(RATE)
    optimizer, twin = optim.Adam(params, lr=rate, max_norm=1e3), optim.Adam(twins, max_norm=1e3)
    assert rate.asked == [0]  # checked when it was made
    made = 0
    for step in range(9):
        rate.asked.clear()
        twin.param_groups[0]["lr"] = RATE(made)
        grads = draw(rng)
        if step % 3 == 1:
            grads[0][0, 0] = np.nan
        skipped = optimizer.step(grads).skipped
        assert twin.step(grads).skipped == skipped == (step % 3 == 1)
        assert rate.asked == ([] if skipped else [made])
        made += not skipped
        assert_same(params, twins, f"step {step}")


def test_groups_with_numbers_are_read_once(monkeypatch, rng):
    params = draw(rng)
    optimizer, read = optim.Adam(params), []
    original = optimizer.hyperparameters
    monkeypatch.setattr(optimizer, "hyperparameters", lambda group: read.append(group) or original(group))
    for _ in range(5):
        optimizer.step(draw(rng))
    assert len(read) == 1
    optimizer.param_groups[0]["lr"] = RATE
    for _ in range(5):
        optimizer.step(draw(rng))
    assert len(read) == 6
    optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(5):
        optimizer.step(draw(rng))
    assert len(read) == 7


@every_class
def test_a_state_dict_holds_the_coming_steps_rate_and_resumes_to_the_bit(name, rng):
    params = draw(rng)
    optimizer = make(name, [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}], RATE)
    for _ in range(5):
        optimizer.step(draw(rng))
    saved = copy.deepcopy(optimizer.state_dict())
    assert [group["lr"] for group in saved["param_groups"]] == [RATE(5), 0.02]
    others = copies(params)
    resumed = make(name, [{"params": others[:2]}, {"params": others[2:]}], RATE)
    resumed.load_state_dict(saved)
    # the first keeps its schedule, and so does the second, which had a number in the other optimizer
    assert [group["lr"] for group in resumed.param_groups] == [RATE, RATE]
    resumed.param_groups[1]["lr"] = 0.02
    plain_params = copies(others)
    plain = make(name, [{"params": plain_params[:2]}, {"params": plain_params[2:]}], 0.5)
    plain.load_state_dict(saved)
    assert [group["lr"] for group in plain.param_groups] == [RATE(5), 0.02]
    for step in range(6):
        grads = draw(rng)
        plain.param_groups[0]["lr"] = RATE(5 + step)
        for each in (optimizer, resumed, plain):
            each.step(grads)
        assert_same(others, params, f"resumed, step {step}")
        assert_same(plain_params, params, f"with numbers, step {step}")


def test_a_loaded_step_count_moves_the_schedule_also_backwards(rng):
    params = draw(rng)
    optimizer = optim.SGD(params, lr=RATE, momentum=0.9)
    start = copy.deepcopy(optimizer.state_dict())
    for _ in range(6):
        optimizer.step(draw(rng))
    optimizer.load_state_dict(start)
    assert optimizer.learning_rates() == [RATE(0)]


@pytest.mark.parametrize(
    ("bad", "error"),
    [(math.nan, ValueError), (math.inf, ValueError), (-0.1, ValueError), ("x", TypeError), (None, TypeError)],
)
def test_a_rate_out_of_range_names_lr_and_the_step_and_changes_nothing(bad, error, rng):
    params = draw(rng)
    optimizer = optim.Adam(params, lr=lambda step: 0.1 if step < 3 else bad)
    for _ in range(3):
        optimizer.step(draw(rng))
    before = copies(params)
    for _ in range(2):  # and again, until it is repaired
        with pytest.raises(error, match=r"lr \(the schedule's at step 3\): expected a"):
            optimizer.step(draw(rng))
    assert_same(params, before)
    optimizer.param_groups[0]["lr"] = 0.1
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [3, 3, 3]
    optimizer.step(draw(rng))


def test_a_bad_schedule_is_refused_when_the_optimizer_is_made():
    with pytest.raises(ValueError, match=r"lr \(the schedule's at step 0\)"):
        optim.SGD([np.zeros(2)], lr=lambda step: math.nan)


def test_a_state_dict_must_hold_a_number():
    optimizer = optim.SGD([np.zeros(2)], lr=RATE)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = RATE
    with pytest.raises(TypeError, match="lr"):
        optimizer.load_state_dict(saved)


def test_adabound_asks_for_the_rate_that_final_lr_belongs_to():
    with pytest.raises(ValueError, match="base_lr: lr is a schedule"):
        optim.AdaBound([np.zeros(2)], lr=RATE)


# ---- with a trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def trainer(lr, schedule=None, seed=0, **options):
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2), seed=seed)
    return Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=lr, **options), schedule)


def test_a_trainer_without_a_schedule_leaves_the_optimizers_at_work():
    own, theirs = trainer(RATE), trainer(0.5, RATE)
    first, second = (each.fit(X, Y, epochs=3, batch_size=20) for each in (own, theirs))
    assert_same(own.model.parameters(), theirs.model.parameters())
    assert first.column("learning_rate") == second.column("learning_rate") == [RATE(2), RATE(5), RATE(8)]
    assert own.optimizer.param_groups[0]["lr"] is RATE


def test_a_trainers_schedule_replaces_the_optimizers_and_keeps_the_ratio_of_the_groups():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    params = model.parameters()
    groups = [{"params": params[:2], "lr": lambda step: 0.2}, {"params": params[2:], "lr": lambda step: 0.05}]
    own = Trainer(model, losses.CrossEntropy(), optim.SGD(groups), schedules.constant(0.4))
    own.fit(X, Y, epochs=1, batch_size=20)
    assert [group["lr"] for group in own.optimizer.param_groups] == [0.4, 0.1]


def test_a_diverged_loss_names_the_schedules_rate():
    own = trainer(lambda step: 0.125)
    bad = X.copy()
    bad[:] = np.nan
    with pytest.raises(DivergedError, match=r"at learning rate 0\.125"):
        own.fit(bad, Y)


def test_a_checkpoint_resumes_in_the_schedule(tmp_path):
    pytest.importorskip("safetensors")
    whole, first, rest = trainer(RATE), trainer(RATE), trainer(RATE, seed=1)
    whole.fit(X, Y, epochs=4, batch_size=20)
    first.fit(X, Y, epochs=2, batch_size=20)
    checkpoint.save(tmp_path / "run", first.model, first.optimizer, {"epoch": first.epoch, "step": first.step})
    meta = checkpoint.load(tmp_path / "run", rest.model, rest.optimizer).meta
    rest.epoch, rest.step = meta["epoch"], meta["step"]
    rest.fit(X, Y, epochs=2, batch_size=20)
    assert_same(rest.model.parameters(), whole.model.parameters())
