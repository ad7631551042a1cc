"""The network of an estimator, with the optimizer that trains it: made from a recipe, so that both can be pickled."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from onepass import nn
from onepass.nn.layer import Array, Layer, Out
from onepass.sklearn._solvers import SOLVERS

__all__ = ["ACTIVATIONS", "Network", "PenalizedSequential", "Recipe"]

CHUNK = 1024  # rows that are predicted at once

ACTIVATIONS: dict[str, Callable[[], Layer] | None] = {
    "identity": None,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class PenalizedSequential(nn.Sequential):
    """`nn.Sequential` whose gradients are those of the loss and of ``decay / 2`` times the sum of squared weights.

    ``weights`` are those of the `nn.Linear` layers, without biases; ``decay`` is set for each batch.
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__(*layers, seed=None)
        self.linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        self.weights = [layer.weight for layer in self.linears]
        self.decay = 0.0
        self._scaled = [np.empty_like(weight) for weight in self.weights]

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        dx = super().backward(dy, out)
        if self.decay:
            for layer, scaled in zip(self.linears, self._scaled, strict=True):
                np.multiply(layer.weight, self.decay, scaled)
                layer.dweight += scaled
        return dx


class Recipe(NamedTuple):
    """What a network is made from."""

    units: tuple[int, ...]  # features, hidden layers, outputs
    activation: str
    batch_norm: bool
    dropout: float
    dtype: str

    def build(self) -> PenalizedSequential:
        layers: list[Layer] = []
        last = len(self.units) - 2
        activation = ACTIVATIONS[self.activation]
        for index in range(last + 1):
            before, after = self.units[index : index + 2]
            layers.append(nn.Linear(before, after, dtype=self.dtype))
            if index == last:
                break
            fused = self.batch_norm and self.activation == "relu"
            if self.batch_norm:
                layers.append(nn.BatchNorm(after, dtype=self.dtype, relu=fused))
            if activation is not None and not fused:
                layers.append(activation())
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
        return PenalizedSequential(*layers)


class Network:
    """A model and its optimizer.

    ``step`` counts the updates that schedules of the learning rate have seen.

    >>> network = Network(Recipe((2, 8, 1), "tanh", False, 0.0, "float64"))
    >>> network.initialize(np.random.RandomState(0))
    >>> network.predict(np.zeros((5, 2))).shape
    (5, 1)
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model = recipe.build()
        self.step = 0
        self._solver: tuple[str, dict[str, Any]] | None = None
        self._lock = threading.Lock()

    def initialize(self, random_state: np.random.RandomState) -> None:
        """Glorot and Bengio's uniform weights (2010), for biases too: scikit-learn's numbers, drawn in its order."""
        factor = 2.0 if self.recipe.activation == "logistic" else 6.0
        for layer in self.model.layers:
            if isinstance(layer, nn.Linear):
                outputs, inputs = layer.weight.shape
                bound = math.sqrt(factor / (inputs + outputs))
                layer.weight[...] = random_state.uniform(-bound, bound, (inputs, outputs)).T
                assert layer.bias is not None
                layer.bias[...] = random_state.uniform(-bound, bound, outputs)
            elif isinstance(layer, nn.Dropout):
                layer.initialize(np.random.default_rng(random_state.randint(2**31 - 1)))

    @property
    def has_optimizer(self) -> bool:
        return self._solver is not None

    def make_optimizer(self, solver: str, options: dict[str, Any]) -> None:
        """A new one, which has made no step."""
        self.optimizer = SOLVERS[solver](self.model.parameters(), **options)
        self._solver = (solver, options)
        self.step = 0

    def set_rate(self, rate: float) -> None:
        """From the next step on; scikit-learn's momentum keeps what it has gathered at the old rate."""
        (group,) = self.optimizer.param_groups
        if rate == group["lr"]:
            return
        for state in self.optimizer.state_dict()["state"].values():
            if "momentum_buffer" in state:  # of gradients: in p = p - lr buffer it is multiplied with the new rate
                state["momentum_buffer"] *= group["lr"] / rate
        group["lr"] = rate

    def predict(self, x: Array) -> Array:
        """The output for every row of x (N, features), in inference mode, as a new array; by one thread at a time."""
        out = np.empty((len(x), self.recipe.units[-1]), self.recipe.dtype)
        with self._lock:  # layers compute into buffers of their own
            for start in range(0, len(x), CHUNK):
                out[start : start + CHUNK] = self.model.forward(x[start : start + CHUNK], False)
            self.release()
        return out

    def release(self) -> None:
        """Layers remember their last input, which may be a view of somebody's data: now it is a row of zeros."""
        self.model.forward(np.zeros((1, self.recipe.units[0]), self.recipe.dtype), False)

    def __getstate__(self) -> dict[str, Any]:
        optimizer = None if self._solver is None else self.optimizer.state_dict()
        return {
            "recipe": self.recipe,
            "arrays": self.model.state(),
            "step": self.step,
            "solver": self._solver,
            "optimizer": optimizer,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["recipe"])  # type: ignore[misc]
        self.model.load_state(state["arrays"])
        if state["solver"] is not None:
            self.make_optimizer(*state["solver"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
