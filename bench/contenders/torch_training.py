"""torch: a whole training step, eager with fused Adam, channels last, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench import peers
from bench.case import Array, Contender, Entry
from bench.contenders.first_steps import first_steps

MakeModel = Callable[[Any], Any]
"""torch.nn -> the model."""


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """For fixed shapes. Every case compiles the same few functions anew, more often than the limit foresees."""
    torch = peers.load("torch")
    torch._dynamo.config.recompile_limit = 64
    found: Callable[..., Any] = torch.compile(function, dynamic=False)
    return found


def contender(
    make_model: MakeModel,
    params: Sequence[Array],
    x: Array,
    y: Array,
    compiled: bool = False,
    optimizer_too: bool = False,
    channels_last: bool = False,
) -> Contender:
    """compiled: model and loss, forward and backward; optimizer_too: Adam as well, which then is not the fused one."""
    torch = peers.load("torch")
    model = make_model(torch.nn)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    with torch.no_grad():
        for param, value in zip(model.parameters(), params, strict=True):
            param.copy_(torch.from_numpy(value))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        inputs = inputs.to(memory_format=torch.channels_last)
    trained = list(model.parameters())
    optimizer = torch.optim.Adam(trained, **({"foreach": True} if optimizer_too else {"fused": True}))

    def loss_of(inputs: Any, targets: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(inputs), targets)

    evaluate = _compiled(loss_of) if compiled else loss_of
    update = _compiled(optimizer.step) if optimizer_too else optimizer.step
    loss: Any = None

    def run() -> None:
        nonlocal loss
        optimizer.zero_grad()
        loss = evaluate(inputs, targets)
        loss.backward()
        update()

    result = first_steps(run, lambda: loss.item(), lambda: [param.grad.numpy() for param in trained])
    return Contender(run, lambda: result)


def entries(make_model: MakeModel, data: Callable[[], tuple[list[Array], Array, Array]], images: bool) -> list[Entry]:
    """data: parameters, x and y, in new memory every time; images: channels last takes part."""
    variants: dict[str, dict[str, bool]] = {"torch": {}}
    if images:
        variants["torch channels last"] = {"channels_last": True}
    if peers.compiling():
        variants["torch.compile"] = {"compiled": True}
        variants["torch.compile, Adam too"] = {"compiled": True, "optimizer_too": True}

    def make(options: dict[str, bool]) -> Contender:
        params, x, y = data()
        return contender(make_model, params, x, y, **options)

    return [Entry(name, partial(make, options), ("torch",)) for name, options in variants.items()]
