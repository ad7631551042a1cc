"""Resumed in the middle of an epoch: samplers, transforms, prefetching and maps change no bit."""

from __future__ import annotations

import numpy as np
import pytest
import resume_worker
from test_resume import StopAfter, StoppedError, bits

from onepass import data
from onepass.checkpoint import CheckpointError
from onepass.data import transforms

SAMPLERS = {
    "shuffled": lambda y: None,
    "balanced": data.ClassBalanced,
    "weighted": lambda y: data.Weighted(y + 1.0, rows=60, replacement=False),
}


def fit(folder, prefetch=2, sampler="balanced", stop=None, source=None, epochs=3, **options):
    trainer, x, y = resume_worker.make()
    if stop is not None:
        trainer.callbacks = [StopAfter(stop)]
    options = {"transform": [transforms.GaussianNoise(0.1), transforms.MixUp(3)], **options}
    batches = data.Batches(x if source is None else source, y, 16, sampler=SAMPLERS[sampler](y), **options)
    batches = batches.replace(prefetch=prefetch)
    validation = data.Batches(x, y, 32, shuffle=False, prefetch=prefetch)
    return trainer, trainer.fit(
        batches, epochs=epochs, accumulate=2, resume=folder, save_every=1, validation=validation
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Neither stopped nor prefetched."""
    return {name: bits(*fit(tmp_path_factory.mktemp(name), prefetch=0, sampler=name)) for name in SAMPLERS}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_stopped_and_resumed(tmp_path, expected, sampler, stop):
    for prefetch in (3, 1):
        with pytest.raises(StoppedError):
            fit(tmp_path, prefetch, sampler, stop)
        stop = 1
    assert bits(*fit(tmp_path, 2, sampler)) == expected[sampler]
    assert len(set(map(str, expected.values()))) == 3


def test_stopped_in_memory_and_resumed_from_a_map_and_a_sequence(tmp_path, expected):
    _, x, _ = resume_worker.make()
    np.savez(tmp_path / "x.npz", x=x)
    for source in (None, data.open_npz(tmp_path / "x.npz")["x"]):
        with pytest.raises(StoppedError):
            fit(tmp_path / "run", stop=2, source=source)
    assert bits(*fit(tmp_path / "run", source=list(x))) == expected["balanced"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampler": "shuffled"},
            r"sampler was \{'sampler': 'ClassBalanced', 'rows': 70, 'labels': \d+\}, now it is None",
        ),
        ({"transform": None}, r"transform was \['GaussianNoise\(0.1\)', 'MixUp\(3, alpha=0.2\)'\], now it is None"),
        ({"transform": transforms.GaussianNoise(0.2)}, r"now it is \['GaussianNoise\(0.2\)'\]"),
    ],
)
def test_other_batches_are_refused(tmp_path, options, message):
    with pytest.raises(StoppedError):
        fit(tmp_path, stop=2)
    with pytest.raises(CheckpointError, match=message):
        fit(tmp_path, **options)


def test_other_labels_and_weights_are_refused(tmp_path, monkeypatch):
    with pytest.raises(StoppedError):
        fit(tmp_path, stop=2)
    monkeypatch.setitem(SAMPLERS, "balanced", lambda y: data.ClassBalanced(y[::-1]))
    with pytest.raises(CheckpointError, match="sampler was"):
        fit(tmp_path)


def test_checkpoints_from_before_there_were_samplers_are_resumed(tmp_path, monkeypatch):
    """They say nothing about sampler and transform: None."""
    trainer, x, y = resume_worker.make()
    now = data.Batches.state_key
    with monkeypatch.context() as before:
        before.setattr(data.Batches, "state_key", lambda self: {k: v for k, v in now(self).items() if v is not None})
        trainer.fit(x, y, batch_size=16, resume=tmp_path)
    again, x, y = resume_worker.make()
    assert len(again.fit(x, y, batch_size=16, resume=tmp_path, epochs=2)) == 2
