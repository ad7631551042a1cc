"""What Python itself costs in a training step: the whole step against its native calls alone, with the same operands.

The first shape is so small that the kernels themselves cost next to nothing. A native call converts its arguments,
which is counted as native: no Python could leave it out.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bench import peers
from bench.case import Case, Contender, Entry, Result
from bench.cases.training import Problem, loss_and_gradients, onepass_model, torch_model
from bench.contenders import numpy_training, onepass_training, torch_training
from bench.contenders.first_steps import first_steps
from bench.contenders.native_calls import recorded
from bench.selection import Selection

SHAPES = (
    ((4, 4, 4, 2), 2, "small"),
    ((64, 128, 128, 10), 32, "small"),
    ((64, 128, 128, 10), 256, "cache"),
)
NATIVE = "native calls alone"


def _whole(problem: Problem) -> Contender:
    return onepass_training.contender(onepass_model(problem), *problem.data())


def _native(problem: Problem) -> Contender:
    """The first step records; the losses of the following ones show that the calls make a whole step."""
    model = onepass_model(problem)
    step, first_loss = onepass_training.step_of(model, *problem.data())
    criterion = peers.load("onepass._core").softmax_cross_entropy
    calls: list[partial[Any]] = []
    loss = 0.0
    position = 0

    def run() -> None:
        nonlocal loss
        loss = [call() for call in calls][position]

    def record_or_run() -> None:
        nonlocal loss, position
        if calls:
            run()
            return
        calls.extend(recorded(step))
        loss, position = first_loss(), [call.func for call in calls].index(criterion)

    result = first_steps(record_or_run, lambda: loss, model.gradients)
    return Contender(run, lambda: result)


def _expected(problem: Problem) -> Result:
    return numpy_training.expected(loss_and_gradients, *problem.data())


def _case(problem: Problem, size: str) -> Case:
    entries = (
        Entry("onepass", partial(_whole, problem), ("scipy",), bare=NATIVE),
        Entry(NATIVE, partial(_native, problem), ("scipy",)),
        *torch_training.entries(partial(torch_model, problem), problem.data, images=False),
    )
    return Case(f"training/python/{problem.name}", size, entries, partial(_expected, problem), rtol=1e-3, atol=1e-5)


def cases(selection: Selection) -> list[Case]:
    return [_case(Problem(sizes, batch), size) for sizes, batch, size in SHAPES]
