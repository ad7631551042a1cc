"""An optimizer problem: tensors, their data, a rule with its defaults, and the step in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench import arrays, peers
from bench.case import Array, Result

STEPS = 3  # made before results are compared


@dataclass(frozen=True)
class Problem:
    rule: str
    shapes: tuple[tuple[int, ...], ...]
    max_norm: float | None = None

    @cached_property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @cached_property
    def states(self) -> tuple[str, ...]:
        return tuple(peers.load("onepass.kernels").UPDATES[self.rule].states)

    @cached_property
    def hyperparameters(self) -> dict[str, float]:
        return dict(peers.load("onepass.kernels").UPDATES[self.rule].hyperparameters)

    @property
    def bytes(self) -> int:
        """Read and written by one step, at least."""
        per_parameter: int = peers.load("onepass.kernels").UPDATES[self.rule].bytes_per_parameter
        return (per_parameter + (4 if self.max_norm else 0)) * self.elements

    def owned(self, contenders: int) -> int:
        """Bytes of parameters, gradients and states of that many contenders, and some scratch."""
        return 4 * self.elements * contenders * (2 + len(self.states)) * 5 // 4

    def _periods(self, i: int) -> tuple[Array, Array]:
        """One period of tensor i's parameters and gradients; |gradient| in [0.1, 1], so that the
        place of a rule's epsilon makes no difference and nothing becomes subnormal."""
        size = min(math.prod(self.shapes[i]), arrays.PERIOD)
        rng = np.random.default_rng(i)
        params = 0.1 * rng.standard_normal(size, dtype=np.float32)
        grads = 0.1 + 0.9 * rng.random(size, dtype=np.float32)
        return params, np.where(rng.random(size) < 0.5, -grads, grads).astype(np.float32)

    def params(self) -> list[Array]:
        return [arrays.repeated(self._periods(i)[0], s) for i, s in enumerate(self.shapes)]

    def grads(self) -> list[Array]:
        return [arrays.repeated(self._periods(i)[1], s) for i, s in enumerate(self.shapes)]

    def zeros(self) -> list[list[Array]]:
        """For each state, an array a tensor."""
        return [[arrays.full(shape, 0.0) for shape in self.shapes] for _ in self.states]

    def norm(self) -> float:
        """Of all gradients, in float64."""
        total = 0.0
        for i, shape in enumerate(self.shapes):
            squares = self._periods(i)[1].astype(np.float64) ** 2
            whole, rest = divmod(math.prod(shape), squares.size)
            total += whole * squares.sum() + squares[:rest].sum()
        return math.sqrt(total)

    def result(self, params: list[Array]) -> Result:
        return {f"param[{i}]": param for i, param in enumerate(params)}

    def expected(self) -> Result:
        """Parameters after STEPS steps of onepass.reference in float64, a period of each."""
        step = getattr(peers.load("onepass.reference"), self.rule)
        scale = max(1.0, self.norm() / self.max_norm) if self.max_norm else 1.0
        params = []
        for i in range(len(self.shapes)):
            param, grad = (period.astype(np.float64) for period in self._periods(i))
            states = [np.zeros_like(param) for _ in self.states]
            for number in range(1, STEPS + 1):
                step(param, grad, *states, step=number, grad_scale=scale)
            params.append(param)
        return self.result(params)


# The class of onepass.optim for a rule, and its options; torch's of the same name, where it has one. A rule without a
# line is still measured, as a function, against NumPy and the limit.
CLASSES: dict[str, tuple[str, dict[str, bool]]] = {
    "sgd": ("SGD", {}),
    "sgd_momentum": ("SGD", {}),
    "adagrad": ("Adagrad", {}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop_momentum": ("RMSprop", {}),
    "rmsprop_centered": ("RMSprop", {"centered": True}),
    "rmsprop_centered_momentum": ("RMSprop", {"centered": True}),
    "adam": ("Adam", {}),
    "adam_amsgrad": ("Adam", {"amsgrad": True}),
    "adamw": ("AdamW", {}),
    "adamw_amsgrad": ("AdamW", {"amsgrad": True}),
    "adadelta": ("Adadelta", {}),
    "adamax": ("Adamax", {}),
    "nadam": ("NAdam", {}),
    "radam": ("RAdam", {}),
    "rprop": ("Rprop", {}),
    "asgd": ("ASGD", {}),
    "lion": ("Lion", {}),
    "signum": ("Signum", {}),
    "adabound": ("AdaBound", {}),
    "amsbound": ("AdaBound", {"amsbound": True}),
    "lamb": ("LAMB", {}),
    "lars": ("LARS", {}),
}
PAIRS = {  # options that the classes take as one
    "betas": ("beta1", "beta2"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
# What torch lacks, or what the classes spell otherwise.
OTHERS_LACK = ("eps_inside", "eps_root", "eps_hat", "uncorrected", "decoupled_weight_decay")


def class_options(problem: Problem) -> tuple[str, dict[str, object]] | None:
    """Class name and constructor arguments: the registry's defaults, in torch's spelling."""
    if problem.rule not in CLASSES:
        return None
    name, flags = CLASSES[problem.rule]
    options: dict[str, object] = {**problem.hyperparameters, **flags}
    for pair, (first, second) in PAIRS.items():
        if first in options:
            options[pair] = (options.pop(first), options.pop(second))
    if "nesterov" in options:
        options["nesterov"] = bool(options["nesterov"])
    for option in OTHERS_LACK:  # off by default
        options.pop(option, None)
    return name, options
