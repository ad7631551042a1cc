"""RAdam and AMSGrad: Adam whose bias corrections are not all the kernels' own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from onepass.jax._step import is_static
from onepass.jax.states import AdamState, AmsgradState
from onepass.jax.transformation import Optimizer, Rule


def radam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    threshold: float = 5.0,
    *,
    nesterov: bool = False,
    state_dtype: Any = None,
) -> Optimizer:
    """Rectified Adam (Liu et al., ICLR 2020), the formula of ``optax.radam``::

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        R = 2 / (1 - b2) - 1
        r = R - 2 t b2^t / (1 - b2^t)
        p = p - learning_rate m / (1 - b1^t)                                          (while r <= 5)
        p = p - learning_rate m / (1 - b1^t) sqrt((r - 4) (r - 2) R / ((R - 4) (R - 2) r))
                / (sqrt(v / (1 - b2^t) + eps_root) + eps)

    Args:
        threshold, nesterov: other values than 5 and False are not there: ValueError.

    The others as in :func:`adam`. eps stands behind the bias correction, as in Optax; torch's and
    :class:`onepass.optim.RAdam`'s stands before it. r is computed in double: Optax' float32 loses its first digits with
    b2 = 0.999. State: AdamState. 28 bytes for each float32 parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = radam(0.1)
    >>> params, _ = optimizer.apply(jnp.ones(1), jnp.array([3.0]), optimizer.init(jnp.ones(1)))
    >>> round(float(params[0]), 4)
    0.7
    """
    if not is_static(threshold) or float(threshold) != 5.0:
        raise ValueError(f"threshold: radam has only 5.0 here, got {threshold!r}; use optax.radam")
    if nesterov:
        raise ValueError("nesterov: radam has no such form here; use optax.radam")
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "eps_root": eps_root}
    dtypes = dict.fromkeys(("mu", "nu"), state_dtype)
    return Optimizer(Rule("radam", AdamState, values, derived={"eps": _eps_before_correction}, dtypes=dtypes))


def amsgrad(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    state_dtype: Any = None,
) -> Optimizer:
    """AMSGrad (Reddi, Kale and Kumar, ICLR 2018) with bias corrections, as in ``torch.optim.Adam(amsgrad=True)``::

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        w = max(w, v)
        p = p - learning_rate m / (1 - b1^t) / (sqrt(w / (1 - b2^t) + eps_root) + eps)

    **Not the formula of optax.amsgrad**, which keeps the largest of the corrected v / (1 - b2^t): there a large first
    gradient is remembered for good, here its part is what b2 gives it. With ``bias_correction_nu=False`` (w itself in
    place of w / (1 - b2^t), as in the paper) both are the same.

    Args:
        bias_correction_mu: False: m in place of m / (1 - b1^t).
        bias_correction_nu: False: w in place of w / (1 - b2^t).

    The others as in :func:`adam`. State: AmsgradState with mu (m), nu (v) and nu_max (w). 36 bytes for each float32
    parameter.

    >>> import jax.numpy as jnp
    >>> optimizer = amsgrad(0.1)
    >>> params, state = jnp.ones(1), optimizer.init(jnp.ones(1))
    >>> for grad in (1.0, 0.0):
    ...     params, state = optimizer.apply(params, jnp.array([grad]), state)
    >>> round(float(params[0]), 4), float(state.nu_max[0]) > float(state.nu[0])
    (0.833, True)
    """
    values = {"lr": learning_rate, "beta1": b1, "beta2": b2, "eps": eps, "eps_root": eps_root}
    values["uncorrected"] = not bias_correction_nu
    derived = {}
    if bool(bias_correction_mu) != bool(bias_correction_nu):  # the kernel corrects both or none
        derived["lr"] = _corrected_rate if bias_correction_mu else _uncorrected_rate
    dtypes = {"mu": state_dtype if mu_dtype is None else mu_dtype, "nu": state_dtype, "nu_max": state_dtype}
    return Optimizer(Rule("adam_amsgrad", AmsgradState, values, derived=derived, dtypes=dtypes))


def _correction(b: Any, count: Any) -> Any:
    """1 - b^t of step t = count + 1, without a loss where b^t is nearly 1."""
    logarithm = (math.log(b) if b > 0 else -math.inf) if is_static(b) else jnp.log(b)
    return -jnp.expm1((1.0 + count) * logarithm)


def _eps_before_correction(values: Mapping[str, Any], count: Any) -> Any:
    return values["eps"] * jnp.sqrt(_correction(values["beta2"], count))


def _corrected_rate(values: Mapping[str, Any], count: Any) -> Any:
    return values["lr"] / _correction(values["beta1"], count)


def _uncorrected_rate(values: Mapping[str, Any], count: Any) -> Any:
    return values["lr"] * _correction(values["beta1"], count)
