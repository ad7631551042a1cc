"""Adadelta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import decayed, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_number


class Adadelta(Optimizer):
    """Adadelta (Zeiler, arXiv 1212.5701, 2012)::

        g = grad + weight_decay p
        s = rho s + (1 - rho) g^2
        d = sqrt(a + eps) / sqrt(s + eps) g
        a = rho a + (1 - rho) d^2
        p = p - lr d

    Args:
        params: see :class:`Optimizer`.
        lr: what the step is multiplied by, a number or a schedule; the paper has none.
        rho: what the moving averages keep, in [0, 1].
        eps: under both square roots.
        weight_decay: coupled (L2) decay.
        decoupled_weight_decay: ``p = p (1 - lr weight_decay)`` first, and the gradient without decay (Loshchilov and
            Hutter, ICLR 2019).
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    States ``square_avg`` (s) and ``acc_delta`` (a), of the parameter's shape. Defaults and formulas are those of
    torch.optim.Adadelta. 28 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = Adadelta([p], eps=0.01).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.685515]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
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
                "rho": rho,
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
        return "adadelta"

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_number("rho", group["rho"], 0.0, 1.0)


@update_step("adadelta")
def adadelta(
    param: NDArray[Any],
    grad: NDArray[Any],
    square_avg: NDArray[Any],
    acc_delta: NDArray[Any],
    *,
    step: int,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g, kept = decayed(param, grad, lr, weight_decay, decoupled_weight_decay, **common)
    square_avg[...] = t(rho) * square_avg + t(1 - rho) * (g * g)
    delta = np.sqrt(acc_delta + t(eps)) / np.sqrt(square_avg + t(eps)) * g
    acc_delta[...] = t(rho) * acc_delta + t(1 - rho) * (delta * delta)
    param[...] = kept - t(lr) * delta
