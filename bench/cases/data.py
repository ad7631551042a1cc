"""Batches from memory, from a memory map in the page cache, and made ahead on a thread: alone, and around a step.

A run is an epoch of 32 batches, drawn at random from all rows. Everyone gets the same rows and must give the same bits.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench import arrays, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result
from bench.selection import Selection

ROWS = 60_000
BATCH, BATCHES = 128, 32
FEATURES = 784
MAPPED = "onepass, memory map"


def _x(dtype: type) -> Array:
    values = np.random.default_rng(1).integers(0, 256, 1024 * FEATURES)
    return arrays.repeated(values.astype(dtype), (ROWS, FEATURES)).reshape(ROWS, 28, 28)


def _y() -> Array:
    return np.random.default_rng(2).integers(0, 10, ROWS, dtype=np.int64)


def _mapped(x: Array) -> Array:
    """The same in a file, which is gone when nobody maps it."""
    descriptor, path = tempfile.mkstemp(suffix=".npy")
    os.close(descriptor)
    np.save(path, x)
    mapped: Array = peers.load("onepass.data").open_npy(path)
    with contextlib.suppress(OSError):  # Windows keeps it until the map is closed
        os.unlink(path)
    return mapped


def _batches(dtype: type, mapped: bool, **options: Any) -> Any:
    """onepass' Batches of BATCHES * BATCH rows drawn from all."""
    data = peers.load("onepass.data")

    class Drawn(data.Sampler):  # type: ignore[misc,name-defined]
        population, rows = ROWS, BATCH * BATCHES

        def draw(self, generator: np.random.Generator) -> Array:
            return generator.integers(ROWS, size=self.rows)

    x = _x(dtype)
    return data.Batches(_mapped(x) if mapped else x, _y(), BATCH, sampler=Drawn(), **options)


def _gathered(rows: Callable[[int], Any]) -> Contender:
    """``rows(epoch)`` are batches; the last of them is compared."""
    kept: list[Result] = []
    epoch = 0

    def run() -> None:
        nonlocal epoch
        for x, y in rows(epoch):  # noqa: B007
            pass
        if not epoch:
            kept.append({"x": np.array(x), "y": np.array(y)})
        epoch += 1

    return Contender(run, lambda: kept[0])


def _gather(mapped: bool, prefetch: int = 0) -> Contender:
    return _gathered(_batches(np.float32, mapped, prefetch=prefetch).epoch)


def _pieces(batches: Any, epoch: int) -> list[Array]:
    return [batches.order(epoch)[i : i + BATCH] for i in range(0, BATCH * BATCHES, BATCH)]


def _numpy() -> Contender:
    batches = _batches(np.float32, mapped=False)
    return _gathered(lambda epoch: ((batches.x[rows], batches.y[rows]) for rows in _pieces(batches, epoch)))


def _torch() -> Contender:
    """A TensorDataset whose sampler gives whole batches: what is fast in torch; no rows collected one by one."""
    torch = peers.load("torch")
    utils = torch.utils.data
    batches = _batches(np.float32, mapped=False)
    dataset = utils.TensorDataset(torch.from_numpy(batches.x), torch.from_numpy(batches.y))

    def rows(epoch: int) -> Any:
        return utils.DataLoader(
            dataset, batch_size=None, sampler=[torch.from_numpy(p) for p in _pieces(batches, epoch)]
        )

    return _gathered(rows)


def _expected_batch() -> Result:
    batches = _batches(np.float32, mapped=False)
    rows = batches.order(0)[-BATCH:]
    return {"x": batches.x[rows], "y": batches.y[rows]}


def _train(dtype: type, augment: bool, mapped: bool = False, prefetch: int = 0) -> Contender:
    nn, transforms = peers.load("onepass.nn"), peers.load("onepass.data.transforms")
    scale = transforms.Scale()
    steps = [transforms.RandomCrop(2), transforms.RandomHorizontalFlip(), scale] if augment else scale
    batches = _batches(dtype, mapped, transform=steps, prefetch=prefetch)
    model = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 10), seed=0)
    optimizer = peers.load("onepass.optim").SGD(model.parameters(), lr=0.01)
    trainer = peers.load("onepass.trainer").Trainer(model, peers.load("onepass.losses").CrossEntropy(), optimizer)
    kept: list[Result] = []

    def run() -> None:
        trainer.fit(batches)
        if not kept:
            kept.append({f"parameter[{i}]": array.copy() for i, array in enumerate(model.parameters())})

    return Contender(run, lambda: kept[0])


def _expected_training(dtype: type, augment: bool) -> Result:
    contender = _train(dtype, augment)
    contender.run()
    return contender.result()


def _entries(make: Callable[..., Contender], needs: tuple[str, ...] = ()) -> tuple[Entry, ...]:
    return (
        Entry("onepass", partial(make, mapped=False), needs),
        Entry("onepass, prefetch", partial(make, mapped=False, prefetch=2), needs),
        Entry(MAPPED, partial(make, mapped=True), needs),
        Entry(f"{MAPPED}, prefetch", partial(make, mapped=True, prefetch=2), needs),
    )


def cases(selection: Selection) -> list[Case]:
    same_speed = (Goal(0.95, "onepass", MAPPED),)
    peers_ = (Entry("NumPy", _numpy), Entry("torch", _torch, ("torch",)))
    found = [
        Case(
            f"data/gather/{FEATURES}/batch_{BATCH}",
            "memory",
            (*_entries(_gather), *peers_),
            _expected_batch,
            same_speed,
            bytes=2 * BATCHES * BATCH * FEATURES * 4,
            memory=12 * ROWS * FEATURES * 4,
            rtol=0,
            atol=1e-30,
        )
    ]
    for name, dtype, augment in (("train", np.float32, False), ("augment", np.uint8, True)):
        found.append(
            Case(
                f"data/{name}/{FEATURES}-256-10/batch_{BATCH}",
                "memory",
                _entries(partial(_train, dtype, augment), ("scipy",)),
                partial(_expected_training, dtype, augment),
                same_speed,
                memory=8 * ROWS * FEATURES * np.dtype(dtype).itemsize,
                rtol=0,
                atol=1e-30,
            )
        )
    return found
