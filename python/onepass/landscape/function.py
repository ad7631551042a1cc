"""A function of parameters as the algorithms see it: flat vectors, checked results, counted calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.landscape.differences import EPS, STEP, WORTH, best_difference, difference, norm

__all__ = ["Array", "Function", "Theta", "check_count", "norm"]

Array = NDArray[np.float64]
Theta = Any  # a flat float64 vector, a list of float64 arrays, or an object with such a .theta

KINK = 1e-4  # what bending makes of g(s) + g(-s) - 2 g(0) at most, as a share of g(s) - g(-s)


def _float64(name: str, value: object) -> Array:
    """``value`` as it is, if it is a float64 array of finite numbers."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is {value!r:.60}, expected a float64 array; make one with numpy.asarray(..., float)")
    if value.dtype != np.float64:
        real = value.dtype.kind in "fiub"
        remedy = f": differences need its digits; pass {name}.astype(numpy.float64)" if real else ""
        raise TypeError(f"{name} is {value.dtype}, expected float64{remedy}")
    if value.size and not np.isfinite(value).all():
        bad = int(np.flatnonzero(~np.isfinite(value.ravel()))[0])
        raise ValueError(f"{name} holds {value.ravel()[bad]} (element {bad} of {value.size}), expected finite numbers")
    return value


class Function:
    """``f`` around ``theta``, seen as a function of a flat vector x (n,) float64.

    Every result is checked and copied, so that ``f`` may return the same array each time and may keep or change the
    theta that it is given. `flatten` takes theta's structure or a flat (n,) vector.

    Attributes
    ----------
    x : array (n,)
        The flat ``theta``.
    shapes : list of tuple
        Of theta's arrays; of a flat theta what ``f.shapes`` says, else ``[(n,)]``.
    exact : bool
        Whether ``f`` offers ``hessian_vector``.
    loss_count, gradient_count, product_count : int
        Calls so far of the loss alone, of loss and gradient, and of exact products.
    """

    def __init__(self, f: Any, theta: Theta = None) -> None:
        if not callable(f):
            raise TypeError(f"f is {f!r:.60}, expected a function f(theta) -> (loss, gradient)")
        self.f = f
        if theta is None and getattr(f, "theta", None) is None:
            raise TypeError("theta is missing; pass the parameters at which f is looked at")
        theta = f.theta if theta is None else getattr(theta, "theta", theta)
        self._is_list = isinstance(theta, (list, tuple))
        arrays = list(theta) if self._is_list else [theta]
        for index, array in enumerate(arrays):
            name = f"theta[{index}]" if self._is_list else "theta"
            hint = f"; pass numpy.array({theta!r:.40}, float)" if isinstance(array, (int, float)) else ""
            if hint:
                raise TypeError(f"{name} is {array!r:.60}, expected a float64 array{hint}")
            _float64(name, array)
        if not self._is_list and theta.ndim != 1:
            raise ValueError(f"theta has shape {theta.shape}, expected a flat vector; pass a list: [theta]")
        self.shapes: list[tuple[int, ...]] = [array.shape for array in arrays]
        self.size = sum(array.size for array in arrays)
        if self.size == 0:
            raise ValueError("theta is empty, expected at least one parameter")
        if not self._is_list and getattr(f, "shapes", None) is not None:
            shapes = [tuple(shape) for shape in f.shapes]
            if sum(map(math.prod, shapes)) != self.size:
                raise ValueError(f"f.shapes holds {sum(map(math.prod, shapes))} elements, but theta {self.size}")
            self.shapes = shapes
        self.exact = callable(getattr(f, "hessian_vector", None))
        self.loss_count = self.gradient_count = self.product_count = 0
        self._last: tuple[Array, float, Array] | None = None  # x, loss and gradient
        self.x = self.flatten(theta)

    # ---- structure

    def flatten(self, value: Theta, name: str = "theta") -> Array:
        """A fresh (n,) vector of a value in theta's structure, or of a flat one."""
        value = getattr(value, "theta", value)
        if self._is_list and isinstance(value, (list, tuple)):
            return self._joined(value, name)
        if isinstance(value, (list, tuple)):
            raise TypeError(f"{name} is a list, expected an array ({self.size},) like theta")
        _float64(name, value)
        if value.shape != (self.size,):
            raise ValueError(f"{name} has shape {value.shape}, expected ({self.size},) like theta")
        flat: Array = value.copy()
        return flat

    def unflatten(self, x: Array) -> Any:
        """A copy of the flat ``x`` in theta's structure."""
        x = np.array(x, np.float64)
        if not self._is_list:
            return x
        stops = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(x, stops), self.shapes, strict=True)]

    def _joined(self, arrays: Sequence[Any], name: str) -> Array:
        if len(arrays) != len(self.shapes):
            raise ValueError(f"{name} holds {len(arrays)} arrays, expected {len(self.shapes)} like theta")
        for index, (array, shape) in enumerate(zip(arrays, self.shapes, strict=True)):
            _float64(f"{name}[{index}]", array)
            if array.shape != shape:
                raise ValueError(f"{name}[{index}] has shape {array.shape}, expected {shape} like theta")
        return np.concatenate([array.ravel() for array in arrays])

    # ---- values

    def loss(self, x: Array) -> float:
        """Of the flat ``x``; NaN or infinite where ``f`` says so."""
        given = getattr(self.f, "loss", None)
        if not callable(given):
            return self._call(x)[0]
        self.loss_count += 1
        return _number(given(self.unflatten(x)), "f.loss(theta)")

    def gradient(self, x: Array) -> Array:
        """(n,) at the flat ``x``; FloatingPointError if it is not finite."""
        return self.loss_and_gradient(x)[1]

    def loss_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Loss and gradient (n,) at the flat ``x``; FloatingPointError if either is not finite."""
        if self._last is None or not np.array_equal(self._last[0], x):
            loss, gradient = self._call(x)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at a theta of norm {np.linalg.norm(x):.4g}")
            if not np.isfinite(gradient).all():
                bad = np.flatnonzero(~np.isfinite(gradient))
                raise FloatingPointError(
                    f"the gradient holds {gradient[bad[0]]} in element {bad[0]} ({bad.size} of {gradient.size} are not "
                    f"finite) at a theta of norm {np.linalg.norm(x):.4g}, where the loss is {loss:.4g}"
                )
            self._last = np.array(x), loss, gradient
        return self._last[1], self._last[2].copy()

    def _call(self, x: Array) -> tuple[float, Array]:
        """What f returns, checked for everything but finiteness."""
        self.gradient_count += 1
        result = self.f(self.unflatten(x))
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(f"f(theta) returned {result!r:.60}, expected two things: (loss, gradient)")
        loss = _number(result[0], "f(theta)[0], the loss,")
        return loss, self._vector(result[1], "f(theta)[1], the gradient,")

    def _vector(self, value: Any, name: str) -> Array:
        """A fresh (n,) vector of what f returned in theta's structure."""
        parts = list(value) if self._is_list and isinstance(value, (list, tuple)) else [value]
        shapes = self.shapes if self._is_list else [(self.size,)]
        if len(parts) != len(shapes):
            raise ValueError(f"{name} holds {len(parts)} arrays, expected {len(shapes)} like theta")
        for index, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
            what = f"{name} array {index}," if self._is_list else name
            if isinstance(part, np.generic):  # of an array without axes NumPy's arithmetic makes a number
                part = parts[index] = np.asarray(part)
            if not isinstance(part, np.ndarray):
                raise TypeError(f"{what} is {part!r:.60}, expected a float64 array {shape}")
            if part.dtype != np.float64:
                raise TypeError(f"{what} is {part.dtype}, expected float64; compute it in float64")
            if part.shape != shape:
                raise ValueError(f"{what} has shape {part.shape}, expected {shape} like theta")
        return np.concatenate([part.ravel() for part in parts])  # a copy, also of one

    # ---- second derivatives

    def hessian_vector(self, x: Array, v: Array) -> tuple[Array, float]:
        """H v (n,) at the flat ``x``, and an estimate of the norm of its error.

        Exact where ``f`` has ``hessian_vector``; the error is then rounding alone. Else by `best_difference` of the
        gradient along v: 4 gradients, beside the one at ``x``, and 4 more for each further step that is tried.
        """
        products, errors = self.hessian_vectors(x, v[:, np.newaxis])
        return products[:, 0], float(errors[0])

    def hessian_vectors(self, x: Array, vectors: Array) -> tuple[Array, Array]:
        """H times each column of ``vectors`` (n, k), and the k errors; a step that was good is used again."""
        products, errors = np.zeros(vectors.shape), np.zeros(vectors.shape[1])
        length, allowed = None, math.inf
        for index, v in enumerate(vectors.T):
            unit, size = _unit(v)
            if size == 0.0:
                continue
            if self.exact:
                self.product_count += 1
                value = self._vector(self.f.hessian_vector(self.unflatten(x), self.unflatten(unit)), "f.hessian_vector")
                error = 4 * EPS * norm(value)
            else:
                found = None
                if length is not None:
                    with suppress(FloatingPointError):  # the step is too long in this direction
                        found = difference(*self._along(x, unit, length))
                if found is None or found.error > max(allowed, WORTH * norm(found.value)):
                    found = best_difference(*self._along(x, unit, None))
                    if found.value.any():  # along what has no effect any step is good, and the longest is the best
                        length, allowed = found.length, min(allowed, 4 * found.error)
                value, error = found.value, found.error
            products[:, index], errors[index] = value * size, error * size
            if not np.isfinite(products[:, index]).all():
                raise FloatingPointError(f"the Hessian times a vector of norm {size:.4g} is not finite")
        return products, errors

    def step(self, x: Array, v: Array) -> tuple[float, float]:
        """For `central`: the best length in x's space of a step along ``v``, and the gradient's noise.

        An eighth of the best if shorter than the usual one: kinks are near then, and other vectors may point at them.
        """
        arguments = self._along(x, _unit(v)[0], None)
        found = best_difference(*arguments)
        return (found.length / 8 if found.length < arguments[1] else found.length), found.noise

    def central(self, x: Array, v: Array, length: float, noise: float) -> Array:
        """H v by a central difference whose points lie ``length`` beside ``x``: 2 gradients, no estimate.

        If what g(s) + g(-s) - 2 g(0) leaves is more than bending and ``noise``, there is a kink between: up to four
        shorter steps are tried; likewise where the gradient is not finite.
        """
        unit, size = _unit(v)
        if size == 0.0:
            return np.zeros(self.size)
        center, least = self.gradient(x), math.inf
        best: Array | FloatingPointError | None = None
        for _ in range(5):
            try:
                up, down = self._beside(x + length * unit), self._beside(x - length * unit)
            except FloatingPointError as error:  # too far
                best = error if best is None else best
                length /= 8
                continue
            jump, change = norm(up + down - 2 * center), up - down
            if jump / length < least:
                least, best = jump / length, change / (2 * length)
            if jump <= KINK * norm(change) + 10 * noise:
                break
            length /= 8
        if not isinstance(best, np.ndarray):
            assert best is not None
            raise best
        product: Array = best * size
        return product

    def gauss_newton_vector(self, x: Array, v: Array) -> Array:
        """J' H_L J v (n,) at the flat ``x``; TypeError if ``f`` does not offer it."""
        if not callable(getattr(self.f, "gauss_newton_vector", None)):
            raise TypeError("f has no gauss_newton_vector(theta, v); take a function of from_model or from_torch")
        self.product_count += 1
        unit, size = _unit(v)
        product = self._vector(
            self.f.gauss_newton_vector(self.unflatten(x), self.unflatten(unit)), "f.gauss_newton_vector"
        )
        return product * size

    def _along(
        self, x: Array, unit: Array, length: float | None
    ) -> tuple[Callable[[float], Array], float, Array, float]:
        """The arguments of a `difference` of the gradient; ``length`` None: the usual one."""
        center, size = self.gradient(x), norm(x)
        usual = STEP * max(1.0, size)
        return lambda t: self._beside(x + t * unit), usual if length is None else length, center, EPS * size

    def _beside(self, x: Array) -> Array:
        """The gradient, without forgetting the one that `gradient` keeps."""
        kept = self._last
        try:
            return self.gradient(x)
        finally:
            self._last = kept


def check_count(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r:.60}, expected an integer")
    if value < minimum:
        raise ValueError(f"{name} is {value}, expected >= {minimum}")


def _unit(v: Array) -> tuple[Array, float]:
    """v / |v| and |v|."""
    largest = float(np.abs(v).max())
    if largest == 0.0:
        return v, 0.0
    scaled = v / largest
    length = float(np.linalg.norm(scaled))
    return scaled / length, length * largest


def _number(value: object, name: str) -> float:
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiu":
        return float(value.reshape(()))
    if not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name} is {value!r:.60}, expected a number")
    return float(value)
