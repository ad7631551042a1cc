"""Whether a function's gradient is the derivative of its loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.landscape.differences import EPS, STEP, Difference, best_difference
from onepass.landscape.function import Array, Function, Theta, check_count, norm
from onepass.landscape.operators import as_function

__all__ = ["GradientCheck", "gradient_check"]

EACH = 256  # parameters up to which each is checked
SUSPECTS = 16  # elements that are checked by themselves after a random direction has failed


@dataclass(frozen=True)
class GradientCheck:
    """What `gradient_check` found; true if ``ok``.

    Attributes
    ----------
    ok : bool
        No derivative is off by more than is allowed.
    max_error : float
        The largest difference between a derivative that the gradient says and what the losses say, relative to the
        largest derivative.
    resolution : float
        What the differences of the losses themselves may be off by, likewise: smaller errors stay unseen.
    element : int or None
        The flat index of the element that is off most; None where only directions were compared.
    computed, numeric : float
        The worst derivative, by the gradient and by differences.
    message : str
        All of it in one sentence.
    """

    ok: bool
    max_error: float
    resolution: float
    element: int | None
    computed: float
    numeric: float
    message: str

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return self.message


def gradient_check(
    f: Any, theta: Theta = None, directions: int | None = None, *, rtol: float = 1e-6, seed: int = 0
) -> GradientCheck:
    """Compares f's gradient with central differences of its loss.

    Parameters
    ----------
    f, theta
        As in `hessian_vector_product`.
    directions : int or None
        Along how many random directions (of signs) derivatives are compared; after a failure the most suspicious
        elements are looked at one by one. None: each of up to 256 elements, else 32 directions.
    rtol : float, default 1e-6
        Allowed difference, as a share of the largest derivative seen, beside what the differences may be off by.
    seed : int, default 0
        Of the directions.

    4 losses for a derivative as a rule, more where the loss is noisy or sharply bent. Errors as in
    `hessian_vector_product`.

    >>> import numpy as np
    >>> from onepass import landscape
    >>> def wrong(theta):  # the sum of cubes
    ...     return float((theta**3).sum()), 3 * theta**2 + np.array([0.0, 1.0, 0.0])
    >>> check = landscape.gradient_check(wrong, np.array([1.0, 2.0, 3.0]))
    >>> bool(check), check.element
    (False, 1)
    >>> print(check)
    the gradient is wrong: element 1 is 13, differences of the loss say 12; 1 of 3 elements are off
    """
    function = as_function(f, theta)
    if directions is not None:
        check_count("directions", directions, 1)
    check_count("seed", seed, 0)
    if not 0 < rtol < 1:
        raise ValueError(f"rtol is {rtol}, expected a number between 0 and 1")
    loss, gradient = function.loss_and_gradient(function.x)
    check = _Check(function, loss, gradient, rtol)
    if directions is None and function.size <= EACH:
        return check.elements(np.arange(function.size))
    return check.directions(32 if directions is None else directions, np.random.default_rng(seed))


class _Check:
    def __init__(self, function: Function, loss: float, gradient: Array, rtol: float) -> None:
        self.function, self.loss, self.gradient, self.rtol = function, loss, gradient, rtol

    def slope(self, direction: Array, size: float) -> Difference:
        """The derivative of the loss along ``direction``; ``size`` of the parameters that it moves."""
        x = self.function.x

        def along(t: float) -> float:
            value = self.function.loss(x + t * direction)
            if not np.isfinite(value):
                raise FloatingPointError(f"the loss is {value} beside theta")
            return value

        return best_difference(along, STEP * max(1.0, size), self.loss, EPS * size)

    def elements(self, indices: NDArray[np.intp]) -> GradientCheck:
        found = []
        for index in indices:
            unit = np.zeros(self.function.size)
            unit[index] = 1.0
            found.append(self.slope(unit, abs(float(self.function.x[index]))))
        numeric, errors = np.array([d.value for d in found]), np.array([d.error for d in found])
        computed = self.gradient[indices]
        off, scale, wrong = self._compare(computed, numeric, errors)
        worst = int(off.argmax())
        index = int(indices[worst])
        saying = f"element {index} is {computed[worst]:.6g}, differences of the loss say {numeric[worst]:.6g}"
        if wrong.any():
            text = f"the gradient is wrong: {saying}; {int(wrong.sum())} of {wrong.size} elements are off"
        else:
            text = f"the gradient is {self._right(off, errors, scale)}; most off: {saying}"
        return self._result(off, errors, scale, wrong, index, computed[worst], numeric[worst], text)

    def directions(self, count: int, rng: np.random.Generator) -> GradientCheck:
        n = self.function.size
        score = np.zeros(n)  # how well an error in this element alone would explain what was seen
        numeric, errors, computed = np.empty(count), np.empty(count), np.empty(count)
        for k in range(count):
            row = rng.choice([-1.0, 1.0], n)
            found = self.slope(row / np.sqrt(n), norm(self.function.x))
            numeric[k], errors[k] = found.value, found.error
            computed[k] = self.gradient @ row / np.sqrt(n)
            score += (computed[k] - numeric[k]) * row
        off, scale, wrong = self._compare(computed, numeric, errors)
        worst = int(off.argmax())
        saying = f"along direction {worst} of {count} it is {computed[worst]:.6g}, differences say {numeric[worst]:.6g}"
        if not wrong.any():
            text = f"the gradient is {self._right(off, errors, scale)} along {count} directions; most off: {saying}"
            return self._result(off, errors, scale, wrong, None, computed[worst], numeric[worst], text)
        suspects = self.elements(np.argsort(-np.abs(score))[: min(n, SUSPECTS)])
        if not suspects.ok:
            return suspects
        text = f"the gradient is wrong: {saying}; {int(wrong.sum())} of {count} directions are off"
        return self._result(off, errors, scale, wrong, None, computed[worst], numeric[worst], text)

    def _compare(self, computed: Array, numeric: Array, errors: Array) -> tuple[Array, float, NDArray[np.bool_]]:
        off = np.abs(computed - numeric)
        scale = max(float(np.abs(computed).max()), float(np.abs(numeric).max()))
        return off, scale, off > self.rtol * scale + 3 * errors

    @staticmethod
    def _right(off: Array, errors: Array, scale: float) -> str:
        return f"right to {max(off.max(), errors.max()):.1g} (largest derivative: {scale:.3g})"

    def _result(
        self, off: Array, errors: Array, scale: float, wrong: NDArray[np.bool_], element: int | None,
        computed: float, numeric: float, text: str,
    ) -> GradientCheck:  # fmt: skip
        scale = scale or 1.0
        worst, resolution = float(off.max() / scale), float(errors.max() / scale)
        return GradientCheck(not wrong.any(), worst, resolution, element, float(computed), float(numeric), text)
