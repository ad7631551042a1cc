"""A run that is killed: `python resume_worker.py FOLDER EPOCHS KILL_AT`.

KILL_AT: the file operation of a save at which the process kills itself, or 0.
"""

from __future__ import annotations

import os
import signal
import sys

import numpy as np

from onepass import checkpoint, losses, nn, optim, schedules
from onepass.callbacks import Callback
from onepass.trainer import Trainer


class Counter(Callback):
    """Has a state of its own."""

    def __init__(self):
        self.sum, self.last = 0.0, np.zeros(1)

    def on_step_end(self, trainer, loss):
        self.sum += loss
        self.last[0] = loss

    def state(self):
        return {"sum": self.sum}

    def arrays(self):
        return {"last": self.last}

    def load_state(self, state, arrays):
        self.sum, self.last = state["sum"], arrays["last"]


def make(**options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 1)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3), seed=options.get("seed", 0)
    )
    optimizer = optim.EMA(optim.Adam(model.parameters(), lr=0.01), decay=0.9)
    rate = options.get("schedule", schedules.one_cycle(0.02, 40))
    trainer = Trainer(model, losses.CrossEntropy(label_smoothing=0.1), optimizer, rate, [Counter()])
    return trainer, x, y


def fit(folder, epochs=4, **options):
    trainer, x, y = make(**{k: options.pop(k) for k in ("seed", "schedule") if k in options})
    options = {"batch_size": 16, "save_every": 1, "accumulate": 2, "validation": (x, y), **options}
    return trainer, trainer.fit(x, y, epochs=epochs, resume=folder, **options)


def kill_after(operations):
    """SIGKILL at the given one of the calls that touch the disk, before it is made."""
    left = [operations]

    def counting(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("replace", "fsync", "open", "unlink", "rmdir"):
        setattr(os, name, counting(getattr(os, name)))
    from safetensors import numpy as format_

    save_file = format_.save_file

    def half(tensors, path, metadata):
        left[0] -= 1
        if left[0] == 0:  # in the middle of the file
            save_file(tensors, path, metadata)
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        save_file(tensors, path, metadata)

    format_.save_file = half
    assert checkpoint.save


if __name__ == "__main__":
    if int(sys.argv[3]):
        kill_after(int(sys.argv[3]))
    fit(sys.argv[1], int(sys.argv[2]))
