"""Adam and its relatives that torch has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from onepass import optim
from onepass.optim.nadam import mu_product
from onepass.torch._optimizer import Optimizer


class Adam(Optimizer):
    """Adam: torch.optim.Adam's arguments and formula, see :class:`onepass.optim.Adam`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Adam([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.Adam

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **own)


class AdamW(Adam):
    """Adam with decoupled weight decay: torch.optim.AdamW's arguments and formula, see :class:`onepass.optim.AdamW`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = AdamW([p], lr=0.1, weight_decay=0.5)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.85
    """

    _forced: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **own: Any,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            **own,
        )


class Adamax(Optimizer):
    """Adamax: torch.optim.Adamax's arguments and formula, see :class:`onepass.optim.Adamax`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = Adamax([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.Adamax

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults, **own)


class NAdam(Optimizer):
    """NAdam: torch.optim.NAdam's arguments and formula, see :class:`onepass.optim.NAdam`.

    mu_product follows from the step count and the options of the moment: if a schedule changes betas or
    momentum_decay, it is another product than torch's, which multiplies what came.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = NAdam([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.894355
    """

    rule = optim.NAdam
    beside = ("mu_product",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **own)

    def _beside(self, step: int, group: Mapping[str, Any]) -> dict[str, float]:
        return {"mu_product": mu_product(step, group["betas"][0], group["momentum_decay"])}


class RAdam(Optimizer):
    """Rectified Adam: torch.optim.RAdam's arguments and formula, see :class:`onepass.optim.RAdam`.

    All take max_norm, max_value, state_dtype, master_weights, stochastic_rounding and seed too: see
    :class:`onepass.torch.Optimizer`.

    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = RAdam([p], lr=0.1)
    >>> p.sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 6)
    0.9
    """

    rule = optim.RAdam

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **own: Any,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, **own)
