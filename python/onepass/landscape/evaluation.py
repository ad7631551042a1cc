"""The losses at many points: in all threads, with a progress bar, ended by Ctrl-C."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import onepass
from onepass._extras import require

__all__ = ["losses_at"]

Array = NDArray[np.float64]
Place = Callable[[int], Array]


class _Serial:
    """While anybody is inside, the kernels run in the threads that call them; several may be inside at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 1

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = onepass.get_threads()
                onepass.set_threads(1)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                onepass.set_threads(self._before)


_serial = _Serial()


@contextmanager
def _bar(total: int, progress: bool | None) -> Iterator[Any]:
    """tqdm's bar, or None. ``progress=None``: after a second, on a terminal, where tqdm is installed."""
    bar = None
    if progress or (progress is None and sys.stderr is not None and sys.stderr.isatty()):
        try:
            module = require("tqdm")
        except ImportError:
            if progress:
                raise
        else:
            bar = module.tqdm(total=total, unit="point", delay=0.0 if progress else 1.0, dynamic_ncols=True)
    try:
        yield bar
    finally:
        if bar is not None:
            try:
                bar.close()
            except OSError:  # a closed pipe ends the bar, not the work
                bar.disable = True


def _show(bar: Any, done: int) -> None:
    if bar is None or bar.disable:
        return
    try:
        bar.update(done - bar.n)
    except OSError:
        bar.disable = True


def losses_at(
    make: Callable[[Any], Callable[[Array], float]], f: Any, place: Place, count: int, progress: bool | None
) -> Array:
    """(count,) losses at ``place(0)``, ``place(1)``, ...: flat parameters, a new array each.

    ``make(f)`` is the loss of a flat vector. A function with ``copy()``, which returns an independent function of the
    same values, is evaluated in as many threads as the kernels may use, each with a copy; the kernels inside run
    serially meanwhile (measured: no barrier a kernel). Other functions are evaluated in the calling thread. Each point
    is computed by itself, so that neither threads nor order change a bit.
    """
    losses = np.full(count, np.nan)
    threads = min(onepass.get_threads(), count) if callable(getattr(f, "copy", None)) else 1
    with _bar(count, progress) as bar:
        if threads == 1:
            loss = make(f)
            with np.errstate(all="ignore"):  # a point far away may overflow: its loss says so
                for index in range(count):
                    losses[index] = loss(place(index))
                    _show(bar, index + 1)
            return losses
        copies = [make(f.copy()) for _ in range(threads)]
        _together(copies, place, losses, bar)
    return losses


def _together(functions: list[Callable[[Array], float]], place: Place, losses: Array, bar: Any) -> None:
    """Fills losses, one thread a function; each takes the next point that nobody has taken."""
    lock, stop, taken = threading.Lock(), threading.Event(), 0
    errors: list[BaseException] = []

    def work(loss: Callable[[Array], float]) -> None:
        nonlocal taken
        try:
            with np.errstate(all="ignore"):
                while not stop.is_set():
                    with lock:
                        index, taken = taken, taken + 1
                    if index >= len(losses):
                        return
                    losses[index] = loss(place(index))
        except BaseException as error:  # of the function; raised where the caller sees it
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(function,)) for function in functions]
    with _serial:
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
                    _show(bar, min(taken, len(losses)))
            _show(bar, min(taken, len(losses)))
        finally:  # Ctrl-C: after the points at hand
            stop.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join()
    if errors:
        raise errors[0]
