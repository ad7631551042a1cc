"""Rprop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import clamp, gradient, sign, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_number


class Rprop(Optimizer):
    """Resilient propagation, for gradients of whole batches (Riedmiller and Braun, IEEE ICNN 1993)::

        s = sign(grad) sign(prev)
        step_size = clamp(step_size eta, *step_sizes)     (eta: etas[1] if s > 0, etas[0] if s < 0, 1 if s = 0)
        prev = 0 if s < 0, else grad
        p = p - step_size sign(prev)

    Args:
        params: see :class:`Optimizer`.
        lr: the step size of all elements before a parameter's first step; it says nothing later.
        etas: what a step size is multiplied by where the sign has turned, and where it has not.
        step_sizes: the smallest and the largest step size.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer` (state_dtype, stochastic_rounding, seed, dtype). Clipping
            changes no sign.

    States ``prev`` and ``step_size``, of the parameter's shape. Defaults and formulas are those of torch.optim.Rprop.
    A NaN in the gradient makes the parameter NaN. 28 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> optimizer = Rprop([p], lr=0.1)
    >>> for _ in range(2):
    ...     _ = optimizer.step([np.array([3.0])])
    >>> p.round(6).tolist()
    [0.78]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "etas": tuple(etas), "step_sizes": tuple(step_sizes), "maximize": maximize},
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "rprop"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], *group["etas"], *group["step_sizes"])

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        etas, sizes = group["etas"], group["step_sizes"]
        if len(etas) != 2 or not 0 < etas[0] < 1 < etas[1] < math.inf:
            raise ValueError(f"etas: expected two numbers, one in (0, 1) and one above 1, got {etas!r}")
        if len(sizes) != 2 or not sizes[0] <= sizes[1]:
            raise ValueError(f"step_sizes: expected the smallest and the largest, got {sizes!r}")
        for size in sizes:
            check_number("step_sizes", size, 0.0, math.inf)


@update_step("rprop")
def rprop(
    param: NDArray[Any],
    grad: NDArray[Any],
    prev: NDArray[Any],
    step_size: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-2,
    eta_minus: float = 0.5,
    eta_plus: float = 1.2,
    step_size_min: float = 1e-6,
    step_size_max: float = 50.0,
    **common: Any,
) -> None:
    t = param.dtype.type
    g = gradient(param, grad, 0.0, **common)
    agreement = sign(g) * sign(prev)
    factor = np.where(agreement > 0, t(eta_plus), np.where(agreement < 0, t(eta_minus), t(1)))
    step_size[...] = clamp((t(lr) if step <= 1 else step_size) * factor, step_size_min, step_size_max)
    prev[...] = np.where(agreement < 0, t(0), g)
    param[...] = param - sign(prev) * step_size
