"""ASGD."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onepass._update_steps import divide, gradient, real_power, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_number


class ASGD(Optimizer):
    """Averaged stochastic gradient descent (Polyak and Juditsky, SIAM J. Control Optim. 1992)::

        g = grad + weight_decay p
        eta = lr / (1 + lambd lr (step - 1))^alpha
        p = p (1 - lambd eta) - eta g
        ax = ax + (p - ax) / max(1, step - 1 - t0)        (ax = p up to step t0 + 2)

    Args:
        params: see :class:`Optimizer`.
        lr: learning rate, a number or a schedule.
        lambd: how fast it falls, and decay of the parameters.
        alpha: the power with which it falls.
        t0: the step at which averaging starts.
        weight_decay: coupled (L2) decay.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype).

    State ``ax``, of the parameter's shape: the average, in ``state_dict()["state"][i]["ax"]``. Defaults and formulas
    are those of torch.optim.ASGD, with two differences: eta is kept in double (there in torch's default type), and an
    lr that is assigned holds from the next step on (there from the one after it). 20 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> _ = ASGD([p], lr=0.1, lambd=0.5).step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.65]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "asgd"

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        for name in ("lambd", "alpha", "t0"):
            check_number(name, group[name], 0.0, math.inf)


@update_step("asgd")
def asgd(
    param: NDArray[Any],
    grad: NDArray[Any],
    ax: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    weight_decay: float = 0.0,
    **common: Any,
) -> None:
    t = param.dtype.type
    eta = divide(lr, real_power(1 + lambd * lr * float(step - 1), alpha))
    late = float(step - 1) - t0
    g = gradient(param, grad, weight_decay, **common)
    param[...] = param * t(1 - lambd * eta) - t(eta) * g
    ax[...] = ax + (param - ax) * t(1 / late) if late > 1 else param
