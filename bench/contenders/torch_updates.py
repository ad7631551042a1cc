"""torch.optim: fused where it has a fused CPU kernel, foreach, one tensor at a time, compiled."""

from __future__ import annotations

from typing import Any

from bench import peers
from bench.case import Contender, Entry
from bench.contenders.problem import Problem, class_options

CLASSES = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD")
FUSED = ("SGD", "Adagrad", "Adam", "AdamW")  # torch 2.13, CPU


def tensors_of(problem: Problem) -> tuple[str, dict[str, Any], list[Any], list[Any]]:
    """torch's class and its options, the arrays that are updated, and tensors on their memory, with gradients."""
    torch = peers.load("torch")
    found = class_options(problem)
    assert found is not None
    params = problem.params()
    tensors = [torch.from_numpy(param).requires_grad_() for param in params]
    for tensor, grad in zip(tensors, problem.grads(), strict=True):
        tensor.grad = torch.from_numpy(grad)
    return (*found, params, tensors)


def _make(problem: Problem, fused: bool, foreach: bool, compiled: bool = False) -> Contender:
    torch = peers.load("torch")
    name, options, params, tensors = tensors_of(problem)
    switches: dict[str, Any] = {"fused": True} if fused else {"foreach": foreach}
    optimizer = getattr(torch.optim, name)(tensors, **options, **switches)
    step = torch.compile(optimizer.step) if compiled else optimizer.step

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, problem.max_norm)
        step()

    run = step if problem.max_norm is None else clipped
    return Contender(run, lambda: problem.result(params))


def entries(problem: Problem) -> list[Entry]:
    found = class_options(problem)
    if found is None or found[0] not in CLASSES:
        return []
    needs = ("torch",)
    rows = [
        Entry("torch foreach", lambda: _make(problem, False, True), needs),
        Entry("torch single", lambda: _make(problem, False, False), needs),
    ]
    if found[0] in FUSED:
        rows.insert(0, Entry("torch fused", lambda: _make(problem, True, False), needs))
    if peers.compiling():
        rows.append(Entry("torch.compile", lambda: _make(problem, False, True, True), needs))
    return rows
