"""Several batches or pieces of one make one step."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import data, losses, nn, optim, schedules
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6))
Y = RNG.integers(0, 3, 50)


def make(rule=optim.SGD, **options):
    model = nn.Sequential(nn.Linear(6, 9, dtype=np.float64), nn.Tanh(), nn.Linear(9, 3, dtype=np.float64), seed=1)
    return Trainer(model, losses.CrossEntropy(), rule(model.parameters(), **{"lr": 0.1, **options}))


def assert_close(a, b):
    for one, other in zip(a.model.parameters(), b.model.parameters(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


def whole_batches(rows, epochs=2):
    """The same rows in the same order, without shuffling: what pieces of any size must add up to."""
    reference = make()
    reference.fit(data.Batches(X, Y, rows, shuffle=False), epochs=epochs)
    return reference


@pytest.mark.parametrize(("batch", "accumulate"), [(10, 2), (5, 4), (7, 3), (50, 1), (1, 20), (20, 9)])
def test_accumulated_batches_are_one_large_batch(batch, accumulate):
    """50 rows: the last step of an epoch has fewer rows, and its last batch is shorter."""
    trainer = make()
    history = trainer.fit(data.Batches(X, Y, batch, shuffle=False), epochs=2, accumulate=accumulate)
    reference = whole_batches(batch * accumulate)
    assert trainer.step == reference.step == 2 * -(-50 // (batch * accumulate))
    assert_close(trainer, reference)
    assert history[-1]["step"] == trainer.step


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 20, 64])
def test_pieces_of_a_batch_are_the_batch(micro_batch):
    trainer = make()
    history = trainer.fit(data.Batches(X, Y, 20, shuffle=False), epochs=2, micro_batch=micro_batch)
    reference = make()
    expected = reference.fit(data.Batches(X, Y, 20, shuffle=False), epochs=2)
    assert_close(trainer, reference)
    assert history.column("loss") == pytest.approx(expected.column("loss"), rel=1e-12)
    assert history.column("accuracy") == expected.column("accuracy")


def test_both_with_clipping_and_a_schedule_against_torch():
    torch = pytest.importorskip("torch")
    trainer = make(max_norm=0.5)
    trainer.schedule = schedules.step_decay(0.3, every=2, factor=0.5)
    trainer.fit(data.Batches(X, Y, 8, shuffle=False), epochs=3, accumulate=3, micro_batch=5)
    start = make().model
    linear = [torch.nn.Linear(6, 9, dtype=torch.float64), torch.nn.Linear(9, 3, dtype=torch.float64)]
    parameters = [p for layer in linear for p in (layer.weight, layer.bias)]
    with torch.no_grad():
        for p, initial in zip(parameters, start.parameters(), strict=True):
            p.copy_(torch.from_numpy(initial))
    model = torch.nn.Sequential(linear[0], torch.nn.Tanh(), linear[1])
    sgd, step = torch.optim.SGD(parameters, lr=0.3), 0
    for _ in range(3):
        for first in range(0, 50, 24):
            sgd.param_groups[0]["lr"] = 0.3 * 0.5 ** (step // 2)
            sgd.zero_grad()
            rows = slice(first, first + 24)
            torch.nn.functional.cross_entropy(model(torch.from_numpy(X[rows])), torch.from_numpy(Y[rows])).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            sgd.step()
            step += 1
    assert trainer.step == step
    for own, other in zip(trainer.model.parameters(), parameters, strict=True):
        np.testing.assert_allclose(own, other.detach().numpy(), rtol=1e-5, atol=1e-7)  # torch adds 1e-6 to the norm


def test_one_cycle_drives_momentum_or_the_first_beta():
    rate = schedules.one_cycle(0.1, 10)
    seen = []
    for rule, options in ((optim.SGD, {"momentum": 0.5}), (optim.Adam, {})):
        model = nn.Sequential(nn.Linear(6, 3, dtype=np.float64))
        optimizer = rule(model.parameters(), lr=0.1, **options)
        Trainer(model, losses.CrossEntropy(), optimizer, rate).fit(X, Y, epochs=3, batch_size=25)
        group = optimizer.param_groups[0]
        seen.append(group["betas"] if "betas" in group else group["momentum"])
        assert group["lr"] == rate(5)
    assert seen == [rate.momentum(5), (rate.momentum(5), 0.999)]
    with pytest.raises(ValueError, match="neither momentum nor betas"):
        Trainer(model, losses.CrossEntropy(), optim.Adagrad(model.parameters()), rate)


@pytest.mark.parametrize("name", ["accumulate", "micro_batch", "keep"])
def test_bad_numbers_are_named(name):
    with pytest.raises(ValueError, match=f"{name} is 0, expected >= 1"):
        make().fit(X, Y, **{name: 0})
    with pytest.raises(TypeError, match=rf"{name} is 1\.5, expected an integer"):
        make().fit(X, Y, **{name: 1.5})


def test_batches_take_the_place_of_arrays():
    one, other = make(), make()
    history = one.fit(data.Batches(X, Y, 16, seed=0), validation=data.Batches(X, Y, 16), epochs=2)
    expected = other.fit(X, Y, batch_size=16, validation=(X, Y), epochs=2)
    assert_close(one, other)
    assert history.column("validation_loss") == pytest.approx(expected.column("validation_loss"), rel=1e-12)
    with pytest.raises(ValueError, match="y is given beside Batches"):
        one.fit(data.Batches(X, Y, 16), Y)
