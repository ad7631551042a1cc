"""onepass inside JAX, on the CPU: optimizers for Optax and without it, cross-entropy and batch normalization.

>>> import jax, jax.numpy as jnp
>>> import onepass.jax
>>> def loss(params, x, labels):
...     return onepass.jax.softmax_cross_entropy(x @ params["w"] + params["b"], labels)
>>> optimizer = onepass.jax.adam(0.1)
>>> def train(params, state, x, labels):
...     value, grads = jax.value_and_grad(loss)(params, x, labels)
...     return value, *optimizer.apply(params, grads, state)
>>> params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
>>> state = optimizer.init(params)
>>> step = jax.jit(train, donate_argnums=(0, 1))
>>> x, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
>>> for _ in range(20):
...     value, params, state = step(params, state, x, labels)
>>> float(value) < 0.1
True

The functions are custom calls of XLA for the CPU (``jax.ffi``), compiled into the package: nothing is compiled on the
user's machine but XLA's own programs. XLA runs them on threads of its own, several at a time where there are several
devices; the team of threads of this package serves one of them, the others run serially meanwhile (the bits are the
same). A jitted program whose arrays are sharded gathers them around a custom call: call these functions inside
``jax.shard_map``, where each device works on its part.
"""

from __future__ import annotations

from onepass._extras import require

require("jax", "jax")

from onepass.jax.adam import adam, adamax, adamaxw, adamw, lamb, nadam, nadamw  # noqa: E402
from onepass.jax.adam_variants import amsgrad, radam  # noqa: E402
from onepass.jax.batch_norm import batch_norm  # noqa: E402
from onepass.jax.cross_entropy import softmax_cross_entropy  # noqa: E402
from onepass.jax.descent import adadelta, adagrad, lars, lion, rmsprop, rprop, sgd, signum  # noqa: E402
from onepass.jax.transformation import Optimizer  # noqa: E402

__all__ = [
    "Optimizer",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "amsgrad",
    "batch_norm",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "signum",
    "softmax_cross_entropy",
]
