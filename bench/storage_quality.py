"""What a storage format costs in quality: `python -m bench.storage_quality` trains with each and prints a table.

Two problems: the handwritten digits, and a larger synthetic one, the classes of a random teacher network with noise.
Parameters in half precision are what the optimizer keeps; the network computes with their float32 values.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.arrays import narrow, widen
from onepass import losses, nn, optim

Array = NDArray[Any]


@dataclass(frozen=True)
class Storage:
    """How parameters and states are kept."""

    param: str = "float32"
    state: str = "float32"
    stochastic: bool = False
    master: str | None = None
    grad: str = "float32"

    def __str__(self) -> str:
        grads = "" if self.grad == "float32" else f" and {self.grad} gradients"
        master = "" if self.master is None else f", {self.master} master weights"
        rounding = ", stochastic" if self.stochastic else ""
        return f"{self.param} parameters{grads}{master}, {self.state} states{rounding}"


STORAGES = (
    Storage(),
    Storage(state="bfloat16"),
    Storage(state="bfloat16", stochastic=True),
    Storage("bfloat16"),
    Storage("bfloat16", stochastic=True),
    Storage("bfloat16", "bfloat16", True),
    Storage("float16"),
    Storage("float16", "bfloat16", True),
    Storage(state="float8"),
    Storage(state="float8", stochastic=True),
    Storage("bfloat16", master="float32", grad="bfloat16"),
    Storage("bfloat16", master="split", grad="bfloat16"),
    Storage("bfloat16", "float8", True, grad="bfloat16"),
    Storage("bfloat16", "float8", True, "split", "bfloat16"),
)


@dataclass(frozen=True)
class Problem:
    """Data for training and for the test, and the network's sizes."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    sizes: tuple[int, ...]
    lr: float


def digits() -> Problem:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    parts = train_test_split((x / 16).astype(np.float32), y, test_size=0.2, stratify=y, random_state=0)
    return Problem(parts[0], parts[2], parts[1], parts[3], (64, 128, 10), 3e-3)


def teacher(samples: int = 40_000, classes: int = 20, features: int = 64) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, features)).astype(np.float32)
    hidden = np.tanh(x @ rng.standard_normal((features, 100)) / np.sqrt(features))
    y = (hidden @ rng.standard_normal((100, classes)) + rng.gumbel(size=(samples, classes))).argmax(1)
    half = samples // 2
    return Problem(x[:half], y[:half], x[half:], y[half:], (features, 256, 128, classes), 1e-3)


def train(problem: Problem, storage: Storage, epochs: int, seed: int = 0, batch_size: int = 64) -> Mapping[str, float]:
    """Cosine schedule, Adam; returns the last epoch's training loss, and loss and accuracy on the test data."""
    layers: list[Any] = []
    for inputs, outputs in zip(problem.sizes[:-1], problem.sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm(outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-2], seed=seed)
    used = model.parameters()
    kept = used if storage.param == "float32" else [narrow(p, storage.param) for p in used]
    optimizer = optim.Adam(
        kept,
        state_dtype=storage.state,
        stochastic_rounding=storage.stochastic,
        seed=seed,
        dtype="bfloat16",
        master_weights=storage.master,
    )
    loss_of = losses.CrossEntropy()
    rng = np.random.default_rng(seed)
    batches = len(problem.x) // batch_size
    loss = 0.0
    for step in range(epochs * batches):
        at = step % batches
        if at == 0:
            order, loss = rng.permutation(len(problem.x)), 0.0
        batch = order[at * batch_size : (at + 1) * batch_size]
        optimizer.param_groups[0]["lr"] = problem.lr * 0.5 * (1 + np.cos(np.pi * step / (epochs * batches)))
        if kept is not used:
            for p, half in zip(used, kept, strict=True):
                p[...] = widen(half)
        value, grad = loss_of(model.forward(problem.x[batch], training=True), problem.y[batch])
        loss += value / batches
        model.backward(grad)
        optimizer.step([narrow(g, storage.grad) for g in model.gradients()])
    for p, half in zip(used, kept, strict=True):
        p[...] = widen(half)
    logits = model.forward(problem.x_test, training=False)
    accuracy = float((logits.argmax(1) == problem.y_test).mean())
    return {"loss": loss, "test loss": loss_of(logits, problem.y_test)[0], "accuracy": accuracy}


def table(problem: Problem, epochs: int, seeds: int) -> list[tuple[Storage, dict[str, float]]]:
    """For each storage, medians over the seeds."""
    rows = []
    for storage in STORAGES:
        runs = [train(problem, storage, epochs, seed) for seed in range(seeds)]
        rows.append((storage, {key: float(np.median([run[key] for run in runs])) for key in runs[0]}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.storage_quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    for name, problem, epochs in (("digits", digits(), 20), ("teacher", teacher(), 10)):
        print(f"\n{name}, {epochs} epochs, medians of {seeds} seeds")
        print(f"{'storage':<96}{'loss':>9}{'test loss':>11}{'accuracy':>10}")
        for storage, row in table(problem, epochs, seeds):
            print(f"{storage!s:<96}{row['loss']:>9.4f}{row['test loss']:>11.4f}{row['accuracy']:>10.2%}")


if __name__ == "__main__":
    main()
