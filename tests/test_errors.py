"""Loud boundaries: what cannot be done is refused before the first byte is written, and the message names the argument,
what it is, and what to do about it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import onepass
from onepass import kernels, optim, reference

F, D = np.float32, np.float64
BCE = "binary_cross_entropy_with_logits"


def f32(*shape):
    return np.asarray((np.arange(np.prod(shape, dtype=int), dtype=F).reshape(shape) + 1) / 8)


def f64(*shape):
    return f32(*shape).astype(D)


def read_only(a):
    a.flags.writeable = False
    return a


def gaps(*shape):
    """Not C-contiguous."""
    return f32(*shape[:-1], 2 * shape[-1])[..., ::2]


def shifted(n):
    """Two views of one memory that overlap in all but one element."""
    memory = f32(n + 1)
    return memory[:n], memory[1:]


def bytes_apart(*shape):
    """Elements that do not lie on multiples of their size."""
    raw = np.zeros(int(np.prod(shape)) * 4 + 1, np.uint8)
    return raw[1:].view(F).reshape(shape)


def call(name, *args, **kwargs):
    return name, args, kwargs


def batch(**kwargs):
    """A correct call of batch_norm with something replaced."""
    arguments = {
        "x": f32(6, 3),
        "gamma": f32(3),
        "beta": f32(3),
        "running_mean": f32(3),
        "running_var": f32(3),
        **kwargs,
    }
    return call("batch_norm", **arguments)


def backward(**kwargs):
    """A correct call of batch_norm_backward with something replaced."""
    x = f32(6, 3)
    saved = kernels.batch_norm(x, f32(3), f32(3), relu=True)[1]
    return call("batch_norm_backward", **{"dy": f32(6, 3), "x": x, "gamma": f32(3), "saved": saved, **kwargs})


def entropy(*, targets=(0, 1, 2), **kwargs):
    """A correct call of softmax_cross_entropy with something replaced."""
    targets = np.asarray(targets) if isinstance(targets, tuple) else targets
    return call("softmax_cross_entropy", **{"logits": f32(3, 4), "targets": targets, **kwargs})


def fused(**kwargs):
    """A correct call of linear_cross_entropy with something replaced."""
    arguments = {"x": f32(3, 2), "weight": f32(4, 2), "bias": None, "targets": np.array([0, 1, 2])}
    return call("linear_cross_entropy", **{**arguments, **kwargs})


def log_probabilities_in_place():
    logits = f32(3, 4)
    return entropy(logits=logits, log_probabilities=logits)


def adam(**kwargs):
    """A correct call of adam with something replaced."""
    arguments = {name: f32(5) for name in ("param", "grad", "exp_avg", "exp_avg_sq")}
    return call("adam", **{**arguments, "step": 1, **kwargs})


def same_memory(function, first, second, **kwargs):
    """Two of its arguments are one array."""
    a = f32(5)
    return function(**{first: a, second: a}, **kwargs)


def partly(function, first, second, shape, **kwargs):
    """Two of its arguments share some memory."""
    n = int(np.prod(shape))
    a, b = shifted(n)
    return function(**{first: a.reshape(shape), second: b.reshape(shape)}, **kwargs)


TYPE = [  # name: call, argument that the message begins with, word of the remedy
    ("param is a list of numbers", lambda: call("sgd", [1.0], [f32(1)], step=1), "param", "asarray"),
    ("param long double", lambda: adam(param=f32(5).astype(np.longdouble)), "param", "convert"),
    ("param integer", lambda: adam(param=np.arange(5)), "param", "convert"),
    ("param complex", lambda: adam(param=np.ones(5, complex)), "param", "convert"),
    ("param big-endian", lambda: adam(param=f32(5).astype(">f4")), "param", "convert"),
    ("grad of integers", lambda: adam(grad=f32(5).astype(np.int16)), "grad", "convert"),
    ("float32 states beside a float64 param", lambda: adam(param=f64(5)), "exp_avg", "convert"),
    ("param in uint16", lambda: adam(param=f32(5).astype(np.uint16)), "param", "dtype='bfloat16'"),
    ("grad in uint16", lambda: adam(grad=f32(5).astype(np.uint16)), "grad", "dtype='bfloat16'"),
    ("state of another type", lambda: adam(exp_avg=f64(5)), "exp_avg", "convert"),
    ("second state of another type", lambda: adam(exp_avg_sq=f64(5)), "exp_avg_sq", "convert"),
    ("logits integer", lambda: entropy(logits=np.ones((3, 4), int)), "logits", "convert"),
    ("logits a list", lambda: entropy(logits=[[1.0, 2.0]] * 3), "logits", "asarray"),
    ("targets a list", lambda: entropy(targets=[0, 1, 2]), "targets", "asarray"),
    ("targets boolean", lambda: entropy(targets=np.ones(3, bool)), "targets", "convert"),
    ("targets of another float", lambda: entropy(targets=f64(3, 4)), "targets", "convert"),
    ("weight of another type", lambda: entropy(weight=f64(4)), "weight", "convert"),
    ("grad of another type than logits", lambda: entropy(grad=f64(3, 4)), "grad", "convert"),
    ("grad is True", lambda: entropy(grad=True), "grad", "False"),
    ("weight of fewer bits", lambda: entropy(weight=f32(4).astype(np.float16)), "weight", "convert"),
    (
        "grad of float32 beside logits of 16 bits",
        lambda: entropy(logits=f32(3, 4).astype(np.float16), grad=f32(3, 4)),
        "grad",
        "convert",
    ),
    ("linear_cross_entropy of another weight", lambda: fused(weight=f64(4, 2)), "x", "convert"),
    ("linear_cross_entropy of 16 bits", lambda: fused(x=f32(3, 2).astype(np.float16)), "x", "convert"),
    ("linear_cross_entropy dx is True", lambda: fused(dx=True), "dx", "False"),
    ("softmax of integers", lambda: call("softmax", np.ones((2, 3), int)), "x", "convert"),
    ("softmax of a list", lambda: call("softmax", [1.0, 2.0]), "x", "asarray"),
    ("softmax out of another type", lambda: call("softmax", f32(2, 3), out=f64(2, 3)), "out", "convert"),
    ("log_softmax out of another type", lambda: call("log_softmax", f32(2, 3), out=f64(2, 3)), "out", "convert"),
    ("batch_norm of integers", lambda: batch(x=np.ones((6, 3), int)), "x", "convert"),
    ("batch_norm of a list", lambda: batch(x=[[1.0, 2.0, 3.0]] * 6), "x", "asarray"),
    ("gamma of another type", lambda: batch(gamma=f64(3)), "gamma", "convert"),
    ("running_mean of another type", lambda: batch(running_mean=f64(3)), "running_mean", "convert"),
    ("residual of another type", lambda: batch(residual=f64(6, 3)), "residual", "convert"),
    ("batch_norm out of another type", lambda: batch(out=f64(6, 3)), "out", "convert"),
    ("dy of another type", lambda: backward(dy=f64(6, 3)), "dy", "convert"),
    ("dgamma of another type", lambda: backward(dgamma=f64(3)), "dgamma", "convert"),
    ("norm of integers", lambda: call("global_norm", [f32(3), np.arange(3)]), "arrays[1]", "convert"),
    ("norm of lists", lambda: call("global_norm", [[1.0]]), "arrays", "asarray"),
    ("linear of a list", lambda: call("linear", [[1.0]], f32(1, 1)), "x", "asarray"),
    ("linear weight of another type", lambda: call("linear", f32(2, 3), f64(4, 3)), "x", "convert"),
    ("linear weight a list", lambda: call("linear", f32(2, 1), [[1.0]]), "weight", "asarray"),
    ("linear bias of another type", lambda: call("linear", f32(2, 3), f32(4, 3), f64(4)), "bias", "convert"),
    ("relu of integers", lambda: call("relu", np.arange(3)), "x", "convert"),
    ("relu_backward y of another type", lambda: call("relu_backward", f32(3), f64(3)), "y", "convert"),
    ("prediction a list", lambda: call("mean_squared_error", [1.0], f32(1)), "prediction", "asarray"),
    ("target of another type", lambda: call("mean_squared_error", f32(3), f64(3)), "target", "convert"),
    ("gelu of integers", lambda: call("gelu", np.arange(3)), "x", "convert"),
    ("tanh_backward y of another type", lambda: call("tanh_backward", f32(3), f64(3)), "y", "convert"),
    ("bias of another type", lambda: call("bias_activation", f32(2, 3), f64(3)), "bias", "convert"),
    ("dropout of a list", lambda: call("dropout", [1.0], 0.5, 1), "x", "asarray"),
    ("dropout seed a float", lambda: call("dropout", f32(3), 0.5, 1.5), "seed", "integer"),
    ("negative_slope a word", lambda: call("leaky_relu", f32(3), "x"), "negative_slope", "number"),
    ("answers of another float", lambda: call(BCE, f32(3), f64(3)), "targets", "convert"),
    ("answers boolean", lambda: call(BCE, f32(3), np.ones(3, bool)), "targets", "convert"),
    ("pos_weight of another type", lambda: call(BCE, f32(3), f32(3), None, f64(3)), "pos_weight", "convert"),
    ("nll targets are floats", lambda: call("nll_loss", f32(3, 4), f32(3)), "targets", "convert"),
    ("nll weight of another type", lambda: call("nll_loss", f32(3, 4), np.arange(3), f64(4)), "weight", "convert"),
]

VALUE = [
    # shapes
    ("grad of another shape", lambda: adam(grad=f32(6)), "grad", "expected shape (5,)"),
    ("grad transposed", lambda: call("sgd", f32(2, 3), f32(3, 2), step=1), "grad", "expected shape (2, 3)"),
    ("grad of the same size", lambda: call("sgd", f32(6), f32(2, 3), step=1), "grad", "expected shape (6,)"),
    ("state of another shape", lambda: adam(exp_avg_sq=f32(4)), "exp_avg_sq", "expected shape (5,)"),
    (
        "state of the second tensor",
        lambda: call("sgd_momentum", [f32(2), f32(3)], [f32(2), f32(3)], [f32(2), f32(2)], step=1),
        "momentum_buffer[1]",
        "expected shape (3,)",
    ),
    ("fewer gradients than parameters", lambda: call("sgd", [f32(2), f32(3)], [f32(2)], step=1), "grad", "2"),
    ("logits of one axis", lambda: entropy(logits=f32(4)), "logits", "(N, C)"),
    ("targets of another length", lambda: entropy(targets=(0, 1)), "targets", "(3,)"),
    ("probabilities of another shape", lambda: entropy(targets=f32(4, 3)), "targets", "(3, 4)"),
    ("weight of another length", lambda: entropy(weight=f32(3)), "weight", "(4,)"),
    ("grad of another shape than logits", lambda: entropy(grad=f32(4, 3)), "grad", "(3, 4)"),
    ("weight of the columns", lambda: entropy(weight=f32(4), n_classes=3), "weight", "(3,)"),
    ("log_probabilities are the logits", lambda: log_probabilities_in_place(), "log_probabilities", "copy"),
    ("linear_cross_entropy targets of another length", lambda: fused(targets=np.zeros(2, int)), "targets", "(3,)"),
    ("linear_cross_entropy inner sizes differ", lambda: fused(x=f32(3, 3)), "x", "2"),
    ("linear_cross_entropy of nothing", lambda: fused(x=f32(0, 2), targets=np.zeros(0, int)), "x", "empty"),
    ("softmax axis", lambda: call("softmax", f32(2, 3), 2), "axis", "out of range"),
    ("softmax of a number", lambda: call("softmax", f32()), "axis", "out of range"),
    ("softmax out of another shape", lambda: call("softmax", f32(2, 3), out=f32(3, 2)), "out", "(2, 3)"),
    ("batch_norm of one axis", lambda: batch(x=f32(3)), "x", "2 axes"),
    ("channel_axis", lambda: batch(channel_axis=2), "channel_axis", "out of range"),
    ("gamma of another length", lambda: batch(gamma=f32(6)), "gamma", "(3,)"),
    ("beta of two axes", lambda: batch(beta=f32(3, 1)), "beta", "(3,)"),
    ("residual of another shape", lambda: batch(residual=f32(3, 6)), "residual", "(6, 3)"),
    ("batch_norm out of another shape", lambda: batch(out=f32(3, 6)), "out", "(6, 3)"),
    ("dy of another shape", lambda: backward(dy=f32(3, 6)), "dy", "(6, 3)"),
    ("dbeta of another shape", lambda: backward(dbeta=f32(4)), "dbeta", "(3,)"),
    ("saved of another x", lambda: saved_of_another(), "saved", "(5,)"),
    ("saved with too few numbers", lambda: saved_too_short(), "saved", "(3,)"),
    ("linear of three axes", lambda: call("linear", f32(2, 3, 4), f32(5, 4)), "x", "expected shape"),
    ("linear inner sizes differ", lambda: call("linear", f32(2, 3), f32(5, 4)), "x", "3"),
    ("linear bias of another length", lambda: call("linear", f32(2, 3), f32(5, 3), f32(4)), "bias", "(5,)"),
    ("linear out of another shape", lambda: call("linear", f32(2, 3), f32(5, 3), out=f32(5, 2)), "out", "(2, 5)"),
    ("linear dy of another shape", lambda: call("linear_backward", f32(2, 4), f32(2, 3), f32(5, 3)), "dy", "(2, 5)"),
    (
        "dweight of another shape",
        lambda: call("linear_backward", f32(2, 5), f32(2, 3), f32(5, 3), dweight=f32(3, 5)),
        "dweight",
        "(5, 3)",
    ),
    ("relu out of another shape", lambda: call("relu", f32(3), f32(4)), "out", "(3,)"),
    ("target of another shape", lambda: call("mean_squared_error", f32(3), f32(4)), "target", "(3,)"),
    ("gelu out of another shape", lambda: call("gelu", f32(3), "none", f32(4)), "out", "(3,)"),
    ("approximate unknown", lambda: call("gelu", f32(3), "erf"), "approximate", "'none' or 'tanh'"),
    ("activation unknown", lambda: call("bias_activation", f32(2, 3), f32(3), "elu"), "activation", "'relu'"),
    ("bias of another length", lambda: call("bias_activation", f32(2, 3), f32(2)), "bias", "(3,)"),
    ("bias beside a number", lambda: call("bias_activation", f32(), f32(1)), "channel_axis", "out of range"),
    (
        "channel_axis of bias",
        lambda: call("bias_activation", f32(2, 3), f32(3), channel_axis=2),
        "channel_axis",
        "out of range",
    ),
    ("negative_slope nan", lambda: call("leaky_relu", f32(3), float("nan")), "negative_slope", "finite"),
    ("p above 1", lambda: call("dropout", f32(3), 1.5, 1), "p", "[0, 1]"),
    ("dropout step negative", lambda: call("dropout", f32(3), 0.5, 1, -1), "step", "0 or more"),
    ("delta 0", lambda: call("huber_loss", f32(3), f32(3), 0.0), "delta", "> 0"),
    ("beta negative", lambda: call("smooth_l1_loss", f32(3), f32(3), -1.0), "beta", ">= 0"),
    ("answer 2", lambda: call(BCE, f32(3), np.array([0, 2, 1])), "targets[1] is 2", "0 or 1"),
    ("answers of another shape", lambda: call(BCE, f32(3), np.zeros(4, int)), "targets", "(3,)"),
    ("answers' weight of another shape", lambda: call(BCE, f32(3), f32(3), f32(4)), "weight", "broadcasts to (3,)"),
    ("nll label", lambda: call("nll_loss", f32(3, 4), np.array([0, 4, 1])), "targets[1] is 4", "0 <= target < 4"),
    ("nll of one axis", lambda: call("nll_loss", f32(4), np.array(0)), "log_probabilities", "(N, C)"),
    ("nll targets of another length", lambda: call("nll_loss", f32(3, 4), np.arange(2)), "targets", "(3,)"),
    # empty
    ("answers to nothing", lambda: call(BCE, f32(0), f32(0)), "logits", "empty"),
    ("nll of nothing", lambda: call("nll_loss", f32(0, 3), np.zeros(0, int)), "log_probabilities", "empty"),
    ("empty logits", lambda: entropy(logits=f32(0, 4), targets=np.zeros(0, int)), "logits", "empty"),
    ("no classes", lambda: entropy(logits=f32(3, 0)), "logits", "empty"),
    ("softmax of nothing", lambda: call("softmax", f32(3, 0)), "x", "empty"),
    ("batch_norm of nothing", lambda: batch(x=f32(0, 3)), "x", "empty"),
    ("linear of nothing", lambda: call("linear", f32(0, 3), f32(2, 3)), "x", "empty"),
    ("mean of no errors", lambda: call("mean_squared_error", f32(0), f32(0)), "prediction", "empty"),
    # read-only
    ("param read-only", lambda: adam(param=read_only(f32(5))), "param", "copy"),
    ("state read-only", lambda: adam(exp_avg=read_only(f32(5))), "exp_avg", "copy"),
    ("grad of logits read-only", lambda: entropy(grad=read_only(f32(3, 4))), "grad", "copy"),
    ("softmax out read-only", lambda: call("softmax", f32(2, 3), out=read_only(f32(2, 3))), "out", "copy"),
    ("batch_norm out read-only", lambda: batch(out=read_only(f32(6, 3))), "out", "copy"),
    ("running_var read-only", lambda: batch(running_var=read_only(f32(3))), "running_var", "copy"),
    ("dx read-only", lambda: backward(out=read_only(f32(6, 3))), "out", "copy"),
    ("linear out read-only", lambda: call("linear", f32(2, 3), f32(5, 3), out=read_only(f32(2, 5))), "out", "copy"),
    ("relu out read-only", lambda: call("relu", f32(3), read_only(f32(3))), "out", "copy"),
    # overlap
    ("grad is param", lambda: same_memory(adam, "param", "grad"), "grad", "copy"),
    ("grad overlaps param", lambda: partly(adam, "param", "grad", (5,)), "grad", "copy"),
    ("two states are one", lambda: same_memory(adam, "exp_avg", "exp_avg_sq"), "exp_avg", "copy"),
    ("state is param", lambda: same_memory(adam, "param", "exp_avg"), "exp_avg", "copy"),
    ("grad overlaps a state", lambda: partly(adam, "grad", "exp_avg", (5,)), "grad", "copy"),
    ("the same parameter twice", lambda: twice(), "param[1]", "copy"),
    ("param overlaps itself", lambda: itself(), "param", "copy"),
    ("grad overlaps logits in part", lambda: partly(entropy, "logits", "grad", (3, 4)), "grad", "copy"),
    ("grad is the probabilities", lambda: shared_probabilities(), "grad", "copy"),
    ("softmax out overlaps x in part", lambda: softmax_overlap(), "out", "copy"),
    ("batch_norm out is x in training", lambda: in_training(), "out", "copy"),
    ("batch_norm out overlaps x in part", lambda: partly(inference, "x", "out", (6, 3)), "out", "copy"),
    ("running_mean is running_var", lambda: running_twice(), "running_var", "copy"),
    ("running_mean is gamma", lambda: running_gamma(), "running_mean", "copy"),
    ("dx overlaps dy in part", lambda: partly(backward, "dy", "out", (6, 3)), "out", "copy"),
    ("dx is x", lambda: dx_is_x(), "out", "copy"),
    ("dgamma is gamma", lambda: gradient_is_gamma(), "dgamma", "copy"),
    ("linear out is x", lambda: linear_in_place(), "out", "copy"),
    ("dx overlaps dy of linear", lambda: linear_dx_is_dy(), "dx", "copy"),
    ("relu out overlaps x in part", lambda: call("relu", *shifted(9)), "out", "copy"),
    ("relu_backward out is y", lambda: relu_out_is_y(), "out", "copy"),
    ("grad of prediction is target", lambda: grad_is_target(), "grad", "copy"),
    # layouts that are refused
    ("gamma with gaps", lambda: batch(gamma=gaps(3)), "gamma", "ascontiguousarray"),
    ("weight with gaps", lambda: entropy(weight=gaps(4)), "weight", "ascontiguousarray"),
    ("linear x with gaps", lambda: call("linear", gaps(2, 3), f32(5, 3)), "x", "ascontiguousarray"),
    ("linear weight transposed", lambda: call("linear", f32(2, 3), f32(3, 5).T), "weight", "ascontiguousarray"),
    ("bias with gaps", lambda: call("bias_activation", f32(2, 6), gaps(6)), "bias", "ascontiguousarray"),
    ("param between elements", lambda: adam(param=bytes_apart(5)), "param", "copy"),
    ("grad between elements", lambda: adam(grad=bytes_apart(5)), "grad", "copy"),
    # values
    ("step 0", lambda: adam(step=0), "step", "1 or more"),
    ("learning rate nan", lambda: adam(lr=float("nan")), "lr", "finite"),
    ("grad_scale inf", lambda: adam(grad_scale=float("inf")), "grad_scale", "finite"),
    ("threads negative", lambda: adam(threads=-1), "threads", "expected"),
    (
        "label too large",
        lambda: entropy(targets=(0, 4, 1)),
        "targets[1] is 4",
        "0 <= target < 4 or ignore_index (-100)",
    ),
    ("label negative", lambda: entropy(targets=(0, 1, -1)), "targets[2] is -1", "0 <= target < 4"),
    (
        "label in a picture",
        lambda: call("softmax_cross_entropy", f32(2, 3, 2), np.array([[0, 1], [1, 3]])),
        "targets[1, 1] is 3",
        "0 <= target < 3",
    ),
    (
        "label above every integer",
        lambda: entropy(targets=np.array([0, 2**64 - 1, 0], np.uint64)),
        "targets[1]",
        "0 <= target < 4",
    ),
    ("label_smoothing above 1", lambda: entropy(label_smoothing=1.1), "label_smoothing", "[0, 1]"),
    ("label_smoothing nan", lambda: entropy(label_smoothing=float("nan")), "label_smoothing", "[0, 1]"),
    ("z_loss negative", lambda: entropy(z_loss=-1.0), "z_loss", ">= 0"),
    ("reduction unknown", lambda: entropy(reduction="average"), "reduction", "'mean', 'sum' or 'none'"),
    ("reduction a number", lambda: call("mean_squared_error", f32(3), f32(3), 1), "reduction", "'mean'"),
    ("eps negative", lambda: batch(eps=-1.0), "eps", ">= 0"),
    ("momentum above 1", lambda: batch(momentum=1.5), "momentum", "[0, 1]"),
    ("one value a channel", lambda: batch(x=f32(1, 3)), "x", "more than one value"),
    ("inference without statistics", lambda: batch(running_mean=None, training=False), "running_mean", "needed"),
]


def twice():
    p = f32(4)
    return call("sgd", [p, p], [f32(4), f32(4)], step=1)


def itself():
    p = np.lib.stride_tricks.as_strided(f32(10), (4, 4), (4, 4))
    return call("sgd", p, f32(4, 4), step=1)


def shared_probabilities():
    t = f32(3, 4)
    return call("softmax_cross_entropy", f32(3, 4), t, grad=t)


def softmax_overlap():
    a, b = shifted(12)
    return call("softmax", a.reshape(3, 4), out=b.reshape(3, 4))


def in_training():
    x = f32(6, 3)
    return batch(x=x, out=x)


def inference(**kwargs):
    return batch(training=False, **kwargs)


def running_twice():
    a = f32(3)
    return batch(running_mean=a, running_var=a)


def running_gamma():
    a = f32(3)
    return batch(running_mean=a, gamma=a)


def dx_is_x():
    name, args, kwargs = backward()
    return name, args, {**kwargs, "out": kwargs["x"]}


def saved_of_another():
    saved = kernels.batch_norm(f32(6, 3))[1]
    arguments = {"dy": f32(6, 5), "x": f32(6, 5), "gamma": None, "dgamma": f32(5), "dbeta": f32(5)}
    return call("batch_norm_backward", saved=saved, **arguments)


def saved_too_short():
    saved = kernels.batch_norm(f32(6, 3))[1]
    return backward(saved=saved._replace(invstd=saved.invstd[:1]))


def gradient_is_gamma():
    gamma = f32(3)
    return backward(gamma=gamma, dgamma=gamma)


def linear_in_place():
    x = f32(3, 3)
    return call("linear", x, f32(3, 3), out=x)


def linear_dx_is_dy():
    dy = f32(3, 3)
    return call("linear_backward", dy, f32(3, 3), f32(3, 3), dx=dy)


def relu_out_is_y():
    y = f32(9)
    return call("relu_backward", f32(9), y, out=y)


def grad_is_target():
    target = f32(9)
    return call("mean_squared_error", f32(9), target, grad=target)


def arrays_in(values):
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from arrays_in(value)


@pytest.mark.parametrize(
    ("error", "make", "argument", "remedy"),
    [pytest.param(TypeError, *rest, id=name) for name, *rest in TYPE]
    + [pytest.param(ValueError, *rest, id=name) for name, *rest in VALUE],
)
def test_refused_by_name_and_nothing_is_written(error, make, argument, remedy):
    name, args, kwargs = make()
    arrays = list(arrays_in([*args, *kwargs.values()]))
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error) as caught:
        getattr(kernels, name)(*args, **kwargs)
    assert str(caught.value).startswith(argument)
    assert remedy in str(caught.value)
    assert [a.tobytes() for a in arrays] == before


OBVIOUS = [  # the oracle refuses these with the same type of error; it may accept what only speed or layout forbids
    "logits integer", "logits a list", "targets of another float", "weight of another type", "softmax of integers",
    "softmax of a list", "batch_norm of integers", "batch_norm of a list", "gamma of another type", "grad is True",
    "grad of another type than logits", "logits of one axis", "targets of another length", "weight of another length",
    "probabilities of another shape", "grad of another shape than logits", "batch_norm of one axis",
    "gamma of another length", "empty logits", "batch_norm of nothing", "grad of logits read-only", "label too large",
    "label negative", "label in a picture", "reduction unknown", "reduction a number", "one value a channel",
    "weight of fewer bits", "grad of float32 beside logits of 16 bits", "weight of the columns",
    "log_probabilities are the logits", "linear_cross_entropy of another weight", "linear_cross_entropy of 16 bits",
    "linear_cross_entropy inner sizes differ", "linear_cross_entropy of nothing",
    "linear_cross_entropy targets of another length", "inference without statistics", "linear inner sizes differ",
    "fewer gradients than parameters", "gelu of integers", "tanh_backward y of another type", "bias of another type",
    "dropout of a list", "dropout seed a float", "answers of another float", "answers boolean",
    "pos_weight of another type", "nll targets are floats", "nll weight of another type", "gelu out of another shape",
    "approximate unknown", "activation unknown", "bias of another length", "bias beside a number",
    "channel_axis of bias", "p above 1", "dropout step negative", "delta 0", "beta negative", "answer 2",
    "answers of another shape", "answers' weight of another shape", "nll label", "nll of one axis",
    "nll targets of another length", "answers to nothing", "nll of nothing",
]  # fmt: skip


@pytest.mark.parametrize("case", OBVIOUS)
def test_the_oracle_refuses_obvious_misuse_too(case):
    cases = [(TypeError, *rest) for rest in TYPE] + [(ValueError, *rest) for rest in VALUE]
    ((error, _, make, *_),) = [c for c in cases if c[1] == case]
    name, args, kwargs = make()
    arrays = list(arrays_in([*args, *kwargs.values()]))
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error):
        getattr(reference, name)(*args, **kwargs)
    assert [a.tobytes() for a in arrays] == before


@pytest.mark.parametrize(
    "make",
    [lambda: adam(), lambda: batch(), lambda: backward(), lambda: entropy(), lambda: fused()],
    ids=["adam", "batch", "backward", "ce", "fused"],
)
def test_the_calls_above_are_right_before_something_is_replaced(make):
    name, args, kwargs = make()
    getattr(kernels, name)(*args, **kwargs)


def test_a_wrong_keyword_is_a_type_error():
    with pytest.raises(TypeError, match="momentum"):
        kernels.adam(f32(3), f32(3), f32(3), f32(3), step=1, momentum=0.9)
    with pytest.raises(TypeError, match="step"):
        kernels.adam(f32(3), f32(3), f32(3), f32(3))
    with pytest.raises(TypeError):
        kernels.adam(f32(3), f32(3), f32(3), step=1)


def test_one_bad_tensor_among_many_leaves_all_alone():
    params, grads = [f32(4) for _ in range(5)], [f32(4) for _ in range(5)]
    grads[3] = f32(5)
    before = [p.copy() for p in params]
    with pytest.raises(ValueError, match=r"grad\[3\]"):
        kernels.sgd(params, grads, step=1)
    assert all((p == q).all() for p, q in zip(params, before, strict=True))


def test_interleaved_views_that_share_no_element_are_accepted():
    memory = f32(2, 8)
    kernels.sgd(memory[:, ::2], memory[:, 1::2], step=1, lr=1.0)
    np.testing.assert_array_equal(memory[0, ::2], f32(2, 8)[0, ::2] - f32(2, 8)[0, 1::2])


# ---- every array argument of every kernel x every fault


ACTIVATIONS = {  # what the backward function is given
    "relu": "y", "leaky_relu": "x", "gelu": "x", "silu": "x", "sigmoid": "y", "tanh": "y",
}  # fmt: skip
PAIR_LOSSES = ("mean_squared_error", "huber_loss", "smooth_l1_loss")
ANY_SHAPE = {*ACTIVATIONS, *(f"{name}_backward" for name in ACTIVATIONS), *PAIR_LOSSES}
ANY_SHAPE |= {"softmax", "log_softmax", "dropout", "dropout_backward"}
SHAPES = {  # kernel: its array arguments; the first is what the others' shapes and types are held against
    "softmax_cross_entropy": {
        "logits": (3, 4), "targets": int, "weight": (4,), "grad": (3, 4), "log_probabilities": (3, 4),
    },
    "softmax_cross_entropy ": {"logits": (3, 4), "targets": (3, 4), "weight": (4,), "grad": (3, 4)},  # probabilities
    "linear_cross_entropy": {
        "x": (3, 2), "weight": (4, 2), "bias": (4,), "targets": int, "class_weight": (4,), "dx": (3, 2),
        "dweight": (4, 2), "dbias": (4,),
    },
    "softmax": {"x": (3, 4), "out": (3, 4)},
    "log_softmax": {"x": (3, 4), "out": (3, 4)},
    "batch_norm": {
        "x": (6, 3), "gamma": (3,), "beta": (3,), "running_mean": (3,), "running_var": (3,), "residual": (6, 3),
        "out": (6, 3),
    },
    "batch_norm_backward": {
        "x": (6, 3), "dy": (6, 3), "gamma": (3,), "out": (6, 3), "dgamma": (3,), "dbeta": (3,), "dresidual": (6, 3)
    },
    "batch_norm_statistics": {"x": (6, 3)},
    "batch_norm_apply": {
        "x": (6, 3), "gamma": (3,), "beta": (3,), "running_mean": (3,), "running_var": (3,), "residual": (6, 3),
        "out": (6, 3),
    },
    "batch_norm_backward_sums": {"x": (6, 3), "dy": (6, 3), "gamma": (3,)},
    "batch_norm_backward_apply": {
        "x": (6, 3), "dy": (6, 3), "gamma": (3,), "out": (6, 3), "dgamma": (3,), "dbeta": (3,), "dresidual": (6, 3)
    },
    "linear": {"x": (2, 3), "weight": (5, 3), "bias": (5,), "out": (2, 5)},
    "linear_backward": {"x": (2, 3), "weight": (5, 3), "dy": (2, 5), "dx": (2, 3), "dweight": (5, 3), "dbias": (5,)},
    "conv2d": {"x": (2, 3, 5, 5), "weight": (4, 3, 3, 3), "bias": (4,), "out": (2, 4, 3, 3)},
    "conv2d_backward": {
        "x": (2, 3, 5, 5), "weight": (4, 3, 3, 3), "dy": (2, 4, 3, 3), "dx": (2, 3, 5, 5), "dweight": (4, 3, 3, 3),
        "dbias": (4,),
    },
    "max_pool2d": {"x": (2, 3, 6, 6), "out": (2, 3, 3, 3)},
    "max_pool2d_backward": {"x": (2, 3, 6, 6), "dy": (2, 3, 3, 3), "out": (2, 3, 6, 6)},
    "avg_pool2d": {"x": (2, 3, 6, 6), "out": (2, 3, 3, 3)},
    "avg_pool2d_backward": {"dy": (2, 3, 3, 3), "out": (2, 3, 6, 6)},
    **{name: {"x": (2, 6), "out": (2, 6)} for name in ACTIVATIONS},
    **{f"{name}_backward": {"dy": (2, 6), saved: (2, 6), "out": (2, 6)} for name, saved in ACTIVATIONS.items()},
    "bias_activation": {"x": (2, 6), "bias": (6,), "out": (2, 6)},
    "bias_activation_backward": {"x": (2, 6), "dy": (2, 6), "bias": (6,), "dx": (2, 6), "dbias": (6,)},
    "dropout": {"x": (2, 6), "out": (2, 6)},
    "dropout_backward": {"dy": (2, 6), "out": (2, 6)},
    **{name: {"prediction": (2, 6), "target": (2, 6), "grad": (2, 6)} for name in PAIR_LOSSES},
    "binary_cross_entropy_with_logits": {
        "logits": (2, 6), "targets": (2, 6), "weight": (2, 6), "pos_weight": (2, 6), "grad": (2, 6),
    },
    "nll_loss": {"log_probabilities": (3, 4), "targets": int, "weight": (4,), "grad": (3, 4)},
    **{name: dict.fromkeys(["param", "grad", *rule.states], (2, 3)) for name, rule in kernels.UPDATES.items()},
}  # fmt: skip
OUTPUTS = {"out", "running_mean", "running_var", "dgamma", "dbeta", "dresidual", "dx", "dweight", "dbias", "param"}
OUTPUTS |= {"log_probabilities"}
STATES = {state for rule in kernels.UPDATES.values() for state in rule.states}
IMAGES = ("conv2d", "max_pool2d", "avg_pool2d")
DENSE = ("batch_norm", "linear", *IMAGES)


def arguments_of(kernel):
    """A correct call, every array given."""
    arrays = {name: np.arange(3) if shape is int else f32(*shape) for name, shape in SHAPES[kernel].items()}
    if kernel in kernels.UPDATES:
        return {**arrays, "step": 1}
    if kernel == "batch_norm_apply":
        arrays["statistics"] = kernels.batch_norm_statistics(arrays["x"])
    if "pool2d" in kernel:
        arrays["kernel_size"] = 2
    if kernel == "avg_pool2d_backward":
        arrays["input_shape"] = (2, 3, 6, 6)
    if kernel.startswith("dropout"):
        return {**arrays, "p": 0.5, "seed": 1}
    if kernel.startswith("batch_norm_backward"):
        options = {"beta": f32(3), "residual": f32(6, 3), "relu": True}
        arrays["saved"] = kernels.batch_norm(arrays["x"], arrays["gamma"], **options)[1]
    if kernel == "batch_norm_backward_apply":
        arrays |= {"sums": (np.ones(3), np.ones(3)), "count": 6}
    return arrays


def is_written(kernel, name):
    if kernel == "nll_loss" and name == "log_probabilities":
        return False
    return name in OUTPUTS | STATES or (name == "grad" and kernel not in kernels.UPDATES)


def holding(kernel, name):
    """The arguments that a message may name: any, when one that others are held against has changed."""
    model = name == next(iter(SHAPES[kernel])) or (kernel.startswith(("linear", "conv2d")) and name == "weight")
    return (*SHAPES[kernel], "saved", "statistics", "sums") if model else (name,)


def unaligned(a):
    view = bytes_apart(*a.shape)
    view[...] = a
    return view


def several_at_one_place(a):
    return np.lib.stride_tricks.as_strided(a, a.shape, (*a.strides[:-1], 0))


FAULTS = {  # name: function of the right array, error, word of the remedy
    "a list": (lambda a: a.tolist(), TypeError, "asarray"),
    "a number": (lambda a: 1.0, TypeError, "asarray"),
    "float16": (lambda a: a.astype(np.float16), TypeError, "convert"),
    "long double": (lambda a: a.astype(np.longdouble), TypeError, "convert"),
    "uint16": (lambda a: a.astype(np.uint16), TypeError, "bfloat16"),
    "complex": (lambda a: a.astype(complex), TypeError, "convert"),
    "boolean": (lambda a: a.astype(bool), TypeError, "convert"),
    "objects": (lambda a: a.astype(object), TypeError, "convert"),
    "integer": (lambda a: a.astype(np.int32), TypeError, "convert"),
    "big-endian": (lambda a: a.astype(a.dtype.newbyteorder(">")), TypeError, "convert"),
    "the other float": (lambda a: a.astype(D), TypeError, "convert"),
    "one row more": (lambda a: np.concatenate([a, a[:1]]), ValueError, "expected"),
    "one axis more": (lambda a: a[None], ValueError, ""),
    "read-only": (lambda a: read_only(a.copy()), ValueError, "copy"),
    "its elements share memory": (lambda a: several_at_one_place(a.copy()), ValueError, "copy"),
    "between elements": (unaligned, ValueError, "copy"),
    "with gaps": (lambda a: np.repeat(a, 2, axis=-1)[..., ::2], ValueError, "ascontiguousarray"),
    "backwards": (lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1], ValueError, "ascontiguousarray"),
}


def faults_of(kernel, name):
    own = set(FAULTS)
    if kernel not in kernels.UPDATES or name not in ("param", "grad"):
        own -= {"uint16"}
    elif name == "grad":
        own -= {"float16", "the other float"}
    else:
        own -= {"float16", "the other float"} if not kernels.UPDATES[kernel].states else {"float16"}
    if SHAPES[kernel][name] is int:
        own -= {"integer", "between elements"}
    if not is_written(kernel, name):
        own -= {"read-only", "its elements share memory"}
    strided = kernel.startswith("batch_norm") and len(SHAPES[kernel][name]) > 1
    dense = kernel.startswith(DENSE) or (name == "weight" and kernel != BCE)
    if strided or not dense or name == "targets":
        own -= {"with gaps", "backwards"}
    elif kernel.startswith(DENSE):
        own -= {"its elements share memory"}  # refused as not contiguous
    if kernel == "batch_norm_statistics":  # nothing to agree with
        own -= {"float16", "the other float", "one row more", "one axis more"}
    if name == "targets":
        own -= {"integer"}
    if kernel in ANY_SHAPE:
        own -= {"one axis more"} if name == next(iter(SHAPES[kernel])) else set()
    return sorted(own)


@pytest.mark.parametrize("kernel", SHAPES)
def test_calls_of_the_grid_are_right_before_something_is_replaced(kernel):
    getattr(kernels, kernel.strip())(**arguments_of(kernel))


@pytest.mark.parametrize(
    ("kernel", "name", "fault"),
    [(kernel, name, fault) for kernel, names in SHAPES.items() for name in names for fault in faults_of(kernel, name)],
)
def test_every_argument_is_checked(kernel, name, fault):
    arguments = arguments_of(kernel)
    replace, error, remedy = FAULTS[fault]
    arguments[name] = replace(arguments[name])
    before = {key: a.tobytes() for key, a in arguments.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error) as caught:
        getattr(kernels, kernel.strip())(**arguments)
    assert str(caught.value).startswith(holding(kernel, name))
    assert remedy in str(caught.value)
    assert {key: a.tobytes() for key, a in arguments.items() if isinstance(a, np.ndarray)} == before


@pytest.mark.parametrize(
    ("kernel", "written", "other"),
    [
        (kernel, written, other)
        for kernel, names in SHAPES.items()
        for written in names
        for other in names
        if is_written(kernel, written) and other != written
    ],
)
def test_what_is_written_may_overlap_nothing_in_part(kernel, written, other):
    arguments = arguments_of(kernel)
    a, b = arguments[written], arguments[other]
    memory = np.zeros(a.nbytes + b.nbytes, np.uint8)
    arguments[written] = memory[: a.nbytes].view(a.dtype).reshape(a.shape)
    arguments[other] = memory[8 : 8 + b.nbytes].view(b.dtype).reshape(b.shape)
    arguments[written][...] = 0.25
    arguments[other][...] = 0 if b.dtype.kind == "i" else 0.25
    before = {key: v.tobytes() for key, v in arguments.items() if isinstance(v, np.ndarray)}
    with pytest.raises(ValueError, match="shares") as caught:
        getattr(kernels, kernel.strip())(**arguments)
    assert str(caught.value).startswith((written, other))
    assert {key: v.tobytes() for key, v in arguments.items() if isinstance(v, np.ndarray)} == before


@pytest.mark.parametrize(
    "kernel", [k for k in SHAPES if "dtype" in inspect.signature(getattr(kernels, k.strip())).parameters]
)
def test_a_dtype_that_is_not_known_is_refused(kernel):
    with pytest.raises(ValueError, match="dtype: expected 'bfloat16'"):
        getattr(kernels, kernel.strip())(**arguments_of(kernel), dtype="bf16")


@pytest.mark.parametrize("name", ["x", "dy", "y", "param", "logits", "prediction", "targets", "gamma", "arrays"])
def test_a_type_that_is_not_supported_is_told_what_is_expected(name):
    (kernel, *_), half = (
        [k for k, names in SHAPES.items() if name in names] or ["global_norm"],
        f32(6, 3).astype(np.longdouble),
    )
    arguments = {"arrays": [f32(3), half]} if name == "arrays" else {**arguments_of(kernel), name: half}
    with pytest.raises(TypeError, match=r"float128|longdouble") as caught:
        getattr(kernels, kernel.strip())(**arguments)
    assert "float32" in str(caught.value), "what was expected"


SCALARS = [  # kernel, argument, wrong type, wrong values
    ("adam", "step", ["1", None, 1.5], [0, -1, 2**63]),
    ("adam", "lr", ["x", None, 1j], [np.nan, np.inf, -np.inf]),
    ("adam", "beta1", ["x"], [np.nan]),
    ("adam", "grad_scale", ["x", None], [np.nan, np.inf, 0.0]),
    ("adam", "beta2", ["x"], [1.0, -0.1, 5]),
    ("adam", "eps", ["x"], [-1e-8]),
    ("adam", "eps_root", ["x", None], [-1e-8, np.nan, np.inf]),
    ("adam", "max_value", ["x", 1j], [0.0, -1.0, -np.inf, np.nan]),
    ("adam", "eps_hat", ["yes"], []),
    ("adam", "uncorrected", ["yes"], []),
    ("sgd", "decoupled_weight_decay", ["yes"], []),
    ("adam", "maximize", ["yes"], []),
    ("adam", "seed", ["x", None, 1.5], [-1, 2**64]),
    ("adam", "dtype", [], ["float16", 1, np.float16]),
    ("sgd_momentum", "nesterov", ["yes"], []),
    ("softmax", "axis", ["x", None, 1.0], [2, -3]),
    ("log_softmax", "axis", ["x", None, 1.0], [2, -3]),
    ("batch_norm", "channel_axis", ["x", None, 1.0], [2, -3]),
    ("batch_norm", "eps", ["x", None], [-1e-9, np.nan, np.inf]),
    ("batch_norm", "momentum", ["x"], [-0.1, 1.1, np.nan]),
    ("batch_norm", "relu", ["yes"], []),
    ("batch_norm", "training", ["yes"], []),
    ("batch_norm", "population", ["yes"], []),
    ("batch_norm", "dtype", [], ["float16", 1]),
    ("batch_norm_apply", "eps", ["x", None], [-1e-9, np.nan, np.inf]),
    ("batch_norm_apply", "momentum", ["x"], [-0.1, 1.1, np.nan]),
    ("batch_norm_apply", "channel_axis", ["x", None, 1.0], [2, -3]),
    ("batch_norm_apply", "relu", ["yes"], []),
    ("batch_norm_backward_apply", "count", ["x", None, 1.5], [0, -1]),
    ("linear", "relu", ["yes"], []),
    ("conv2d", "relu", ["yes"], []),
    *[(kernel, "stride", ["x", 1.5, (1, 1, 1), (1, "x")], [0, -1, (1, 0), 2**70]) for kernel in IMAGES],
    *[(kernel, "padding", ["x", None, 1.5, (1, 1, 1)], [-1, (0, -1), 2**70]) for kernel in IMAGES],
    *[(kernel, "kernel_size", ["x", None, 1.5], [0, -1, 2**70]) for kernel in IMAGES[1:]],
    ("softmax_cross_entropy", "label_smoothing", ["x", None], [-0.1, 1.1, np.nan]),
    ("softmax_cross_entropy", "z_loss", ["x", None], [-0.1, np.inf, np.nan]),
    ("softmax_cross_entropy", "ignore_index", ["x", None, 1.5], []),
    ("softmax_cross_entropy", "reduction", [], ["average", "", None, 1, ["mean"]]),
    ("softmax_cross_entropy", "n_classes", ["x", 1.5], [0, -1, 5]),
    ("softmax_cross_entropy", "dtype", [], ["float16", 1]),
    ("softmax", "dtype", [], ["float16", 1]),
    ("linear_cross_entropy", "label_smoothing", ["x", None], [-0.1, 1.1, np.nan]),
    ("linear_cross_entropy", "z_loss", ["x", None], [-0.1, np.inf, np.nan]),
    ("linear_cross_entropy", "ignore_index", ["x", None, 1.5], []),
    ("linear_cross_entropy", "reduction", [], ["average", None]),
    ("linear_cross_entropy", "n_classes", ["x", 1.5], [0, -1, 5]),
    ("mean_squared_error", "reduction", [], ["average", "", None, 1, ["mean"]]),
    *[(kernel, "threads", ["x", 1.5], [-1, 2**20]) for kernel in SHAPES],
]  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "name", "value", "error"),
    [(k, n, v, TypeError) for k, n, types, _ in SCALARS for v in types]
    + [(k, n, v, ValueError) for k, n, _, values in SCALARS for v in values],
)
def test_every_scalar_is_checked(kernel, name, value, error):
    arguments = {**arguments_of(kernel), name: value}
    before = {key: a.tobytes() for key, a in arguments.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error, match=name):
        getattr(kernels, kernel.strip())(**arguments)
    assert {key: a.tobytes() for key, a in arguments.items() if isinstance(a, np.ndarray)} == before


@pytest.mark.parametrize("threads", ["x", 1.5])
def test_global_norm_refuses_threads_of_another_type(threads):
    with pytest.raises(TypeError, match="threads"):
        kernels.global_norm([f32(3)], threads=threads)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("row", [0, 7, 12])
def test_a_label_out_of_range_is_named_wherever_it_is(kind, row):
    targets, limits = np.arange(13).astype(kind) % kind(5), np.iinfo(kind)
    for label in {5, int(limits.max), int(limits.min)} - {0}:
        bad = targets.copy()
        bad[row] = label
        logits, grad = f32(13, 5), f32(13, 5)
        with pytest.raises(ValueError, match=rf"targets\[{row}\] is {label}, expected 0 <= target < 5"):
            kernels.softmax_cross_entropy(logits, bad, grad=grad)
        assert (grad == f32(13, 5)).all()


def test_nothing_is_written_when_a_label_is_bad_in_place_and_with_threads():
    logits, targets = np.ones((4000, 100), F), np.zeros(4000, int)
    targets[-1] = 100
    with pytest.raises(ValueError, match=r"targets\[3999\] is 100"):
        kernels.softmax_cross_entropy(logits, targets, grad=logits, threads=2)
    assert (logits == 1).all()


@pytest.mark.parametrize("name", ["mean", "invstd"])
def test_what_backward_needs_is_refused_when_it_is_not_what_forward_saved(name):
    x = f32(6, 3)
    _, saved = kernels.batch_norm(x)
    good = getattr(saved, name)
    for bad in (good[:1], np.ones(7), good.astype(F), good.tolist(), np.repeat(good, 2)[::2]):
        dx = f32(6, 3)
        with pytest.raises((TypeError, ValueError), match=name):
            kernels.batch_norm_backward(f32(6, 3), x, None, saved._replace(**{name: bad}), out=dx)
        assert (dx == f32(6, 3)).all()


def test_backward_only_reads_what_forward_saved():
    x = f32(6, 3)
    _, saved = kernels.batch_norm(x)
    kept = saved._replace(mean=read_only(saved.mean.copy()), invstd=read_only(saved.invstd.copy()))
    expected = kernels.batch_norm_backward(f32(6, 3), x, None, saved)
    for a, b in zip(kernels.batch_norm_backward(f32(6, 3), x, None, kept), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_label_that_no_int64_holds_is_not_taken_for_ignore_index():
    targets = np.array([0, 2**64 - 1], np.uint64)
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        kernels.softmax_cross_entropy(f32(2, 3), targets, ignore_index=2**63 - 1)


@pytest.mark.parametrize("rule", kernels.UPDATES)
def test_every_array_of_an_update_is_needed(rule):
    arguments = arguments_of(rule)
    for name in SHAPES[rule]:
        for missing in (None, [None]):
            lists = {k: v if k == "step" else [v] for k, v in arguments.items()} if missing else arguments
            with pytest.raises((TypeError, ValueError), match=f"^{name}"):
                getattr(kernels, rule)(**{**lists, name: missing})


@pytest.mark.parametrize("rule", kernels.UPDATES)
def test_no_tensors_are_no_work(rule):
    getattr(kernels, rule)(*([] for _ in SHAPES[rule]), step=1)


def test_an_array_may_hide_in_the_gaps_of_another():
    memory = f32(4, 12)
    kernels.adam(memory[:, ::4], memory[:, 1::4], memory[:, 2::4], memory[:, 3::4], step=1)
    kernels.softmax(memory[:, ::2], out=memory[:, 1::2])
    memory = f32(12)
    with pytest.raises(ValueError, match=r"param\[1\]"):
        kernels.sgd([memory[::2], memory[::3]], [f32(6), f32(4)], step=1)  # they meet at elements 0 and 6
    kernels.sgd([memory[::2], memory[1::2], memory[:0]], [f32(6), f32(6), f32(0)], step=1)


# ---- the optimizers


def test_optimizer_refuses_before_it_counts_the_step():
    params = [f32(4), f32(3)]
    optimizer = optim.Adam(params)
    for grads in ([f32(4)], [f32(4), f32(4)], [f32(4), f32(3).astype(np.uint16)], [f32(4), params[1]]):
        before = [p.copy() for p in params]
        with pytest.raises((TypeError, ValueError), match="grad"):
            optimizer.step(grads)
        assert all((p == q).all() for p, q in zip(params, before, strict=True))
        assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [0, 0]
    optimizer.step([f32(4), f32(3)])
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", [name for name in optim.__all__ if name not in ("EMA", "SWA", "Lookahead", "Optimizer", "StepInfo")]
)
def test_a_norm_that_is_not_finite_changes_nothing_and_is_told(name, bad):
    params = [f32(40), f32(3)]
    optimizer = getattr(optim, name)(params, max_norm=1.0)
    optimizer.step([f32(40), f32(3)])
    before, state = [p.copy() for p in params], optimizer.state_dict()["state"]
    kept = {i: {k: np.copy(v) for k, v in entry.items()} for i, entry in state.items()}
    grads = [f32(40), f32(3)]
    grads[0][33] = bad
    info = optimizer.step(grads)
    assert info.skipped
    assert not np.isfinite(info.grad_norm)
    assert all((p == q).all() for p, q in zip(params, before, strict=True))
    after = optimizer.state_dict()["state"]
    for i, entry in kept.items():
        for key, value in entry.items():
            np.testing.assert_array_equal(after[i][key], value)


def test_without_max_norm_a_nan_goes_where_it_belongs_only():
    p = f32(40)
    g = f32(40)
    g[17] = np.nan
    optim.Adam([p]).step([g])
    assert np.isnan(p[17])
    assert np.isfinite(np.delete(p, 17)).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: optim.SGD([]), "params"),
        (lambda: optim.SGD(f32(3)), "params"),
        (lambda: optim.SGD([np.arange(3)]), r"params\[0\]"),
        (lambda: optim.SGD([[1.0]]), r"params\[0\]"),
        (lambda: optim.SGD([read_only(f32(3))]), "param"),
        (lambda: optim.SGD([{"params": [f32(3)], "learning_rate": 1.0}]), "learning_rate"),
        (lambda: optim.SGD([f32(3)], lr=-1.0), "lr"),
        (lambda: optim.SGD([f32(3)], nesterov=True), "nesterov"),
        (lambda: optim.Adam([f32(3)], betas=(0.9, 1.0)), "betas"),
        (lambda: optim.Adam([f32(3)], betas=0.9), "betas: expected two numbers"),
        (lambda: optim.Adam([f32(3)], betas="ab"), "betas: expected two numbers"),
        (lambda: optim.Adam([f32(3)], eps=-1.0), "eps"),
        (lambda: optim.Adam([f32(3)], max_norm=0.0), "max_norm"),
        (lambda: optim.Adagrad([f32(3)], initial_accumulator_value=-1.0), "initial_accumulator_value"),
        (lambda: optim.Adadelta([f32(3)], rho=1.5), "rho"),
        (lambda: optim.Adamax([f32(3)], betas=(0.9, 1.0)), "betas"),
        (lambda: optim.NAdam([f32(3)], betas=(0.9,)), "betas"),
        (lambda: optim.NAdam([f32(3)], momentum_decay=-1.0), "momentum_decay"),
        (lambda: optim.RAdam([f32(3)], betas=(-0.1, 0.9)), "betas"),
        (lambda: optim.Rprop([f32(3)], etas=(0.5, 0.9)), "etas"),
        (lambda: optim.Rprop([f32(3)], step_sizes=(1.0, 0.5)), "step_sizes"),
        (lambda: optim.Rprop([f32(3)], step_sizes=(-1.0, 0.5)), "step_sizes"),
        (lambda: optim.Rprop([f32(3)], weight_decay=0.1), "weight_decay"),
        (lambda: optim.ASGD([f32(3)], lambd=-1.0), "lambd"),
        (lambda: optim.ASGD([f32(3)], alpha=np.nan), "alpha"),
        (lambda: optim.ASGD([f32(3)], t0=-1.0), "t0"),
        (lambda: optim.Lion([f32(3)], betas=(0.9, 1.0)), "betas"),
        (lambda: optim.Signum([f32(3)], momentum=1.0), "momentum"),
        (lambda: optim.AdaBound([f32(3)], final_lr=-0.1), "final_lr"),
        (lambda: optim.AdaBound([f32(3)], gamma=-0.1), "gamma"),
        (lambda: optim.AdaBound([f32(3)], lr=0.0), "base_lr"),
    ],
)
def test_optimizer_refuses_what_makes_no_sense(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_optimizer_refuses_a_grad_scale_that_cannot_be_divided_by(scale, max_norm):
    params = [f32(4)]
    with pytest.raises(ValueError, match="grad_scale"):
        optim.SGD(params, max_norm=max_norm).step([f32(4)], grad_scale=scale)
    assert (params[0] == f32(4)).all()


@pytest.mark.parametrize(
    ("make", "option", "value"),
    [
        (lambda p: optim.SGD(p), "momentum", 0.9),
        (lambda p: optim.RMSprop(p), "momentum", 0.9),
        (lambda p: optim.RMSprop(p), "centered", True),
        (lambda p: optim.Adam(p), "amsgrad", True),
        (lambda p: optim.AdamW(p, amsgrad=True), "amsgrad", False),
        (lambda p: optim.AdaBound(p), "amsbound", True),
        (lambda p: optim.SGD(p), "lr", -1.0),
        (lambda p: optim.SGD(p), "lr", np.nan),
        (lambda p: optim.SGD(p), "lr", "x"),
        (lambda p: optim.Adam(p), "betas", (0.9, 1.0)),
        (lambda p: optim.Adam(p), "betas", 0.9),
        (lambda p: optim.SGD(p), "learning_rate", 0.1),
    ],
)
def test_an_option_that_cannot_be_assigned_later_is_never_silently_ignored(make, option, value):
    params = [f32(4)]
    optimizer = make(params)
    optimizer.step([f32(4)])
    before = params[0].copy()
    optimizer.param_groups[0][option] = value
    with pytest.raises((TypeError, ValueError), match=option):
        optimizer.step([f32(4)])
    assert (params[0] == before).all()


def test_an_option_of_an_average_is_named_as_the_user_knows_it():
    param = f32(4)
    ema = optim.EMA(optim.SGD([param]))
    ema.decay = 2.0
    with pytest.raises(ValueError, match="decay"):
        ema.step([f32(4)])
    assert (param == f32(4)).all()


# ---- a good guest


def run_script(text, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


WORK = """
    import os, signal, sys, threading
    import numpy as np
    import onepass
    from onepass import kernels

    def work(threads, seed=0):
        rng = np.random.default_rng(seed)
        def a(*shape):
            return rng.normal(size=shape).astype(np.float32)
        p, m, v = a(300_001), a(300_001), abs(a(300_001))
        kernels.adam(p, a(300_001), m, v, step=3, threads=threads)
        loss, grad = kernels.softmax_cross_entropy(a(500, 301), np.arange(500) % 301, threads=threads)
        x = a(2000, 130)
        y, saved = kernels.batch_norm(x, relu=True, threads=threads)
        dx, dgamma, dbeta = kernels.batch_norm_backward(a(2000, 130), x, None, saved, threads=threads)
        z = kernels.linear(x, a(140, 130), relu=True, threads=threads)
        gradients = kernels.linear_backward(a(2000, 140), x, a(140, 130), threads=threads)
        norm = kernels.global_norm([p, z], threads=threads)
        outputs = [p, m, v, np.float64(loss), grad, y, dx, dgamma, dbeta, z, *gradients, np.float64(norm)]
        return b"".join(np.ascontiguousarray(o).tobytes() for o in outputs)
"""


def test_a_forked_child_computes_right_after_its_parent_used_threads():
    """libgomp's threads do not survive a fork; it would wait for them forever."""
    run = run_script(
        WORK
        + """
    expected = work(4)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends a child that hangs
        if work(4) != expected or work(None) != expected:
            os._exit(3)
        grandchild = os.fork()
        if grandchild == 0:
            signal.alarm(5)
            os._exit(0 if work(4) == expected else 4)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) & 127)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert work(4) == expected, "the parent goes on"
    print(status)
    """
    )
    assert run.stdout.strip() == "0", f"minus the signal that ended the child, or its answer: {run.stdout}{run.stderr}"


def test_kernels_are_reentrant():
    run = run_script(
        WORK
        + """
    expected = [work(1, seed) for seed in range(4)]
    found = [[] for _ in range(4)]
    def repeat(seed):
        for threads in (2, 3, None, 1):
            found[seed].append(work(threads, seed))
    callers = [threading.Thread(target=repeat, args=(seed,)) for seed in range(4)]
    for caller in callers: caller.start()
    for caller in callers: caller.join()
    assert all(len(own) == 4 for own in found)
    assert all(result == expected[seed] for seed in range(4) for result in found[seed])
    """,
        OMP_WAIT_POLICY="passive",
    )
    assert run.returncode == 0, run.stderr


def test_optimizers_of_several_python_threads_do_not_meet():
    def train(seed, results):
        rng = np.random.default_rng(seed)
        params = [rng.normal(size=(400, 300)).astype(F), rng.normal(size=7)]
        optimizer = optim.Adam(params, lr=0.1, max_norm=1.0)
        for _ in range(10):
            optimizer.step([rng.normal(size=p.shape).astype(p.dtype) for p in params])
        results[seed] = b"".join(p.tobytes() for p in params)

    alone, together = {}, {}
    for seed in range(3):
        train(seed, alone)
    callers = [threading.Thread(target=train, args=(seed, together)) for seed in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert together == alone


def subnormals_work():
    tiny = np.full(33, np.finfo(F).tiny)
    return bool((tiny * F(0.5) > 0).all() and np.float64(1e-300) * np.float64(1e-15) > 0)


@pytest.mark.parametrize("kernel", SHAPES)
def test_the_floating_point_mode_is_the_callers_again(kernel):
    """After a call, after a call that fails, and in threads."""
    arguments = arguments_of(kernel)
    model = next(iter(SHAPES[kernel]))
    seen = []

    def check():
        seen.append(subnormals_work())
        getattr(kernels, kernel.strip())(**arguments)
        seen.append(subnormals_work())
        with pytest.raises((TypeError, ValueError)):
            getattr(kernels, kernel.strip())(**{**arguments, model: f64(7)})
        seen.append(subnormals_work())

    check()
    caller = threading.Thread(target=check)
    caller.start()
    caller.join()
    assert seen == [True] * 6


def test_the_floating_point_mode_is_the_callers_again_after_threads():
    p = np.ones(1 << 19, F)
    for threads in (1, 2, 5, None):
        kernels.sgd(p, np.ones_like(p), step=1, threads=threads)
        kernels.global_norm([p], threads=threads)
        assert subnormals_work()


def test_a_caller_that_flushes_subnormals_goes_on_flushing():
    p = np.ones(1 << 19, F)
    with reference.flush_subnormals():
        for threads in (1, 2):
            kernels.sgd(p, p.copy(), step=1, threads=threads)
            assert not (np.full(33, 1.2e-38, F) * F(0.5)).any()
    assert subnormals_work()


@pytest.fixture
def default_threads():
    onepass.set_threads(None)
    yield onepass.get_threads()
    onepass.set_threads(None)


def test_set_threads_and_back(default_threads):
    assert default_threads >= 1
    for threads in (1, 3, 64):
        onepass.set_threads(threads)
        assert onepass.get_threads() == threads
        assert onepass.info()["threads"] == threads
    onepass.set_threads(None)
    assert onepass.get_threads() == default_threads


@pytest.mark.parametrize(
    ("bad", "error"), [(0, ValueError), (-1, ValueError), (2**20, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_set_threads_refuses_and_keeps(default_threads, bad, error):
    onepass.set_threads(3)
    with pytest.raises(error, match="threads"):
        onepass.set_threads(bad)
    assert onepass.get_threads() == 3


TEAM = """
    import os
    import numpy as np
    import onepass
    from onepass import kernels
    x = np.zeros(1 << 20, np.float32)
    alone = len(os.listdir("/proc/self/task"))
    def team(threads=None):
        kernels.relu(x, x, threads=threads)
        return 1 + len(os.listdir("/proc/self/task")) - alone
"""


@pytest.mark.parametrize("number", [1, 3])
def test_omp_num_threads_is_respected(number):
    run = run_script(TEAM + "\n    print(onepass.get_threads(), team(), team(5))", OMP_NUM_THREADS=str(number))
    assert run.stdout.split() == [str(number), str(number), "5"], run.stderr


def test_set_threads_goes_before_omp_num_threads_and_threads_before_both():
    script = TEAM + "\n    onepass.set_threads(2); print(onepass.get_threads(), team(), team(4))"
    assert run_script(script, OMP_NUM_THREADS="3").stdout.split() == ["2", "2", "4"]


def test_affinity_is_respected():
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})" + textwrap.dedent(TEAM)
    without = {"OMP_NUM_THREADS": ""}
    assert run_script(script + "print(onepass.get_threads(), team())", **without).stdout.split() == ["1", "1"]


def test_small_work_starts_no_thread():
    script = (
        TEAM + "\n    x = x[:1000]; kernels.relu(x, x, threads=8); print(len(os.listdir('/proc/self/task')) - alone)"
    )
    assert run_script(script).stdout.split() == ["0"]


def test_import_is_silent_and_starts_no_thread_and_loads_no_more_than_numpy():
    run = run_script(
        """
    import os, sys, threading
    import numpy
    tasks, modules = len(os.listdir("/proc/self/task")), set(sys.modules)
    import onepass, onepass.kernels, onepass.optim, onepass.schedules, onepass.reference
    assert len(os.listdir("/proc/self/task")) == tasks, "a thread was started"
    heavy = {"scipy", "torch", "jax", "sklearn", "matplotlib", "tqdm", "threadpoolctl", "safetensors"}
    assert not heavy & {name.split(".")[0] for name in set(sys.modules) - modules}
    """,
        PYTHONWARNINGS="error",
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
