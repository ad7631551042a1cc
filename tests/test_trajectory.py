"""callbacks.Trajectory: against parameters copied by hand, within its memory, and after a resume."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import landscape, losses, nn, optim
from onepass.callbacks import Callback, EarlyStopping, Trajectory
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
SIZE = 5 * 4 + 4 + 4 * 2 + 2


class Copies(Callback):
    """Every step's parameters, and the loss of its batch."""

    def __init__(self):
        self.points, self.losses = [], [np.nan]

    def _copy(self, trainer):
        self.points.append(np.concatenate([p.ravel() for p in trainer.model.parameters()]).astype(np.float64))

    def on_fit_begin(self, trainer, epochs, steps):
        if not self.points:
            self._copy(trainer)

    def on_step_end(self, trainer, loss):
        self._copy(trainer)
        self.losses.append(loss)


def make(*callbacks, seed=0):
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2), seed=seed)
    return Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.05), callbacks=callbacks)


def check(path, copies, steps):
    assert path.steps.tolist() == steps
    np.testing.assert_array_equal(path.points, np.array(copies.points)[steps])
    np.testing.assert_array_equal(path.losses, np.array(copies.losses)[steps])
    assert path.points.dtype == path.losses.dtype == np.float64


@pytest.mark.parametrize(
    ("every", "epochs", "steps"),
    [(1, 2, list(range(11))), (3, 3, [0, 3, 6, 9, 12, 15]), (4, 3, [0, 4, 8, 12, 15]), (99, 2, [0, 10])],
)
def test_points_against_copies(every, epochs, steps):
    path, copies = Trajectory(every), Copies()
    make(path, copies).fit(X, Y, epochs=epochs, batch_size=8)
    check(path, copies, steps)


def test_a_second_fit_goes_on_and_a_new_training_begins_anew():
    path, copies = Trajectory(4), Copies()
    trainer = make(path, copies)
    trainer.fit(X, Y, epochs=1, batch_size=8)
    check(path, copies, [0, 4, 5])
    trainer.fit(X, Y, epochs=2, batch_size=8)
    check(path, copies, [0, 4, 8, 12, 15])
    copies = Copies()
    make(path, copies, seed=1).fit(X, Y, epochs=1, batch_size=8)
    check(path, copies, [0, 4, 5])


def test_the_order_is_that_of_a_function_of_the_model():
    path = Trajectory()
    trainer = make(path)
    trainer.fit(X, Y, epochs=1, batch_size=40)
    f = landscape.from_model(trainer.model, trainer.loss, X, Y)
    np.testing.assert_array_equal(path.points[-1], f.theta)
    assert f(path.points[0])[0] == pytest.approx(path.losses[1], rel=1e-6)  # the loss before the step


@pytest.mark.parametrize(("room", "spacing"), [(4, 64), (7, 32), (10, 16), (26, 4), (101, 1)])
def test_memory_is_bounded_and_the_whole_way_kept(room, spacing):
    path, copies = Trajectory(max_bytes=8 * SIZE * room + 7), Copies()
    make(path, copies).fit(X, Y, epochs=20, batch_size=8)
    expected = list(range(0, 101, spacing))
    check(path, copies, expected if expected[-1] == 100 else [*expected, 100])
    assert path._points.nbytes <= path.max_bytes
    assert path.every == spacing


def test_what_others_write_at_the_end_is_no_point():
    path, copies, stopping = Trajectory(7), Copies(), EarlyStopping("loss", patience=2, min_delta=10.0)
    trainer = make(stopping, path, copies)
    trainer.fit(X, Y, epochs=9, batch_size=8)
    check(path, copies, [0, 7, 14, 15])
    now = np.concatenate([p.ravel() for p in trainer.model.parameters()])
    np.testing.assert_array_equal(now, np.array(copies.points)[5].astype(np.float32))  # the first epoch's


class StoppedError(Exception):
    pass


class StopAfter(Callback):
    def __init__(self, steps=None):
        self.steps = steps

    def on_step_end(self, trainer, loss):
        if trainer.step == self.steps:
            raise StoppedError


@pytest.mark.parametrize(("every", "room"), [(1, 100), (3, 100), (4, 5), (1, 6)])
@pytest.mark.parametrize("at", [1, 2, 5, 7, 8, 11, 19])
def test_a_resumed_run_has_the_same_trajectory(tmp_path, every, room, at):
    found = []
    for name in ("whole", "broken"):
        options = {"epochs": 4, "batch_size": 8, "resume": tmp_path / name, "save_every": 2}
        if name == "broken":
            with pytest.raises(StoppedError):
                make(Trajectory(every, 8 * SIZE * room), StopAfter(at)).fit(X, Y, **options)
        path = Trajectory(every, 8 * SIZE * room)
        make(path, StopAfter()).fit(X, Y, **options)
        found.append((path.steps.tolist(), path.points.tobytes(), path.losses.tobytes(), path.every))
    assert found[0] == found[1]
    assert found[0][0][0] == 0
    assert found[0][0][-1] == 20


def test_it_goes_into_pca_and_planes():
    path = Trajectory()
    trainer = make(path)
    trainer.fit(X, Y, epochs=3, batch_size=8)
    f = landscape.from_model(trainer.model, trainer.loss, X, Y)
    found = landscape.plane(f, directions=landscape.pca(path), points=5)
    np.testing.assert_array_equal(found.center, path.points[-1])
    coordinates, distances = found.project(path)
    assert coordinates.shape == (16, 2)
    np.testing.assert_allclose(coordinates[-1], 0, atol=1e-12)
    squares = np.sum((path.points - path.points[-1]) ** 2)
    assert np.sum(distances**2) / squares == pytest.approx(1 - sum(found.explained_variance_ratio), rel=1e-9)


def test_points_cannot_be_written():
    path = Trajectory()
    make(path).fit(X, Y)
    with pytest.raises(ValueError, match="read-only"):
        path.points[0] = 0


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Trajectory(0), ValueError, "every is 0, expected >= 1"),
        (lambda: Trajectory(1.5), TypeError, r"every is 1\.5, expected an integer"),
        (lambda: Trajectory(True), TypeError, "every is True"),
        (lambda: Trajectory(max_bytes=0), ValueError, "max_bytes is 0"),
        (lambda: make(Trajectory(max_bytes=999)).fit(X, Y), ValueError, "34 parameters takes 272; expected >= 1088"),
    ],
)
def test_bad_options_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
