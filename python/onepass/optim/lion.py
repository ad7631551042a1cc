"""Lion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onepass._update_steps import decayed, sign, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, as_pair, check_betas


class Lion(Optimizer):
    """Lion, evolved sign momentum (Chen et al., arXiv 2302.06675, 2023)::

        p = p (1 - lr weight_decay) - lr sign(beta1 m + (1 - beta1) grad)
        m = beta2 m + (1 - beta2) grad

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule; every element moves by it.
        betas: the momentum's share in the direction, and what the momentum keeps.
        weight_decay: decoupled decay.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    State ``exp_avg`` (m), of the parameter's shape. Defaults are those of the authors' code, the formula also that of
    optax.lion. sign(0) is 0, and a NaN makes the parameter NaN. 20 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0, 2.0, 3.0])
    >>> _ = Lion([p], lr=0.1).step([np.array([3.0, 0.0, -4.0])])
    >>> p.round(6).tolist()
    [0.9, 2.0, 3.1]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "betas": as_pair(betas), "weight_decay": weight_decay, "maximize": maximize},
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "lion"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], *group["betas"], group["weight_decay"])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])


@update_step("lion")
def lion(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.99,
    weight_decay: float = 0.0,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, True, **common)
    direction = sign(t(beta1) * exp_avg + t(1 - beta1) * g)
    param[...] = kept - t(lr) * direction
    exp_avg[...] = t(beta2) * exp_avg + t(1 - beta2) * g
