"""Rules without second moments that torch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from onepass import optim
from onepass.torch._optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent: torch.optim.SGD's arguments and formula, see :class:`onepass.optim.SGD`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = SGD([p], lr=0.1, momentum=0.9)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.SGD
    counts_steps = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, **own)


class ASGD(Optimizer):
    """Averaged SGD: torch.optim.ASGD's arguments and formula, see :class:`onepass.optim.ASGD`.

    An lr that is assigned, by a scheduler too, holds from the next step on; in torch from the one after it.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = ASGD([p], lr=0.1, lambd=0.5)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.85
    """

    rule = optim.ASGD
    beside = ("eta", "mu")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults, **own)

    def _beside(self, step: int, group: Mapping[str, Any]) -> dict[str, float]:
        # of the coming step
        eta = group["lr"] / (1 + group["lambd"] * group["lr"] * step) ** group["alpha"]
        return {"eta": eta, "mu": 1 / max(1, step - group["t0"])}


class Rprop(Optimizer):
    """Resilient propagation: torch.optim.Rprop's arguments and formula, see :class:`onepass.optim.Rprop`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Rprop([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.Rprop

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **own)
