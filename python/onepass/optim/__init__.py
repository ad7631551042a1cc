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

from onepass.optim.adagrad import Adagrad
from onepass.optim.adam import Adam, AdamW
from onepass.optim.optimizer import Optimizer, StepInfo
from onepass.optim.rmsprop import RMSprop
from onepass.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "StepInfo"]
