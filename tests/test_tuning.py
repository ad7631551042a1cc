"""Finding a learning rate and a batch size: the suggestion is sensible and nothing is left behind."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import losses, nn, optim, schedules, tuning
from onepass.callbacks import Callback
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(320, 8)).astype(np.float32)
Y = (X @ RNG.normal(size=8) > 0).astype(np.int64)


def make(rule=optim.Adam, schedule=None, callbacks=()):
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 2), seed=3)
    groups = [{"params": model.parameters()[:2], "lr": 2e-3}, {"params": model.parameters()[2:]}]
    return Trainer(model, losses.CrossEntropy(), rule(groups, lr=1e-3), schedule, callbacks)


def everything(trainer):
    state = trainer.optimizer.state_dict()
    arrays = [v.tobytes() for s in state["state"].values() for v in s.values() if isinstance(v, np.ndarray)]
    steps = [s["step"] for s in state["state"].values()]
    model = [array.tobytes() for array in trainer.model.state().values()]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    return arrays, steps, model, repr(groups), trainer.epoch, trainer.step, trainer.schedule, trainer.callbacks


class Fails(Callback):
    def on_step_end(self, trainer, loss):
        raise AssertionError("callbacks take no part")


@pytest.mark.parametrize("find", [tuning.lr_find, lambda *a: tuning.find_batch_size(*a, largest=64, rounds=1)])
def test_the_trainer_is_left_as_it_was(find):
    trainer = make(schedule=schedules.cosine(0.01, 1000))
    trainer.fit(X, Y, epochs=2)
    trainer.callbacks.append(Fails())
    before = everything(trainer)
    find(trainer, X, Y)
    assert everything(trainer) == before
    trainer.callbacks.clear()
    again = make(schedule=schedules.cosine(0.01, 1000))
    again.fit(X, Y, epochs=3)
    trainer.fit(X, Y, epochs=1)
    assert everything(trainer)[:4] == everything(again)[:4]


@pytest.mark.parametrize(("rule", "low", "high"), [(optim.Adam, 1e-4, 0.3), (optim.SGD, 1e-3, 5.0)])
def test_the_suggested_rate_learns(rule, low, high):
    found = tuning.lr_find(make(rule), X, Y)
    assert low < found.suggestion < high
    assert len(found.learning_rates) == len(found.losses) == len(found.smoothed)
    assert np.allclose(np.diff(np.log(found.learning_rates)), np.log(1e8) / 99)
    trainer = make(rule, schedule=found.suggestion)
    assert trainer.fit(X, Y, epochs=8)[-1]["accuracy"] > 0.9


def test_picture(tmp_path):
    found = tuning.lr_find(make(), X, Y)
    figure = found.plot(tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes()[:4] == b"\x89PNG"
    assert figure.axes[0].lines[2].get_xdata()[0] == found.suggestion


def test_a_loss_that_never_falls():
    with pytest.raises(ValueError, match=r"never falls between learning rates 1000 and 10000"):
        tuning.lr_find(make(optim.SGD), X, Y, start=1e3, end=1e4)


def test_batch_sizes():
    found = tuning.find_batch_size(make(), X, Y, rounds=2)
    assert found.batch_sizes == [8, 16, 32, 64, 128, 256]
    best = max(found.rows_per_second)
    fast = [s for s, rate in zip(found.batch_sizes, found.rows_per_second, strict=True) if rate >= 0.9 * best]
    assert found.suggestion == fast[0]
    assert f"{found.suggestion:10d}" in next(line for line in found.table().splitlines() if line.endswith("<"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5}, "steps is 5"),
        ({"start": 1.0, "end": 0.1}, r"start and end are 1\.0 and 0\.1"),
        ({"smoothing": 1.0}, r"smoothing is 1\.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        tuning.lr_find(make(), X, Y, **options)


def test_too_few_rows():
    with pytest.raises(ValueError, match="x has 5 rows, fewer than smallest, 8"):
        tuning.find_batch_size(make(), X[:5], Y[:5])
    with pytest.raises(ValueError, match=r"share is 0"):
        tuning.find_batch_size(make(), X, Y, share=0)
