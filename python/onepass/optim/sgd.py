"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onepass._update_steps import decayed, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_number


class SGD(Optimizer):
    """Stochastic gradient descent (Robbins and Monro 1951; momentum: Polyak 1964, Nesterov's form: Sutskever 2013)::

        g = grad + weight_decay p
        b = momentum b + (1 - dampening) g        (b = g in the first step)
        p = p - lr b                              (nesterov: p - lr (g + momentum b))

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        momentum: 0 keeps no state and moves 12 bytes for each float32 parameter; otherwise 20.
        dampening: part of the gradient that does not enter the momentum buffer.
        weight_decay: coupled (L2) decay.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay (Loshchilov and
            Hutter, ICLR 2019).
        nesterov: needs momentum and no dampening.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    Defaults and formulas are those of torch.optim.SGD.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> optimizer = SGD([p], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     _ = optimizer.step([np.array([1.0])])
    >>> p.round(3).tolist()
    [0.71]
    """

    choosing_options = ("momentum",)

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        *,
        decoupled_weight_decay: bool = False,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "sgd_momentum" if any(group["momentum"] != 0 for group in groups) else "sgd"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        # beside a group with momentum, one without it has nothing to dampen
        plain = {"dampening": 0.0} if group["momentum"] == 0 else {}
        return super().hyperparameters({**group, **plain})

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_number("momentum", group["momentum"], 0.0, math.inf)
        check_number("dampening", group["dampening"], -math.inf, math.inf)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("nesterov: needs momentum and no dampening")


@update_step("sgd")
def sgd(
    param: NDArray[Any],
    grad: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    param[...] = kept - t(lr) * g


@update_step("sgd_momentum")
def sgd_momentum(
    param: NDArray[Any],
    grad: NDArray[Any],
    momentum_buffer: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-3,
    momentum: float = 0.9,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    b = g if step == 1 else t(momentum) * momentum_buffer + t(1 - dampening) * g
    momentum_buffer[...] = b
    param[...] = kept - t(lr) * (g + t(momentum) * b if nesterov else b)
