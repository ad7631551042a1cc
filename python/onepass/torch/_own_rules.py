"""Rules that torch has not, with the arguments of onepass.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from onepass import optim
from onepass.torch._optimizer import Optimizer
from onepass.torch._options import number_of


class Lion(Optimizer):
    """Lion, evolved sign momentum; arguments and formula of :class:`onepass.optim.Lion`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Lion([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.Lion

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **own)


class Signum(Optimizer):
    """Signum, the sign of a momentum; arguments and formula of :class:`onepass.optim.Signum`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Signum([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.Signum

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        maximize: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **own)


class AdaBound(Optimizer):
    """AdaBound and AMSBound, from Adam to SGD; arguments and formula of :class:`onepass.optim.AdaBound`.

    base_lr, if it is None, is the lr that a group is added with.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = AdaBound([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.AdaBound

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsbound: bool = False,
        base_lr: float | None = None,
        maximize: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "final_lr": final_lr,
            "gamma": gamma,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsbound": amsbound,
            "base_lr": base_lr,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **own)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if isinstance(param_group, dict) and param_group.get("base_lr", self.defaults["base_lr"]) is None:
            param_group["base_lr"] = number_of("lr", param_group.get("lr", self.defaults["lr"]))
        super().add_param_group(param_group)


class LAMB(Optimizer):
    """LAMB, Adam for large batches; arguments and formula of :class:`onepass.optim.LAMB`.

    A trust ratio is that of one tensor in one process: DTensors, whose shards would each have their own, are refused.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = LAMB([p], lr=0.1, eps=0.0)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.LAMB
    whole_tensors = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        maximize: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **own)


class LARS(Optimizer):
    """LARS, layer-wise adaptive rate scaling; arguments and formula of :class:`onepass.optim.LARS`.

    A rate is that of one tensor in one process: DTensors, whose shards would each have their own, are refused.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = LARS([p], lr=1.0, trust_coefficient=0.1, eps=0.0)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.LARS
    whole_tensors = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        nesterov: bool = False,
        maximize: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults, **own)


class SWATS(Optimizer):
    """SWATS, begins as Adam and goes on as SGD; arguments and formula of :class:`onepass.optim.SWATS`.

    Sums of a group are those of one process: DTensors, whose processes would switch apart, are refused.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = SWATS([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.SWATS
    whole_tensors = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-9,
        weight_decay: float = 0.0,
        tolerance: float = 1e-9,
        maximize: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "tolerance": tolerance,
            "maximize": maximize,
            # what the switch has come to: kept in the groups, so that state_dict holds it
            "rate_average": 0.0,
            "sgd_ratio": None,
        }
        super().__init__(params, defaults, **own)

    @property
    def phases(self) -> list[str]:
        """ "adam" or "sgd" for each group."""
        return ["adam" if group["sgd_ratio"] is None else "sgd" for group in self.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = super().step(closure)
        for group, own in zip(self.param_groups, self._own_groups, strict=True):
            if own is not None:
                group.update(rate_average=own["rate_average"], sgd_ratio=own["sgd_ratio"])
        return loss
