"""An average of the parameters, for any optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onepass.callbacks.callback import Callback, Run

if TYPE_CHECKING:
    from onepass.history import History
    from onepass.nn.layer import Array

__all__ = ["EMA"]


class EMA(Callback):
    """Exponential moving average of the parameters: ``average += (1 - decay) (parameter - average)`` after each step.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992. Validation is done with the
    average, and at the end of fit it is what the model holds; between, training goes on with the parameters themselves.
    It costs 12 bytes a float32 parameter and step; `optim.EMA` makes the average in the optimizer's own pass instead.

    Parameters
    ----------
    decay : float, default 0.999
        In [0, 1). The first step's parameters are the first average.

    >>> EMA(0.99).decay
    0.99
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, expected a number in [0, 1)")
        self.decay = decay
        self._averages: list[Array] = []
        self._scratch: list[Array] = []

    def on_step_end(self, trainer: Run, loss: float) -> None:
        parameters = trainer.model.parameters()
        if not self._averages:
            self._averages = [parameter.copy() for parameter in parameters]
            return
        if not self._scratch:
            self._scratch = [np.empty_like(parameter) for parameter in parameters]
        for average, parameter, change in zip(self._averages, parameters, self._scratch, strict=True):
            np.subtract(parameter, average, out=change)
            change *= change.dtype.type(1 - self.decay)
            average += change

    def _swap(self, trainer: Run) -> None:
        for average, parameter in zip(self._averages, trainer.model.parameters(), strict=False):
            held = parameter.copy()
            np.copyto(parameter, average)
            np.copyto(average, held)

    def on_validation_begin(self, trainer: Run) -> None:
        self._swap(trainer)

    def on_validation_end(self, trainer: Run) -> None:
        self._swap(trainer)

    def on_fit_end(self, trainer: Run, history: History) -> None:
        for average, parameter in zip(self._averages, trainer.model.parameters(), strict=False):
            np.copyto(parameter, average)

    def arrays(self) -> dict[str, Array]:
        return {str(index): average for index, average in enumerate(self._averages)}

    def load_state(self, state: dict[str, object], arrays: dict[str, Array]) -> None:
        self._averages = [arrays[str(index)] for index in range(len(arrays))]
