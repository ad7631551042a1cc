"""Prefetching: the bits of the same batches without it, errors that come up, and a thread that always ends."""

from __future__ import annotations

import signal
import threading
import time
import traceback

import numpy as np
import pytest

from onepass import data, losses, nn, optim
from onepass.callbacks import Callback
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "onepass-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert threads() == []
    yield
    assert threads() == []


def make(callbacks=()):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3), seed=1)
    return Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.01), callbacks=callbacks)


class Rows:
    """A sequence that says which of its rows are asked for, and fails at one of them."""

    def __init__(self, fails=None):
        self.fails, self.asked = fails, []

    def __len__(self):
        return 100

    def __getitem__(self, index):
        self.asked.append(index)
        if len(self.asked) == self.fails:
            raise OSError("the network is down")
        return X[index]


@pytest.mark.parametrize("prefetch", [1, 2, 7])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("x", [X, X[:, ::2], list(X)], ids=["array", "strided", "list"])
def test_the_batches_are_the_same(prefetch, shuffle, x):
    plain = data.Batches(x, Y, 16, shuffle)
    ahead = plain.replace(prefetch=prefetch)
    for epoch, start in ((0, 0), (3, 0), (3, 4), (0, 7)):
        expected = [(a.copy(), b.copy()) for a, b in plain.epoch(epoch, start)]
        found = []
        for a, b in ahead.epoch(epoch, start):
            time.sleep(0.001)  # the thread runs ahead; the batch at hand stays as it is
            found.append((a.copy(), b.copy()))
        assert len(found) == len(expected) == 7 - start
        for (a, b), (c, d) in zip(found, expected, strict=True):
            assert a.tobytes() == c.tobytes()
            assert b.tobytes() == d.tobytes()
            assert a.flags.c_contiguous


@pytest.mark.parametrize("prefetch", [1, 3])
def test_it_runs_ahead_and_not_further(prefetch):
    """The batch at hand, those that are ready, and the one in the making."""
    rows = Rows()
    epoch = data.Batches(rows, Y, 10, shuffle=False, prefetch=prefetch).epoch(0)
    assert threads() == []  # before the first batch is asked for
    next(epoch)
    deadline = time.monotonic() + 20
    while len(rows.asked) < 1 + 10 * (prefetch + 2) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert rows.asked[1:] == list(range(10 * (prefetch + 2)))  # after x[0], which says the shape
    epoch.close()


def test_a_few_buffers_serve_all_batches():
    for transform in (None, data.transforms.Scale()):
        ahead = data.Batches(X, Y, 10, prefetch=2, transform=transform)
        seen = {x.ctypes.data for x, _ in ahead.epoch(0)}
        assert len(seen) <= 4


def test_training_has_the_same_bits():
    results = []
    for prefetch in (0, 2):
        trainer = make()
        batches = data.Batches(X, Y, 16, prefetch=prefetch, sampler=data.ClassBalanced(Y))
        history = trainer.fit(batches, epochs=3, validation=data.Batches(X, Y, 32, prefetch=prefetch), accumulate=2)
        records = [{k: v for k, v in record.items() if k != "seconds"} for record in history]
        results.append(([a.tobytes() for a in trainer.model.state().values()], records))
    assert results[0] == results[1]


# ---- errors


@pytest.mark.parametrize("at", [2, 11, 40, 100])
def test_an_exception_comes_up_after_the_batches_before_it(at):
    batches = data.Batches(Rows(at + 1), Y, 10, shuffle=False, prefetch=2)
    seen = []
    with pytest.raises(OSError, match="the network is down") as caught:
        seen.extend(len(y) for _, y in batches.epoch(0))
    assert seen == [10] * ((at - 1) // 10)
    assert any("__getitem__" in line for line in traceback.format_tb(caught.tb))
    assert threads() == []  # while the traceback is alive


def test_exceptions_of_a_transform_and_of_a_sampler():
    class Failing(data.Sampler):
        population = rows = 100

        def draw(self, generator):
            raise ArithmeticError("no draw")

    def stop(x, y, generator):
        raise StopIteration  # must not look like the end of the epoch

    with pytest.raises(ArithmeticError, match="no draw"):
        make().fit(data.Batches(X, Y, 10, sampler=Failing(), prefetch=1))
    with pytest.raises(RuntimeError, match="StopIteration"):
        make().fit(data.Batches(X, Y, 10, transform=stop, prefetch=1))


def test_the_thread_ends_when_the_loop_breaks():
    epoch = data.Batches(X, Y, 10, prefetch=2).epoch(0)
    for _ in epoch:
        assert len(threads()) == 1
        break
    epoch.close()
    assert threads() == []
    for _ in data.Batches(X, Y, 10, prefetch=2).epoch(0):
        break  # nobody holds the generator
    assert threads() == []
    data.Batches(X, Y, 10, prefetch=2).epoch(0).close()  # never begun


def test_the_thread_ends_when_training_fails():
    class Fails(Callback):
        def on_step_end(self, trainer, loss):
            assert len(threads()) == 1
            raise ArithmeticError("enough")

    with pytest.raises(ArithmeticError, match="enough") as caught:
        make([Fails()]).fit(data.Batches(X, Y, 10, prefetch=2))
    assert threads() == []
    assert caught.tb is not None  # its frames still hold the loop

    class Metric:
        name = "metric"

        def reset(self): ...

        def update(self, prediction, target):
            raise ArithmeticError("enough")

        def value(self):
            return 0.0

    trainer = make()
    trainer.metrics.append(Metric())
    with pytest.raises(ArithmeticError, match="enough") as caught:
        trainer.evaluate(data.Batches(X, Y, 10, prefetch=2))
    assert threads() == []


class Press(Callback):
    """Ctrl-C while the step's callbacks run."""

    def on_step_end(self, trainer, loss):
        if trainer.step == 3:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_thread_ends_on_ctrl_c(ctrl_c):
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3, batch 3 of 10 in epoch 1"):
        make([Press()]).fit(data.Batches(X, Y, 10, prefetch=2))
    assert threads() == []


def test_the_thread_ends_on_ctrl_c_while_a_batch_is_waited_for(ctrl_c):
    """The first one would end fit after the batch; without fit it interrupts the wait."""
    waiting, go_on = threading.Event(), threading.Event()

    class Slow(Rows):
        def __getitem__(self, index):
            if len(self.asked) > 15:
                waiting.set()
                go_on.wait(20)
            return super().__getitem__(index)

    main = threading.get_ident()

    def press():
        waiting.wait(20)
        time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.05)
        go_on.set()

    helper = threading.Thread(target=press)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in data.Batches(Slow(), Y, 10, shuffle=False, prefetch=2).epoch(0):
            pass
    helper.join()
    assert threads() == []


def test_two_iterators_of_the_same_batches():
    """Evaluating on the training rows from a callback does not touch the batches that wait."""
    batches = data.Batches(X, Y, 10, prefetch=2)
    expected = [x.copy() for x, _ in batches.epoch(0)]
    for index, (x, _) in enumerate(batches.epoch(0)):
        for _ in batches.epoch(1):
            pass
        np.testing.assert_array_equal(x, expected[index])


class SlowNoise(data.transforms.Transform):
    """The other thread has its turn while the noise waits in the buffer."""

    def __call__(self, x, y, generator):
        noise = self.buffer("noise", x.shape, x.dtype)
        generator.standard_normal(dtype=x.dtype.type, out=noise)
        time.sleep(0.001)
        x += noise
        return x, y


class Twice(data.transforms.Transform):
    """One's own, of others."""

    def __init__(self):
        self.parts = [SlowNoise(), data.transforms.RandomHorizontalFlip()]

    def __call__(self, x, y, generator):
        noise, flip = self.parts
        x, y = noise(x, y, generator)
        flip(x.reshape(-1, 1, 2, 3), y, generator)
        return x, y


@pytest.mark.parametrize("transform", [SlowNoise(), Twice()], ids=["one", "composed"])
def test_two_epochs_at_once_are_two_one_after_the_other(transform):
    """Their threads transform at the same time, with buffers of their own."""
    x = np.repeat(X, 20, axis=0)
    batches = data.Batches(x, np.repeat(Y, 20), 100, seed=1, prefetch=2, transform=transform)
    expected = [[a.copy() for a, _ in batches.epoch(epoch)] for epoch in (0, 1)]
    pairs = zip(batches.epoch(0), batches.epoch(1), strict=True)
    for index, ((a, _), (b, _)) in enumerate(pairs):
        assert a.tobytes() == expected[0][index].tobytes()
        assert b.tobytes() == expected[1][index].tobytes()


def test_two_epochs_never_share_a_transforms_buffers():
    memory = []

    class Seen(Twice):
        def __call__(self, x, y, generator):
            x, y = super().__call__(x, y, generator)
            memory.append([self.buffer("own", (4,), x.dtype), *(b.get((1,), x.dtype) for b in self._inner())])
            return x, y

        def _inner(self):
            return [buffer for part in self.parts for buffer in part._buffers.values()]

    batches = data.Batches(X, Y, 50, prefetch=1, transform=Seen())
    one, two = batches.epoch(0), batches.epoch(0)
    list(zip(one, two, strict=True))
    assert len(memory) == 4
    assert len({buffers[0].ctypes.data for buffers in memory}) == 2
    assert len({buffers[1].ctypes.data for buffers in memory}) == 2
    assert len({buffers[2].ctypes.data for buffers in memory}) == 2


def test_evaluating_on_the_same_batches_while_training_changes_no_bit():
    class Evaluates(Callback):
        def on_step_end(self, trainer, loss):
            trainer.evaluate(batches)

    results = []
    for callbacks in ([], [Evaluates()]):
        batches = data.Batches(np.repeat(X, 10, axis=0), np.repeat(Y, 10), 100, prefetch=2, transform=Twice())
        trainer = make(callbacks)
        trainer.fit(batches, epochs=2)
        results.append([array.tobytes() for array in trainer.model.state().values()])
    assert results[0] == results[1]


def test_negative_prefetch_is_refused():
    with pytest.raises(ValueError, match="prefetch is -1, expected >= 0"):
        data.Batches(X, Y, 10, prefetch=-1)
