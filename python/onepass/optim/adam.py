"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import gradient, moments, power, update_step
from onepass.optim.optimizer import Array, Optimizer, check_betas


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015; amsgrad: Reddi, Kale and Kumar, ICLR 2018)::

        g = grad + weight_decay p
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2                  (amsgrad: then divides by the largest v so far)
        p = p - lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps)

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate.
        betas: what the moving averages of the gradient and of its square keep.
        eps: outside the square root, behind the bias correction. (Keras and the paper's remark put it before; multiply
            theirs by 1 / sqrt(1 - beta2^step).)
        weight_decay: coupled (L2) decay; see :class:`AdamW` for the decoupled one.
        amsgrad: keep the largest second moment; one more state.
        maximize: follow the gradient.
        max_norm, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    Defaults and formulas are those of torch.optim.Adam. 28 bytes for each float32 parameter, amsgrad 36.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = Adam([p], lr=0.1).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.9]
    """

    fixed_options = frozenset({"amsgrad"})
    choosing_options = ("amsgrad",)
    _name = "adam"

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
            max_norm,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return self._name + ("_amsgrad" if groups[0]["amsgrad"] else "")

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        beta1, beta2 = group["betas"]
        return (group["lr"], beta1, beta2, group["eps"], group["weight_decay"])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019): ``p = p (1 - lr weight_decay)`` first, and
    the gradient without decay. The rest as in :class:`Adam`; defaults and formulas are those of torch.optim.AdamW.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = AdamW([p], lr=0.1, weight_decay=0.5).step([np.array([0.0])])
    >>> p.round(6).tolist()
    [0.95]
    """

    _name = "adamw"

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize, max_norm, **storage)


def _move(
    param: NDArray[Any],
    exp_avg: NDArray[Any],
    second: NDArray[Any],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    t = param.dtype.type
    step_size = t(lr / (1 - power(beta1, step)))
    unbias = t(1 / math.sqrt(1 - power(beta2, step)))
    param[...] = param - step_size * exp_avg / (np.sqrt(second) * unbias + t(eps))


@update_step("adam")
def adam(
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
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    g = gradient(param, grad, weight_decay, maximize, grad_scale)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    _move(param, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps)


@update_step("adam_amsgrad")
def adam_amsgrad(
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
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    g = gradient(param, grad, weight_decay, maximize, grad_scale)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    max_exp_avg_sq[...] = np.where(max_exp_avg_sq > exp_avg_sq, max_exp_avg_sq, exp_avg_sq)
    _move(param, exp_avg, max_exp_avg_sq, step, lr, beta1, beta2, eps)


@update_step("adamw")
def adamw(
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
    weight_decay: float = 1e-2,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    g = gradient(param, grad, 0.0, maximize, grad_scale)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    param[...] = param * param.dtype.type(1 - lr * weight_decay)
    _move(param, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps)


@update_step("adamw_amsgrad")
def adamw_amsgrad(
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
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> None:
    g = gradient(param, grad, 0.0, maximize, grad_scale)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    max_exp_avg_sq[...] = np.where(max_exp_avg_sq > exp_avg_sq, max_exp_avg_sq, exp_avg_sq)
    param[...] = param * param.dtype.type(1 - lr * weight_decay)
    _move(param, exp_avg, max_exp_avg_sq, step, lr, beta1, beta2, eps)
