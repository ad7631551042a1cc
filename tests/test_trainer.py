"""The training loop: seeds, resuming, schedules, history, callbacks."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest

import onepass
from onepass import losses, metrics, nn, optim, schedules
from onepass.callbacks import Callback, ProgressBar
from onepass.history import History
from onepass.trainer import DivergedError, Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 1)


def network(seed=0, dtype=np.float32):
    return nn.Sequential(
        nn.Linear(6, 16, dtype=dtype),
        nn.BatchNorm(16, dtype=dtype),
        nn.ReLU(),
        nn.Linear(16, 3, dtype=dtype),
        seed=seed,
    )


def trainer(seed=0, schedule=None, callbacks=(), rule=optim.Adam, **options):
    model = network(seed)
    optimizer = rule(model.parameters(), **{"lr": 0.01, **options})
    return Trainer(model, losses.CrossEntropy(), optimizer, schedule, callbacks, seed)


def content(model):
    return {name: array.tobytes() for name, array in model.state().items()}


def test_it_learns():
    trained = trainer()
    before = trained.evaluate(X, Y)
    history = trained.fit(X, Y, epochs=40, batch_size=16)
    after = trained.evaluate(X, Y)
    assert after["accuracy"] > 0.95 > before["accuracy"]
    assert after["loss"] < 0.3 * before["loss"]
    assert history[-1]["loss"] < history[0]["loss"]


def test_regression_with_mean_squared_error():
    x = np.linspace(-1, 1, 128).reshape(128, 1)
    y = 3 * x - 1
    model = nn.Sequential(nn.Linear(1, 1, dtype=np.float64))
    trained = Trainer(model, losses.MeanSquaredError(), optim.SGD(model.parameters(), lr=0.3))
    history = trained.fit(x, y, epochs=60, batch_size=16, validation=(x, y))
    assert trained.evaluate(x, y) == {"loss": pytest.approx(0, abs=1e-8)}
    np.testing.assert_allclose(trained.predict(x), y, atol=1e-4)
    assert "accuracy" not in history[0]
    assert "validation_loss" in history[0]


def test_a_network_that_ends_in_relu():
    """There the gradient may not be written over the prediction, which ReLU's backward reads."""
    x, y = X.astype(np.float64), np.abs(X[:, :2]).astype(np.float64)
    model = nn.Sequential(nn.Linear(6, 2, dtype=np.float64), nn.ReLU())
    weight = model.layers[0].weight.copy()
    Trainer(model, losses.MeanSquaredError(), optim.SGD(model.parameters(), lr=1.0)).fit(x, y, batch_size=100)
    other = nn.Sequential(nn.Linear(6, 2, dtype=np.float64), nn.ReLU())
    output = other.forward(x)
    other.backward(2 * (output - y) / y.size)
    np.testing.assert_allclose(model.layers[0].weight, weight - other.gradients()[0], atol=1e-12)


@pytest.mark.parametrize("threads", [(1, 2, 3)])
def test_the_seed_repeats_to_the_bit_at_any_thread_count(threads):
    before = onepass.get_threads()
    results = []
    try:
        for count in (*threads, 1):
            onepass.set_threads(count)
            trained = trainer(seed=5)
            history = trained.fit(X, Y, epochs=3, batch_size=32, validation=(X, Y))
            for record in history:
                del record["seconds"]
            results.append((content(trained.model), history))
    finally:
        onepass.set_threads(before)
    assert all(result == results[0] for result in results)
    other = trainer(seed=6)
    other.fit(X, Y, epochs=3, batch_size=32)
    assert content(other.model) != results[0][0]


def test_two_fits_are_one_long_fit():
    schedule = schedules.cosine(0.01, 28)
    whole, parts = trainer(schedule=schedule), trainer(schedule=schedule)
    history = whole.fit(X, Y, epochs=4, batch_size=16)
    pieces = parts.fit(X, Y, epochs=1, batch_size=16) + parts.fit(X, Y, epochs=3, batch_size=16)
    assert content(whole.model) == content(parts.model)
    assert [r["loss"] for r in history] == [r["loss"] for r in pieces]
    assert [r["epoch"] for r in pieces] == [1, 2, 3, 4]
    assert parts.step == 28


def test_the_schedule_is_called_before_every_step_and_groups_keep_their_ratio():
    model = network()
    parameters = model.parameters()
    groups = [{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:], "lr": 0.05}]
    optimizer = optim.SGD(groups, lr=0.1)
    seen = []

    class Watch(Callback):
        def on_step_end(self, trainer, loss):
            seen.append([group["lr"] for group in trainer.optimizer.param_groups])

    rate = schedules.join([schedules.linear_warmup(0.2, 3), schedules.cosine(0.2, 7)], [3])
    Trainer(model, losses.CrossEntropy(), optimizer, rate, [Watch()]).fit(X, Y, 2, batch_size=20)
    assert [first for first, _ in seen] == [rate(step) for step in range(10)]
    assert [second for _, second in seen] == [rate(step) * 0.5 for step in range(10)]


def test_history_has_one_record_an_epoch():
    history = trainer(schedule=schedules.step_decay(0.1, 7, 0.5)).fit(
        X, Y, epochs=3, batch_size=16, validation=(X[:30], Y[:30])
    )
    assert list(history[0]) == [
        "epoch",
        "step",
        "loss",
        "accuracy",
        "skipped",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "seconds",
    ]
    assert history.column("epoch") == [1, 2, 3]
    assert history.column("step") == [7, 14, 21]
    assert history.column("learning_rate") == pytest.approx([0.1, 0.05, 0.025])
    assert history.column("skipped") == [0, 0, 0]
    assert json.loads(json.dumps(history)) == history


def test_loss_of_an_epoch_is_the_mean_over_its_rows():
    trained = trainer(rule=optim.SGD, lr=0.0)
    trained.model.layers[1].momentum = 0.0
    record = trained.fit(X, Y, batch_size=100)[0]
    prediction = network().forward(X).astype(np.float64)
    lse = np.log(np.exp(prediction).sum(1))
    assert record["loss"] == pytest.approx((lse - prediction[np.arange(100), Y]).mean(), rel=1e-6)
    assert record["accuracy"] == (prediction.argmax(1) == Y).mean()


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_predict_and_evaluate_agree_with_one_big_batch(batch_size):
    trained = trainer()
    trained.fit(X, Y, epochs=2, batch_size=25)
    whole = trained.model.forward(X, False).copy()
    predicted = trained.predict(X, batch_size)
    assert predicted.shape == (100, 3)
    np.testing.assert_allclose(predicted, whole, rtol=1e-5, atol=1e-6)
    result = trained.evaluate(X, Y, batch_size)
    assert result["accuracy"] == (whole.argmax(1) == Y).mean()
    assert result["loss"] == pytest.approx(trained.evaluate(X, Y)["loss"], rel=1e-5)


def test_evaluating_changes_nothing():
    one, two = trainer(), trainer()
    one.fit(X, Y, epochs=3, batch_size=16)
    two.fit(X, Y, epochs=3, batch_size=16, validation=(X[:40], Y[:40]))
    assert content(one.model) == content(two.model)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_epoch_batch_and_rate(bad):
    x = X.copy()
    x[17] = bad
    trained = trainer(lr=0.125)
    with pytest.raises(DivergedError, match=r"epoch 1, batch \d of 7, at learning rate 0.125"):
        trained.fit(x, Y, epochs=2, batch_size=16)
    with pytest.raises(DivergedError, match="; x holds NaN or inf in row 17: repair the data"):
        trained.fit(x, Y, epochs=2, batch_size=16)
    weight = trained.model.layers[0].weight
    assert np.isfinite(weight).all()  # the bad batch has moved no parameter


def test_a_callback_sees_everything_and_can_stop():
    seen = []

    class Watch(Callback):
        def on_fit_begin(self, trainer, epochs, steps):
            seen.append(("begin", epochs, steps))

        def on_step_end(self, trainer, loss):
            assert math.isfinite(loss)
            seen.append(("step", trainer.step))

        def on_epoch_end(self, trainer, record):
            seen.append(("epoch", record["epoch"]))
            if record["epoch"] == 2:
                trainer.stop()

        def on_fit_end(self, trainer, history):
            seen.append(("end", len(history)))

    trainer(callbacks=[Watch()]).fit(X, Y, epochs=9, batch_size=50)
    assert seen == [
        ("begin", 9, 2),
        ("step", 1),
        ("step", 2),
        ("epoch", 1),
        ("step", 3),
        ("step", 4),
        ("epoch", 2),
        ("end", 2),
    ]


def test_callbacks_end_after_an_error_too():
    ended = []

    class Watch(Callback):
        def on_step_end(self, trainer, loss):
            raise KeyboardInterrupt

        def on_fit_end(self, trainer, history):
            ended.append(len(history))

    with pytest.raises(KeyboardInterrupt):
        trainer(callbacks=[Watch()]).fit(X, Y)
    assert ended == [0]


def test_plain_lines_where_the_stream_is_no_terminal(capsys):
    trainer().fit(X, Y, epochs=3, validation=(X, Y))
    assert capsys.readouterr() == ("", "")
    trainer().fit(X, Y, epochs=3, validation=(X, Y), verbose=True)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line[:10] for line in lines] == ["epoch 1/3:", "epoch 2/3:", "epoch 3/3:"]
    assert all("loss" in line and "validation accuracy" in line for line in lines)


def test_one_bar_for_the_whole_run_on_a_terminal():
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    trainer(callbacks=[ProgressBar(stream)]).fit(X, Y, epochs=50, batch_size=10)
    text = stream.getvalue()
    assert text.count("\n") == 1  # one bar, closed once
    assert "500/500" in text
    assert text.count("\r") < 8  # 500 steps in far less than a second


def test_table():
    history = trainer().fit(X, Y, epochs=2, validation=(X, Y))
    lines = history.table(held_out="test").splitlines()
    assert len(lines) == 3
    assert lines[0].split("  ")[0] == "epoch"
    for heading in ("train accuracy", "test loss", "test accuracy", "learning rate", "seconds"):
        assert f"  {heading}" in lines[0]
    assert len({len(line) for line in lines}) == 1
    assert f"{history[1]['accuracy']:.2%}" in lines[2]


@pytest.mark.parametrize("validation", [None, (X, Y)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_plot_writes_a_png(tmp_path, validation, epochs):
    pytest.importorskip("matplotlib")
    history = trainer().fit(X, Y, epochs=epochs, validation=validation)
    history.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ValueError, match="empty"):
        History().plot(tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"y": Y[:5]}, "rows"),
        ({"x": X[:0], "y": Y[:0]}, "rows"),
        ({"y": Y + 5}, "targets"),
    ],
)
def test_fit_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        trainer().fit(**{"x": X, "y": Y, **arguments})


def test_importing_brings_in_no_extra():
    """SciPy and the rest are imported when they are needed: the base needs NumPy alone."""
    program = (
        "import sys, onepass, onepass.trainer, onepass.checkpoint, onepass.cli, onepass.data;"
        "extras = {'matplotlib', 'sklearn', 'scipy', 'tqdm', 'safetensors', 'torch', 'jax'};"
        "sys.exit(', '.join(sorted(extras & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""
    assert done.returncode == 0


def test_a_last_batch_of_one_row():
    with pytest.raises(ValueError, match="x"):  # batch norm cannot train on it
        trainer().fit(X[:33], Y[:33], batch_size=16)
    trained = trainer()
    trained.fit(X[:33], Y[:33], epochs=2, batch_size=16, drop_last=True)
    assert trained.step == 4


def test_a_rate_that_is_too_high_is_told_as_such():
    x = X.copy()
    trained = Trainer(network := nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), losses.CrossEntropy(),
                      optim.SGD(network.parameters(), lr=1e30))  # fmt: skip
    with pytest.raises(DivergedError, match="; lower the learning rate"):
        trained.fit(x, Y, epochs=3)


def test_a_number_is_a_constant_schedule():
    trained = trainer(schedule=3e-3)
    assert trained.fit(X, Y).column("learning_rate") == [3e-3]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": None}, "model is None, expected an object of nn.Layer"),
        ({"loss": None}, "loss is None, expected an object of losses.Loss"),
        ({"loss": losses.CrossEntropy}, r"loss is .*make one with CrossEntropy"),
        ({"optimizer": "adam"}, "optimizer is 'adam', expected an object of optim.Optimizer"),
        ({"schedule": "cosine"}, "schedule is 'cosine', expected a function step -> rate, a number, or None"),
        ({"callbacks": Callback()}, "callbacks is a callback, expected a sequence"),
        ({"callbacks": [print]}, r"callbacks\[0\] is"),
        ({"seed": "a"}, "seed is 'a', expected an integer"),
    ],
)
def test_the_trainer_refuses(arguments, match):
    model = network()
    given = {"model": model, "loss": losses.CrossEntropy(), "optimizer": optim.Adam(model.parameters())}
    with pytest.raises(TypeError, match=match):
        Trainer(**{**given, **arguments})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"x": iter(X)}, "x is a .*iterator, expected an array, or a sequence with __len__ and __getitem__"),
        ({"y": set(Y)}, "y is a set, expected an array, or a sequence"),
        ({"x": {0: X}}, "x is a dict, expected an array, or a sequence"),
        ({"x": X.astype(str)}, "x has dtype <U32, expected numbers"),
        ({"y": None}, "y is None, expected the targets; only a sequence of pairs"),
        ({"validation": X}, r"validation is a ndarray, expected a pair of arrays \(x, y\)"),
        ({"validation": (X, None)}, r"validation\[1\] is a NoneType"),
        ({"epochs": 1.5}, "epochs is 1.5, expected an integer"),
        ({"batch_size": "8"}, "batch_size is '8', expected an integer"),
    ],
)
def test_fit_refuses_other_types(arguments, match):
    with pytest.raises(TypeError, match=match):
        trainer().fit(**{"x": X, "y": Y, **arguments})
    with pytest.raises(ValueError, match=r"validation\[0\] has 100 rows and validation\[1\] has 3"):
        trainer().fit(X, Y, validation=(X, Y[:3]))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stream_that_fails_ends_the_bar_and_not_the_run(terminal):
    pytest.importorskip("tqdm")

    class Full(io.StringIO):
        def isatty(self):
            return terminal

        def write(self, text):
            if self.tell() > 50:
                raise OSError(28, "No space left on device")
            return super().write(text)

    assert len(trainer(callbacks=[ProgressBar(Full(), held_out="test")]).fit(X, Y, 9, validation=(X, Y))) == 9


def test_seconds_have_three_digits():
    records = [{"epoch": epoch, "loss": 1.0, "seconds": s} for epoch, s in enumerate((0.01234, 0.00234))]
    assert [line.split()[-1] for line in History(records).table().splitlines()] == ["seconds", "0.01234", "0.00234"]
    assert History([{"epoch": 1, "loss": 1.0, "seconds": 1234.5}]).table().endswith(" 1234")


def test_the_picture_of_one_epoch(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure
    kept = []
    monkeypatch.setattr(figure, "savefig", lambda self, *_, **__: kept.append(self))
    trainer(schedule=0.0).fit(X, Y, epochs=1, validation=(X, Y)).plot(tmp_path / "curves.png")
    for axes in kept[0].axes:
        assert axes.get_xticks().tolist() == [1]
        assert axes.get_xlim() == (0, 2)
        assert all(not line.get_clip_on() for line in axes.lines)


@pytest.mark.parametrize(
    "others",
    [
        lambda model: network().parameters(),
        lambda model: model.parameters()[:-1],
        lambda model: model.parameters()[::-1],
    ],
)
def test_an_optimizer_of_other_arrays_is_refused(others):
    """It would train them, and the model not at all, without a word."""
    model = network()
    with pytest.raises(ValueError, match=r"optimizer has \d arrays .* optim.Adam\(model.parameters\(\)\)"):
        Trainer(model, losses.CrossEntropy(), optim.Adam(others(model)))


def test_predict_and_metrics_say_what_they_expect():
    with pytest.raises(TypeError, match="x: expected float32 like weight, got float64"):
        trainer().predict(X.tolist())  # a sequence of rows
    with pytest.raises(TypeError, match=r"batch_size is 2\.5"):
        trainer().predict(X, batch_size=2.5)
    with pytest.raises(TypeError, match=r"batch_size is 2\.5, expected an integer"):
        trainer().evaluate(X, Y, batch_size=2.5)
    model = network()
    with pytest.raises(TypeError, match=r"metrics is a metric, expected a sequence of them: \[metric\]"):
        Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters()), metrics=metrics.TopK(2))


def test_predict_refuses_batches_that_leave_rows_out():
    batches = onepass.data.Batches(X, Y, 16, shuffle=False, drop_last=True)
    lost = len(X) % 16
    assert lost > 0
    with pytest.raises(ValueError, match=rf"leave out {lost} of {len(X)} rows; give x\.replace\(drop_last=False\)"):
        trainer().predict(batches)
    assert len(trainer().predict(batches.replace(drop_last=False))) == len(X)
    assert len(trainer().predict(batches.replace(x=X[:-lost], y=Y[:-lost]))) == len(X) - lost


def test_metrics_are_in_table_and_picture():
    pytest.importorskip("matplotlib")
    trained = trainer()
    trained.metrics = [metrics.TopK(2)]
    history = trained.fit(X, Y, epochs=2, validation=(X, Y))
    heading, *_, last = history.table(held_out="test").splitlines()
    assert "test top 2" in heading
    assert f"{history[-1]['validation_top_2']:.4f}" in last.split()
    axes = history.plot().axes
    assert [panel.get_title() for panel in axes] == ["Loss", "Accuracy", "Top 2", "Learning rate"]
    assert axes[2].lines[0].get_ydata().tolist() == history.column("validation_top_2")
    assert len({line.get_linestyle() for line in axes[0].lines}) == 2  # apart without colors
    with pytest.raises(KeyError, match="'val_loss' is no key of epoch 1, which has epoch, step, loss"):
        history.column("val_loss")
