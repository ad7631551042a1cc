"""LAMB."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import gradient, moments, power, tensor_sums, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, as_pair, check_betas, check_flag


class LAMB(Optimizer):
    """LAMB, Adam for large batches (You et al., ICLR 2020): each tensor moves in proportion to its own length::

        m = beta1 m + (1 - beta1) grad
        v = beta2 v + (1 - beta2) grad^2
        d = m / (1 - beta1^step) / (sqrt(v) / sqrt(1 - beta2^step) + eps) + weight_decay p
        p = p - lr |p| / |d| d                       (without the ratio where |p| or |d| is 0; NaN stays NaN)

    Args:
        params: see :class:`Optimizer`. A trust ratio |p| / |d| is that of one array; biases and scales of
            normalizations are usually given a group without weight_decay.
        lr: learning rate.
        betas: what the moving averages of the gradient and of its square keep.
        eps: outside the square root, behind the bias correction.
        weight_decay: decoupled decay, inside the trust ratio.
        bias_correction: False leaves both corrections out.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer`.

    States ``exp_avg`` (m) and ``exp_avg_sq`` (v). The formula is that of optax.lamb (identity as phi). Norms are sums
    of squares in double, in an order that does not depend on the number of threads. Two passes: 40 bytes for each
    float32 parameter.

    >>> import numpy as np
    >>> p = np.array([3.0, 4.0])
    >>> _ = LAMB([p], lr=0.1, eps=0.0).step([np.array([1.0, 1.0])])
    >>> p.round(4).tolist()
    [2.6464, 3.6464]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": as_pair(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "bias_correction": bias_correction,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "lamb"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], *group["betas"], group["eps"], group["weight_decay"], not group["bias_correction"])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])
        check_flag("bias_correction", group["bias_correction"])


@update_step("lamb", more_bytes=12)
def lamb(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    exp_avg_sq: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    uncorrected: bool = False,
    between_passes: Callable[[], None] | None = None,
    **common: Any,
) -> None:
    t = param.dtype.type
    g = gradient(param, grad, 0.0, **common)
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    correction = t(1.0 if uncorrected else 1 / (1 - power(beta1, step)))
    unbias = t(1.0 if uncorrected else 1 / math.sqrt(1 - power(beta2, step)))

    def direction() -> NDArray[Any]:
        moved: NDArray[Any] = correction * exp_avg / (np.sqrt(exp_avg_sq) * unbias + t(eps)) + t(weight_decay) * param
        return moved

    length, steepness = tensor_sums(param, param, direction())
    trust = 1.0 if length == 0 or steepness == 0 else math.sqrt(length) / math.sqrt(steepness)
    if between_passes is not None:
        between_passes()
    param[...] = param - t(lr * trust) * direction()
