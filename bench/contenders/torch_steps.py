"""A training step of torch's: with its own optimizer and loss, with ours as optimizer alone, with all that we have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import peers
from bench.case import Contender, Entry
from bench.contenders.first_steps import first_steps

Problem = tuple[Any, Any, Any]
"""A model whose logits are (N, C), x, and classes (N,); tensors, in memory of their own."""


@dataclass(frozen=True)
class Kind:
    """Who makes what of a step."""

    optimizer: str = "torch.optim"
    options: tuple[tuple[str, Any], ...] = ()
    operators: bool = False
    """Whether cross-entropy and batch normalization are onepass's."""


KINDS = {
    "onepass": Kind("onepass.torch", operators=True),
    "onepass, optimizer alone": Kind("onepass.torch"),
    "torch fused": Kind(options=(("fused", True),)),
    "torch foreach": Kind(options=(("foreach", True),)),
}
ORACLE = Kind(options=(("foreach", False),))


def contender(problem: Callable[[], Problem], kind: Kind) -> Contender:
    """Adam with its defaults."""
    torch = peers.load("torch")
    model, x, y = problem()
    cross_entropy = torch.nn.functional.cross_entropy
    if kind.operators:
        ours = peers.load("onepass.torch")
        ours.replace_modules(model)
        cross_entropy = ours.cross_entropy
    params = list(model.parameters())
    optimizer = peers.load(kind.optimizer).Adam(params, **dict(kind.options))
    loss: Any = None

    def run() -> None:
        nonlocal loss
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    result = first_steps(run, lambda: loss.item(), lambda: [param.grad.numpy() for param in params])
    return Contender(run, lambda: result)


def entries(problem: Callable[[], Problem]) -> list[Entry]:
    return [Entry(name, partial(contender, problem, kind), ("torch",)) for name, kind in KINDS.items()]
