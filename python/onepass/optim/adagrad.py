"""Adagrad."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onepass._update_steps import decayed, denominator, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_number


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer, JMLR 2011)::

        g = grad + weight_decay p
        s = s + g^2
        p = p - lr / (1 + (step - 1) lr_decay) g / (sqrt(s) + eps)      (eps_inside: sqrt(s + eps))

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        lr_decay: slows it down over the steps.
        weight_decay: coupled (L2) decay.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, lr_decay or not, and the gradient without decay
            (Loshchilov and Hutter, ICLR 2019).
        initial_accumulator_value: what s starts with.
        eps: added to the square root.
        eps_inside: eps under the root instead, as in Keras and Optax.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    Defaults and formulas are those of torch.optim.Adagrad. 20 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = Adagrad([p], lr=0.5).step([np.array([4.0])])
    >>> p.round(6).tolist()
    [0.5]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        maximize: bool = False,
        eps_inside: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        *,
        decoupled_weight_decay: bool = False,
        **storage: Any,
    ) -> None:
        check_number("initial_accumulator_value", initial_accumulator_value, 0.0, math.inf)
        self._initial = initial_accumulator_value
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "eps": eps,
                "eps_inside": eps_inside,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "adagrad"

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_number("lr_decay", group["lr_decay"], 0.0, math.inf)

    def initial_states(self, param: Array) -> tuple[Array, ...]:
        (state_sum,) = super().initial_states(param)
        state_sum[...] = self._initial
        return (state_sum,)


@update_step("adagrad")
def adagrad(
    param: NDArray[Any],
    grad: NDArray[Any],
    state_sum: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    eps_inside: bool = False,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    state_sum[...] = state_sum + g * g
    rate = t(lr / (1 + (step - 1) * lr_decay))
    param[...] = kept - rate * g / denominator(state_sum, eps, eps_inside)
