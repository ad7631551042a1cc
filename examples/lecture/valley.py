"""The loss is stuck, but the gradient is not small: bouncing between the walls of a valley."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass import callbacks, data, losses, nn, optim, schedules
from onepass.lecture import Chapter, Picture
from onepass.lecture.chapter import Results
from onepass.lecture.style import COLORS, MARKERS, figure
from onepass.trainer import Trainer

Array = NDArray[np.float64]

FLOOR = 0.02  # curvature along the valley; across, it is 1 at the bottom and 0 far up the walls
START = (-8.0, 2.6)
LARGE, SMALL, STEPS, DECAY = 4.0, 0.4, 300, 150
NETWORK_RATE, NETWORK_STEPS, NETWORK_DECAY = 1.5, 400, 300


def valley(w: Array) -> tuple[Any, Array]:
    """Loss = FLOOR w1² / 2 + log cosh(w2) of points (..., 2): walls that end up straight; and its gradient."""
    loss = FLOOR / 2 * w[..., 0] ** 2 + np.log(np.cosh(w[..., 1]))
    return loss, np.stack([FLOOR * w[..., 0], np.tanh(w[..., 1])], axis=-1)


def descend(make: Callable[[Array], optim.Optimizer]) -> dict[str, Array]:
    """STEPS steps from START: path, loss and gradient norm, STEPS + 1 of each."""
    w = np.array(START)
    optimizer = make(w)
    path = [w.copy()]
    for _ in range(STEPS):
        optimizer.step([valley(w)[1]])
        path.append(w.copy())
    points = np.array(path)
    loss, gradient = valley(points)
    return {"path": points, "loss": loss, "norm": np.linalg.norm(gradient, axis=1)}


def norm(arrays: Sequence[NDArray[Any]]) -> float:
    return math.sqrt(sum(float(np.sum(array**2)) for array in arrays))


class Watch(callbacks.Callback):
    """Notes the loss and the norm of the gradient of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_step_end(self, trainer: callbacks.Run, loss: float) -> None:
        self.losses.append(loss)
        self.norms.append(norm(trainer.model.gradients()))


class Digits:
    """A network of 64-32-10 that is trained on all digits at once, so that no noise of batches comes in."""

    def __init__(self) -> None:
        digits = data.load_digits_split()
        self.x = digits.x.reshape(-1, 64) / 16.0
        self.y = np.eye(10)[digits.y]
        self.loss = losses.MeanSquaredError()
        layers = (nn.Linear(64, 32, dtype=np.float64), nn.Tanh(), nn.Linear(32, 10, dtype=np.float64))
        self.model = nn.Sequential(*layers, seed=0)

    def train(self, optimizer: optim.Optimizer, steps: int) -> dict[str, Array]:
        watch = Watch()
        trainer = Trainer(self.model, self.loss, optimizer, callbacks=[watch])
        trainer.fit(self.x, self.y, epochs=steps, batch_size=len(self.x))
        return {"loss": np.array(watch.losses), "norm": np.array(watch.norms)}

    def loss_and_gradient(self, theta: Sequence[Array]) -> tuple[float, list[Array]]:
        for parameter, values in zip(self.model.parameters(), theta, strict=True):
            parameter[...] = values
        loss, grad = self.loss(self.model.forward(self.x), self.y)
        self.model.backward(grad, False)
        return loss, [gradient.copy() for gradient in self.model.gradients()]


def train_digits() -> dict[str, Any]:
    stuck = Digits()
    held = stuck.train(optim.SGD(stuck.model.parameters(), lr=NETWORK_RATE), NETWORK_DECAY)
    theta = [parameter.copy() for parameter in stuck.model.parameters()]
    loss, gradient = stuck.loss_and_gradient(theta)

    # across the valley: from where it is stuck, against the gradient, in multiples of the step that SGD takes
    multiples = np.linspace(-0.5, 1.6, 64)
    profile = [
        stuck.loss_and_gradient([p - m * NETWORK_RATE * g for p, g in zip(theta, gradient, strict=True)])[0]
        for m in multiples
    ]
    small = 1e-4 / norm(gradient)
    ends = [
        stuck.loss_and_gradient([p + side * small * g for p, g in zip(theta, gradient, strict=True)])[1]
        for side in (1, -1)
    ]
    slopes = [sum(float(np.sum(a * g)) for a, g in zip(end, gradient, strict=True)) for end in ends]
    curvature = (slopes[0] - slopes[1]) / (2 * small * norm(gradient) ** 2)

    left = NETWORK_STEPS - NETWORK_DECAY
    runs = {}
    for name, make in {
        "constant rate": lambda p: optim.SGD(p, lr=NETWORK_RATE),
        "a tenth of it": lambda p: optim.SGD(p, lr=NETWORK_RATE / 10),
        "RMSProp": lambda p: optim.RMSprop(p, lr=5e-4, alpha=0.9),
    }.items():
        stuck.loss_and_gradient(theta)
        after = stuck.train(make(stuck.model.parameters()), left)
        runs[name] = {key: np.concatenate([held[key], after[key]]) for key in held}
    return {
        "runs": runs,
        "profile": {"multiples": multiples, "loss": np.array(profile), "here": loss},
        "curvature": curvature,
    }


def compute() -> dict[str, Any]:
    decay = schedules.multi_step(LARGE, [DECAY], factor=SMALL / LARGE)
    runs = {
        "large rate": descend(lambda w: optim.SGD([w], lr=LARGE)),
        "large, then small": descend(lambda w: optim.SGD([w], lr=decay)),
        "RMSProp": descend(lambda w: optim.RMSprop([w], lr=0.05, alpha=0.9)),
    }
    return {"runs": runs, "digits": train_digits()}


CHAPTER = Chapter(7, "x", "x", "x", {}, compute, [])
if __name__ == "__main__":
    import time; t=time.time()
    r = compute(); print(time.time()-t)
    for n,v in r["runs"].items(): print(n, v["loss"][[0,1,10,50,100,149,160,200,250,300]], v["norm"][[0,1,10,50,100,149,160,200,300]], v["path"][-1])
    for n,v in r["digits"]["runs"].items(): print(n, v["loss"][::20].round(4), v["norm"][::20].round(3)); print(v["loss"][296:312].round(4))
    print(r["digits"]["curvature"], 2/NETWORK_RATE, r["digits"]["profile"])
