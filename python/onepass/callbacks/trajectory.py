"""The way that a training takes through the space of parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onepass.callbacks.callback import Callback, Run

if TYPE_CHECKING:
    from onepass.history import Record
    from onepass.nn.layer import Array

__all__ = ["Trajectory"]

LEAST = 4  # points that there must be memory for


class Trajectory(Callback):
    """Records the parameters of the start, of every ``every``-th step and of the last epoch's end.

    For `landscape.pca`, `landscape.plane` and `Plane.plot(trajectory=...)`, which take it as it is.

    Parameters
    ----------
    every : int, default 1
    max_bytes : int, default 2**28 (256 MiB)
        Of the points: 8 bytes a parameter and point. When they are used up, every second point is dropped, and from
        then on half as many steps are recorded, so that the trajectory of a run of any length is whole and evenly
        spaced. A model of 9610 parameters has 3491 points in 256 MiB. A model with so many parameters that fewer than
        four points have room is a ValueError.

    Attributes
    ----------
    points : (T, n) float64
        The parameters, flat, in the order of ``model.parameters()``: that of `landscape.from_model`. A view that is not
        writeable, and that a run that goes on writes over: copy what is kept.
    losses : (T,) float64
        That of the batch whose step led to the point, taken before the step; NaN for the start.
    steps : (T,) int64
        How many steps were done.
    every : int
        The distance of the steps, as doubled so far.

    A recorded step costs a copy of the parameters; a checkpoint of a run with ``resume`` holds all points. A second
    `fit` of the same trainer goes on with the trajectory; a training from step 0 begins anew. What `EarlyStopping` and
    `EMA` write into the model at the end of fit is no point of it.

    >>> from onepass import losses, nn, optim
    >>> from onepass.trainer import Trainer
    >>> model = nn.Sequential(nn.Linear(2, 1))
    >>> path = Trajectory(every=2)
    >>> trainer = Trainer(model, losses.MeanSquaredError(), optim.SGD(model.parameters(), lr=0.1), callbacks=[path])
    >>> x, y = np.ones((8, 2), np.float32), np.ones((8, 1), np.float32)
    >>> _ = trainer.fit(x, y, epochs=5, batch_size=8)
    >>> path.steps, path.points.shape
    (array([0, 2, 4, 5]), (4, 3))
    """

    def __init__(self, every: int = 1, max_bytes: int = 1 << 28) -> None:
        for name, value in (("every", every), ("max_bytes", max_bytes)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} is {value!r:.60}, expected an integer")
            if value < 1:
                raise ValueError(f"{name} is {value}, expected >= 1")
        self.every = int(every)
        self.max_bytes = int(max_bytes)
        self._given = int(every)
        self._clear(0)

    def _clear(self, size: int) -> None:
        self.every = self._given
        self._points = np.empty((0, size))
        self._losses: list[float] = []
        self._steps: list[int] = []
        self._passing = False  # the last point is an epoch's end between recorded steps: the next one replaces it
        self._loss = math.nan

    @property
    def points(self) -> NDArray[np.float64]:
        view = self._points[: len(self._steps)]
        view.flags.writeable = False
        return view

    @property
    def losses(self) -> NDArray[np.float64]:
        return np.array(self._losses)

    @property
    def steps(self) -> NDArray[np.int64]:
        return np.array(self._steps, np.int64)

    def on_fit_begin(self, trainer: Run, epochs: int, steps: int) -> None:
        size = sum(parameter.size for parameter in trainer.model.parameters())
        self._limit = self.max_bytes // (8 * max(size, 1))
        if self._limit < LEAST:
            raise ValueError(
                f"Trajectory: max_bytes is {self.max_bytes}, but a point of {size} parameters takes {8 * size}; "
                f"expected >= {LEAST * 8 * size}, {LEAST} points"
            )
        known = len(self._steps) > 0 and size == self._points.shape[1]
        if not known or trainer.step == 0 or trainer.step < self._steps[-1]:
            self._clear(size)
        self._reserve(len(self._steps) + epochs * steps // self.every + 3)
        if not self._steps:
            self._record(trainer)

    def _reserve(self, rows: int) -> None:
        rows = max(min(rows, self._limit), len(self._steps))
        if rows > len(self._points):
            before = self.points
            self._points = np.empty((rows, before.shape[1]))
            self._points[: len(before)] = before

    def on_step_end(self, trainer: Run, loss: float) -> None:
        self._loss = loss
        if trainer.step % self.every == 0:
            self._record(trainer)

    def on_epoch_end(self, trainer: Run, record: Record) -> None:
        if self._steps[-1] != trainer.step:
            self._record(trainer, passing=True)

    def _record(self, trainer: Run, passing: bool = False) -> None:
        if self._passing:
            del self._steps[-1], self._losses[-1]
        while len(self._steps) >= self._limit:
            self._thin()
        self._passing = passing or (len(self._steps) > 0 and trainer.step % self.every != 0)
        self._reserve(len(self._steps) + 1)
        row, start = self._points[len(self._steps)], 0
        for parameter in trainer.model.parameters():
            np.copyto(row[start : start + parameter.size].reshape(parameter.shape), parameter)
            start += parameter.size
        self._steps.append(trainer.step)
        self._losses.append(self._loss)

    def _thin(self) -> None:
        """Every second point goes; the start stays."""
        self.every *= 2
        kept = [index for index, step in enumerate(self._steps) if index == 0 or step % self.every == 0]
        for row, index in enumerate(kept):
            self._points[row] = self._points[index]
        self._steps = [self._steps[index] for index in kept]
        self._losses = [self._losses[index] for index in kept]

    def state(self) -> dict[str, Any]:
        return {"every": self.every, "passing": self._passing}

    def arrays(self) -> dict[str, Array]:
        return {"points": self._points[: len(self._steps)], "losses": self.losses, "steps": self.steps}

    def load_state(self, state: dict[str, Any], arrays: dict[str, Array]) -> None:
        self.every, self._passing = state["every"], state["passing"]
        self._steps, self._losses = arrays["steps"].tolist(), arrays["losses"].tolist()
        self._reserve(len(self._points))
        self._points[: len(self._steps)] = arrays["points"]
