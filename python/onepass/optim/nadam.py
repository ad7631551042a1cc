"""NAdam."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import decayed, moments, power, real_power, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, as_pair, check_betas, check_number


class NAdam(Optimizer):
    """NAdam, Adam with Nesterov's momentum (Dozat, ICLR workshop 2016)::

        mu(t) = beta1 (1 - 0.96^(t momentum_decay) / 2)
        g = grad + weight_decay p
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        a = (1 - mu(step)) g / (1 - mu(1) ... mu(step)) + mu(step + 1) m / (1 - mu(1) ... mu(step + 1))
        p = p - lr a / (sqrt(v) / sqrt(1 - beta2^step) + eps)

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        betas: what the moving averages of the gradient and of its square keep.
        eps: outside the square root, behind the bias correction.
        eps_root: inside the square root, behind the bias correction, as in optax.nadam: sqrt(v / (1 - beta2^step) +
            eps_root) + eps.
        weight_decay: coupled (L2) decay.
        momentum_decay: how fast mu rises from beta1 / 2 to beta1.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    States ``exp_avg`` (m) and ``exp_avg_sq`` (v), of the parameter's shape. Defaults and formulas are those of
    torch.optim.NAdam, with two differences: the product of all mu is kept in double (there in torch's default type),
    and it follows from the step count and the options alone, also when these are assigned between steps. 28 bytes for
    each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = NAdam([p], lr=0.1).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.894355]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
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
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "eps_root": eps_root,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "nadam"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        names = ("eps", "weight_decay", "momentum_decay", "eps_root", "decoupled_weight_decay")
        return (group["lr"], beta1, beta2, *[group[name] for name in names])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])
        check_number("momentum_decay", group["momentum_decay"], 0.0, math.inf)


def _mu(t: int, beta1: float, momentum_decay: float) -> float:
    return beta1 * (1 - 0.5 * real_power(0.96, t * momentum_decay))


def mu_product(step: int, beta1: float, momentum_decay: float) -> float:
    """mu(1) ... mu(step): factors one by one until they are beta1 or 1 - product is 1, then a power of beta1."""
    product, factors = 1.0, 0
    while factors < step and product >= 2.0**-60:
        factor = _mu(factors + 1, beta1, momentum_decay)
        if factor == beta1:
            break
        product *= factor
        factors += 1
    return product * power(beta1, step - factors)


@update_step("nadam")
def nadam(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    exp_avg_sq: NDArray[Any],
    *,
    step: int,
    lr: float = 2e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    eps_root: float = 0.0,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    product = mu_product(step, beta1, momentum_decay)
    following = _mu(step + 1, beta1, momentum_decay)
    weight_g = t(lr * (1 - _mu(step, beta1, momentum_decay)) / (1 - product))
    weight_m = t(lr * following / (1 - product * following))
    correction = 1 - power(beta2, step)
    unbias, inside = t(1 / math.sqrt(correction)), t(eps_root * correction)
    direction = weight_g * g + weight_m * exp_avg
    param[...] = kept - direction / (np.sqrt(exp_avg_sq + inside) * unbias + t(eps))
