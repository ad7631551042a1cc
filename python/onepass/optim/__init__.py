"""Optimizers that update NumPy arrays in place: one native call and one parallel region a step.

>>> import numpy as np
>>> from onepass import optim
>>> weights = np.zeros((2, 3), np.float32)
>>> optimizer = optim.SGD([weights], lr=0.5, momentum=0.9)
>>> optimizer.step([np.ones_like(weights)])
StepInfo(grad_norm=None, skipped=False)
>>> weights[0].tolist()
[-0.5, -0.5, -0.5]
"""

from onepass.optim.adabound import AdaBound
from onepass.optim.adadelta import Adadelta
from onepass.optim.adagrad import Adagrad
from onepass.optim.adam import Adam, AdamW
from onepass.optim.adamax import Adamax
from onepass.optim.asgd import ASGD
from onepass.optim.averages import EMA, SWA, Lookahead
from onepass.optim.lamb import LAMB
from onepass.optim.lars import LARS
from onepass.optim.lion import Lion
from onepass.optim.nadam import NAdam
from onepass.optim.optimizer import Optimizer, StepInfo
from onepass.optim.radam import RAdam
from onepass.optim.rmsprop import RMSprop
from onepass.optim.rprop import Rprop
from onepass.optim.sgd import SGD
from onepass.optim.signum import Signum
from onepass.optim.swats import SWATS

__all__ = [
    "ASGD",
    "EMA",
    "LAMB",
    "LARS",
    "SGD",
    "SWA",
    "SWATS",
    "AdaBound",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Lookahead",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Signum",
    "StepInfo",
]
