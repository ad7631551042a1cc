"""The loss of a network as a function of its parameters; networks and losses are known by what they offer."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from onepass.landscape.differences import STEP, best_difference
from onepass.landscape.function import Array, Theta

__all__ = ["ModelFunction", "check_vector", "from_model", "split"]


def from_model(model: Any, loss: Any, x: Any, y: Any, training: bool = True) -> ModelFunction:
    """The loss of ``model`` on the rows ``x`` with targets ``y``, as a function of a flat theta.

    Parameters
    ----------
    model : nn.Layer
        Copied, as float64: the caller's is left alone until `ModelFunction.assign`.
    loss : losses.Loss
        Copied; its arrays (class weights) become float64.
    x, y : arrays
        All rows at once. Floating-point numbers become float64; float64 arrays are not copied, do not change them.
    training : bool, default True
        The mode of the layers. True: batch normalization uses the statistics of these rows, and its running ones are
        put back before each evaluation, so that the same theta has the same loss. False: the running ones are used.

    Returns
    -------
    ModelFunction
        ``f(theta) -> (loss, gradient)`` with ``theta``, the model's parameters (n,) float64; ``shapes``;
        ``loss(theta)``, without backward; ``gauss_newton_vector(theta, v)``; ``copy()``; ``assign(theta)``. theta is in
        the order of ``model.parameters()``.

    Raises
    ------
    TypeError, ValueError
        What is not a model, a loss or finite numbers; rows of x and y that do not fit; dropout in training, whose loss
        is another one each time: ``training=False``.

    >>> import numpy as np
    >>> from onepass import landscape, losses, nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm(3), nn.ReLU(), nn.Linear(3, 2))
    >>> rng = np.random.default_rng(0)
    >>> f = landscape.from_model(model, losses.CrossEntropy(), rng.standard_normal((20, 2)), rng.integers(0, 2, 20))
    >>> loss, gradient = f(f.theta)
    >>> f.theta.shape, gradient.dtype, f.loss(f.theta) == loss
    ((23,), dtype('float64'), True)
    >>> bool(landscape.gradient_check(f, f.theta))
    True
    """
    return ModelFunction(model, loss, x, y, training)


class ModelFunction:
    """What `from_model` returns. Not for several threads at once: each needs a `copy`."""

    def __init__(self, model: Any, loss: Any, x: Any, y: Any, training: bool = True) -> None:
        lacking = [
            name for name in ("forward", "backward", "parameters", "gradients", "state") if not hasattr(model, name)
        ]
        if lacking or isinstance(model, type):
            raise TypeError(f"model is {model!r:.60}, expected an nn.Layer; a torch module goes to from_torch")
        if not callable(loss) or isinstance(loss, type):
            hint = f"; make one with {loss.__name__}()" if isinstance(loss, type) else ""
            raise TypeError(f"loss is {loss!r:.60}, expected a loss such as losses.CrossEntropy(){hint}")
        self._x, self._y = _rows("x", x), _rows("y", y)
        if len(self._x) != len(self._y):
            raise ValueError(f"x has {len(self._x)} rows and y {len(self._y)}, expected as many")
        if training:
            _refuse_dropout(model)
        self._callers = model
        self._model = _float64_copy(model)
        self._training = bool(training)
        self._loss = copy.copy(loss)
        for name, value in vars(self._loss).items() if hasattr(loss, "__dict__") else ():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                setattr(self._loss, name, value.astype(np.float64))
        self._parameters = self._model.parameters()
        if not self._parameters:
            raise ValueError(f"model {model!r:.60} has no parameters, expected at least one")
        if len({id(parameter) for parameter in self._parameters}) != len(self._parameters):
            raise ValueError("two layers of the model share a parameter, expected each once: it would have two thetas")
        self.shapes: list[tuple[int, ...]] = [parameter.shape for parameter in self._parameters]
        self.theta: Array = _joined(self._parameters)
        own = {id(parameter) for parameter in self._parameters}
        self._kept = [(a, a.copy()) for a in self._model.state().values() if id(a) not in own]
        first, second = self.loss(self.theta), self.loss(self.theta)
        if first != second and not (math.isnan(first) and math.isnan(second)):
            raise ValueError(
                f"the loss at the same theta is {first!r} and then {second!r}: a layer draws random numbers or keeps "
                "something outside its state(); pass training=False"
            )

    def __call__(self, theta: Theta) -> tuple[float, Array]:
        """Loss and gradient (n,) at the flat ``theta``."""
        value, dprediction = self._loss(self._forward(theta), self._y, None)
        return float(value), self._backward(dprediction)

    def loss(self, theta: Theta) -> float:
        """The loss alone: one forward pass."""
        return float(self._loss(self._forward(theta), self._y, False)[0])

    def gauss_newton_vector(self, theta: Theta, v: Theta) -> Array:
        """``J' H_L J v`` (n,).

        J v is a difference of predictions along v (4 forward passes, more where ReLUs switch), H_L one of the loss' own
        gradient; J' is the backward pass. Good to some 1e-9.
        """
        theta, v = check_vector("theta", theta, self.theta.size), check_vector("v", v, self.theta.size)
        norm = float(np.linalg.norm(v))
        if norm == 0.0:
            return np.zeros(v.size)
        prediction = self._forward(theta).copy()
        start = STEP * max(1.0, float(np.linalg.norm(theta)))
        unit = v / norm
        moved = best_difference(lambda t: self._forward(theta + t * unit).copy(), start, prediction).value  # J unit
        size = float(np.linalg.norm(moved))
        if size == 0.0:
            return np.zeros(v.size)
        start = STEP * max(1.0, float(np.linalg.norm(prediction)))
        slope = self._slope(prediction)
        bent = best_difference(lambda t: self._slope(prediction + t / size * moved), start, slope).value
        self._forward(theta)  # what backward needs
        product: Array = self._backward(bent * size) * norm
        return product

    def copy(self) -> ModelFunction:
        """An independent function of the same values, for another thread; rows and caller's model are shared."""
        return copy.deepcopy(self, {id(shared): shared for shared in (self._x, self._y, self._callers)})

    def assign(self, theta: Theta) -> None:
        """Writes ``theta``, rounded to the parameters' type, into the model that `from_model` was given."""
        theta = check_vector("theta", theta, self.theta.size)
        for parameter, value in zip(self._callers.parameters(), split(theta, self.shapes), strict=True):
            np.copyto(parameter, value, casting="same_kind")

    def _slope(self, prediction: Array) -> Array:
        gradient: Array = self._loss(prediction, self._y, None)[1].copy()
        return gradient

    def _forward(self, theta: Theta) -> Array:
        """The prediction, in the model's memory."""
        theta = check_vector("theta", theta, self.theta.size)
        for array, before in self._kept:
            np.copyto(array, before)
        for parameter, value in zip(self._parameters, split(theta, self.shapes), strict=True):
            np.copyto(parameter, value)
        prediction: Array = self._model.forward(self._x, self._training)
        return prediction

    def _backward(self, dprediction: Array) -> Array:
        self._model.backward(dprediction, False)
        return _joined(self._model.gradients())


def check_vector(name: str, value: Theta, size: int) -> Array:
    """``value``, or its .theta, as a float64 vector of this size."""
    value = getattr(value, "theta", value)
    if not isinstance(value, np.ndarray) or value.dtype != np.float64:
        what = f"{value.dtype}" if isinstance(value, np.ndarray) else f"{value!r:.60}"
        raise TypeError(f"{name} is {what}, expected a flat float64 array ({size},)")
    if value.shape != (size,):
        raise ValueError(f"{name} has shape {value.shape}, expected ({size},)")
    return value


def split(theta: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Views of a flat theta in these shapes."""
    stops = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(theta, stops), shapes, strict=True)]


def _joined(arrays: list[Array]) -> Array:
    return np.concatenate([array.ravel() for array in arrays])


def _rows(name: str, value: Any) -> Any:
    """An array with an axis of rows; floating-point numbers as float64."""
    array = np.asarray(value)
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError(f"{name} is {value!r:.60}, expected an array with at least one row")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} is {array.dtype}, expected numbers")
    if array.dtype.kind != "f":
        return array
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise ValueError(f"{name} holds NaN or inf in row {row}: repair the data")
    return np.ascontiguousarray(array, np.float64)


def _refuse_dropout(layer: Any) -> None:
    if any(kind.__name__ == "Dropout" for kind in type(layer).__mro__) and getattr(layer, "p", None) != 0:
        raise ValueError(
            f"the model holds {layer!r:.60}, whose loss in training is another one each time; pass training=False"
        )
    for _, child in layer.children() if hasattr(layer, "children") else ():
        _refuse_dropout(child)


def _float64_copy(model: Any) -> Any:
    if all(array.dtype == np.float64 for array in model.parameters()):
        return copy.deepcopy(model)
    if hasattr(model, "astype"):
        return model.astype(np.float64)
    kinds = ", ".join(sorted({str(array.dtype) for array in model.parameters()}))
    raise TypeError(f"the model's parameters are {kinds}, expected float64; build its layers with dtype=numpy.float64")
