"""Descent to a critical point by SciPy's minimizers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onepass._extras import require
from onepass.landscape.curvature import DENSE, hessian_at
from onepass.landscape.function import Array
from onepass.landscape.walk import Walk

__all__ = ["descend", "trust_region"]

POLISHING = 10  # Newton's steps that follow L-BFGS at most
KRYLOV = 100  # iterations of MINRES in one of them
ROUNDING = 1e-6  # some units of the last place of a loss that is computed in float32
WIDEST = 1e10  # trust region: wide enough to see that a function is unbounded


def descend(walk: Walk, x: Array, target: float) -> Array:
    """L-BFGS-B (Byrd, Lu, Nocedal and Zhu 1995) from ``x`` to a gradient of norm ``target``.

    Where its line search ends in the rounding of the loss, Newton's steps by MINRES (Paige and Saunders 1975) go on.
    """
    options = {"gtol": target / math.sqrt(len(x)), "ftol": 0.0, "maxiter": walk.limit + 1, "maxfun": 100 * walk.limit}
    found = _minimize(walk, x, options, method="L-BFGS-B")
    for _ in range(POLISHING):
        gradient = walk.value(found)[1]
        if np.linalg.norm(gradient) <= target:
            break
        better = found + _newton_step(walk, found, gradient)
        if not _improves(walk, better, found):
            break
        found = better
        walk.visit(found)
    return found


def _newton_step(walk: Walk, x: Array, gradient: Array) -> Array:
    linalg = require("scipy.sparse.linalg")
    hessian = linalg.LinearOperator((len(x), len(x)), lambda v: _product(walk)(x, v.ravel()), dtype=np.float64)
    return np.array(linalg.minres(hessian, -gradient, maxiter=KRYLOV)[0])


def trust_region(walk: Walk, x: Array, target: float) -> Array:
    """SciPy's trust-exact (Moré and Sorensen 1983) from ``x``; of more than 300 parameters trust-krylov (Gould,
    Lucidi, Roma and Toint 1999; Lenders, Kirches and Potschka 2018), which needs Hessian-vector products alone."""
    if len(x) <= DENSE:
        second = {"method": "trust-exact", "hess": lambda at: _hessian(walk, at)}
    else:
        second = {"method": "trust-krylov", "hessp": _product(walk)}
    options = {"gtol": target, "maxiter": walk.limit + 1, "max_trust_radius": WIDEST}
    return _minimize(walk, x, options, **second)


def _minimize(walk: Walk, x: Array, options: dict[str, Any], **how: Any) -> Array:
    def value(at: Array) -> tuple[float, Array]:  # L-BFGS-B divides by squares of the gradient, which may underflow
        return walk.value(at) if np.isfinite(at).all() else (math.inf, np.zeros(len(at)))

    found = require("scipy.optimize").minimize(
        value, x, jac=True, callback=lambda at: walk.visit(at), options=options, **how
    )
    return np.array(found.x) if np.isfinite(found.x).all() else x


def _hessian(walk: Walk, x: Array) -> Array:
    """trust-exact asks for it before it rejects a point, even one where there is none."""
    return np.eye(len(x)) if math.isinf(walk.value(x)[0]) else hessian_at(walk.function, x)


def _product(walk: Walk) -> Any:
    return lambda at, v: walk.function.hessian_vector(at, v)[0]


def _improves(walk: Walk, better: Array, than: Array) -> bool:
    """A smaller gradient, and a loss that is no higher but for rounding."""
    (loss, gradient), (old_loss, old_gradient) = walk.value(better), walk.value(than)
    lower = bool(np.linalg.norm(gradient) < np.linalg.norm(old_gradient))
    return lower and loss <= old_loss + ROUNDING * abs(old_loss)
