"""RMSProp."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import decayed, denominator, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_number


class RMSprop(Optimizer):
    """RMSProp (Tieleman and Hinton, Coursera 2012; centered: Graves, arXiv 1308.0850)::

        g = grad + weight_decay p
        s = alpha s + (1 - alpha) g^2
        m = alpha m + (1 - alpha) g                    (centered)
        d = g / (sqrt(s - m^2) + eps)                  (without centered: sqrt(s); eps_inside: under the root)
        b = momentum b + d                             (with momentum)
        p = p - lr b                                   (without momentum: d)

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        alpha: what the moving averages keep.
        eps: added to the square root.
        weight_decay: coupled (L2) decay.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay (Loshchilov and
            Hutter, ICLR 2019).
        momentum: 0 keeps no buffer.
        centered: divide by the standard deviation instead of the root mean square.
        maximize: follow the gradient.
        eps_inside: eps under the root instead, as in TensorFlow, Keras and Optax.
        initial_square_avg: what s starts with: Optax's initial_scale; 1.0 in TensorFlow 1.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    Defaults and formulas are those of torch.optim.RMSprop, except that a centered variance that rounding has left below
    zero counts as zero (there: NaN). 20 bytes for each float32 parameter, 8 more each for momentum and centered.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = RMSprop([p], lr=0.1).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.0]
    """

    fixed_options = frozenset({"centered"})
    choosing_options = ("centered", "momentum")

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        maximize: bool = False,
        eps_inside: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        *,
        decoupled_weight_decay: bool = False,
        initial_square_avg: float = 0.0,
        **storage: Any,
    ) -> None:
        check_number("initial_square_avg", initial_square_avg, 0.0, math.inf)
        self._initial = initial_square_avg
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "eps_inside": eps_inside,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        name = "rmsprop"
        if groups[0]["centered"]:
            name += "_centered"
        if any(group["momentum"] != 0 for group in groups):
            name += "_momentum"
        return name

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_number("alpha", group["alpha"], 0.0, 1.0)
        check_number("momentum", group["momentum"], 0.0, math.inf)

    def initial_states(self, param: Array) -> tuple[Array, ...]:
        states = super().initial_states(param)
        states[self.update.states.index("square_avg")][...] = self._initial
        return states


def _mean_square(g: NDArray[Any], square_avg: NDArray[Any], alpha: float) -> NDArray[Any]:
    t = g.dtype.type
    square_avg[...] = t(alpha) * square_avg + t(1 - alpha) * (g * g)
    return square_avg


def _deviation(
    g: NDArray[Any], square_avg: NDArray[Any], grad_avg: NDArray[Any], alpha: float, eps: float, eps_inside: bool
) -> NDArray[Any]:
    t = g.dtype.type
    square = _mean_square(g, square_avg, alpha)
    grad_avg[...] = t(alpha) * grad_avg + t(1 - alpha) * g
    variance = square - grad_avg * grad_avg
    return denominator(np.where(variance > 0, variance, t(0)), eps, eps_inside)


def _move(
    param: NDArray[Any],
    kept: NDArray[Any],
    direction: NDArray[Any],
    lr: float,
    buffer: NDArray[Any],
    momentum: float,
) -> None:
    t = param.dtype.type
    buffer[...] = t(momentum) * buffer + direction
    param[...] = kept - t(lr) * buffer


@update_step("rmsprop")
def rmsprop(
    param: NDArray[Any],
    grad: NDArray[Any],
    square_avg: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    eps_inside: bool = False,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    param[...] = kept - t(lr) * (g / denominator(_mean_square(g, square_avg, alpha), eps, eps_inside))


@update_step("rmsprop_momentum")
def rmsprop_momentum(
    param: NDArray[Any],
    grad: NDArray[Any],
    square_avg: NDArray[Any],
    momentum_buffer: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    eps_inside: bool = False,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    direction = g / denominator(_mean_square(g, square_avg, alpha), eps, eps_inside)
    _move(param, kept, direction, lr, momentum_buffer, momentum)


@update_step("rmsprop_centered")
def rmsprop_centered(
    param: NDArray[Any],
    grad: NDArray[Any],
    square_avg: NDArray[Any],
    grad_avg: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    eps_inside: bool = False,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    param[...] = kept - t(lr) * (g / _deviation(g, square_avg, grad_avg, alpha, eps, eps_inside))


@update_step("rmsprop_centered_momentum")
def rmsprop_centered_momentum(
    param: NDArray[Any],
    grad: NDArray[Any],
    square_avg: NDArray[Any],
    grad_avg: NDArray[Any],
    momentum_buffer: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    eps_inside: bool = False,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    direction = g / _deviation(g, square_avg, grad_avg, alpha, eps, eps_inside)
    _move(param, kept, direction, lr, momentum_buffer, momentum)
