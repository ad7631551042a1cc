"""Whether a layer's backward is the derivative of its forward."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onepass.nn.layer import Array, Layer, check_integer

__all__ = ["check_gradients"]


def check_gradients(
    layer: Layer,
    x: Array | tuple[int, ...],
    *,
    step: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> None:
    """Compares every gradient of ``layer.backward`` with central differences of ``layer.forward``, in training mode.

    Of ``sum(weights * layer.forward(x))`` with random weights, with respect to each element of ``x`` and of
    ``layer.parameters()``. What `Layer` promises of ``out`` is checked as well: ``dy`` is left alone, an array is
    written to, also ``dy`` itself where the layer is ``in_place``.

    Parameters
    ----------
    layer : Layer
        Also a whole model. In float64 errors of 1e-5 are seen, in float32 those of one percent.
    x : array (N, ...) or tuple
        An input; integers have no gradient. Or the shape of one, with the batch's axis: normal numbers, of the type of
        the parameters (float64 without any).
    step : float or None
        How far an element is moved either way; None: 1e-6, in float32 5e-3. Near a kink, as ReLU's at 0, central
        differences are wrong: take another ``x`` or ``seed``.
    rtol : float or None
        Allowed difference, as a share of the largest gradient of the same array, beside what rounding makes of
        ``step``; None: 1e-5, in float32 1e-2.
    seed : int, default 0
        Of ``x`` and of the weights.

    Two forward passes for each element: a small layer will do. Random numbers and statistics that a layer keeps in its
    `state` begin anew with each pass, and the layer is left as it was.

    Raises
    ------
    AssertionError
        A gradient is wrong; the text names the array and the element that is off most.
    TypeError, ValueError
        The layer cannot be checked: parameters of another type, gradients that do not fit them.

    >>> import numpy as np
    >>> from onepass import nn
    >>> nn.check_gradients(nn.Sequential(nn.Linear(3, 4, dtype=np.float64), nn.Tanh()), (5, 3))
    >>> class Cube(nn.Layer):
    ...     def forward(self, x, training=True):
    ...         self.x = x
    ...         return x**3
    ...
    ...     def backward(self, dy, out=None):
    ...         return None if out is False else np.multiply(2 * self.x**2, dy, out=out)
    >>> nn.check_gradients(Cube(), np.array([[1.0, 2.0]]))
    Traceback (most recent call last):
        ...
    AssertionError: Cube.backward: gradient of x[0, 1] is -1.06, central differences say -1.59; 2 of 2 elements are off
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer is {layer!r:.60}, expected an object of nn.Layer")
    check_integer("seed", seed, 0)
    _Check(layer, x, step, rtol, np.random.default_rng(seed)).run()


class _Check:
    def __init__(
        self,
        layer: Layer,
        x: Array | tuple[int, ...],
        step: float | None,
        rtol: float | None,
        rng: np.random.Generator,
    ) -> None:
        self.layer = layer
        self.name = type(layer).__name__
        self.parameters = _named_parameters(layer)
        kinds = {parameter.dtype for _, parameter in self.parameters}
        if isinstance(x, np.ndarray):
            self.x = x.copy()
            kinds |= {x.dtype} if x.dtype.kind == "f" else set()
        else:
            self.x = rng.standard_normal(x).astype(kinds.copy().pop() if kinds else np.float64)
        kinds = kinds or {np.dtype(np.float64)}
        if len(kinds) > 1 or not kinds <= {np.dtype(np.float32), np.dtype(np.float64)}:
            found = ", ".join(sorted(map(str, kinds)))
            raise TypeError(f"x and the parameters of {self.name} are {found}, expected all float64 or all float32")
        self.eps = float(np.finfo(kinds.copy().pop()).eps)
        exact = self.eps < 1e-10
        self.step = (1e-6 if exact else 5e-3) if step is None else step
        self.rtol = (1e-5 if exact else 1e-2) if rtol is None else rtol
        own = {id(parameter) for _, parameter in self.parameters}
        self.kept = [(array, array.copy()) for array in layer.state().values() if id(array) not in own]
        self.weights = rng.standard_normal(self._forward().shape)

    def run(self) -> None:
        try:
            computed = self._backward()
            noise = 10 * self.eps * float(np.abs(self._forward() * self.weights).sum()) / self.step
            for (name, array), gradient in zip([("x", self.x), *self.parameters], computed, strict=True):
                if gradient is not None:
                    self._compare(name, gradient, self._numeric(array), noise)
        finally:
            self._restore()

    def _restore(self) -> None:
        for array, before in self.kept:
            np.copyto(array, before)

    def _forward(self) -> Array:
        self._restore()
        return self.layer.forward(self.x, True)

    def _loss(self) -> float:
        return float((self._forward() * self.weights).sum())

    def _backward(self) -> list[Array | None]:
        """Copies of the gradient of x, None for integers, and of those of the parameters."""
        dy = self.weights.astype(self._forward().dtype)
        if self.x.dtype.kind != "f":
            self.layer.backward(dy, False)
            return [None, *self._gradients()]
        given = dy.copy()
        dx = self.layer.backward(given)
        if not isinstance(dx, np.ndarray) or dx.shape != self.x.shape:
            what = f"an array {dx.shape}" if isinstance(dx, np.ndarray) else repr(dx)
            raise ValueError(f"{self.name}.backward returned {what}, expected the gradient of x, {self.x.shape}")
        found = [dx.copy(), *self._gradients()]
        if (given != dy).any():
            raise AssertionError(f"{self.name}.backward(dy) wrote to dy; with out=None it has to leave it alone")
        self._same(found, np.full_like(self.x, np.nan), dy.copy(), "out=an array")
        if self.layer.in_place:
            self._same(found, given, given, "out=dy")
        return found

    def _same(self, found: list[Array], out: Array, dy: Array, how: str) -> None:
        self._forward()
        dx = self.layer.backward(dy, out)
        if dx is not out and (dx is None or out is not dy or not np.shares_memory(dx, dy)):  # a view of dy will do
            raise AssertionError(f"{self.name}.backward(dy, {how}) did not return out, where its result has to be")
        for (name, _), a, b in zip([("x", None), *self.parameters], found, [dx, *self._gradients()], strict=True):
            if not np.allclose(a, b, rtol=100 * self.eps, atol=100 * self.eps, equal_nan=True):
                raise AssertionError(f"{self.name}.backward(dy, {how}) has another gradient of {name} than out=None")

    def _gradients(self) -> list[Array]:
        gradients = self.layer.gradients()
        if [gradient.shape for gradient in gradients] != [parameter.shape for _, parameter in self.parameters]:
            raise ValueError(
                f"{self.name}.gradients() has shapes {[gradient.shape for gradient in gradients]}, expected those of "
                f"parameters(), {[parameter.shape for _, parameter in self.parameters]}"
            )
        return [gradient.copy() for gradient in gradients]

    def _numeric(self, array: Array) -> Array:
        slopes = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            slopes[index] = _slope(self._loss, array, index, self.step)
        return slopes

    def _compare(self, name: str, computed: Array, numeric: Array, noise: float) -> None:
        off = np.abs(computed - numeric)
        allowed = self.rtol * np.abs(numeric).max(initial=0.0) + noise
        wrong = ~(off <= allowed)  # NaN is wrong too
        if not wrong.any():
            return
        worst = np.unravel_index(np.where(np.isnan(off), np.inf, off).argmax(), off.shape)
        raise AssertionError(
            f"{self.name}.backward: gradient of {name}[{', '.join(map(str, worst))}] is {computed[worst]:.3g}, "
            f"central differences say {numeric[worst]:.3g}; {int(wrong.sum())} of {wrong.size} elements are off"
        )


def _slope(loss: Callable[[], float], array: Array, index: tuple[int, ...], step: float) -> float:
    kept = array[index]
    try:
        array[index] = kept + step
        high, above = float(array[index]), loss()
        array[index] = kept - step
        low, below = float(array[index]), loss()
    finally:
        array[index] = kept
    return (above - below) / (high - low)


def _named_parameters(layer: Layer) -> list[tuple[str, Array]]:
    """With their names in `Layer.state`, where they have some."""
    names = {id(array): name for name, array in layer.state().items()}
    return [(names.get(id(p), f"parameters()[{i}]"), p) for i, p in enumerate(layer.parameters())]
