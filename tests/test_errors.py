"""Loud boundaries: what cannot be done is refused before the first byte is written, and the message names the argument,
what it is, and what to do about it."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import kernels, optim

F, D = np.float32, np.float64


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
    ("param float16", lambda: adam(param=f32(5).astype(np.float16)), "param", "convert"),
    ("param integer", lambda: adam(param=np.arange(5)), "param", "convert"),
    ("param complex", lambda: adam(param=np.ones(5, complex)), "param", "convert"),
    ("param big-endian", lambda: adam(param=f32(5).astype(">f4")), "param", "convert"),
    ("grad of another type", lambda: adam(grad=f64(5)), "grad", "convert"),
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
    ("linear weight of another type", lambda: call("linear", f32(2, 3), f64(4, 3)), "weight", "convert"),
    ("linear weight a list", lambda: call("linear", f32(2, 1), [[1.0]]), "weight", "asarray"),
    ("linear bias of another type", lambda: call("linear", f32(2, 3), f32(4, 3), f64(4)), "bias", "convert"),
    ("relu of integers", lambda: call("relu", np.arange(3)), "x", "convert"),
    ("relu_backward y of another type", lambda: call("relu_backward", f32(3), f64(3)), "y", "convert"),
    ("prediction a list", lambda: call("mean_squared_error", [1.0], f32(1)), "prediction", "asarray"),
    ("target of another type", lambda: call("mean_squared_error", f32(3), f64(3)), "target", "convert"),
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
    ("linear of three axes", lambda: call("linear", f32(2, 3, 4), f32(5, 4)), "x", "expected shape"),
    ("linear inner sizes differ", lambda: call("linear", f32(2, 3), f32(5, 4)), "weight", "3"),
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
    # empty
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
    ("batch_norm x with gaps", lambda: batch(x=gaps(6, 3)), "x", "ascontiguousarray"),
    ("batch_norm x transposed", lambda: batch(x=f32(3, 6).T), "x", "ascontiguousarray"),
    ("batch_norm residual with gaps", lambda: batch(residual=gaps(6, 3)), "residual", "ascontiguousarray"),
    ("batch_norm out with gaps", lambda: batch(out=gaps(6, 3)), "out", "ascontiguousarray"),
    ("gamma with gaps", lambda: batch(gamma=gaps(3)), "gamma", "ascontiguousarray"),
    ("dy with gaps", lambda: backward(dy=gaps(6, 3)), "dy", "ascontiguousarray"),
    ("weight with gaps", lambda: entropy(weight=gaps(4)), "weight", "ascontiguousarray"),
    ("linear x with gaps", lambda: call("linear", gaps(2, 3), f32(5, 3)), "x", "ascontiguousarray"),
    ("linear weight transposed", lambda: call("linear", f32(2, 3), f32(3, 5).T), "weight", "ascontiguousarray"),
    ("relu x with gaps", lambda: call("relu", gaps(6)), "x", "ascontiguousarray"),
    ("target with gaps", lambda: call("mean_squared_error", f32(6), gaps(6)), "target", "ascontiguousarray"),
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


@pytest.mark.parametrize(
    "make",
    [lambda: adam(), lambda: batch(), lambda: backward(), lambda: entropy()],
    ids=["adam", "batch", "backward", "ce"],
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


# ---- the optimizers


def test_optimizer_refuses_before_it_counts_the_step():
    params = [f32(4), f32(3)]
    optimizer = optim.Adam(params)
    for grads in ([f32(4)], [f32(4), f32(4)], [f32(4), f64(3)], [f32(4), params[1]]):
        before = [p.copy() for p in params]
        with pytest.raises((TypeError, ValueError), match="grad"):
            optimizer.step(grads)
        assert all((p == q).all() for p, q in zip(params, before, strict=True))
        assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [0, 0]
    optimizer.step([f32(4), f32(3)])
    assert [entry["step"] for entry in optimizer.state_dict()["state"].values()] == [1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"])
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
        (lambda: optim.Adam([f32(3)], eps=-1.0), "eps"),
        (lambda: optim.Adam([f32(3)], max_norm=0.0), "max_norm"),
        (lambda: optim.Adagrad([f32(3)], initial_accumulator_value=-1.0), "initial_accumulator_value"),
    ],
)
def test_optimizer_refuses_what_makes_no_sense(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()
