"""Adamax."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import decayed, power, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, as_pair, check_betas


class Adamax(Optimizer):
    """Adamax, Adam with a maximum norm (Kingma and Ba, ICLR 2015, section 7.1)::

        g = grad + weight_decay p
        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + eps)
        p = p - lr / (1 - beta1^step) m / u

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        betas: what the moving average of the gradient and the maximum keep.
        eps: added to the gradient's magnitude.
        weight_decay: coupled (L2) decay.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay (Loshchilov and
            Hutter, ICLR 2019).
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    States ``exp_avg`` (m) and ``exp_inf`` (u), of the parameter's shape. Defaults and formulas are those of
    torch.optim.Adamax. 28 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = Adamax([p], lr=0.1).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.9]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
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
                "betas": as_pair(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "adamax"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        names = ("eps", "weight_decay", "decoupled_weight_decay")
        return (group["lr"], *group["betas"], *[group[name] for name in names])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])


@update_step("adamax")
def adamax(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    exp_inf: NDArray[Any],
    *,
    step: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    exp_avg[...] = t(beta1) * exp_avg + t(1 - beta1) * g
    faded, own = t(beta2) * exp_inf, np.abs(g) + t(eps)
    exp_inf[...] = np.where(faded > own, faded, own)
    param[...] = kept - t(lr / (1 - power(beta1, step))) * exp_avg / exp_inf
