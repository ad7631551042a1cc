"""RAdam."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import accurate_power, decayed, moments, power, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, as_pair, check_betas


class RAdam(Optimizer):
    """Rectified Adam (Liu et al., ICLR 2020)::

        g = grad + weight_decay p
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        R = 2 / (1 - beta2) - 1
        r = R - 2 step beta2^step / (1 - beta2^step)
        a = lr / (1 - beta1^step)
        p = p - a m                                    (while r <= 5)
        p = p - a m sqrt((r - 4) (r - 2) R / ((R - 4) (R - 2) r)) sqrt(1 - beta2^step) / (sqrt(v) + eps)

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        betas: what the moving averages of the gradient and of its square keep.
        eps: outside the square root, before the bias correction.
        eps_root: inside the square root, behind the bias correction, as in optax.radam: sqrt(v + eps_root (1 -
            beta2^step)) + eps.
        weight_decay: coupled (L2) decay.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    States ``exp_avg`` (m) and ``exp_avg_sq`` (v), of the parameter's shape. Defaults and formulas are those of
    torch.optim.RAdam. 28 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = RAdam([p], lr=0.1).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.7]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        *,
        eps_root: float = 0.0,
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
                "eps_root": eps_root,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "radam"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        names = ("eps", "weight_decay", "eps_root", "decoupled_weight_decay")
        return (group["lr"], *group["betas"], *[group[name] for name in names])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])


@update_step("radam")
def radam(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    exp_avg_sq: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    eps_root: float = 0.0,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    remaining = accurate_power(beta2, step)
    limit = 2.0 / (1.0 - beta2) - 1.0
    rho = limit - 2.0 * step * remaining / (1.0 - remaining)
    size = lr / (1 - power(beta1, step))
    denominator: Any = t(1)
    if rho > 5.0:
        ratio = (rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho)
        size = size * math.sqrt(1.0 - remaining) * math.sqrt(ratio)
        denominator = np.sqrt(exp_avg_sq + t(eps_root * (1.0 - remaining))) + t(eps)
    param[...] = kept - t(size) * exp_avg / denominator
