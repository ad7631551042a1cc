"""`Trainer.fit(resume=...)`: killed at any moment, a run ends with the bits of the uninterrupted one."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import resume_worker
from resume_worker import fit, make

from onepass import checkpoint, schedules
from onepass.callbacks import Callback
from onepass.checkpoint import CheckpointError

WORKER = Path(__file__).with_name("resume_worker.py")


def bits(trainer, history):
    """Everything that has to be equal."""
    arrays = [array.tobytes() for array in trainer.model.state().values()]
    state = trainer.optimizer.state_dict()
    kept = [(k, v.tobytes() if isinstance(v, np.ndarray) else v) for s in state["state"].values() for k, v in s.items()]
    records = [{name: value for name, value in record.items() if name != "seconds"} for record in history]
    counter = trainer.callbacks[0]
    return (
        arrays,
        kept,
        repr(state["param_groups"]),
        repr(records),
        trainer.epoch,
        trainer.step,
        counter.sum,
        counter.last,
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return bits(*fit(tmp_path_factory.mktemp("whole") / "run"))


def run_killed(folder, at):
    done = subprocess.run([sys.executable, WORKER, folder, "4", str(at)], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


# a save makes about ten calls; 4 epochs of 3 steps make 12 saves
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 25, 38, 57, 71, 90, 104])
def test_killed_at_an_operation_of_a_save(tmp_path, expected, at):
    assert run_killed(tmp_path / "run", at) == -signal.SIGKILL
    assert bits(*fit(tmp_path / "run")) == expected
    left = sorted(path.name for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert left == [".lock", *["checkpoint.json"] * 2, *["model.safetensors"] * 2]


def test_killed_again_and_again(tmp_path, expected):
    killed = 0
    while run_killed(tmp_path / "run", 17):
        killed += 1
        assert killed < 30, "no progress"
    assert killed >= 3
    assert bits(*fit(tmp_path / "run")) == expected


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.03])
def test_killed_at_any_time(tmp_path, expected, delay):
    process = subprocess.Popen([sys.executable, WORKER, tmp_path / "run", "4", "0"])
    while process.poll() is None and not (tmp_path / "run").exists():
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.wait()
    assert bits(*fit(tmp_path / "run")) == expected


class StoppedError(Exception):
    pass


class StopAfter(resume_worker.Counter):
    """Raises after a step, as a program that fails; the same class name, so that the run is the same."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_step_end(self, trainer, loss):
        super().on_step_end(trainer, loss)
        self.steps -= 1
        if self.steps == 0:
            raise StoppedError


StopAfter.__name__ = "Counter"


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 11, 12])
def test_stopped_by_an_exception(tmp_path, expected, steps):
    trainer, x, y = make()
    trainer.callbacks = [StopAfter(steps)]
    options = {"epochs": 4, "batch_size": 16, "accumulate": 2, "validation": (x, y)}
    with pytest.raises(StoppedError):
        trainer.fit(x, y, resume=tmp_path, save_every=2, **options)
    again, history = fit(tmp_path, save_every=3)
    assert bits(again, history) == expected


def test_a_finished_run_is_returned_as_it_is(tmp_path, expected):
    fit(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert bits(*fit(tmp_path)) == expected
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


def test_more_epochs_go_on(tmp_path):
    """one_cycle stays at its end, so that a longer run is a continuation."""
    fit(tmp_path / "short", epochs=2)
    assert bits(*fit(tmp_path / "short", epochs=5)) == bits(*fit(tmp_path / "long", epochs=5))


def test_without_save_every_the_end_is_saved(tmp_path):
    fit(tmp_path, save_every=None, epochs=2)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000000006"]


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_are_kept(tmp_path, keep):
    fit(tmp_path, epochs=2, keep=keep)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{6 - i:09d}" for i in reversed(range(keep))]


# ---- what is wrong with a folder


def newest(folder):
    return max(folder.glob("step-*")) / "model.safetensors"


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "another safetensors file"])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, expected, damage):
    fit(tmp_path, epochs=2)
    path = newest(tmp_path)
    content = path.read_bytes()
    if damage == "another safetensors file":
        from safetensors.numpy import save_file

        save_file({"weight": np.zeros(3)}, path)
    else:
        path.write_bytes({"truncated": content[:-1], "empty": b"", "foreign": b"PK\3\4" * 100}[damage])
    with pytest.warns(RuntimeWarning, match=rf"{path.parent.name}.*going on from .*step-000000005"):
        resumed = fit(tmp_path)
    assert bits(*resumed) == expected


def test_all_checkpoints_damaged(tmp_path):
    fit(tmp_path, epochs=1)
    for path in tmp_path.glob("step-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    trainer, x, y = make()
    before = bits(trainer, [])
    with pytest.raises(CheckpointError, match="no good checkpoint is left in"):
        trainer.fit(x, y, resume=tmp_path)
    assert bits(trainer, []) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8}, "batch_size was 16, now it is 8"),
        ({"accumulate": 1}, "accumulate was 2, now it is 1"),
        ({"micro_batch": 8}, "micro_batch was None, now it is 8"),
        ({"drop_last": True}, "drop_last was False, now it is True"),
        ({"schedule": schedules.constant(0.1)}, r"schedule was .one_cycle.*now it is .constant\(0\.1\)"),
    ],
)
def test_another_run_is_refused_and_nothing_changes(tmp_path, options, message):
    fit(tmp_path, epochs=1)
    trainer, x, y = make(**{k: v for k, v in options.items() if k == "schedule"})
    before = bits(trainer, [])
    given = {"batch_size": 16, "accumulate": 2, **{k: v for k, v in options.items() if k != "schedule"}}
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(x, y, resume=tmp_path, epochs=2, **given)
    assert bits(trainer, []) == before
    assert newest(tmp_path).parent.name == "step-000000003"


def test_another_model_is_refused(tmp_path):
    from onepass import losses, nn, optim
    from onepass.trainer import Trainer

    fit(tmp_path, epochs=1)
    _, x, y = make()
    model = nn.Sequential(nn.Linear(6, 3))
    trainer = Trainer(
        model, losses.CrossEntropy(label_smoothing=0.1), optim.Adam(model.parameters()), schedules.one_cycle(0.02, 40),
        [resume_worker.Counter()],
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"step-000000003.*does not fit"):
        trainer.fit(x, y, resume=tmp_path, batch_size=16, accumulate=2)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    trainer, x, y = make()
    checkpoint.save(tmp_path / "step-000000001", trainer.model, trainer.optimizer)
    with pytest.raises(CheckpointError, match=r"none of Trainer\.fit\(resume=\.\.\.\)"):
        trainer.fit(x, y, resume=tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(CheckpointError, match="run is not a folder"):
        fit(tmp_path / "run")


def test_two_processes_in_one_folder(tmp_path):
    def occupied():
        with pytest.raises(CheckpointError, match="in use by another process"):
            fit(tmp_path)

    class Second(Callback):
        tried = False

        def on_step_end(self, trainer, loss):
            if not self.tried:
                self.tried = True
                occupied()

    trainer, x, y = make()
    trainer.callbacks.append(second := Second())
    trainer.fit(x, y, resume=tmp_path)
    assert second.tried


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, expected):
    fit(tmp_path, epochs=2)
    size = newest(tmp_path).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fit(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert caught.value.errno == errno.EFBIG
    assert newest(tmp_path).parent.name == "step-000000006"
    assert bits(*fit(tmp_path)) == expected


def test_a_folder_that_vanishes_is_an_error_that_names_it(tmp_path):
    class Remove(Callback):
        def on_epoch_end(self, trainer, record):
            shutil.rmtree(tmp_path / "run")

    trainer, x, y = make()
    trainer.callbacks.append(Remove())
    with pytest.raises(FileNotFoundError) as caught:
        trainer.fit(x, y, resume=tmp_path / "run")
    assert caught.value.filename == str(tmp_path / "run")


# ---- signals


@pytest.fixture
def ctrl_c():
    """What Ctrl-C does by default: a shell's background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Press(Callback):
    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_end(self, trainer, loss):
        if trainer.step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 12])
def test_interrupted_after_the_batch_and_saved(tmp_path, expected, ctrl_c, step):
    trainer, x, y = make()
    trainer.callbacks = [resume_worker.Counter()]
    press = Press(signal.SIGINT, step)
    press.__class__.__name__ = "Press"
    trainer.callbacks[0].on_step_end = _both(trainer.callbacks[0], press)
    options = {"epochs": 4, "batch_size": 16, "accumulate": 2, "validation": (x, y)}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit(x, y, resume=tmp_path, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert f"stopped after step {step}, batch " in str(caught.value)
    assert f"saved in {tmp_path / f'step-{step:09d}'}" in str(caught.value)
    assert trainer.step == step
    assert bits(*fit(tmp_path)) == expected


def _both(counter, press):
    own = type(counter).on_step_end

    def on_step_end(trainer, loss):
        own(counter, trainer, loss)
        press.on_step_end(trainer, loss)

    return on_step_end


def test_terminated(tmp_path):
    trainer, x, y = make()
    trainer.callbacks.append(Press(signal.SIGTERM, 2))
    with pytest.raises(SystemExit) as caught:
        trainer.fit(x, y, resume=tmp_path)
    assert caught.value.code == 128 + signal.SIGTERM
    assert newest(tmp_path).parent.name == "step-000000002"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_resume_the_interrupt_says_where(ctrl_c):
    trainer, x, y = make()
    trainer.callbacks.append(Press(signal.SIGINT, 4))
    with pytest.raises(KeyboardInterrupt, match=r"^stopped after step 4, batch 1 of 3 in epoch 2$"):
        trainer.fit(x, y, batch_size=32, epochs=5)


def test_in_another_thread_signals_are_left_alone(tmp_path):
    failures = []

    def train():
        try:
            fit(tmp_path, epochs=1)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert failures == []


def test_save_every_needs_resume():
    trainer, x, y = make()
    with pytest.raises(ValueError, match="save_every is given without resume"):
        trainer.fit(x, y, save_every=5)
