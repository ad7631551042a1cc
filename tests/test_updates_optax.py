"""The optimizers that Optax has and torch has not, and the options of Optax's conventions, step for step; the yardstick
is that of test_updates_torch.py: at most 16 units in the last place of the path that an element has walked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from measure import ulps

from onepass import optim

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

STEPS, BOUND = 50, 16


def grid(**options):
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def lion(lr, betas, weight_decay):
    return optax.lion(lr, *betas, weight_decay=weight_decay)


def signum(lr, momentum, weight_decay):
    return optax.chain(
        optax.ema(momentum, debias=False),
        optax.scale_by_sign(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(lr),
    )


def rmsprop(lr, alpha, eps, momentum, centered, eps_inside, initial_square_avg=0.0):
    return optax.rmsprop(
        lr, alpha, eps, initial_square_avg, eps_in_sqrt=eps_inside, centered=centered, momentum=momentum or None
    )


def adam(lr, betas, eps, eps_root):
    return optax.adam(lr, *betas, eps, eps_root)


def adamw(lr, betas, eps, eps_root, weight_decay):
    return optax.adamw(lr, *betas, eps, eps_root, weight_decay=weight_decay)


def nadam(lr, betas, eps, eps_root, momentum_decay):
    assert 0.96**momentum_decay == 0  # a constant momentum, as there
    return optax.nadam(lr, *betas, eps, eps_root)


def radam(lr, betas, eps, eps_root):
    assert eps == 0  # behind the bias correction there
    return optax.radam(lr, *betas, eps, eps_root)


def adagrad(lr, eps, initial_accumulator_value, eps_inside):
    assert eps_inside
    return optax.adagrad(lr, initial_accumulator_value, eps)


BETAS, EPS_ROOTS = [(0.9, 0.999), (0.5, 0.8)], [0.0, 1e-6, 0.1]
CASES = [
    *[("Lion", lion, o) for o in grid(lr=[0.01], betas=[(0.9, 0.99), (0.5, 0.8)], weight_decay=[0.0, 0.1])],
    *[("Signum", signum, o) for o in grid(lr=[0.01], momentum=[0.9, 0.5, 0.0], weight_decay=[0.0, 0.1])],
    *[
        ("RMSprop", rmsprop, o)
        for o in grid(
            lr=[0.01], alpha=[0.9, 0.5], eps=[1e-8, 1e-2], momentum=[0.0, 0.9], centered=[False, True],
            eps_inside=[False, True],
        )
        if o["eps"] == 1e-2 or not o["centered"]  # Optax divides by zero where all gradients were one
    ],
    *[
        ("RMSprop", rmsprop, o)
        for o in grid(
            lr=[0.01], alpha=[0.9], eps=[1e-8], momentum=[0.0, 0.9], centered=[False, True], eps_inside=[False, True],
            initial_square_avg=[1.0, 0.25],
        )
    ],
    *[("Adam", adam, o) for o in grid(lr=[0.01], betas=BETAS, eps=[1e-8, 1e-2], eps_root=EPS_ROOTS)],
    *[("AdamW", adamw, o) for o in grid(lr=[0.01], betas=BETAS, eps=[1e-8], eps_root=EPS_ROOTS, weight_decay=[0.1])],
    *[
        ("NAdam", nadam, o)
        for o in grid(lr=[0.01], betas=BETAS, eps=[1e-8, 1e-2], eps_root=EPS_ROOTS, momentum_decay=[1e6])
    ],
    *[  # with beta2 = 0.999 Optax loses the first digits of the rectification, in a difference of two large numbers
        ("RAdam", radam, o)
        for o in grid(lr=[0.01], betas=[(0.9, 0.95), (0.5, 0.8)], eps=[0.0], eps_root=EPS_ROOTS)
    ],
    *[
        ("Adagrad", adagrad, o)
        for o in grid(lr=[0.1], eps=[1e-7, 1e-2], initial_accumulator_value=[0.0, 0.1], eps_inside=[True])
    ],
]  # fmt: skip


def nonzero(rng, shape, dtype):
    a = rng.normal(size=shape)
    return (a + np.copysign(0.1, a)).astype(dtype)


@pytest.mark.parametrize(
    ("name", "transform_of", "options"),
    CASES,
    ids=[f"{name}-{','.join(map(str, options.values()))}" for name, _, options in CASES],
)
def test_options(name, transform_of, options, dtype, rng):
    with jax.enable_x64(True):
        ours = [nonzero(rng, (17,), dtype), nonzero(rng, (5, 7), dtype)]
        optimizer, transform = getattr(optim, name)(ours, **options), transform_of(**options)
        theirs = [jax.numpy.asarray(p.copy()) for p in ours]
        state = transform.init(theirs)
        length = [np.abs(p).astype(np.float64) for p in ours]
        for step in range(STEPS):
            grads = [nonzero(rng, p.shape, dtype) for p in ours]
            updates, state = transform.update([jax.numpy.asarray(g.copy()) for g in grads], state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            optimizer.step(grads)
            for p, q, moved, path in zip(ours, theirs, updates, length, strict=True):
                path += 2 * np.abs(np.asarray(moved, np.float64))
                assert q.dtype == dtype
                assert ulps(p, np.asarray(q), path) <= BOUND, step
