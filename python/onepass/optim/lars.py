"""LARS."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onepass._update_steps import gradient, tensor_sums, update_step
from onepass.optim.optimizer import Array, Optimizer, Rate, check_flag, check_number


class LARS(Optimizer):
    """LARS, layer-wise adaptive rate scaling (You, Gitman and Ginsburg, arXiv 1708.03888, 2017)::

        rate = lr trust_coefficient |p| / (|grad| + weight_decay |p| + eps)      (lr where |p| or |grad| is 0)
        g = rate (grad + weight_decay p)
        b = momentum b + g
        p = p - b                                                                (nesterov: p - (g + momentum b))

    Args:
        params: see :class:`Optimizer`. A rate is that of one array; biases and scales of normalizations are usually
            given to another optimizer, or a group without weight_decay.
        lr: learning rate.
        momentum: of the scaled gradient, as in the paper.
        weight_decay: coupled decay, which also enters the rate.
        trust_coefficient: how far a tensor may move, in lengths of its own.
        eps: keeps the rate finite.
        nesterov: look ahead.
        maximize: follow the gradient.
        max_norm, max_value, **storage: see :class:`Optimizer`.

    State ``momentum_buffer`` (b). Norms are sums of squares in double, in an order that does not depend on the number
    of threads. Two passes: 28 bytes for each float32 parameter.

    >>> import numpy as np
    >>> p = np.array([3.0, 4.0])
    >>> _ = LARS([p], lr=1.0, trust_coefficient=0.1, eps=0.0).step([np.array([0.0, 2.0])])
    >>> p.round(4).tolist()
    [3.0, 3.5]
    """

    def __init__(
        self,
        params: Iterable[Array] | Iterable[Mapping[str, Any]],
        lr: Rate = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        nesterov: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        **storage: Any,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
                "eps": eps,
                "nesterov": nesterov,
                "maximize": maximize,
            },
            max_norm,
            max_value,
            **storage,
        )

    def update_name(self, groups: Sequence[Mapping[str, Any]]) -> str:
        return "lars"

    def check_options(self, group: Mapping[str, Any]) -> None:
        super().check_options(group)
        check_number("momentum", group["momentum"], 0.0, math.inf)
        check_number("trust_coefficient", group["trust_coefficient"], 0.0, math.inf)
        check_flag("nesterov", group["nesterov"])


@update_step("lars", more_bytes=8)
def lars(
    param: NDArray[Any],
    grad: NDArray[Any],
    momentum_buffer: NDArray[Any],
    *,
    step: int,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float = 1e-3,
    eps: float = 1e-8,
    nesterov: bool = False,
    **common: Any,
) -> None:
    t = param.dtype.type
    g = gradient(param, grad, 0.0, **common)
    squares = tensor_sums(param, param, g)
    length, slope = math.sqrt(squares[0]), math.sqrt(squares[1])
    ratio = 1.0
    if not (length == 0 or slope == 0):
        ratio = trust_coefficient * length / (slope + weight_decay * length + eps)
    g = t(lr * ratio) * (g + t(weight_decay) * param)
    momentum_buffer[...] = t(momentum) * momentum_buffer + g
    param[...] = param - (g + t(momentum) * momentum_buffer if nesterov else momentum_buffer)
