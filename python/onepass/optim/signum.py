"""Signum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onepass._update_steps import decayed, sign, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_number


class Signum(Optimizer):
    """Signum, the sign of a momentum (Bernstein et al., ICML 2018)::

        m = momentum m + (1 - momentum) grad
        p = p (1 - lr weight_decay) - lr sign(m)

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule; every element moves by it.
        momentum: what the moving average keeps, in [0, 1); 0 is signSGD.
        weight_decay: decoupled decay.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    State ``exp_avg`` (m), of the parameter's shape. Defaults are those of the authors' code in MXNet, the formula also
    that of optax.signum. sign(0) is 0, and a NaN makes the parameter NaN. 20 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0, 2.0, 3.0])
    >>> _ = Signum([p], lr=0.1).step([np.array([3.0, 0.0, -4.0])])
    >>> p.round(6).tolist()
    [0.9, 2.0, 3.1]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "maximize": maximize},
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "signum"

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_number("momentum", group["momentum"], 0.0, 1.0)
        if group["momentum"] == 1:
            raise ValueError("momentum: expected a number in [0, 1), got 1, with which nothing would ever move")


@update_step("signum")
def signum(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, True, **common)
    exp_avg[...] = t(momentum) * exp_avg + t(1 - momentum) * g
    param[...] = kept - t(lr) * sign(exp_avg)
