"""A whole training step of a small CNN on 28 x 28 images: convolutions, batch norm, ReLU, pooling, a linear layer."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from bench import arrays, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result
from bench.cases.batch_norm import EPS, backward, forward
from bench.cases.cross_entropy import numpy_loss
from bench.contenders import jax_training, numpy_training, onepass_training, torch_training
from bench.numpy_images import conv2d, conv2d_backward, max_pool2d, max_pool2d_backward
from bench.selection import Selection

BATCH, SIDE, CLASSES = 64, 28, 10
CHANNELS = (1, 16, 32)
FEATURES = CHANNELS[-1] * (SIDE // 4) ** 2
AXES = (0, 2, 3)
GOAL = 1.0


def _x() -> Array:
    """In the first step the largest of every window is so by 1e-5 at least, and as far from 0: the rounding of float32
    sends no gradient elsewhere."""
    return arrays.copy(arrays.normal((BATCH, CHANNELS[0], SIDE, SIDE), seed=69))


def _y() -> Array:
    return np.random.default_rng(2).integers(0, CLASSES, BATCH, dtype=np.int64)


def _params() -> list[Array]:
    """Weight, bias, gamma, beta of both convolutions; weight and bias of the linear layer."""
    rng = np.random.default_rng(3)
    found = []
    for inputs, outputs in pairwise(CHANNELS):
        bound = (9 * inputs) ** -0.5
        found += [rng.uniform(-bound, bound, (outputs, inputs, 3, 3)), rng.uniform(-bound, bound, outputs)]
        found += [np.ones(outputs), np.zeros(outputs)]
    bound = FEATURES**-0.5
    found += [rng.uniform(-bound, bound, (CLASSES, FEATURES)), rng.uniform(-bound, bound, CLASSES)]
    return [arrays.copy(param) for param in found]


def data() -> tuple[list[Array], Array, Array]:
    return _params(), _x(), _y()


def loss_and_gradients(params: list[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
    """In NumPy, in the precision of the data."""
    kept = []
    for i in (0, 4):
        weight, bias, gamma, beta = params[i : i + 4]
        image = conv2d(x, weight, bias, 1, 1)
        normalized, mean, variance = forward(np, image, gamma, beta, AXES)
        active = np.maximum(normalized, 0)
        pooled = max_pool2d(active)
        kept.append((x, image, mean, 1 / np.sqrt(variance + EPS), active, pooled))
        x = pooled
    flat = x.reshape(len(x), -1)
    loss, dlogits = numpy_loss(flat @ params[8].T + params[9], y)
    gradients = [dlogits.T @ flat, dlogits.sum(0)]
    dy = (dlogits @ params[8]).reshape(x.shape)
    for i in (4, 0):
        x, image, mean, invstd, active, pooled = kept[i // 4]
        dy = max_pool2d_backward(dy, active, pooled) * (active > 0)
        dy, dgamma, dbeta = backward(dy, image, params[i + 2], mean, invstd, AXES)
        dy, dweight, dbias = conv2d_backward(dy, x, params[i], 1, 1)
        gradients = [dweight, dbias, dgamma.reshape(-1), dbeta.reshape(-1), *gradients]
    return loss, gradients


def _model(nn: Any, batch_norm: Any) -> Any:
    """Of onepass.nn or torch.nn."""
    layers: list[Any] = []
    for inputs, outputs in pairwise(CHANNELS):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), batch_norm(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(FEATURES, CLASSES))


def _onepass() -> Contender:
    nn = peers.load("onepass.nn")
    return onepass_training.contender(_model(nn, nn.BatchNorm), *data())


def torch_model(nn: Any) -> Any:
    return _model(nn, nn.BatchNorm2d)


def _jax_logits(params: Any, x: Any, order: str) -> Any:
    """order: of the images' axes, NCHW or NHWC."""
    jax = peers.load("jax")
    last = order == "NHWC"
    axes = (0, 1, 2) if last else AXES
    shape, window = ((1, 1, 1, -1), (1, 2, 2, 1)) if last else ((1, -1, 1, 1), (1, 1, 2, 2))
    if last:
        x = x.transpose(0, 2, 3, 1)
    for i in (0, 4):
        weight, *rest = params[i : i + 4]
        bias, gamma, beta = (value.reshape(shape) for value in rest)
        image = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=(order, "OIHW", order)) + bias
        mean = image.mean(axes, keepdims=True)
        variance = ((image - mean) ** 2).mean(axes, keepdims=True)
        active = jax.nn.relu((image - mean) * (gamma * jax.lax.rsqrt(variance + EPS)) + beta)
        x = jax.lax.reduce_window(active, -np.inf, jax.lax.max, window, window, "VALID")
    if last:
        x = x.transpose(0, 3, 1, 2)
    return x.reshape(len(x), -1) @ params[8].T + params[9]


def _jax(order: str) -> Contender:
    return jax_training.contender(partial(_jax_logits, order=order), *data())


def _numpy() -> Contender:
    return numpy_training.contender(loss_and_gradients, *data())


def expected() -> Result:
    return numpy_training.expected(loss_and_gradients, *data())


def cases(selection: Selection) -> list[Case]:
    entries = (
        Entry("onepass", _onepass, ("scipy",)),
        *torch_training.entries(torch_model, data, images=True),
        Entry("JAX+Optax", partial(_jax, "NCHW"), ("jax", "optax")),
        Entry("JAX+Optax channels last", partial(_jax, "NHWC"), ("jax", "optax")),
        Entry("NumPy", _numpy),
    )
    goals = (Goal(GOAL, "torch|torch channels last"),)
    return [Case(f"training/cnn/batch_{BATCH}", "small", entries, expected, goals, rtol=1e-3, atol=2e-5)]
