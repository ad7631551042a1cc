"""Adam and its relatives, with Optax' argument names."""

from __future__ import annotations

from typing import Any

from onepass.jax._step import is_static
from onepass.jax.states import AdamState
from onepass.jax.transformation import Optimizer, Rule

# A momentum decay so fast that NAdam's momentum is beta1 from the first step on, as in Optax.
_CONSTANT_MOMENTUM = 1e9


def adam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    state_dtype: Any = None,
) -> Optimizer:
    """Adam (Kingma and Ba, ICLR 2015), the formula of ``optax.adam``::

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        p = p - learning_rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    Args:
        learning_rate: a number, a scalar of JAX, or a schedule: a function of the step, from 0. Numbers become part of
            the compiled program; scalars of JAX and what a schedule returns are its operands, so that another value
            compiles nothing. The same holds for the other hyperparameters (``optax.inject_hyperparams``).
        b1, b2, eps, eps_root: as in the formula.
        mu_dtype: type of m: float32 or bfloat16; None: state_dtype.
        nesterov: Optax' Nesterov momentum (Dozat 2016), as :func:`nadam`.
        state_dtype: type of the states, float32 or bfloat16. None: the parameter's, but float32 for 16 bits (Optax
            keeps 16 bits, in which an average with b2 = 0.999 hardly moves). Beside float64 parameters always float64.

    Parameters: float32, float64, float16, bfloat16. Gradients: any of these. See :class:`Optimizer` for what is
    returned and for the bytes moved: 28 for each float32 parameter by ``apply``.

    >>> import jax, jax.numpy as jnp
    >>> optimizer = adam(0.1)
    >>> params = {"w": jnp.ones(3)}
    >>> state = optimizer.init(params)
    >>> step = jax.jit(optimizer.apply, donate_argnums=(0, 2))
    >>> params, state = step(params, {"w": jnp.array([1.0, 2.0, 0.0])}, state)
    >>> [round(float(p), 4) for p in params["w"]]
    [0.9, 0.9, 1.0]
    """
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "eps_root": eps_root}
    return _adam("adam", values, mu_dtype, state_dtype, nesterov)


def adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
    state_dtype: Any = None,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), the formula of ``optax.adamw``: besides the
    step of :func:`adam`, ``p = p (1 - learning_rate weight_decay)``.

    Args:
        weight_decay: note Optax' default of 1e-4.
        mask: a tree of flags (or its beginning), or a function of the parameters that returns one: which decay.
            None: all.

    The others as in :func:`adam`.

    >>> import jax.numpy as jnp
    >>> optimizer = adamw(0.1, weight_decay=0.5, mask={"w": True, "b": False})
    >>> params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    >>> params, _ = optimizer.apply(params, {"w": jnp.zeros(2), "b": jnp.zeros(2)}, optimizer.init(params))
    >>> round(float(params["w"][0]), 4), round(float(params["b"][0]), 4)
    (0.95, 1.0)
    """
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "eps_root": eps_root}
    values["weight_decay"] = weight_decay
    return _adam("adamw", values, mu_dtype, state_dtype, nesterov, decoupled=True, mask=mask)


def nadam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    state_dtype: Any = None,
) -> Optimizer:
    """Adam with Nesterov momentum (Dozat 2016), the formula of ``optax.nadam``, whose momentum is b1 from the first
    step on (torch's and :class:`onepass.optim.NAdam`'s grows). Arguments as in :func:`adam`; ``nesterov=False`` is
    :func:`adam`.

    >>> import jax.numpy as jnp
    >>> optimizer = nadam(0.1)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.ones(1), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.8526
    """
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "eps_root": eps_root}
    return _adam("adam", values, mu_dtype, state_dtype, nesterov)


def nadamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = True,
    state_dtype: Any = None,
) -> Optimizer:
    """:func:`nadam` (Dozat 2016) with the decoupled weight decay of :func:`adamw`, the formula of ``optax.nadamw``.

    >>> import jax.numpy as jnp
    >>> optimizer = nadamw(0.1, weight_decay=0.5)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.zeros(1), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.95
    """
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "eps_root": eps_root}
    values["weight_decay"] = weight_decay
    return _adam("adamw", values, mu_dtype, state_dtype, nesterov, decoupled=True, mask=mask)


def adamax(
    learning_rate: Any, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8, *, state_dtype: Any = None
) -> Optimizer:
    """Adamax (Kingma and Ba, ICLR 2015, section 7.1), the formula of ``optax.adamax``. Arguments as in :func:`adam`;
    28 bytes for each float32 parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = adamax(0.1)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.ones(1), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.9
    """
    return adamaxw(learning_rate, b1, b2, eps, 0.0, state_dtype=state_dtype)


def adamaxw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    mask: Any = None,
    *,
    state_dtype: Any = None,
) -> Optimizer:
    """:func:`adamax` (Kingma and Ba, ICLR 2015) with the decoupled weight decay of :func:`adamw`, the formula of
    ``optax.adamaxw``.

    >>> import jax.numpy as jnp
    >>> optimizer = adamaxw(0.1, weight_decay=0.5)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.zeros(1), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.95
    """
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "weight_decay": weight_decay}
    values["decoupled_weight_decay"] = True
    dtypes = dict.fromkeys(("mu", "nu"), state_dtype)
    return Optimizer(Rule("adamax", AdamState, values, dtypes=dtypes, decoupled=True, mask=mask))


def lamb(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    eps_root: float = 0.0,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    state_dtype: Any = None,
) -> Optimizer:
    """LAMB (You et al., ICLR 2020), the formula of ``optax.lamb``: Adam's direction, decayed, at the length of each
    tensor. Arguments as in :func:`adamw`, but eps_root is 0: another one is a ValueError. 40 bytes for each float32
    parameter by ``apply``.

    Inside ``shard_map`` a tensor's length is that of its local part.

    >>> import jax.numpy as jnp
    >>> optimizer = lamb(0.1)
    >>> params, _ = optimizer.apply(jnp.full(4, 2.0), jnp.ones(4), optimizer.init(jnp.ones(4)))
    >>> [round(float(p), 4) for p in params]
    [1.8, 1.8, 1.8, 1.8]
    """
    if not is_static(eps_root) or float(eps_root) != 0.0:
        raise ValueError(f"eps_root: lamb has only 0.0 here, got {eps_root!r}; use optax.lamb")
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "weight_decay": weight_decay}
    dtypes = dict.fromkeys(("mu", "nu"), state_dtype)
    return Optimizer(Rule("lamb", AdamState, values, dtypes=dtypes, decoupled=True, mask=mask))


def _adam(
    update: str,
    values: dict[str, Any],
    mu_dtype: Any,
    state_dtype: Any,
    nesterov: bool,
    decoupled: bool = False,
    mask: Any = None,
) -> Optimizer:
    if nesterov:
        update = "nadam"
        values = {**values, "momentum_decay": _CONSTANT_MOMENTUM, "decoupled_weight_decay": decoupled}
    dtypes = {"mu": state_dtype if mu_dtype is None else mu_dtype, "nu": state_dtype}
    return Optimizer(Rule(update, AdamState, values, dtypes=dtypes, decoupled=decoupled, mask=mask))
