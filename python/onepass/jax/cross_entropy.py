"""Softmax cross-entropy with a gradient of its own."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onepass.jax._ffi import FLOATS, as_array, call, check_shape, static_integer, static_real

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


class Options(NamedTuple):
    ignore_index: int
    label_smoothing: float
    z_loss: float
    reduction: str
    n_classes: int
    axis: int  # counted from the end: 1 is the last


def softmax_cross_entropy(
    logits: Any,
    targets: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    n_classes: int | None = None,
    axis: int = -1,
) -> jax.Array:
    """Softmax cross-entropy; the gradient with respect to the logits is made in the same pass as the loss.

    Args:
        logits: (..., C), or C along another axis; float32, float64, float16 or bfloat16.
        targets: integers, of the logits' shape without C; or probabilities of the logits' shape and type.
        weight: (C,), or (n_classes,), of the logits' type (float32 beside 16 bits), or None.
        ignore_index, label_smoothing, z_loss, n_classes: as in :func:`onepass.kernels.softmax_cross_entropy`; numbers
            that are known while tracing.
        reduction: "mean" (by the summed weights of the rows that count), "sum" or "none".
        axis: that of C.

    Returns:
        a scalar, or for "none" the losses of the rows, of the logits' type (float32 for 16 bits).
        ``optax.softmax_cross_entropy_with_integer_labels`` and ``optax.softmax_cross_entropy`` are reduction="none".

    Works under jit, grad (reverse mode, once), vmap and shard_map. Bytes moved for each float32 logit: 4 for the loss
    alone; with the gradient 8 where the logits are not needed afterwards, so that it takes their memory (the output of
    a layer under jit), else 16; 8 more for "none", and where the loss is multiplied by something before it is
    differentiated. targets and weight have no gradient: ValueError.

    Raises:
        when the program runs: for a label that is no class, an error of JAX that names the row.

    >>> import jax, jax.numpy as jnp
    >>> logits, labels = jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])
    >>> loss, grad = jax.value_and_grad(softmax_cross_entropy)(logits, labels)
    >>> round(float(loss), 4), [round(float(g), 4) for g in grad[1]]
    (0.41, [0.25, -0.25])
    """
    logits = as_array("logits", logits)
    if logits.ndim == 0 or logits.size == 0:
        raise ValueError(f"logits: expected (..., C) with elements, got shape {tuple(logits.shape)}")
    axis = static_integer("axis", axis)
    if not -logits.ndim <= axis < logits.ndim:
        raise ValueError(f"axis: expected one of the {logits.ndim} axes of logits, got {axis}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    axis %= logits.ndim
    classes = logits.shape[axis]
    targets = _checked_targets(targets, logits, axis)
    if n_classes is not None and not 1 <= static_integer("n_classes", n_classes) <= classes:
        raise ValueError(f"n_classes: expected 1 to {classes}, or None, got {n_classes}")
    if weight is not None:
        weight = as_array("weight", weight, _beside(logits))
        check_shape("weight", weight, (n_classes or classes,), "one for each class")
        weight = _constant("weight", weight)
    options = Options(
        static_integer("ignore_index", ignore_index),
        static_real("label_smoothing", label_smoothing),
        static_real("z_loss", z_loss),
        reduction,
        n_classes or 0,
        logits.ndim - axis,
    )
    loss: jax.Array = _loss(options, logits, targets, weight)
    return loss


def _beside(logits: Any) -> tuple[str, ...]:
    return (logits.dtype.name, "float32") if logits.dtype.itemsize == 2 else (logits.dtype.name,)


def _checked_targets(targets: Any, logits: Any, axis: int) -> Any:
    targets = as_array("targets", targets, (*INTEGERS, *FLOATS))
    if targets.dtype.name in INTEGERS:
        rows = tuple(logits.shape[:axis]) + tuple(logits.shape[axis + 1 :])
        check_shape("targets", targets, rows, "that of logits without the classes")
        return targets
    as_array("targets", targets, _beside(logits))
    check_shape("targets", targets, tuple(logits.shape), "that of logits, for probabilities")
    return _constant("targets", targets)


def _run(options: Options, logits: Any, targets: Any, weight: Any, gradient: bool) -> tuple[Any, ...]:
    rows = tuple(n for i, n in enumerate(logits.shape) if i != logits.ndim - options.axis)
    computed = jnp.dtype("float32") if logits.dtype.itemsize == 2 else logits.dtype
    results = [(rows if options.reduction == "none" else (), computed)]
    return call(
        "onepass_cpu_cross_entropy",
        [*results, (tuple(logits.shape), logits.dtype)] if gradient else results,
        [logits, targets] if weight is None else [logits, targets, weight],
        {0: 1} if gradient else {},
        axis=np.int64(options.axis),
        reduction=np.int64(REDUCTIONS[options.reduction]),
        ignore_index=np.int64(options.ignore_index),
        n_classes=np.int64(options.n_classes),
        label_smoothing=np.float64(options.label_smoothing),
        z_loss=np.float64(options.z_loss),
    )


def _unchanged(name: str, x: Any) -> Any:
    return x


def _refuse(name: str, primals: Any, tangents: Any) -> Any:
    raise ValueError(f"{name}: has no gradient here; pass jax.lax.stop_gradient({name}), or differentiate without it")


# x, and an error where somebody differentiates with respect to it, in place of a gradient of 0.
_constant: Any = jax.custom_jvp(_unchanged, nondiff_argnums=(0,))
_constant.defjvp(_refuse)


def _loss_alone(options: Options, logits: Any, targets: Any, weight: Any) -> Any:
    return _run(options, logits, targets, weight, False)[0]


def _forward(options: Options, logits: Any, targets: Any, weight: Any) -> tuple[Any, Any]:
    loss, grad = _run(options, logits, targets, weight, True)
    return loss, grad


def _backward(options: Options, grad: Any, cotangent: Any) -> tuple[Any, None, None]:
    if options.reduction == "none":
        factor = jnp.expand_dims(cotangent, grad.ndim - options.axis)
        return (grad * factor).astype(grad.dtype), None, None
    # A loss that is differentiated as it is: nothing to multiply by, and no pass.
    return (
        jax.lax.cond(cotangent == 1, lambda g, _: g, lambda g, c: (g * c).astype(g.dtype), grad, cotangent),
        None,
        None,
    )


_loss: Any = jax.custom_vjp(_loss_alone, nondiff_argnums=(0,))
_loss.defvjp(_forward, _backward)
