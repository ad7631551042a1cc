"""Gradient descent with momentum, adaptive rates or signs, with Optax' argument names."""

from __future__ import annotations

from typing import Any

from onepass.jax._step import is_static
from onepass.jax.states import (
    AdadeltaState,
    AdagradState,
    CenteredMomentumState,
    CenteredState,
    LionState,
    MomentumState,
    RmsMomentumState,
    RmsState,
    RpropState,
    SgdState,
    SignumState,
)
from onepass.jax.transformation import Optimizer, Rule


def sgd(learning_rate: Any, momentum: Any = None, nesterov: bool = False, accumulator_dtype: Any = None) -> Optimizer:
    """Gradient descent with momentum (Polyak 1964; Sutskever et al. 2013), the formula of ``optax.sgd``.

    Args:
        learning_rate: see :func:`adam`.
        momentum: None: none, and no state but the step count.
        accumulator_dtype: type of the momentum, float32 or bfloat16; None: as state_dtype=None in :func:`adam`.

    12 bytes for each float32 parameter, with momentum 20.

    >>> import jax.numpy as jnp
    >>> optimizer = sgd(0.5, momentum=0.9)
    >>> params, state = jnp.ones(1), optimizer.init(jnp.ones(1))
    >>> for _ in range(2):
    ...     params, state = optimizer.apply(params, jnp.ones(1), state)
    >>> round(float(params[0]), 4)
    -0.45
    """
    if momentum is None:
        return Optimizer(Rule("sgd", SgdState, {"lr": learning_rate}))
    values = {"lr": learning_rate, "momentum": momentum, "nesterov": nesterov}
    return Optimizer(Rule("sgd_momentum", MomentumState, values, dtypes={"trace": accumulator_dtype}))


def adagrad(
    learning_rate: Any, initial_accumulator_value: float = 0.1, eps: Any = 1e-7, *, state_dtype: Any = None
) -> Optimizer:
    """Adagrad (Duchi, Hazan and Singer 2011), the formula of ``optax.adagrad``, eps inside the square root. eps > 0 (0,
    which Optax takes, would divide by 0 where all gradients were 0). 20 bytes for each float32 parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = adagrad(0.1, initial_accumulator_value=0.0)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.ones(1), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.9
    """
    if is_static(eps) and not float(eps) > 0.0:
        raise ValueError(f"eps: expected a number above 0, got {eps!r}")
    return Optimizer(
        Rule(
            "adagrad",
            AdagradState,
            {"lr": learning_rate, "eps": eps, "eps_inside": True},
            initial={"sum_of_squares": initial_accumulator_value},
            checked={"initial_accumulator_value": initial_accumulator_value},
            dtypes={"sum_of_squares": state_dtype},
        )
    )


def rmsprop(
    learning_rate: Any,
    decay: Any = 0.9,
    eps: Any = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Any = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    state_dtype: Any = None,
) -> Optimizer:
    """RMSprop (Tieleman and Hinton 2012; centered: Graves 2013), the formula of ``optax.rmsprop`` for a learning rate
    that stays. With momentum and one that changes, Optax' momentum remembers steps, this one directions, to which the
    newest learning rate is applied. A centered variance below 0, which rounding can leave, counts as 0.

    nesterov and bias_correction are not there: ValueError. 20 bytes for each float32 parameter, 8 more for each of
    centered and momentum.

    >>> import jax.numpy as jnp
    >>> optimizer = rmsprop(0.1, decay=0.75)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.ones(1), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.8
    """
    for name, value in (("nesterov", nesterov), ("bias_correction", bias_correction)):
        if value:
            raise ValueError(f"{name}: rmsprop has no such form here; use optax.rmsprop")
    values = {"lr": learning_rate, "alpha": decay, "eps": eps, "eps_inside": eps_in_sqrt}
    if momentum is not None:
        values["momentum"] = momentum
    update, state = {
        (False, False): ("rmsprop", RmsState),
        (False, True): ("rmsprop_momentum", RmsMomentumState),
        (True, False): ("rmsprop_centered", CenteredState),
        (True, True): ("rmsprop_centered_momentum", CenteredMomentumState),
    }[bool(centered), momentum is not None]
    dtypes = dict.fromkeys(("nu", "mu", "trace"), state_dtype)
    return Optimizer(
        Rule(
            update,
            state,
            values,
            initial={"nu": initial_scale},
            checked={"initial_square_avg": initial_scale},
            arguments={"initial_square_avg": "initial_scale"},
            dtypes=dtypes,
        )
    )


def adadelta(
    learning_rate: Any,
    rho: Any = 0.9,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    *,
    state_dtype: Any = None,
) -> Optimizer:
    """Adadelta (Zeiler 2012), the formula of ``optax.adadelta``: weight decay joins the gradient. 28 bytes for each
    float32 parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = adadelta(1.0, eps=0.1)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.ones(1), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.2929
    """
    values = {"lr": learning_rate, "rho": rho, "eps": eps, "weight_decay": weight_decay}
    dtypes = dict.fromkeys(("e_g", "e_x"), state_dtype)
    return Optimizer(Rule("adadelta", AdadeltaState, values, dtypes=dtypes, mask=weight_decay_mask))


def lion(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-3,
    mask: Any = None,
) -> Optimizer:
    """Lion (Chen et al., NeurIPS 2023), the formula of ``optax.lion``. Arguments as in :func:`adamw`; 20 bytes for each
    float32 parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = lion(0.25, weight_decay=0.0)
    >>> params, _ = optimizer.apply(jnp.ones(2), jnp.array([3.0, -1.0]), optimizer.init(jnp.ones(2)))
    >>> params.tolist()
    [0.75, 1.25]
    """
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "weight_decay": weight_decay}
    return Optimizer(Rule("lion", LionState, values, dtypes={"mu": mu_dtype}, decoupled=True, mask=mask))


def signum(learning_rate: Any, beta: Any = 0.9, accumulator_dtype: Any = None) -> Optimizer:
    """The sign of an average of gradients (Bernstein et al., ICML 2018), the formula of ``optax.signum``. 20 bytes for
    each float32 parameter.

    Args:
        learning_rate: see :func:`adam`; every element moves by it.
        beta: what the average keeps; in [0, 1).
        accumulator_dtype: type of the average, float32 or bfloat16; None: as state_dtype=None in :func:`adam`.

    >>> import jax.numpy as jnp
    >>> optimizer = signum(0.25)
    >>> params, _ = optimizer.apply(jnp.ones(3), jnp.array([3.0, 0.0, -1.0]), optimizer.init(jnp.ones(3)))
    >>> params.tolist()
    [0.75, 1.0, 1.25]
    """
    values = {"lr": learning_rate, "momentum": beta}
    arguments = {"momentum": "beta"}
    return Optimizer(Rule("signum", SignumState, values, arguments=arguments, dtypes={"ema": accumulator_dtype}))


def rprop(
    learning_rate: Any,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
    *,
    state_dtype: Any = None,
) -> Optimizer:
    """Resilient propagation, for gradients of whole batches (Riedmiller and Braun, IEEE ICNN 1993), the
    formula of ``torch.optim.Rprop`` and of the step sizes of ``optax.rprop``: each element has a step size, which grows
    while its gradient keeps its sign and shrinks where it has turned; there the element waits for a step. Optax (0.2.8)
    makes each of these steps one call late, and none in its first call. 28 bytes for each float32 parameter.

    Args:
        learning_rate: the step size of all elements in the beginning, a number or a scalar of JAX, not a schedule. One
            outside of min_step_size and max_step_size is clamped at once, by Optax only when a sign is compared.
        eta_minus, eta_plus: what a step size is multiplied by where the sign has turned, and where it has not.
        min_step_size, max_step_size: between these a step size stays.
        state_dtype: as in :func:`adam`.

    State: step_sizes as in Optax, and prev_grads, the gradients; Optax keeps the steps, of the same signs.

    >>> import jax.numpy as jnp
    >>> optimizer = rprop(0.5)
    >>> params, state = jnp.ones(2), optimizer.init(jnp.ones(2))
    >>> for grad in ([3.0, 3.0], [2.0, -2.0]):
    ...     params, state = optimizer.apply(params, jnp.array(grad), state)
    >>> [round(float(p), 4) for p in params]
    [-0.1, 0.5]
    """
    if callable(learning_rate):
        raise TypeError("learning_rate: is the first step size of rprop, expected a number or a scalar, got a schedule")
    values = {"lr": learning_rate, "eta_minus": eta_minus, "eta_plus": eta_plus}
    values |= {"step_size_min": min_step_size, "step_size_max": max_step_size}
    return Optimizer(
        Rule(
            "rprop",
            RpropState,
            values,
            initial={"step_sizes": learning_rate},
            arguments={"step_size_min": "min_step_size", "step_size_max": "max_step_size"},
            dtypes=dict.fromkeys(("prev_grads", "step_sizes"), state_dtype),
        )
    )


def lars(
    learning_rate: Any,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: Any = 0.001,
    eps: Any = 0.0,
    trust_ratio_mask: Any = True,
    momentum: Any = 0.9,
    nesterov: bool = False,
    *,
    state_dtype: Any = None,
) -> Optimizer:
    """LARS (You, Gitman and Ginsburg, arXiv 1708.03888, 2017), the formula of ``optax.lars``, for each tensor::

        g = g + weight_decay p
        rate = learning_rate trust_coefficient |p| / (|g| + eps)          (learning_rate where |p| or |g| is 0)
        b = momentum b + rate g
        p = p - b                                                         (nesterov: p - (rate g + momentum b))

    The paper's and :class:`onepass.optim.LARS`'s rate has |g| + weight_decay |p| of the gradient without decay in place
    of the norm of the sum.

    Args:
        weight_decay_mask: which tensors decay, as mask in :func:`adamw`.
        trust_ratio_mask: other values than True are not there: ValueError. Give tensors without a trust ratio to
            another optimizer (``optax.multi_transform``).

    State: MomentumState. 28 bytes for each float32 parameter by ``apply``; 12 more where there is weight decay, which
    joins the gradient in a pass of its own. Inside ``shard_map`` a norm is that of the local part.

    >>> import jax.numpy as jnp
    >>> optimizer = lars(1.0, trust_coefficient=0.1)
    >>> params = jnp.array([3.0, 4.0])
    >>> params, _ = optimizer.apply(params, jnp.array([0.0, 2.0]), optimizer.init(params))
    >>> [round(float(p), 4) for p in params]
    [3.0, 3.5]
    """
    if trust_ratio_mask is not True:
        raise ValueError(
            "trust_ratio_mask: lars has only True here; give tensors without a trust ratio to another optimizer by "
            "optax.multi_transform"
        )
    values = {"lr": learning_rate, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient, "eps": eps}
    values |= {"momentum": momentum, "nesterov": nesterov}
    mask = None if weight_decay_mask is True else weight_decay_mask
    return Optimizer(Rule("lars", MomentumState, values, dtypes={"trace": state_dtype}, decay_first=True, mask=mask))
