"""No array is allocated in a steady-state training step, by tracemalloc, for every layer, loss and type.

tracemalloc sees all memory that NumPy and Python take from the heap. Between the ends of two steps of a real
`Trainer.fit` its peak may exceed its level by Python's own small objects (views, tuples, floats) and no more, while
every array of these models is much larger: LIMIT is below the smallest, and a mask of one byte a row counts too.
"""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from onepass import callbacks, losses, nn, optim, schedules
from onepass.trainer import Trainer

LIMIT = 4000  # bytes; a step's small objects are less than 2000
ROWS, LAST, WIDTH, CLASSES = 12288, 8192, 2048, 3  # a byte for each row, or 4 for each feature, exceed all limits
DOMAIN = np.lib.tracemalloc_domain


def arrays_alive():
    """Bytes of array data alive, however small the arrays."""
    found = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, DOMAIN)])
    return sum(trace.size for trace in found.traces)


class Memory(callbacks.Callback):
    """What every step but an epoch's first takes at its peak, above what was held when the step began."""

    def __init__(self):
        self.taken = []
        self.alive = []

    def on_step_end(self, trainer, loss):
        _, peak = tracemalloc.get_traced_memory()
        self.taken.append(peak - self._level)
        if trainer.step % 3 == 0:  # the last of an epoch of three steps
            self.alive.append(arrays_alive())
        tracemalloc.reset_peak()
        self._level = tracemalloc.get_traced_memory()[0]

    def on_fit_begin(self, trainer, epochs, steps):
        self._level = tracemalloc.get_traced_memory()[0]


def memory_of(model, loss, x, y, optimizer=None, schedule=None, others=(), batch=ROWS, epochs=4, **options):
    memory = Memory()
    optimizer = optimizer or optim.Adam(model.parameters(), lr=1e-4)
    trainer = Trainer(model, loss, optimizer, schedule, callbacks=[*others, memory])
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        trainer.fit(x, y, epochs=epochs, batch_size=batch, **options)
    finally:
        tracemalloc.stop()
        gc.enable()
    return memory


def check(*arguments, limit=LIMIT, **options):
    """Of four epochs of three steps the last two are steady; an epoch's first step draws the permutation."""
    memory = memory_of(*arguments, **options)
    steady = [memory.taken[step] for step in range(6, 12) if step % 3]
    assert len(memory.taken) == 12
    assert max(steady) < limit, memory.taken
    assert memory.alive[3] == memory.alive[2]


def rows(rng, shape, dtype):
    return rng.normal(size=(2 * ROWS + LAST, *shape)).astype(dtype)


def classes(rng, count=2 * ROWS + LAST):
    return rng.integers(0, CLASSES, count)


def dense(*layers, inputs=4, features=4, dtype):
    return nn.Sequential(*layers, nn.Linear(features, CLASSES, dtype=dtype))


LAYERS = {
    "Linear": lambda d: dense(nn.Linear(4, 4, bias=False, dtype=d), dtype=d),
    "BatchNorm": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.BatchNorm(4, dtype=d), dtype=d),
    "BatchNorm, ReLU within": lambda d: dense(nn.BatchNorm(4, dtype=d, relu=True, momentum=None), dtype=d),
    "BatchNorm without parameters": lambda d: dense(nn.BatchNorm(4, dtype=d, affine=False), dtype=d),
    "LayerNorm": lambda d: dense(nn.LayerNorm(4, dtype=d), dtype=d),
    "LayerNorm without parameters": lambda d: dense(nn.LayerNorm(4, dtype=d, affine=False), dtype=d),
    "RMSNorm": lambda d: dense(nn.RMSNorm(4, dtype=d), dtype=d),
    "Dropout": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.Dropout(0.3), dtype=d),
    "ReLU": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.ReLU(), dtype=d),
    "LeakyReLU": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.LeakyReLU(), dtype=d),
    "GELU": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.GELU(), dtype=d),
    "GELU, tanh": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.GELU("tanh"), dtype=d),
    "SiLU": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.SiLU(), dtype=d),
    "Sigmoid": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.Sigmoid(), dtype=d),
    "Tanh": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.Tanh(), dtype=d),
    "Flatten": lambda d: dense(nn.Linear(4, 4, dtype=d), nn.Tanh(), nn.Flatten(), dtype=d),
    "Residual": lambda d: dense(
        nn.Residual(nn.LayerNorm(4, dtype=d), nn.Linear(4, 4, dtype=d), nn.ReLU()),
        nn.Residual(nn.Linear(4, 4, dtype=d), nn.Tanh(), shortcut=nn.Linear(4, 4, dtype=d)),
        dtype=d,
    ),
    "an activation last": lambda d: dense(nn.Linear(4, CLASSES, dtype=d), features=CLASSES, dtype=d),
}  # fmt: skip
OTHERS = {"Embedding", "Sequential", "Layer", "Conv2d", "MaxPool2d", "AvgPool2d"}  # below


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, rng, dtype):
    check(LAYERS[name](dtype), losses.CrossEntropy(), rows(rng, (4,), dtype), classes(rng))


def test_images(rng, dtype):
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, dtype=dtype), nn.BatchNorm(2, dtype=dtype), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2, 2, 1, dtype=dtype), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, CLASSES, dtype=dtype),
    )  # fmt: skip
    check(model, losses.CrossEntropy(), rows(rng, (1, 4, 4), dtype), classes(rng))


def test_every_layer_is_here():
    kinds = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)} - OTHERS
    made = [layer for make in LAYERS.values() for layer in make(np.float32).layers]
    assert kinds <= {type(layer).__name__ for layer in made}


@pytest.mark.parametrize("integers", ["int64", "int32", "uint8"])
def test_embedding(rng, dtype, integers):
    model = nn.Sequential(
        nn.Embedding(50, 4, padding_idx=0, dtype=dtype), nn.LayerNorm(4, dtype=dtype), nn.Flatten(),
        nn.Linear(8, CLASSES, dtype=dtype),
    )  # fmt: skip
    x = rng.integers(0, 50, (2 * ROWS + LAST, 2)).astype(integers)
    limit = LIMIT + 3500  # the iterator of np.add.at takes 5000, however many elements there are
    check(model, losses.CrossEntropy(), x, classes(rng).astype(integers), limit=limit)


def test_planes(rng, dtype):
    """Of images: channels behind the batch, and normalized planes."""
    x = rows(rng, (3, 2, 2), dtype)
    model = nn.Sequential(
        nn.BatchNorm(3, dtype=dtype), nn.Dropout(0.1), nn.ReLU(), nn.LayerNorm((2, 2), dtype=dtype), nn.Flatten(),
        nn.Linear(12, CLASSES, dtype=dtype),
    )  # fmt: skip
    check(model, losses.CrossEntropy(), x, classes(rng))


def test_wide(rng, dtype):
    """Few rows of many features: what there is one of for each feature is not allocated either."""
    x = rng.normal(size=(22, WIDTH)).astype(dtype)
    model = nn.Sequential(
        nn.BatchNorm(WIDTH, dtype=dtype), nn.LayerNorm(WIDTH, dtype=dtype), nn.RMSNorm(WIDTH, dtype=dtype),
        nn.BatchNorm(WIDTH, dtype=dtype, affine=False), nn.Linear(WIDTH, CLASSES, dtype=dtype),
    )  # fmt: skip
    check(model, losses.CrossEntropy(), x, classes(rng, 22), batch=8)


def shares(rng, count=2 * ROWS + LAST):
    shares = rng.random((count, CLASSES))
    return shares / shares.sum(axis=1, keepdims=True)


def answers(rng):
    return (rng.random((2 * ROWS + LAST, CLASSES)) > 0.5).astype(np.int64)


WEIGHT = np.array([1.0, 2.0, 0.5])
LOSSES = {
    "CrossEntropy": (lambda d: losses.CrossEntropy(), classes, None),
    "CrossEntropy, int32": (lambda d: losses.CrossEntropy(), classes, np.int32),
    "CrossEntropy, uint8": (lambda d: losses.CrossEntropy(WEIGHT.astype(d), 0.1), classes, np.uint8),
    "CrossEntropy of probabilities": (lambda d: losses.CrossEntropy(), shares, "own"),
    "NegativeLogLikelihood": (lambda d: losses.NegativeLogLikelihood(WEIGHT.astype(d)), classes, np.int16),
    "MeanSquaredError": (lambda d: losses.MeanSquaredError(), shares, "own"),
    "Huber": (lambda d: losses.Huber(0.5), shares, "own"),
    "SmoothL1": (lambda d: losses.SmoothL1(), shares, "own"),
    "BinaryCrossEntropyWithLogits": (lambda d: losses.BinaryCrossEntropyWithLogits(), shares, "own"),
    "BinaryCrossEntropyWithLogits, weights": (
        lambda d: losses.BinaryCrossEntropyWithLogits(WEIGHT.astype(d), WEIGHT.astype(d)), answers, None,
    ),
    "BinaryCrossEntropyWithLogits, int8": (lambda d: losses.BinaryCrossEntropyWithLogits(), answers, np.int8),
}  # fmt: skip


@pytest.mark.parametrize("last", ["linear", "keeps its output"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, rng, dtype, last):
    make, targets, kind = LOSSES[name]
    y = targets(rng)
    y = y.astype(dtype if kind == "own" else kind or y.dtype)
    layers = [nn.Linear(4, CLASSES, dtype=dtype), *([nn.Tanh()] if last != "linear" else [])]
    check(nn.Sequential(*layers), make(dtype), rows(rng, (4,), dtype), y)


def test_every_loss_is_here(dtype):
    assert {type(make(dtype)).__name__ for make, _, _ in LOSSES.values()} == set(losses.__all__) - {"Loss"}


class Planes(nn.Layer):
    """(N, 3 d) -> (N, 3, d): predictions of several places in a row."""

    keeps_output = True

    def forward(self, x, training=True):
        return x.reshape(len(x), CLASSES, -1)

    def backward(self, dy, out=None):
        return dy.reshape(len(dy), -1)


@pytest.mark.parametrize("name", ["CrossEntropy", "CrossEntropy, int32", "NegativeLogLikelihood"])
def test_classes_of_several_places(name, rng, dtype):
    make, _, kind = LOSSES[name]
    y = rng.integers(0, CLASSES, (2 * ROWS + LAST, 2)).astype(kind or np.int64)
    model = nn.Sequential(nn.Linear(4, 2 * CLASSES, dtype=dtype), Planes())
    check(model, make(dtype), rows(rng, (4,), dtype), y)


OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
    "clipped": lambda p: optim.AdamW(p, max_norm=1.0, max_value=0.5),
    "LAMB": lambda p: optim.LAMB(p),
    "bfloat16 states": lambda p: optim.Adam(p, state_dtype="bfloat16"),
    "EMA": lambda p: optim.EMA(optim.RMSprop(p)),
    "its own schedule": lambda p: optim.SGD(p, lr=schedules.cosine(1e-3, 100)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, rng):
    model = nn.Sequential(nn.Linear(WIDTH, 4), nn.Linear(4, CLASSES))
    x = rng.normal(size=(22, WIDTH)).astype(np.float32)
    check(model, losses.CrossEntropy(), x, classes(rng, 22), OPTIMIZERS[name](model.parameters()), batch=8)


@pytest.mark.parametrize("schedule", [1e-3, schedules.one_cycle(1e-3, 100), schedules.transformer(64, 10)])
def test_schedules(schedule, rng):
    check(dense(nn.ReLU(), dtype="f4"), losses.CrossEntropy(), rows(rng, (4,), "f4"), classes(rng), None, schedule)


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"micro_batch": 8000}, {"micro_batch": 8192, "accumulate": 3}])
def test_gradients_of_several_pieces(options, rng, dtype):
    """Steps are fewer: what is between the ends of two of them is still all of the batches between."""
    model = dense(nn.Linear(4, 4, dtype=dtype), nn.BatchNorm(4, dtype=dtype), nn.ReLU(), dtype=dtype)
    memory = memory_of(model, losses.CrossEntropy(), rows(rng, (4,), dtype), classes(rng), epochs=6, **options)
    steps = len(memory.taken) // 6  # an epoch's
    later = range(3 * steps, 6 * steps)
    if steps > 1:
        assert max(memory.taken[step] for step in later if step % steps) < LIMIT
    permutation = 8 * (2 * ROWS + LAST)  # drawn in an epoch's first step, the only one where there is no other
    assert max(memory.taken[step] for step in later) < permutation + LIMIT, memory.taken


def test_callbacks(rng):
    x = rng.normal(size=(22, WIDTH)).astype(np.float32)
    model = nn.Sequential(nn.Linear(WIDTH, CLASSES))
    watching = [callbacks.EMA(0.9), callbacks.TerminateOnNonFinite()]
    check(model, losses.CrossEntropy(), x, classes(rng, 22), others=watching, batch=8)


def test_batches_in_order(rng, dtype):
    from onepass.data import Batches

    batches = Batches(rows(rng, (4,), dtype), classes(rng), ROWS, shuffle=False)
    check(dense(nn.Tanh(), dtype=dtype), losses.CrossEntropy(), batches, None)


# ---- these tests can fail


class Doubling(nn.Layer):
    """A layer that makes a new array in each step, and keeps none."""

    keeps_shape = True

    def forward(self, x, training=True):
        return x * x.dtype.type(2)

    def backward(self, dy, out=None):
        return None if out is False else np.multiply(dy, dy.dtype.type(2), out=out)


class Hoarding(Doubling):
    """A layer that keeps eight bytes more with each step."""

    def __init__(self):
        self.kept = []

    def forward(self, x, training=True):
        self.kept.append(np.zeros(1))
        return x


class Masked(losses.MeanSquaredError):
    """A loss that makes a mask of one byte for each row."""

    def correct(self, prediction, target):
        return int(np.count_nonzero(prediction[:, 0] > 0))


def test_an_array_of_a_layer_is_seen(rng, dtype):
    with pytest.raises(AssertionError):
        check(dense(Doubling(), dtype=dtype), losses.CrossEntropy(), rows(rng, (4,), dtype), classes(rng))


def test_a_small_array_that_stays_is_seen(rng):
    with pytest.raises(AssertionError):
        check(dense(Hoarding(), dtype="f4"), losses.CrossEntropy(), rows(rng, (4,), "f4"), classes(rng))


def test_a_mask_of_a_loss_is_seen(rng):
    y = rows(rng, (CLASSES,), "f4")
    with pytest.raises(AssertionError):
        check(dense(dtype="f4"), Masked(), rows(rng, (4,), "f4"), y)
