"""States of the optimizers: a step count, then trees like the parameters, named as in Optax."""

from __future__ import annotations

from typing import Any, NamedTuple


class SgdState(NamedTuple):
    count: Any


class MomentumState(NamedTuple):
    count: Any
    trace: Any


class AdamState(NamedTuple):
    count: Any
    mu: Any
    nu: Any


class AmsgradState(NamedTuple):
    count: Any
    mu: Any
    nu: Any
    nu_max: Any


class AdagradState(NamedTuple):
    count: Any
    sum_of_squares: Any


class RmsState(NamedTuple):
    count: Any
    nu: Any


class RmsMomentumState(NamedTuple):
    count: Any
    nu: Any
    trace: Any


class CenteredState(NamedTuple):
    count: Any
    nu: Any
    mu: Any


class CenteredMomentumState(NamedTuple):
    count: Any
    nu: Any
    mu: Any
    trace: Any


class AdadeltaState(NamedTuple):
    count: Any
    e_g: Any
    e_x: Any


class LionState(NamedTuple):
    count: Any
    mu: Any


class SignumState(NamedTuple):
    count: Any
    ema: Any


class RpropState(NamedTuple):
    """prev_grads: gradients, 0 where a sign has turned; Optax keeps the steps (prev_updates), of the same signs."""

    count: Any
    prev_grads: Any
    step_sizes: Any
