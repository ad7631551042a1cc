"""SWATS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._update_steps import gradient, moments, power, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, StepInfo, as_pair, check_betas, check_number


class SWATS(Optimizer):
    """SWATS: begins as Adam and goes on as SGD (Keskar and Socher, arXiv 1712.07628, 2017, algorithm 1).

    With Adam's step d and the gradient g of a whole parameter group, while it is Adam::

        gamma = d d / (d g)                              (where d g is not 0; the step goes along -d)
        average = beta2 average + (1 - beta2) gamma
        switch when step > 1 and |average / (1 - beta2^step) - gamma| < tolerance, and average > 0

    From the next step on, with rate = average / (1 - beta2^step) of the moment of the switch::

        b = beta1 b + grad                               (b begins at 0)
        p = p - (1 - beta1) rate b

    Args:
        params: see :class:`Optimizer`. Each group switches by itself.
        lr: Adam's learning rate. Assigning it, or a schedule, after the switch scales SGD's rate in proportion.
        betas: what the moving averages keep; beta1 is SGD's momentum too, beta2 also that of the estimated rate.
        eps: outside the square root, behind the bias correction.
        weight_decay: coupled decay.
        tolerance: of the switch; the paper's is 1e-9.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer`.

    Attributes:
        phases: "adam" or "sgd" for each group.

    States ``exp_avg`` (m, then b) and ``exp_avg_sq`` (v, which rests after the switch). 28 bytes for each float32
    parameter.

    >>> import numpy as np
    >>> p = np.array([1.0, 1.0])
    >>> optimizer = SWATS([p], lr=0.1)
    >>> for _ in range(3):
    ...     _ = optimizer.step([p.copy()])
    >>> optimizer.phases
    ['adam']
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        tolerance: float = 1e-9,
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
                "tolerance": tolerance,
                "maximize": maximize,
                # what the switch has come to: kept in the groups, so that state_dict holds it
                "rate_average": 0.0,
                "sgd_ratio": None,
            },
            max_norm,
            max_value,
            **storage,
        )

    @property
    def phases(self) -> list[str]:
        return ["adam" if group["sgd_ratio"] is None else "sgd" for group in self.param_groups]

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "swats"

    def hyperparameters(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        ratio = group["sgd_ratio"]
        rate = 0.0 if ratio is None else group["lr"] * ratio
        return (group["lr"], *group["betas"], group["eps"], group["weight_decay"], ratio is not None, rate)

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_betas(group["betas"])
        check_number("tolerance", group["tolerance"], 0.0, math.inf)

    def step(self, grads: Sequence[Array | None], grad_scale: float = 1.0) -> StepInfo:
        grads = list(grads)
        rates = self.learning_rates()
        info = super().step(grads, grad_scale)
        if info.skipped or all(group["sgd_ratio"] is not None for group in self.param_groups):
            return info
        sums, steps, first = self._plan.sums(), self._plan.steps, 0
        for group, rate in zip(self.param_groups, rates, strict=True):
            own = range(first, first + len(group["params"]))
            first = own.stop
            moved = [i for i in own if grads[i] is not None]
            if group["sgd_ratio"] is None and moved:
                squares = math.fsum(sums[i][0] for i in moved)
                products = math.fsum(sums[i][1] for i in moved)
                self._estimate(group, own, max(steps[i] for i in moved), rate, squares, products)
        return info

    def _estimate(
        self, group: dict[str, Any], own: range, step: int, lr: float, squares: float, products: float
    ) -> None:
        if products == 0 or not math.isfinite(products):
            return
        beta2 = group["betas"][1]
        gamma = squares / products
        group["rate_average"] = beta2 * group["rate_average"] + (1 - beta2) * gamma
        estimate = group["rate_average"] / (1 - power(beta2, step))
        if step > 1 and abs(estimate - gamma) < group["tolerance"] and estimate > 0 and lr > 0:
            group["sgd_ratio"] = estimate / lr
            for i in own:
                self._states[i][0][...] = 0


@update_step("swats")
def swats(
    param: NDArray[Any],
    grad: NDArray[Any],
    exp_avg: NDArray[Any],
    exp_avg_sq: NDArray[Any],
    *,
    step: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-9,
    weight_decay: float = 0.0,
    sgd: bool = False,
    sgd_lr: float = 0.0,
    **common: Any,
) -> None:
    t = param.dtype.type
    g = gradient(param, grad, weight_decay, **common)
    if sgd:
        exp_avg[...] = t(beta1) * exp_avg + g
        param[...] = param - t((1 - beta1) * sgd_lr) * exp_avg
        return
    moments(g, exp_avg, exp_avg_sq, beta1, beta2)
    step_size = t(lr / (1 - power(beta1, step)))
    unbias = t(1 / math.sqrt(1 - power(beta2, step)))
    param[...] = param - step_size * exp_avg / (np.sqrt(exp_avg_sq) * unbias + t(eps))
