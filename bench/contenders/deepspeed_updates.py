"""DeepSpeed's CPU Adam, which it compiles for this machine when it is first used (about a minute)."""

from __future__ import annotations

import os

from bench import peers
from bench.case import Contender, Entry
from bench.contenders.problem import Problem

RULES = {"adam": False, "adamw": True}  # its adamw_mode


def _make(problem: Problem) -> Contender:
    torch = peers.load("torch")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise it looks for one, and says so
    adam = peers.load("deepspeed.ops.adam").DeepSpeedCPUAdam
    h, params = problem.hyperparameters, problem.params()
    tensors = [torch.from_numpy(param).requires_grad_() for param in params]
    for tensor, grad in zip(tensors, problem.grads(), strict=True):
        tensor.grad = torch.from_numpy(grad)
    optimizer = adam(
        tensors,
        lr=h["lr"],
        betas=(h["beta1"], h["beta2"]),
        eps=h["eps"],
        weight_decay=h["weight_decay"],
        adamw_mode=RULES[problem.rule],
    )
    return Contender(optimizer.step, lambda: problem.result(params))


def entries(problem: Problem) -> list[Entry]:
    if problem.rule not in RULES or problem.max_norm is not None:
        return []
    return [Entry("DeepSpeed", lambda: _make(problem), ("deepspeed", "torch"))]
