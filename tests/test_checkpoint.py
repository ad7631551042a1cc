"""Checkpoints: a resumed run is the uninterrupted one; damage is named; writing is atomic."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest

from onepass import checkpoint, losses, nn, optim, schedules
from onepass.checkpoint import CheckpointError
from onepass.trainer import Trainer

pytest.importorskip("safetensors")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)

RULES = {
    "sgd": (optim.SGD, {}),
    "sgd, momentum": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (optim.Adagrad, {}),
    "rmsprop": (optim.RMSprop, {"centered": True}),
    "adam": (optim.Adam, {"amsgrad": True}),
    "adamw": (optim.AdamW, {}),
    "nadam": (optim.NAdam, {}),
    "rprop": (optim.Rprop, {"step_sizes": (1e-6, 0.1)}),
    "asgd": (optim.ASGD, {"t0": 3.0}),
    "adabound": (optim.AdaBound, {"amsbound": True}),
}


def make(rule="adam", seed=0, width=8):
    model = nn.Sequential(nn.Linear(5, width), nn.BatchNorm(width), nn.ReLU(), nn.Linear(width, 2), seed=seed)
    cls, options = RULES[rule]
    optimizer = cls(model.parameters(), lr=0.01, **options)
    return Trainer(model, losses.CrossEntropy(), optimizer, schedules.cosine(0.01, 16), seed=3)


def content(model):
    return {name: array.tobytes() for name, array in model.state().items()}


@pytest.mark.parametrize("rule", RULES)
def test_resuming_gives_the_uninterrupted_run_to_the_bit(tmp_path, rule):
    whole = make(rule)
    whole.fit(X, Y, epochs=4, batch_size=16)

    first = make(rule)
    first.fit(X, Y, epochs=2, batch_size=16)
    meta = {"epoch": first.epoch, "step": first.step}
    checkpoint.save(tmp_path, first.model, first.optimizer, meta)

    second = make(rule, seed=9)
    loaded = checkpoint.load(tmp_path, second.model, second.optimizer)
    second.epoch, second.step = loaded.meta["epoch"], loaded.meta["step"]
    second.fit(X, Y, epochs=2, batch_size=16)
    assert content(second.model) == content(whole.model)


def test_what_is_written(tmp_path):
    from safetensors.numpy import load_file

    trained = make()
    trained.fit(X, Y)
    arrays = {"mean": np.arange(10.0)[::2]}
    folder = tmp_path / "runs" / "one"
    paths = checkpoint.save(folder, trained.model, trained.optimizer, {"note": "ä"}, arrays)
    assert paths == (folder / "model.safetensors", folder / "checkpoint.json")
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
    ]
    tensors = load_file(paths[0])
    np.testing.assert_array_equal(tensors["model.0.weight"], trained.model.layers[0].weight)
    np.testing.assert_array_equal(tensors["extra.mean"], [0, 2, 4, 6, 8])
    assert "optimizer.0.exp_avg" in tensors
    text = json.loads(paths[1].read_text(encoding="utf-8"))
    assert text["meta"] == {"note": "ä"}
    assert text["optimizer"]["state"]["0"]["step"] == trained.step
    loaded = checkpoint.load(folder)
    assert loaded.meta == {"note": "ä"}
    np.testing.assert_array_equal(loaded.arrays["mean"], [0, 2, 4, 6, 8])


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_files_have_ordinary_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        for path in checkpoint.save(tmp_path, make().model):
            assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_a_model_alone(tmp_path):
    checkpoint.save(tmp_path, make(seed=1).model)
    other = make(seed=2)
    checkpoint.load(tmp_path, other.model)
    assert content(other.model) == content(make(seed=1).model)
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        checkpoint.load(tmp_path, other.model, other.optimizer)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, make(seed=1).model, meta={"number": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="; give it in arrays, under a name"):
        checkpoint.save(tmp_path, make(seed=2).model, meta={"number": np.zeros(2)})
    with pytest.raises(TypeError, match="object"):
        checkpoint.save(tmp_path, make(seed=2).model, meta={"number": object()})

    def fail(*arguments):
        raise OSError("disk is gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk is gone"):
        checkpoint.save(tmp_path, make(seed=2).model, meta={"number": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_killed_between_the_two_files(tmp_path, monkeypatch):
    """The tensor file carries everything, so that the new state is complete without the JSON."""
    checkpoint.save(tmp_path, make(seed=1).model, meta={"number": 1})
    replace = os.replace

    def killed(source, target):
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, make(seed=2).model, meta={"number": 2})
    other = make(seed=3)
    assert checkpoint.load(tmp_path, other.model).meta == {"number": 2}
    assert content(other.model) == content(make(seed=2).model)


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"model.safetensors does not exist"):
        checkpoint.load(tmp_path / "nothing")


def test_truncated_at_any_byte(tmp_path):
    trained = make()
    path, _ = checkpoint.save(tmp_path, trained.model, trained.optimizer)
    whole = path.read_bytes()
    before = content(trained.model)
    for size in (*range(40), *range(40, len(whole), 251), len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="truncated or no safetensors"):
            checkpoint.load(tmp_path, trained.model, trained.optimizer)
    assert content(trained.model) == before


def test_foreign_files(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x04\x95 a pickle, say" * 50)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        checkpoint.load(tmp_path)
    for metadata in (None, {"format": "pt"}, {"onepass": "no json"}, {"onepass": "[]"}):
        save_file({"weight": np.zeros(3)}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match="no checkpoint of onepass"):
            checkpoint.load(tmp_path)
    header = json.dumps({"format": "onepass checkpoint", "version": 99, "meta": {}})
    save_file({"weight": np.zeros(3)}, path, metadata={"onepass": header})
    with pytest.raises(CheckpointError, match="version 99"):
        checkpoint.load(tmp_path)


def test_another_model_or_optimizer_changes_nothing(tmp_path):
    trained = make("adam")
    trained.fit(X, Y)
    checkpoint.save(tmp_path, trained.model, trained.optimizer)
    wider = make("adam", width=9)
    before = content(wider.model)
    with pytest.raises(CheckpointError, match=r"does not fit.*expected"):
        checkpoint.load(tmp_path, wider.model, wider.optimizer)
    assert content(wider.model) == before
    other = make("sgd, momentum", seed=4)
    before = content(other.model)
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoint.load(tmp_path, other.model, other.optimizer)
    assert content(other.model) == before


def test_a_full_disk_is_an_oserror_and_keeps_the_old_state(tmp_path):
    resource = pytest.importorskip("resource")
    checkpoint.save(tmp_path, make(seed=1).model)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*model\.safetensors"):
            checkpoint.save(tmp_path, make(seed=2).model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_text_is_strict_json(tmp_path):
    _, text = checkpoint.save(tmp_path, make().model, meta={"loss": float("nan"), "all": [float("inf"), 1.0]})
    assert "NaN" not in text.read_text()
    assert json.loads(text.read_text())["meta"] == {"loss": None, "all": [None, 1.0]}
    assert np.isnan(checkpoint.load(tmp_path).meta["loss"])
