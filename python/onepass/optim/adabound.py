"""AdaBound and AMSBound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import clamp, decayed, divide, larger, moments, power, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, as_pair, check_betas, check_number


class AdaBound(Optimizer):
    """AdaBound, from Adam to SGD (Luo, Xiong, Liu and Sun, ICLR 2019)::

        g = grad + weight_decay p
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2                  (amsbound: then divides by the largest v so far)
        f = final_lr lr / base_lr
        a = lr sqrt(1 - beta2^step) / (1 - beta1^step) / (sqrt(v) + eps)
        p = p - clamp(a, f (1 - 1 / (gamma step + 1)), f (1 + 1 / (gamma step))) m

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate of the beginning, Adam's; a number or a schedule.
        betas: what the moving averages of the gradient and of its square keep.
        final_lr: learning rate of the end, SGD's.
        gamma: how fast the bounds meet; 0: never.
        eps: outside the square root, before the bias correction.
        weight_decay: coupled (L2) decay.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay (Loshchilov and
            Hutter, ICLR 2019).
        amsbound: keep the largest second moment (AMSBound); one more state.
        base_lr: the lr that final_lr belongs to: a schedule that halves lr halves both. None: lr as given here, which
            must be a number then.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    States ``exp_avg`` (m), ``exp_avg_sq`` (v) and, with amsbound, ``max_exp_avg_sq``, of the parameter's shape.
    Defaults and formulas are those of the authors' code (adabound 0.0.5). 28 bytes for each float32 parameter, amsbound
    36.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = AdaBound([p], lr=0.1).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.9]
    """

    fixed_options = frozenset({"amsbound"})
    choosing_options = ("amsbound",)

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsbound: bool = False,
        base_lr: float | None = None,
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
                "final_lr": final_lr,
                "gamma": gamma,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsbound": amsbound,
                "base_lr": base_lr,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )
        for group in self.param_groups:
            if group["base_lr"] is None and callable(group["lr"]):
                raise ValueError("base_lr: lr is a schedule; name the rate that final_lr belongs to")
            group["base_lr"] = _base_lr(group)

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "amsbound" if groups[0]["amsbound"] else "adabound"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        final_lr = group["final_lr"] * (group["lr"] / _base_lr(group))
        names = ("gamma", "eps", "weight_decay", "decoupled_weight_decay")
        return (group["lr"], *group["betas"], final_lr, *[group[name] for name in names])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])
        check_number("final_lr", group["final_lr"], 0.0, math.inf)
        check_number("gamma", group["gamma"], 0.0, math.inf)

    def check_rate(self, group: Mapping[str, Any]) -> None:
        super().check_rate(group)
        check_number("base_lr", _base_lr(group), 0.0, math.inf)
        if _base_lr(group) == 0:
            raise ValueError("base_lr: expected a number above 0; name one if lr starts at 0")


def _base_lr(group: Mapping[str, Any]) -> Any:
    return group["lr"] if group["base_lr"] is None else group["base_lr"]


def _move(
    param: NDArray[Any],
    kept: NDArray[Any],
    exp_avg: NDArray[Any],
    second: NDArray[Any],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    final_lr: float,
    gamma: float,
    eps: float,
) -> None:
    t = param.dtype.type
    step_size = t(lr * math.sqrt(1 - power(beta2, step)) / (1 - power(beta1, step)))
    age = gamma * step
    lower, upper = final_lr * (1 - divide(1, age + 1)), final_lr * (1 + divide(1, age))
    param[...] = kept - clamp(step_size / (np.sqrt(second) + t(eps)), lower, upper) * exp_avg


@update_step("adabound")
def adabound(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    exp_avg_sq: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    final_lr: float = 0.1,
    gamma: float = 1e-3,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    _move(param, kept, exp_avg, exp_avg_sq, step, lr, beta1, beta2, final_lr, gamma, eps)


@update_step("amsbound")
def amsbound(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    exp_avg_sq: NDArray[Any],
    max_exp_avg_sq: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    final_lr: float = 0.1,
    gamma: float = 1e-3,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    max_exp_avg_sq[...] = larger(max_exp_avg_sq, exp_avg_sq)
    _move(param, kept, exp_avg, max_exp_avg_sq, step, lr, beta1, beta2, final_lr, gamma, eps)
