"""A way through the landscape: points visited, steps left, and the guard against falling for ever."""

from __future__ import annotations

import math

import numpy as np

from onepass.landscape.function import Array, Function

__all__ = ["BudgetSpentError", "UnboundedError", "Walk"]

VAST = 1e150  # of a loss below zero; squares of more overflow
FAR = 1e8  # times the norm of the start, or one: a minimum is not looked for beyond
LONGEST = 1000  # points of a path; then every second one is dropped


class BudgetSpentError(Exception):
    """All iterations are used up."""


class UnboundedError(Exception):
    """The loss falls without an end in sight."""


class Walk:
    """``function`` with a path through it.

    Attributes
    ----------
    x, lowest : array (n,) and float
        The lowest point seen, and its loss.
    path : list of array (n,)
        Points visited, the start first; thinned evenly where there are very many.
    iterations, limit : int
        Points visited after the start, and how many there may be.
    random : numpy.random.Generator
    """

    def __init__(self, function: Function, loss: float, limit: int, seed: int) -> None:
        self.function = function
        self.x = function.x
        self.lowest = self.start_loss = loss
        self.path = [function.x]
        self.iterations, self.limit = 0, limit
        self.random = np.random.default_rng(seed)
        self._far = FAR * max(1.0, float(np.linalg.norm(function.x)))
        self._stride = 1

    @property
    def evaluations(self) -> int:
        return self.function.loss_count + self.function.gradient_count + self.function.product_count

    def value(self, x: Array) -> tuple[float, Array]:
        """Loss and gradient (n,); (inf, zeros) where they are not finite, so that a line search turns back."""
        try:
            loss, gradient = self.function.loss_and_gradient(x)
        except FloatingPointError:
            self._guard(x, self.function.loss(x))
            return math.inf, np.zeros(len(x))
        self._guard(x, loss)
        return loss, gradient

    def loss(self, x: Array) -> float:
        """The loss alone; infinite where it is NaN."""
        if not callable(getattr(self.function.f, "loss", None)):
            return self.value(x)[0]  # and remembered
        loss = self.function.loss(x)
        self._guard(x, loss)
        return math.inf if math.isnan(loss) else loss

    def visit(self, x: Array) -> None:
        """Makes ``x`` a point of the path; BudgetSpentError if it is one too many."""
        if self.iterations >= self.limit:
            raise BudgetSpentError
        self.iterations += 1
        if self.iterations % self._stride == 0:
            self.path.append(np.array(x))
            if len(self.path) > LONGEST:
                self.path = self.path[::2]
                self._stride *= 2

    def _guard(self, x: Array, loss: float) -> None:
        distance = float(np.linalg.norm(x - self.function.x))
        if -math.inf < loss < self.lowest:
            self.x, self.lowest = np.array(x), loss
        if loss < -VAST or (distance > self._far and loss < self.start_loss):
            raise UnboundedError(f"the loss is {loss:.4g} at a distance of {distance:.2g} and still falls")
