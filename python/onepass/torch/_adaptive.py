"""Adaptive rules without bias correction that torch has."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from onepass import optim
from onepass.torch._optimizer import Optimizer
from onepass.torch._options import number_of


class Adagrad(Optimizer):
    """Adagrad: torch.optim.Adagrad's arguments and formula, see :class:`onepass.optim.Adagrad`.

    Sparse gradients, which torch's takes, are refused.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Adagrad([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.Adagrad
    eager = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, **own)

    def _arguments(self) -> dict[str, Any]:
        name = "initial_accumulator_value"
        initial = number_of(name, self.defaults[name])
        return {**super()._arguments(), name: initial}

    def share_memory(self) -> None:
        """Move the sums into memory that other processes see."""
        for entry in self.state.values():
            entry["sum"].share_memory_()
        self._bounds = None


class RMSprop(Optimizer):
    """RMSProp: torch.optim.RMSprop's arguments and formula, see :class:`onepass.optim.RMSprop`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = RMSprop([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.0
    """

    rule = optim.RMSprop

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **own)


class Adadelta(Optimizer):
    """Adadelta: torch.optim.Adadelta's arguments and formula, see :class:`onepass.optim.Adadelta`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Adadelta([p], eps=0.01)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.698489
    """

    rule = optim.Adadelta

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "capturable": capturable,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **own)
