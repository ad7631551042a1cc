"""Where training stops and why: gradients, Hessians, critical points and the surfaces around them.

Everything takes a *function*: any callable ``f(theta) -> (loss, gradient)`` of a flat float64 vector or a list of
float64 arrays, the gradient in theta's structure. `from_model` and `from_torch` make one of a network, a loss and data.
What else a function offers is used where it is useful: ``f.loss(theta)``, cheaper than both; ``f.hessian_vector(theta,
v)``, exact; ``f.gauss_newton_vector(theta, v)``; ``f.shapes``, those of the arrays in a flat theta; ``f.theta``;
``f.copy()``, for other threads.

SciPy, matplotlib and torch are imported when something needs them.
"""

from onepass.landscape.critical import CriticalPoint, check_result, critical_point
from onepass.landscape.directions import Directions, directions_between, pca, random_direction
from onepass.landscape.escape import Escape, escape
from onepass.landscape.gradients import GradientCheck, gradient_check
from onepass.landscape.models import from_model
from onepass.landscape.operators import (
    HessianVectorProduct,
    gauss_newton_operator,
    hessian,
    hessian_operator,
    hessian_vector_product,
)
from onepass.landscape.spectrum import Eigenpairs, eigenpairs
from onepass.landscape.stochastic import Estimate, SpectralDensity, spectral_density, trace
from onepass.landscape.surfaces import Line, Plane, line, plane
from onepass.landscape.taylor import Taylor, taylor
from onepass.landscape.torch_module import from_torch

__all__ = [
    "CriticalPoint",
    "Directions",
    "Eigenpairs",
    "Escape",
    "Estimate",
    "GradientCheck",
    "HessianVectorProduct",
    "Line",
    "Plane",
    "SpectralDensity",
    "Taylor",
    "check_result",
    "critical_point",
    "directions_between",
    "eigenpairs",
    "escape",
    "from_model",
    "from_torch",
    "gauss_newton_operator",
    "gradient_check",
    "hessian",
    "hessian_operator",
    "hessian_vector_product",
    "line",
    "pca",
    "plane",
    "random_direction",
    "spectral_density",
    "taylor",
    "trace",
]
