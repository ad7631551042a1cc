"""Layers with an explicit forward and backward, computing into buffers they keep."""

from onepass.nn.activations import GELU, LeakyReLU, Sigmoid, SiLU, Tanh
from onepass.nn.batch_norm import BatchNorm
from onepass.nn.dropout import Dropout
from onepass.nn.layer import Layer
from onepass.nn.linear import Linear
from onepass.nn.relu import ReLU
from onepass.nn.sequential import Sequential

__all__ = [
    "GELU",
    "BatchNorm",
    "Dropout",
    "Layer",
    "LeakyReLU",
    "Linear",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
]
