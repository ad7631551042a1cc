"""Callbacks: what they do, against torch where it has them, and that a resumed run goes on with them."""

from __future__ import annotations

import csv
import math
import warnings

import numpy as np
import pytest

from onepass import checkpoint, losses, nn, optim, schedules
from onepass.callbacks import (
    EMA,
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    LearningRateMonitor,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNonFinite,
)
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype(np.float32)
Y = (X[:, 0] + 0.5 * RNG.normal(size=64) > 0).astype(np.int64)


def make(*callbacks, schedule=None, lr=0.01):
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm(16), nn.ReLU(), nn.Linear(16, 2), seed=1)
    return Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=lr), schedule, callbacks)


class FakeRun:
    """For callbacks that only look at records."""

    schedule = None

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(2, 2))
        self.optimizer = optim.SGD(self.model.parameters(), lr=1.0)
        self.stopped = False

    def stop(self):
        self.stopped = True


def feed(callback, values, name="validation_loss"):
    """The epoch after which the callback ended the run, or None."""
    run = FakeRun()
    callback.on_fit_begin(run, len(values), 1)
    for epoch, value in enumerate(values, 1):
        callback.on_epoch_end(run, {"epoch": epoch, name: value})
        if run.stopped:
            return epoch
    return None


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- early stopping


@pytest.mark.parametrize(
    ("options", "values", "end", "best"),
    [
        ({"patience": 2}, [3, 2, 2.5, 2.5, 1], 4, 2),
        ({"patience": 3}, [3, 2, 2.5, 2.5, 1, 1, 1, 1], 8, 5),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.2, 2.1], 5, 3),
        ({"patience": 1}, [math.nan, math.nan, 1.0], 1, None),
        ({"patience": 2}, [0.0, 0.0, 0.0], 3, 1),
        ({"patience": 2, "mode": "max"}, [1, 2, 3, 3, 3], 5, 3),
        ({"patience": 9}, [1, 2, 3], None, 1),
    ],
)
def test_early_stopping_ends(options, values, end, best):
    callback = EarlyStopping(**options)
    assert feed(callback, values) == end
    assert callback.best_epoch == best


def test_accuracies_are_maximized():
    assert EarlyStopping("validation_accuracy").mode == EarlyStopping("validation_top_5").mode == "max"
    assert EarlyStopping("loss").mode == EarlyStopping("validation_mean_absolute_error").mode == "min"


def test_early_stopping_restores_the_best_model():
    stopping = EarlyStopping(patience=3)
    trainer = make(stopping, lr=0.3)
    rows = slice(0, 32)
    history = trainer.fit(X[rows], Y[rows], epochs=60, validation=(X[32:], Y[32:]))
    losses_ = history.column("validation_loss")
    assert len(history) == stopping.best_epoch + 3 < 60
    assert min(losses_) == losses_[stopping.best_epoch - 1] == stopping.best
    assert trainer.evaluate(X[32:], Y[32:])["loss"] == stopping.best != losses_[-1]


def test_early_stopping_without_validation_names_what_there_is():
    with pytest.raises(ValueError, match=r"monitor is 'validation_loss', but .* epoch, step, loss.*validation rows"):
        make(EarlyStopping()).fit(X, Y)


# ---- checkpoints of chosen epochs


def test_checkpoints(tmp_path):
    callback = Checkpoint(tmp_path / "{epoch}", every=2)
    trainer = make(callback)
    trainer.fit(X, Y, epochs=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]
    assert checkpoint.load(tmp_path / "4").meta["record"]["epoch"] == 4
    best = Checkpoint(tmp_path / "best", "validation_loss")
    trainer = make(best, lr=0.3)
    history = trainer.fit(X[:32], Y[:32], epochs=20, validation=(X[32:], Y[32:]))
    record = checkpoint.load(tmp_path / "best", trainer.model).meta["record"]
    assert record["validation_loss"] == min(history.column("validation_loss")) != history[-1]["validation_loss"]
    assert trainer.evaluate(X[32:], Y[32:])["loss"] == record["validation_loss"]


# ---- averages


def test_ema_against_its_formula():
    class Watch(Callback):
        def __init__(self):
            self.average = None

        def on_step_end(self, trainer, loss):
            now = [p.astype(np.float64) for p in trainer.model.parameters()]
            self.average = now if self.average is None else [
                0.8 * a + 0.2 * p for a, p in zip(self.average, now, strict=True)
            ]  # fmt: skip

    watch, ema = Watch(), EMA(0.8)
    trainer = make(watch, ema)
    plain = make()
    history = trainer.fit(X, Y, epochs=3, validation=(X, Y))
    plain.fit(X, Y, epochs=3)
    for own, expected in zip(trainer.model.parameters(), watch.average, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-7)
    assert trainer.evaluate(X, Y)["loss"] == history[-1]["validation_loss"]
    states = [t.optimizer.state_dict()["state"][0]["exp_avg"].tobytes() for t in (trainer, plain)]
    assert states[0] == states[1]  # the training itself is not touched


# ---- logs


def test_csv(tmp_path):
    path = tmp_path / "history.csv"
    history = make(CSVLogger(path)).fit(X, Y, epochs=3, validation=(X, Y))
    rows = table(path)
    assert [{k: float(v) for k, v in row.items()} for row in rows] == [dict(record) for record in history]


def test_csv_goes_on_and_a_full_disk_is_a_warning(tmp_path):
    path = tmp_path / "history.csv"
    trainer = make(CSVLogger(path))
    trainer.fit(X, Y, epochs=3)
    trainer.epoch = 2  # as after a resume from the second epoch
    trainer.fit(X, Y, epochs=2)
    assert [row["epoch"] for row in table(path)] == ["1", "2", "3", "4"]
    with pytest.warns(RuntimeWarning, match=r"No space left on device; the run goes on"):
        history = make(CSVLogger("/dev/full")).fit(X, Y, epochs=2)
    assert len(history) == 2


def test_tensorboard(tmp_path):
    from tensorboardX import proto

    trainer = make(TensorBoard(tmp_path, every=3))
    history = trainer.fit(X, Y, epochs=3, batch_size=16, validation=(X, Y))
    (path,) = tmp_path.iterdir()
    data, at, found = path.read_bytes(), 0, {}
    while at < len(data):  # TFRecord: length, checksum, content, checksum
        length = int.from_bytes(data[at : at + 8], "little")
        event = proto.event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert [step for step, _ in found["step/loss"]] == [3, 6, 9, 12]
    expected = [(r["step"], np.float32(r["validation_loss"])) for r in history]
    assert found["validation/loss"] == expected
    assert {"training/loss", "training/accuracy", "training/learning_rate", "training/seconds"} <= found.keys()


def test_learning_rates():
    monitor = LearningRateMonitor()
    make(monitor, schedule=schedules.exponential(0.1, 0.5)).fit(X, Y, epochs=2, batch_size=32)
    assert monitor.rates == [[step + 1, 0.1 * 0.5**step] for step in range(4)]


# ---- plateau


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 0, "cooldown": 2, "factor": 0.5},
        {"patience": 1, "threshold": 0.1, "threshold_mode": "abs"},
        {"patience": 1, "threshold": 0.2, "mode": "max", "min_lr": 0.05},
    ],
)
def test_plateau_against_torch(options):
    torch = pytest.importorskip("torch")
    values = (1 + 0.3 * np.random.default_rng(5).normal(size=60)).cumprod() ** 0.1
    group = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(group, **options)
    callback, run, rates = ReduceLROnPlateau(**options), FakeRun(), []
    callback.on_fit_begin(run, 60, 1)
    for epoch, value in enumerate(values, 1):
        callback.on_epoch_end(run, {"epoch": epoch, "validation_loss": value})
        scheduler.step(float(value))
        rates.append((run.optimizer.param_groups[0]["lr"], group.param_groups[0]["lr"]))
    own, expected = zip(*rates, strict=True)
    assert len(set(expected)) > 2
    assert own == pytest.approx(expected, rel=1e-12)


def test_plateau_refuses_a_schedule():
    with pytest.raises(ValueError, match="there is a schedule"):
        make(ReduceLROnPlateau("loss"), schedule=0.1).fit(X, Y)


# ---- what is not finite


def test_non_finite_parameters_end_the_run():
    class Break(Callback):
        def on_epoch_end(self, trainer, record):
            if record["epoch"] == 2:
                trainer.model.parameters()[0][0, 0] = np.inf

    watch = TerminateOnNonFinite()
    history = make(Break(), watch).fit(X, Y, epochs=9)
    assert len(history) == 2
    assert watch.reason == "0.weight is not finite after epoch 2"
    run = FakeRun()
    watch.on_fit_begin(run, 1, 1)
    watch.on_epoch_end(run, {"epoch": 1, "skipped": 10})
    assert run.stopped
    assert watch.reason == "10 steps of epoch 1 were skipped for a non-finite gradient"


# ---- resumed


def all_of_them(folder):
    return [
        EarlyStopping(patience=4), EMA(0.7), LearningRateMonitor(), ReduceLROnPlateau(factor=0.5, patience=0),
        CSVLogger(folder / "log.csv"), Checkpoint(folder / "best", "validation_loss"), TerminateOnNonFinite(),
    ]  # fmt: skip


def outcome(trainer, history, folder):
    records = [{k: v for k, v in record.items() if k != "seconds"} for record in history]
    states = [callback.state() for callback in trainer.callbacks]
    model = [array.tobytes() for array in trainer.model.state().values()]
    lines = [{k: v for k, v in row.items() if k != "seconds"} for row in table(folder / "log.csv")]
    return records, states, model, lines, trainer.optimizer.learning_rates()


@pytest.mark.parametrize("at", [1, 5, 8, 13])
def test_a_resumed_run_goes_on_with_its_callbacks(tmp_path, at):
    class StoppedError(Exception):
        pass

    options = {"epochs": 12, "batch_size": 8, "validation": (X[32:], Y[32:])}
    results = []
    for name in ("whole", "broken"):
        folder = tmp_path / name
        folder.mkdir()
        trainer = make(*all_of_them(folder), lr=0.05)
        if name == "broken":
            first = make(*all_of_them(folder), lr=0.05)
            correct, left = first.loss.correct, [at]

            def failing(prediction, target, correct=correct, left=left):
                left[0] -= 1
                if left[0] < 0:
                    raise StoppedError
                return correct(prediction, target)

            first.loss.correct = failing
            with pytest.raises(StoppedError):
                first.fit(X[:32], Y[:32], resume=folder / "run", save_every=1, **options)
        history = trainer.fit(X[:32], Y[:32], resume=folder / "run", save_every=1, **options)
        results.append(outcome(trainer, history, folder))
    assert results[0] == results[1]
    assert 4 < len(results[0][0]) <= 12


def test_restarted_runs_are_quiet(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(*all_of_them(tmp_path)).fit(X, Y, epochs=2, validation=(X, Y))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EarlyStopping(patience=0), "patience is 0"),
        (lambda: EarlyStopping(min_delta=-1.0), r"min_delta is -1\.0"),
        (lambda: EarlyStopping(mode="best"), "mode is 'best'"),
        (lambda: EMA(1.0), r"decay is 1\.0"),
        (lambda: Checkpoint("x", every=0), "every is 0"),
        (lambda: TensorBoard("x", every=0), "every is 0"),
        (lambda: ReduceLROnPlateau(factor=1.0), r"factor is 1\.0"),
        (lambda: ReduceLROnPlateau(patience=-1), "patience is -1"),
        (lambda: ReduceLROnPlateau(threshold_mode="x"), "threshold_mode is 'x'"),
        (lambda: TerminateOnNonFinite(0), "skipped is 0"),
    ],
)
def test_bad_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
