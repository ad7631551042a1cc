"""Functions whose critical points are known in closed form: f(theta) -> (loss, gradient) of a flat vector."""

from __future__ import annotations

import numpy as np


def function(loss, *partials):
    """Of n variables, from the loss and its n partial derivatives."""
    return lambda theta: (float(loss(*theta)), np.array([float(partial(*theta)) for partial in partials]))


def scaled(f, factor):
    def g(theta):
        loss, gradient = f(theta)
        return factor * loss, factor * gradient

    return g


def quadratic(values, rotation_seed=None):
    """theta' H theta / 2 for H with these eigenvalues, diagonal or in a random basis; and H."""
    hessian = np.diag(np.asarray(values, float))
    if rotation_seed is not None:
        basis = np.linalg.qr(np.random.default_rng(rotation_seed).standard_normal(hessian.shape))[0]
        hessian = basis @ hessian @ basis.T
        hessian = (hessian + hessian.T) / 2
    return (lambda theta: (float(theta @ hessian @ theta) / 2, hessian @ theta)), hessian


# minima at (0, +-sqrt 2) of loss -1
QUARTIC_SADDLE = function(lambda x, y: x**2 - y**2 + y**4 / 4, lambda x, y: 2 * x, lambda x, y: -2 * y + y**3)
# y = w1 w2 x for x = y = 1: minima wherever w1 w2 = 1, of loss 0
TWO_WEIGHTS = function(
    lambda a, b: (1 - a * b) ** 2, lambda a, b: -2 * b * (1 - a * b), lambda a, b: -2 * a * (1 - a * b)
)
# a curved valley with minima at (+-1, 1) of loss 0
ROSENBROCK_SADDLE = function(
    lambda x, y: 100 * (y - x**2) ** 2 + (1 - x**2) ** 2,
    lambda x, y: -400 * x * (y - x**2) - 4 * x * (1 - x**2),
    lambda x, y: 200 * (y - x**2),
)
# minima at (+-1, +-1) of loss 0, a maximum at the origin, saddles between
FOUR_WELLS = function(
    lambda x, y: (x**2 - 1) ** 2 + (y**2 - 1) ** 2, lambda x, y: 4 * x * (x**2 - 1), lambda x, y: 4 * y * (y**2 - 1)
)
MONKEY_SADDLE = function(lambda x, y: x**3 - 3 * x * y**2, lambda x, y: 3 * x**2 - 3 * y**2, lambda x, y: -6 * x * y)
BOUNDED_MONKEY_SADDLE = function(
    lambda x, y: x**3 - 3 * x * y**2 + (x**2 + y**2) ** 2,
    lambda x, y: 3 * x**2 - 3 * y**2 + 4 * x * (x**2 + y**2),
    lambda x, y: -6 * x * y + 4 * y * (x**2 + y**2),
)


def linear_network(depth, width=2):
    """|W_depth ... W_1 - 1|^2 / 2 for square matrices in a flat theta: the least squares of a deep linear network."""

    def f(theta):
        matrices = theta.reshape(depth, width, width)
        before = [np.eye(width)]
        for matrix in matrices:
            before.append(matrix @ before[-1])
        error = before[-1] - np.eye(width)
        gradient, after = np.empty_like(matrices), np.eye(width)
        for k in reversed(range(depth)):
            gradient[k] = after.T @ error @ before[k].T
            after = after @ matrices[k]
        return float(np.sum(error**2)) / 2, gradient.ravel()

    return f


class Counted:
    """``f`` with its calls counted, and loss(theta) and hessian_vector(theta, v) of it offered where they are given."""

    def __init__(self, f, loss=None, hessian_vector=None):
        self.f, self.calls, self.losses, self.products = f, 0, 0, 0
        if loss is not None:
            self.loss = lambda theta: self._count("losses", loss(theta))
        if hessian_vector is not None:
            self.hessian_vector = lambda theta, v: self._count("products", hessian_vector(theta, v))

    def _count(self, what, value):
        setattr(self, what, getattr(self, what) + 1)
        return value

    def __call__(self, theta):
        self.calls += 1
        return self.f(theta)
