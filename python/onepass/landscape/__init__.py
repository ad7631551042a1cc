"""Where training stops and why: gradients, Hessians, critical points and the surfaces around them.

Everything takes a *function*: any callable ``f(theta) -> (loss, gradient)`` of a flat float64 vector or a list of float64
arrays, the gradient in theta's structure.
"""

from onepass.landscape.directions import Directions, directions_between, pca, random_direction
from onepass.landscape.models import from_model
from onepass.landscape.operators import hessian, hessian_operator, hessian_vector_product
from onepass.landscape.spectrum import Eigenpairs, eigenpairs
from onepass.landscape.surfaces import Line, Plane, line, plane

__all__ = [
    "Directions",
    "Eigenpairs",
    "Line",
    "Plane",
    "directions_between",
    "eigenpairs",
    "from_model",
    "hessian",
    "hessian_operator",
    "hessian_vector_product",
    "line",
    "pca",
    "plane",
    "random_direction",
]
