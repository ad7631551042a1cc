"""Runs every kernel over a fixed grid and prints one hash for each case as JSON: {"isa", "hashes", "differences",
"teams"}.

Inside, each case is run with 1, 2, 3 and 8 threads, on arrays and on views that start one element later; what does not
give the same bits is named in "differences". "teams" says how many threads each case's largest size really had when it
could have 8. tests/test_bits.py runs it once for each instruction-set level.

    ONEPASS_ISA=x86-64-v2 python tests/bits_worker.py [part of a case's name]
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import sys
import time
import zlib

import numpy as np
from measure import bits

import onepass
from onepass import kernels

SMALL = range(1, 68)
PLACES = [(offset, threads) for offset in (0, 1) for threads in (1, 2, 3, 8)]
SMALL_PLACES = [(0, 1), (1, 2), (0, 3), (1, 8)]  # small work runs serially whatever threads says


@functools.cache
def bank(dtype, values):
    """Random numbers that all cases draw from."""
    size = 1 << 19
    rng = np.random.default_rng(7)
    draw = rng.normal(size=size)
    if values == "tiny":  # around the smallest normal number, many below it, both signs of zero
        draw = np.sign(draw) * float(np.finfo(dtype).tiny) * 10.0 ** rng.integers(-4, 5, size)
        draw[rng.random(size) < 0.1] *= 0.0
    elif values == "wild":
        pick = rng.random(size)
        for i, value in enumerate((np.nan, np.inf, -np.inf, -0.0)):
            draw[(pick >= 0.04 * i) & (pick < 0.04 * (i + 1))] = value
    return draw.astype(dtype)


class Arrays:
    """Makes a case's inputs, each `offset` elements into its memory; `seed` says where in the bank they begin."""

    def __init__(self, dtype, seed, offset, values):
        self.dtype, self.offset = np.dtype(dtype), offset
        self.bank, self.at = bank(self.dtype, values), seed

    def empty(self, *shape, dtype=None):
        size = math.prod(shape)
        memory = np.empty(size + 1, dtype or self.dtype)
        return memory[self.offset : self.offset + size].reshape(shape)

    def zeros(self, *shape):
        a = self.empty(*shape)
        a[...] = 0
        return a

    def new(self, *shape):
        a = self.empty(*shape)
        begin = self.at % (self.bank.size - a.size)
        a[...] = self.bank[begin : begin + a.size].reshape(shape)
        self.at += a.size
        return a

    def positive(self, *shape):
        a = self.new(*shape)
        np.abs(a, out=a)
        return a

    def labels(self, rows, classes):
        labels = self.empty(*rows, dtype=np.int64)
        flat = np.arange(labels.size) * 7919 + self.at
        labels[...] = np.where(flat % 10 == 3, -100, flat % classes).reshape(rows)
        return labels


OPTIONS = {  # none at its default
    "lr": 0.05, "weight_decay": 0.03, "momentum": 0.8, "dampening": 0.2, "nesterov": True, "lr_decay": 0.01,
    "alpha": 0.9, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6,
    "eps_inside": True, "rho": 0.8, "momentum_decay": 0.1, "decoupled_weight_decay": True, "eta_minus": 0.3,
    "eta_plus": 1.6, "step_size_min": 1e-3, "step_size_max": 0.1, "lambd": 0.02, "t0": 1.0, "final_lr": 0.02,
    "gamma": 0.2, "eps_root": 1e-4, "eps_hat": True, "uncorrected": True,
    "trust_coefficient": 0.01, "sgd": True, "sgd_lr": 0.03,
}  # fmt: skip


def update(name):
    rule = kernels.UPDATES[name]
    known = {option: OPTIONS[option] for option in rule.hyperparameters}

    def run(arrays, n, threads):
        params = [arrays.new(n), arrays.new(3, (n + 2) // 3)]
        states = [[arrays.zeros(*p.shape) for p in params] for _ in rule.states]
        extra = {"grad_scale": 0.7, "maximize": n % 3 == 0, **({**known, "max_value": 0.9} if n % 2 else {})}
        for step in (1, 2, 3):
            grads = [arrays.new(*p.shape) for p in params]
            getattr(kernels, name)(params, grads, *states, step=step, threads=threads, **extra)
        return [*params, *(s for state in states for s in state)]

    return run


def stored_update(name, stochastic):
    """Gradients and parameters in other types than what is computed in, states in bfloat16, strided views."""
    rule = kernels.UPDATES[name]

    def run(arrays, n, threads):
        wide = arrays.dtype == np.float64
        kinds = (np.float64,) * 3 if wide else (np.float16, np.uint16, np.float32)
        params = [
            half(arrays.new(n), kinds[0]),
            half(arrays.new(3, n)[:, ::2], kinds[1]),
            half(arrays.new(n), kinds[2]),
        ]
        states = [[np.zeros(p.shape, np.float64 if wide else kind) for p in params] for kind in (np.uint16, np.float32)]
        used = [states[k % 2] for k in range(len(rule.states))]
        used = [[np.copy(s) for s in state] for state in used]
        for step in (1, 2, 3):
            grads = [
                half(arrays.new(*p.shape), k) for p, k in zip(params, (np.uint16, np.float32, np.float16), strict=True)
            ]
            getattr(kernels, name)(
                params,
                grads,
                *used,
                step=step,
                stochastic_rounding=stochastic,
                seed=n,
                dtype="bfloat16",
                threads=threads,
            )
        return [*params, *(s for state in used for s in state)]

    return run


def blocks_update(name, stochastic):
    """States in 8-bit blocks."""
    rule = kernels.UPDATES[name]

    def run(arrays, n, threads):
        narrow = np.float16 if arrays.dtype == np.float64 else np.float32  # wide ones have no states in fewer bits
        params = [half(arrays.new(n), narrow), half(arrays.new(3, n)[:, 1::2], np.uint16)]
        states = [[np.zeros(-(-p.size // 128) * 129, np.uint8) for p in params] for _ in rule.states]
        for step in (1, 2, 3):
            grads = [arrays.new(*p.shape) for p in params]
            getattr(kernels, name)(
                params,
                grads,
                *states,
                step=step,
                stochastic_rounding=stochastic,
                seed=n,
                dtype="bfloat16",
                threads=threads,
            )
        return [*params, *(s for state in states for s in state)]

    return run


def half(a, kind):
    if kind != np.uint16:
        with np.errstate(all="ignore"):
            return a.astype(kind)
    return (a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)  # cut off: a bfloat16's bits


def cross_entropy(wide=True, place="new", smooth=0.0, weighted=False, given=False, reduction="mean", z_loss=0.0):
    def run(arrays, n, threads):
        shape = (max(3, 40_000 // n), n) if wide and n > 67 else (3, n) if wide else (n, 5)
        x = arrays.new(*shape)
        x *= 4
        targets = arrays.positive(*shape) if given else arrays.labels(shape[:1], shape[1])
        weight = arrays.positive(shape[1]) if weighted else None
        grad = {"new": arrays.empty(*shape), "in place": x, "none": False}[place]
        loss, grad = kernels.softmax_cross_entropy(
            x, targets, weight, label_smoothing=smooth, z_loss=z_loss, reduction=reduction, grad=grad, threads=threads
        )
        return [np.asarray(loss)] if grad is None else [np.asarray(loss), grad]

    return run


def cross_entropy_3d(arrays, n, threads):
    x = arrays.new(2, 7, n)
    loss, grad = kernels.softmax_cross_entropy(x, arrays.labels((2, n), 7), threads=threads)
    return [np.asarray(loss), grad]


def cross_entropy_half(kind, **options):
    """Logits of 16 bits, some of the columns padding, log-probabilities."""

    def run(arrays, n, threads):
        rows = 3 if n <= 67 else max(3, 40_000 // n)
        bits = half(arrays.new(rows, n) * 4, kind)
        log_p, grad = np.empty_like(bits), np.empty_like(bits)
        classes = max(1, n - 3)
        loss, _ = kernels.softmax_cross_entropy(
            bits, arrays.labels((rows,), classes), grad=grad, n_classes=classes, log_probabilities=log_p,
            dtype="bfloat16", threads=threads, **options,
        )  # fmt: skip
        return [np.asarray(loss), grad, log_p, kernels.softmax(bits, 0, dtype="bfloat16", threads=threads)]

    return run


def cross_entropy_shared(**options):
    """One row, which all threads share where it is long."""

    def run(arrays, n, threads):
        x, log_p = arrays.new(1, n), arrays.empty(1, n)
        x *= 4
        labels = np.array([n // 2])
        loss, grad = kernels.softmax_cross_entropy(
            x, labels, arrays.positive(n), log_probabilities=log_p, threads=threads, **options
        )
        in_place, _ = kernels.softmax_cross_entropy(np.repeat(x, 2, 1)[:, ::2], labels, threads=threads, **options)
        softmax = kernels.softmax(x, threads=threads)
        return [np.asarray(loss), grad, log_p, np.asarray(in_place), softmax]

    return run


def linear_cross_entropy(arrays, n, threads):
    rows, features, classes = (n, 5, 11) if n <= 67 else (150, 24, n)
    x, weight, bias = arrays.new(rows, features), arrays.new(classes, features), arrays.new(classes)
    outs = arrays.empty(*x.shape), arrays.empty(*weight.shape), arrays.empty(classes)
    loss, *gradients = kernels.linear_cross_entropy(
        x, weight, bias, arrays.labels((rows,), classes), arrays.positive(classes), -100, 0.1, 1e-3, "mean", *outs,
        threads=threads,
    )  # fmt: skip
    return [np.asarray(loss), *gradients]


def along_axis(name, axis):
    def run(arrays, n, threads):
        x = arrays.new(5, n) if n <= 67 else arrays.new(41, n)
        out = arrays.empty(*x.shape)
        return [getattr(kernels, name)(x, axis, out, threads=threads)]

    return run


def batch_norm(shape_of, training=True, relu=False, residual=False, axis=1, kind=None, parts=False):
    """Forward and backward; kind: data of this type through strided views; parts: statistics and sums on their own."""

    def run(arrays, n, threads):
        shape = shape_of(n)
        channels = shape[axis]
        x = arrays.new(*shape)
        x += 3
        gamma, beta, mean, var = (
            arrays.new(channels),
            arrays.new(channels),
            arrays.new(channels),
            arrays.positive(channels),
        )
        added = arrays.new(*shape) if residual else None
        dy, out, dx = arrays.new(*shape), arrays.empty(*shape), arrays.empty(*shape)
        options = {"threads": threads}
        if kind is not None:
            x, dy, out, dx = (half(np.repeat(a, 2, axis=-1), kind)[..., ::2] for a in (x, dy, x, dy))
            gamma, beta, mean, var = (a.astype(np.float32) for a in (gamma, beta, mean, var))
            options["dtype"] = "bfloat16" if kind == np.uint16 else None
        more = {"relu": relu, "residual": added, "channel_axis": axis, "out": out}
        if parts:
            statistics = kernels.batch_norm_statistics(x, axis, **options)
            y, saved = kernels.batch_norm_apply(x, statistics, gamma, beta, mean, var, **more, **options)
            sums = kernels.batch_norm_backward_sums(dy, x, gamma, saved, **options)
            gradients = kernels.batch_norm_backward_apply(
                dy, x, gamma, saved, sums, 2 * statistics.count, out=dx, **options
            )
            return [*statistics[1:], y, saved.invstd, mean, var, *sums, *gradients]
        y, saved = kernels.batch_norm(x, gamma, beta, mean, var, training, **more, **options)
        gradients = kernels.batch_norm_backward(dy, x, gamma, saved, out=dx, **options)
        return [y, saved.mean, saved.invstd, mean, var, *gradients]

    return run


def row_norm(name, shape_of, groups=None, kind=None):
    """Forward and backward; kind: data of this type through strided views, beside gamma and beta of float32."""

    def run(arrays, n, threads):
        shape = shape_of(n)
        own = shape[-1:] if name in ("layer_norm", "rms_norm") else shape[1:2]
        x, dy = arrays.new(*shape), arrays.new(*shape)
        x += 3
        parameters = [arrays.new(*own), arrays.new(*own)][: 1 if name == "rms_norm" else 2]
        out, dx = arrays.empty(*shape), arrays.empty(*shape)
        options = {"threads": threads}
        if kind is not None:
            x, dy, out, dx = (half(np.repeat(a, 2, axis=-1), kind)[..., ::2] for a in (x, dy, x, dy))
            parameters = [p.astype(np.float32) for p in parameters]
            options["dtype"] = "bfloat16" if kind == np.uint16 else None
        more = (groups,) if groups else ()
        y, saved = getattr(kernels, name)(x, *more, *parameters, out=out, **options)
        gradients = getattr(kernels, f"{name}_backward")(dy, x, parameters[0], saved, dx, **options)
        return [y, *(a for a in saved[:2] if a is not None), *gradients]

    return run


def global_norm(arrays, n, threads):
    return [np.asarray(kernels.global_norm([arrays.new(n), arrays.new(3, n)[:, ::2]], threads=threads))]


def relu(arrays, n, threads):
    x = arrays.new(n)
    y = kernels.relu(x, arrays.empty(n), threads=threads)
    dx = kernels.relu_backward(arrays.new(n), y, arrays.empty(n), threads=threads)
    return [y, dx, kernels.relu(x, out=x, threads=threads)]


def activation(name, *options, kind=None):
    """Forward and backward; kind: data of this type through strided views, and in place."""

    def run(arrays, n, threads):
        x, dy = arrays.new(3, n), arrays.new(3, n)
        more = {"threads": threads}
        if kind is not None:
            x, dy = (half(np.repeat(a, 2, axis=-1), kind)[..., ::2] for a in (x, dy))
            more["dtype"] = "bfloat16" if kind == np.uint16 else None
        y = getattr(kernels, name)(x, *options, **more)
        saved = y if name in ("sigmoid", "tanh") else x
        dx = getattr(kernels, f"{name}_backward")(dy, saved, *options, **more)
        return [y, dx, getattr(kernels, name)(x, *options, out=x, **more)]

    return run


def bias_activation(name, shape_of, channel_axis):
    def run(arrays, n, threads):
        shape = shape_of(n)
        x, dy, bias = arrays.new(*shape), arrays.new(*shape), arrays.new(shape[channel_axis])
        options = {"channel_axis": channel_axis, "threads": threads}
        y = kernels.bias_activation(x, bias, name, arrays.empty(*shape), **options)
        return [y, *kernels.bias_activation_backward(dy, x, bias, name, arrays.empty(*shape), **options)]

    return run


def dropout(arrays, n, threads):
    x = arrays.new(3, n)
    y = kernels.dropout(x, 0.3, 7, n, arrays.empty(3, n), threads=threads)
    dx = kernels.dropout_backward(x[:, ::-1], 0.3, 7, n, threads=threads)
    bits = kernels.dropout(half(x, np.uint16).T, 0.3, 7, n, dtype="bfloat16", threads=threads)
    return [y, dx, bits, kernels.dropout(x, 0.3, 7, n, x, threads=threads)]


def element_loss(name, reduction, *options, kind=None):
    def run(arrays, n, threads):
        x, target = arrays.new(n), arrays.new(n)
        more, grad = {"threads": threads}, arrays.empty(n)
        if kind is not None:
            x, target = (half(np.repeat(a, 2), kind)[::2] for a in (x, target))
            more["dtype"], grad = ("bfloat16" if kind == np.uint16 else None), None
        loss, grad = getattr(kernels, name)(x, target, *options, reduction=reduction, grad=grad, **more)
        return [np.asarray(loss), grad]

    return run


def binary_cross_entropy(arrays, n, threads):
    x, weight, positive = arrays.new(3, n), arrays.positive(3, 1), arrays.positive(n)
    targets = np.arange(3 * n, dtype=np.int8).reshape(3, n) % 2
    loss, grad = kernels.binary_cross_entropy_with_logits(
        x, targets, weight, positive, "sum", arrays.empty(3, n), threads=threads
    )
    return [np.asarray(loss), grad]


def nll_loss(arrays, n, threads):
    x = arrays.new(n, 7)
    options = {"threads": threads}
    loss, grad = kernels.nll_loss(x, arrays.labels((n,), 7), arrays.positive(7), grad=arrays.empty(n, 7), **options)
    each, _ = kernels.nll_loss(half(x, np.float16)[:, ::2], arrays.labels((n,), 4), reduction="none", **options)
    return [np.asarray(loss), grad, each]


def linear(arrays, n, threads):
    rows, inner, columns = (n, 13, 11) if n <= 67 else (n % 977, 129, 67)
    x, weight, bias = arrays.new(rows, inner), arrays.new(columns, inner), arrays.new(columns)
    y = kernels.linear(x, weight, bias, relu=True, out=arrays.empty(rows, columns), threads=threads)
    outs = arrays.empty(*x.shape), arrays.empty(*weight.shape), arrays.empty(columns)
    return [y, *kernels.linear_backward(arrays.new(rows, columns), x, weight, *outs, threads=threads)]


def conv2d(kernel, stride, padding):
    def run(arrays, n, threads):
        images, channels, outputs = (3, 2, 5) if n <= 67 else (n % 97, 11, 9)
        height, width = (3, n) if n <= 67 else (19, 23)
        x, bias = arrays.new(images, channels, height, width), arrays.new(outputs)
        weight = arrays.new(outputs, channels, kernel, kernel)
        options = {"stride": stride, "padding": padding, "threads": threads}
        y = kernels.conv2d(x, weight, bias, relu=True, **options)
        outs = arrays.empty(*x.shape), arrays.empty(*weight.shape), arrays.empty(outputs)
        return [y, *kernels.conv2d_backward(arrays.new(*y.shape), x, weight, stride, padding, *outs, threads=threads)]

    return run


def pool2d(name, kernel, stride, padding):
    def run(arrays, n, threads):
        x = arrays.new(2, 3, 4, n) if n <= 67 else arrays.new(7, n, 13, 12)
        y = getattr(kernels, name)(x, kernel, stride, padding, threads=threads)
        given = x if name == "max_pool2d" else x.shape
        backward = getattr(kernels, f"{name}_backward")
        return [y, backward(y, given, kernel, stride, padding, arrays.empty(*x.shape), threads=threads)]

    return run


CASES = {  # name: (function of (arrays, n, threads) -> outputs, large sizes)
    **{name: (update(name), (9_973, 100_003)) for name in kernels.UPDATES},
    **{f"{name} stored": (stored_update(name, False), (100_003,)) for name in kernels.UPDATES},
    **{f"{name} stored stochastic": (stored_update(name, True), (100_003,)) for name in kernels.UPDATES},
    **{f"{name} blocks": (blocks_update(name, False), (100_003,)) for name in kernels.UPDATES},
    **{f"{name} blocks stochastic": (blocks_update(name, True), (100_003,)) for name in kernels.UPDATES},
    "cross_entropy": (cross_entropy(), (1_009, 50_257)),
    "cross_entropy rows": (cross_entropy(wide=False), (12_347,)),
    "cross_entropy in place": (cross_entropy(place="in place"), (1_009,)),
    "cross_entropy loss only": (cross_entropy(place="none"), (1_009,)),
    "cross_entropy none": (cross_entropy(reduction="none"), (1_009,)),
    "cross_entropy weight z_loss": (cross_entropy(weighted=True, z_loss=1e-3), (1_009,)),
    "cross_entropy smooth weight": (cross_entropy(smooth=0.1, weighted=True), (1_009,)),
    "cross_entropy probabilities": (cross_entropy(given=True, reduction="sum"), (1_009,)),
    "cross_entropy 3-D": (cross_entropy_3d, (4_099,)),
    "cross_entropy bfloat16": (cross_entropy_half(np.uint16), (1_009,)),
    "cross_entropy float16 smooth": (cross_entropy_half(np.float16, label_smoothing=0.1), (1_009,)),
    "cross_entropy shared": (cross_entropy_shared(), (100_003,)),
    "cross_entropy shared smooth": (cross_entropy_shared(label_smoothing=0.1, z_loss=1e-3), (100_003,)),
    "linear_cross_entropy": (linear_cross_entropy, (401, 17_011)),
    "softmax": (along_axis("softmax", -1), (1_025, 4_999)),
    "softmax columns": (along_axis("softmax", 0), (4_999,)),
    "log_softmax": (along_axis("log_softmax", -1), (1_025, 4_999)),
    "batch_norm channels": (batch_norm(lambda n: (7, n) if n <= 67 else (151, n)), (67 * 8 + 1,)),
    "batch_norm rows": (batch_norm(lambda n: (n + 1, 5)), (20_011,)),
    "batch_norm runs": (batch_norm(lambda n: (3, 4, n)), (6_007,)),
    "batch_norm few channels": (batch_norm(lambda n: (5, 3, n), relu=True), (6_007,)),
    "batch_norm many channels": (batch_norm(lambda n: (4, 40, 5, 5) if n <= 67 else (4, 40, 23, 19)), (437,)),
    "batch_norm residual": (batch_norm(lambda n: (3, 4, n), residual=True), (4_001,)),
    "batch_norm relu residual": (batch_norm(lambda n: (n + 1, 6), relu=True, residual=True), (8_009,)),
    "batch_norm inference": (batch_norm(lambda n: (3, 4, n), training=False, relu=True), (6_007,)),
    "batch_norm channels last": (batch_norm(lambda n: (2, n, 3, 5), axis=-1, relu=True), (8_009,)),
    "batch_norm first axis": (batch_norm(lambda n: (3, n, 2), axis=0), (20_011,)),
    "batch_norm float16": (batch_norm(lambda n: (2, 3, n), kind=np.float16, relu=True), (12_007,)),
    "batch_norm bfloat16": (batch_norm(lambda n: (n + 1, 5), kind=np.uint16), (16_007,)),
    "batch_norm parts": (batch_norm(lambda n: (2, 3, n), parts=True, relu=True), (20_011,)),
    "batch_norm parts of rows": (batch_norm(lambda n: (n + 1, 5), parts=True), (20_011,)),
    "layer_norm": (row_norm("layer_norm", lambda n: (3, n) if n <= 67 else (97, n)), (4_099,)),
    "layer_norm rows": (row_norm("layer_norm", lambda n: (n, 37)), (10_007,)),
    "layer_norm few rows": (row_norm("layer_norm", lambda n: (3, n)), (90_001,)),
    "layer_norm float16": (row_norm("layer_norm", lambda n: (5, n), kind=np.float16), (60_013,)),
    "layer_norm bfloat16": (row_norm("layer_norm", lambda n: (n, 33), kind=np.uint16), (9_001,)),
    "rms_norm": (row_norm("rms_norm", lambda n: (3, n) if n <= 67 else (97, n)), (4_099,)),
    "rms_norm few rows": (row_norm("rms_norm", lambda n: (2, n)), (120_011,)),
    "group_norm": (row_norm("group_norm", lambda n: (3, 4, n), groups=2), (20_011,)),
    "group_norm short runs": (row_norm("group_norm", lambda n: (n, 6, 3), groups=2), (20_011,)),
    "instance_norm": (row_norm("instance_norm", lambda n: (3, 5, n + 1)), (16_007,)),
    "global_norm": (global_norm, (100_003,)),
    "relu": (relu, (100_003,)),
    "leaky_relu": (activation("leaky_relu", 0.1), (100_003,)),
    "gelu": (activation("gelu"), (60_013,)),
    "gelu tanh": (activation("gelu", "tanh"), (60_013,)),
    "gelu bfloat16": (activation("gelu", kind=np.uint16), (60_013,)),
    "silu": (activation("silu"), (60_013,)),
    "silu float16": (activation("silu", kind=np.float16), (60_013,)),
    "sigmoid": (activation("sigmoid"), (60_013,)),
    "tanh": (activation("tanh"), (60_013,)),
    "bias_activation": (bias_activation("relu", lambda n: (n, 5), -1), (60_013,)),
    "bias_activation wide": (bias_activation("gelu", lambda n: (131, n), -1), (2_003,)),
    "bias_activation channels": (bias_activation("tanh", lambda n: (3, 4, n), 1), (20_011,)),
    "dropout": (dropout, (60_013,)),
    "mean_squared_error": (element_loss("mean_squared_error", "mean"), (100_003,)),
    "mean_squared_error none": (element_loss("mean_squared_error", "none"), (100_003,)),
    "mean_squared_error bfloat16": (element_loss("mean_squared_error", "sum", kind=np.uint16), (100_003,)),
    "huber_loss": (element_loss("huber_loss", "mean", 0.5), (100_003,)),
    "smooth_l1_loss": (element_loss("smooth_l1_loss", "mean", 0.5), (100_003,)),
    "binary_cross_entropy": (element_loss("binary_cross_entropy_with_logits", "mean"), (100_003,)),
    "binary_cross_entropy weights": (binary_cross_entropy, (60_013,)),
    "nll_loss": (nll_loss, (40_009,)),
    "linear": (linear, (977 + 401, 977 + 976)),
    "conv2d": (conv2d(3, 1, 1), (97 * 5 + 35, 97 * 5 + 70)),
    "conv2d stride": (conv2d(2, 2, 1), (97 * 5 + 90,)),
    "conv2d pointwise": (conv2d(1, 1, 0), (97 * 5 + 95,)),
    "max_pool2d": (pool2d("max_pool2d", 2, 2, 1), (409,)),
    "max_pool2d overlapping": (pool2d("max_pool2d", 3, 1, 1), (409,)),
    "avg_pool2d": (pool2d("avg_pool2d", 3, 2, 1), (409,)),
}
BLAS = {
    "linear",
    "linear_cross_entropy",
    "conv2d",
    "conv2d stride",
    "conv2d pointwise",
}  # the product's own treatment of NaN and subnormals is BLAS's


def main(part):
    hashes, differences, teams = {}, [], {}
    for name, (run, large) in CASES.items():
        if part not in name:
            continue
        # a case with a type of its own is the same beside both
        for dtype in ("float32",) if "float16" in name else ("float32", "float64"):
            for n in (*SMALL, *large):
                special = () if name in BLAS or n % 8 not in (0, 1, 7) else ("tiny", "wild")
                for values in ("normal", *special):
                    key = f"{name} | {dtype} | {n} | {values}"
                    places = SMALL_PLACES if n in SMALL else PLACES
                    found = [_hash(run, name, dtype, n, values, *place) for place in places]
                    hashes[key] = found[0]
                    differences += [f"{key} | {p}" for p, h in zip(places, found, strict=True) if h != found[0]]
        before = sleeps_of_threads()
        _hash(run, name, "float32", max(large), "normal", 0, 8)
        after = sleeps_of_threads()
        teams[name] = 1 + sum(after[task] != before.get(task) for task in after if int(task) != os.getpid())
    report = {"isa": onepass.info()["isa"], "hashes": hashes, "differences": differences, "teams": teams}
    json.dump(report, sys.stdout)


def sleeps_of_threads():
    """How often each thread has gone to sleep, once all are asleep: a worker that had work did so once more."""
    deadline = time.monotonic() + 10
    while True:
        time.sleep(0.005)
        counts, awake = {}, 0
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/status", encoding="utf-8") as file:
                status = dict(line.split(":", 1) for line in file)
            counts[task] = status["voluntary_ctxt_switches"]
            awake += int(task) != os.getpid() and not status["State"].strip().startswith("S")
        if not awake or time.monotonic() > deadline:
            return counts


def _hash(run, name, dtype, n, values, offset, threads):
    arrays = Arrays(dtype, zlib.crc32(f"{name} {n}".encode()), offset, values)
    digest = hashlib.blake2b(digest_size=8)
    with np.errstate(all="ignore"):
        for output in run(arrays, n, threads):
            digest.update(bits(output).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
