"""onepass: the optimizer class, as a trainer uses it, and the function."""

from __future__ import annotations

from bench import peers
from bench.case import Contender, Entry
from bench.contenders.problem import Problem, class_options


def _class(problem: Problem) -> Contender:
    found = class_options(problem)
    assert found is not None
    name, options = found
    params, grads = problem.params(), problem.grads()
    make = getattr(peers.load("onepass.optim"), name)
    optimizer = make(params, max_norm=problem.max_norm, **options)
    return Contender(lambda: optimizer.step(grads), lambda: problem.result(params))


def _function(problem: Problem) -> Contender:
    params, grads, states = problem.params(), problem.grads(), problem.zeros()
    update = getattr(peers.load("onepass.kernels"), problem.rule)
    step = 0
    # One tensor is passed as an array: that is how the function is called then.
    lists = [params, grads, *states]
    operands = [tensors[0] for tensors in lists] if len(params) == 1 else lists

    def run() -> None:
        nonlocal step
        step += 1
        update(*operands, step=step)

    return Contender(run, lambda: problem.result(params))


def entries(problem: Problem) -> list[Entry]:
    as_class = Entry("onepass", lambda: _class(problem), ("onepass",), "limit")
    if problem.max_norm is not None:
        return [as_class]
    if class_options(problem) is None:
        return [Entry("onepass", lambda: _function(problem), ("onepass",), "limit")]
    return [
        as_class,
        Entry("onepass function", lambda: _function(problem), ("onepass",), "limit"),
    ]
