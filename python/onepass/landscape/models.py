"""Functions of the parameters of a model of `onepass.nn`, without importing it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from onepass.landscape.function import EPS, Array, Theta

__all__ = ["ModelFunction", "from_model"]


def from_model(model: Any, loss: Any, x: Any, y: Any, training: bool = True) -> ModelFunction:
    return ModelFunction(model, loss, x, y, training)


def _converted(array: Any) -> Any:
    """Floating-point arrays as float64, others as they are."""
    array = np.asarray(array)
    return array.astype(np.float64, copy=False) if array.dtype.kind == "f" else array


class ModelFunction:
    """What `from_model` returns: loss and gradient of a flat theta."""

    def __init__(self, model: Any, loss: Any, x: Any, y: Any, training: bool = True) -> None:
        self._callers = model
        self.model = _float64_copy(model)
        self.training = training
        self._loss = copy.copy(loss)
        for name, value in vars(self._loss).items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                setattr(self._loss, name, _converted(value))
        self._x, self._y = _converted(x), _converted(y)
        self._parameters = self.model.parameters()
        self.shapes = [parameter.shape for parameter in self._parameters]
        own = {id(parameter) for parameter in self._parameters}
        self._kept = [(a, a.copy()) for a in self.model.state().values() if id(a) not in own]
        self.theta: Array = np.concatenate([parameter.ravel() for parameter in self._parameters])

    def __call__(self, theta: Array) -> tuple[float, Array]:
        loss, dprediction = self._loss(self._forward(theta), self._y, None)
        return float(loss), self._backward(dprediction)

    def loss(self, theta: Array) -> float:
        return float(self._loss(self._forward(theta), self._y, False)[0])

    def gauss_newton_vector(self, theta: Array, v: Array) -> Array:
        norm = float(np.linalg.norm(v))
        if norm == 0.0:
            return np.zeros_like(v)
        h = EPS ** (1 / 3) * max(1.0, float(np.linalg.norm(theta))) / norm
        up = self._forward(theta + h * v).copy()
        moved = (up - self._forward(theta - h * v)) / (2 * h)  # J v, in the prediction's shape
        size = float(np.linalg.norm(moved))
        prediction = self._forward(theta)
        if size == 0.0:
            return np.zeros_like(v)
        k = EPS ** (1 / 3) * max(1.0, float(np.linalg.norm(prediction))) / size
        above = self._loss(prediction + k * moved, self._y, None)[1]
        below = self._loss(prediction - k * moved, self._y, None)[1]
        return self._backward((above - below) / (2 * k))

    def copy(self) -> ModelFunction:
        """An independent function of the same values, for another thread; the data are shared."""
        for array, before in self._kept:
            np.copyto(array, before)
        made = ModelFunction(self.model, self._loss, self._x, self._y, self.training)
        made._callers = self._callers
        return made

    def assign(self, theta: Theta) -> None:
        """Writes ``theta`` into the model that `from_model` was given."""
        theta = getattr(theta, "theta", theta)
        for parameter, value in zip(self._callers.parameters(), self._split(theta), strict=True):
            np.copyto(parameter, value, casting="same_kind")

    def _split(self, theta: Array) -> list[Array]:
        stops = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(theta, stops), self.shapes, strict=True)]

    def _forward(self, theta: Array) -> Array:
        for array, before in self._kept:
            np.copyto(array, before)
        for parameter, value in zip(self._parameters, self._split(theta), strict=True):
            np.copyto(parameter, value)
        prediction: Array = self.model.forward(self._x, self.training)
        return prediction

    def _backward(self, dprediction: Any) -> Array:
        self.model.backward(dprediction, False)
        return np.concatenate([gradient.ravel() for gradient in self.model.gradients()])


def _float64_copy(model: Any) -> Any:
    model = copy.deepcopy(model)
    if all(parameter.dtype == np.float64 for parameter in model.parameters()):
        return model
    if not hasattr(model, "astype"):
        raise TypeError("the model's parameters are float32, expected float64; build its layers with dtype=numpy.float64")
    converted = model.astype(np.float64)
    return model if converted is None else converted
