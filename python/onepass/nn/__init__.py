"""Layers with an explicit forward and backward, computing into buffers they keep."""

from onepass.nn import initializers
from onepass.nn.activations import GELU, LeakyReLU, Sigmoid, SiLU, Tanh
from onepass.nn.batch_norm import BatchNorm
from onepass.nn.conv2d import Conv2d
from onepass.nn.dropout import Dropout
from onepass.nn.embedding import Embedding
from onepass.nn.flatten import Flatten
from onepass.nn.gradient_check import check_gradients
from onepass.nn.layer import Layer
from onepass.nn.layer_norm import LayerNorm, RMSNorm
from onepass.nn.linear import Linear
from onepass.nn.pooling import AvgPool2d, MaxPool2d
from onepass.nn.relu import ReLU
from onepass.nn.residual import Residual
from onepass.nn.sequential import Sequential

__all__ = [
    "GELU",
    "AvgPool2d",
    "BatchNorm",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "RMSNorm",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "check_gradients",
    "initializers",
]
