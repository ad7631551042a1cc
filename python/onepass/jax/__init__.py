from onepass.jax.adam import adam, adamax, adamaxw, adamw, lamb, nadam, nadamw
from onepass.jax.descent import adadelta, adagrad, lion, rmsprop, sgd
from onepass.jax.transformation import Optimizer
