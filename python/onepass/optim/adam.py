"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import decayed, larger, moments, power, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, as_pair, check_betas, check_flag


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015; amsgrad: Reddi, Kale and Kumar, ICLR 2018)::

        g = grad + weight_decay p
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2                  (amsgrad: then divides by the largest v so far)
        p = p - lr / (1 - beta1^step) m / (sqrt(v / (1 - beta2^step) + eps_root) + eps)

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        betas: what the moving averages of the gradient and of its square keep.
        eps: outside the square root, behind the bias correction.
        weight_decay: coupled (L2) decay.
        amsgrad: keep the largest second moment; one more state.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay: the update of
            :class:`AdamW`.
        eps_root: inside the square root, behind the bias correction, as in Optax.
        eps_hat: eps is that of the paper's remark, of Keras and of TensorFlow, before the bias correction: divides by
            (sqrt(v) + eps) / sqrt(1 - beta2^step).
        bias_correction: False: 1 in place of 1 - beta1^step and 1 - beta2^step, as in the AdamW of BERT (Devlin et
            al., NAACL 2019).
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    Defaults and formulas are those of torch.optim.Adam. 28 bytes for each float32 parameter, amsgrad 36.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = Adam([p], lr=0.1).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.9]
    """

    fixed_options = frozenset({"amsgrad", "decoupled_weight_decay"})
    choosing_options = ("amsgrad", "decoupled_weight_decay")

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        *,
        decoupled_weight_decay: bool = False,
        eps_root: float = 0.0,
        eps_hat: bool = False,
        bias_correction: bool = True,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": as_pair(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "decoupled_weight_decay": decoupled_weight_decay,
                "eps_root": eps_root,
                "eps_hat": eps_hat,
                "bias_correction": bias_correction,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        name = "adamw" if groups[0]["decoupled_weight_decay"] else "adam"
        return name + "_amsgrad" if groups[0]["amsgrad"] else name

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        names = ("eps", "weight_decay", "eps_root", "eps_hat")
        return (group["lr"], *group["betas"], *[group[name] for name in names], not group["bias_correction"])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])
        check_flag("bias_correction", group["bias_correction"])


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019): ``p = p (1 - lr weight_decay)`` first, and
    the gradient without decay. The rest as in :class:`Adam`; defaults and formulas are those of torch.optim.AdamW.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = AdamW([p], lr=0.1, weight_decay=0.5).step([np.array([0.0])])
    >>> p.round(6).tolist()
    [0.95]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        *,
        eps_root: float = 0.0,
        eps_hat: bool = False,
        bias_correction: bool = True,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize,
            max_norm,
            max_value,
            decoupled_weight_decay=True,
            eps_root=eps_root,
            eps_hat=eps_hat,
            bias_correction=bias_correction,
            **storage,
        )


def _move(
    param: NDArray[Any],
    kept: NDArray[Any],
    exp_avg: NDArray[Any],
    second: NDArray[Any],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    eps_root: float,
    eps_hat: bool,
    uncorrected: bool,
) -> None:
    t = param.dtype.type
    correction1 = 1.0 if uncorrected else 1 - power(beta1, step)
    correction2 = 1.0 if uncorrected else 1 - power(beta2, step)
    unbias = 1 / math.sqrt(correction2)
    denominator = np.sqrt(second + t(eps_root * correction2)) * t(unbias) + t(eps * unbias if eps_hat else eps)
    param[...] = kept - t(lr / correction1) * exp_avg / denominator


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
    eps_root: float = 0.0,
    eps_hat: bool = False,
    uncorrected: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, False, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    _move(param, kept, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, eps_root, eps_hat, uncorrected)


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
    eps_root: float = 0.0,
    eps_hat: bool = False,
    uncorrected: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, False, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    max_exp_avg_sq[...] = larger(max_exp_avg_sq, exp_avg_sq)
    _move(param, kept, exp_avg, max_exp_avg_sq, step, lr, beta1, beta2, eps, eps_root, eps_hat, uncorrected)


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
    eps_root: float = 0.0,
    eps_hat: bool = False,
    uncorrected: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, True, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    _move(param, kept, exp_avg, exp_avg_sq, step, lr, beta1, beta2, eps, eps_root, eps_hat, uncorrected)


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
    eps_root: float = 0.0,
    eps_hat: bool = False,
    uncorrected: bool = False,
    **common: Any,
) -> None:
    g, kept = decayed(param, grad, lr, weight_decay, True, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    max_exp_avg_sq[...] = larger(max_exp_avg_sq, exp_avg_sq)
    _move(param, kept, exp_avg, max_exp_avg_sq, step, lr, beta1, beta2, eps, eps_root, eps_hat, uncorrected)
