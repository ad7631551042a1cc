"""An epoch over the handwritten digits, against scikit-learn's MLPClassifier at equal settings.

64-100-10, ReLU, Adam. From the same weights and without shuffling, the losses of the first epochs and the weights after
them agree with float64; the epochs that are timed are shuffled.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any

import numpy as np

from bench import agreement, arrays, peers
from bench.case import Array, Case, Contender, Entry, Goal, Result
from bench.cases.cross_entropy import numpy_loss
from bench.selection import Selection

SIZES = (64, 100, 10)
ROWS = 1600  # of 1797: both batches divide them. The decay of scikit-learn is alpha / rows of the batch
COMPARED, TIMED, LONG = 3, 10, 30  # epochs
LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
GOAL = 5.0
DATA = "sklearn.datasets"  # everybody needs it


@dataclass(frozen=True)
class Problem:
    batch: int
    alpha: float

    @property
    def decay(self) -> float:
        return self.alpha / self.batch

    def data(self) -> tuple[Array, Array]:
        digits = peers.load(DATA).load_digits()
        return arrays.copy(digits.data[:ROWS] / 16), digits.target[:ROWS].astype(np.int64)

    def params(self) -> list[Array]:
        """Weight (outputs, inputs) and bias of both layers, drawn as scikit-learn does."""
        rng = np.random.default_rng(1)
        found = []
        for inputs, outputs in pairwise(SIZES):
            bound = (6 / (inputs + outputs)) ** 0.5
            found += [rng.uniform(-bound, bound, (outputs, inputs)), rng.uniform(-bound, bound, outputs)]
        return [arrays.copy(param) for param in found]

    def trained(self, epochs: int, shuffle: bool) -> tuple[list[float], list[Array]]:
        """Each epoch's loss, and the parameters after them: in NumPy and float64."""
        params = [param.astype(np.float64) for param in self.params()]
        x, y = self.data()
        wide, first, second = x.astype(np.float64), *([np.zeros_like(p) for p in params] for _ in range(2))
        order, rng, step = np.arange(ROWS), np.random.default_rng(2), 0
        losses = []
        for _ in range(epochs):
            if shuffle:
                rng.shuffle(order)
            total = 0.0
            for rows in order.reshape(-1, self.batch):
                step += 1
                loss, gradients = _loss_and_gradients(params, wide[rows], y[rows])
                total += loss * self.batch
                size = LR * np.sqrt(1 - BETA2**step) / (1 - BETA1**step)  # eps is added before this correction
                for p, g, m, v in zip(params, gradients, first, second, strict=True):
                    g = g + self.decay * p if p.ndim == 2 else g
                    m += (1 - BETA1) * (g - m)
                    v += (1 - BETA2) * (g * g - v)
                    p -= size * m / (np.sqrt(v) + EPS)
            losses.append(total / ROWS)
        return losses, params

    def expected(self) -> Result:
        return _result(*self.trained(COMPARED, shuffle=False))


def _loss_and_gradients(params: list[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
    hidden = np.maximum(x @ params[0].T + params[1], 0)
    loss, dy = numpy_loss(hidden @ params[2].T + params[3], y)
    below = (dy @ params[2]) * (hidden > 0)
    return loss, [below.T @ x, below.sum(0), dy.T @ hidden, dy.sum(0)]


def _result(losses: Any, params: list[Array]) -> Result:
    return {"losses": np.array(losses), **{f"param[{i}]": np.array(param) for i, param in enumerate(params)}}


def _epochs(fit: Callable[[int], object], result: Callable[[], Result] = dict) -> Contender:
    """fit: makes that many epochs. What a call costs once is shared by many, as in a run."""

    def measure(repeat: int) -> float:
        start = time.perf_counter()
        fit(TIMED * repeat)
        return (time.perf_counter() - start) / TIMED

    return Contender(lambda: fit(1), result, measure)


def _onepass(problem: Problem) -> Contender:
    nn, data = peers.load("onepass.nn"), peers.load("onepass.data")
    model = nn.Sequential(nn.Linear(*SIZES[:2]), nn.ReLU(), nn.Linear(*SIZES[1:]))
    for param, value in zip(model.parameters(), problem.params(), strict=True):
        param[...] = value
    decays = [problem.decay if param.ndim == 2 else 0.0 for param in model.parameters()]
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(model.parameters(), decays, strict=True)]
    optimizer = peers.load("onepass.optim").Adam(
        groups if problem.alpha else model.parameters(), LR, (BETA1, BETA2), EPS, eps_hat=True
    )
    trainer = peers.load("onepass.trainer").Trainer(model, peers.load("onepass.losses").CrossEntropy(), optimizer)
    x, y = problem.data()
    ordered = data.Batches(x, y, problem.batch, shuffle=False)
    history = trainer.fit(ordered, epochs=COMPARED)
    result = _result([record["loss"] for record in history], model.parameters())
    return _epochs(lambda epochs: trainer.fit(x, y, epochs, problem.batch), lambda: result)


def _classifier(module: str, problem: Problem, **options: Any) -> tuple[Any, Callable[[int], None]]:
    """An estimator that has seen one epoch, and a function that makes more of them."""
    x, y = problem.data()
    classifier = peers.load(module).MLPClassifier(
        hidden_layer_sizes=SIZES[1:-1],
        alpha=problem.alpha,
        batch_size=problem.batch,
        learning_rate_init=LR,
        max_iter=1,
        tol=0.0,
        n_iter_no_change=10**6,
        warm_start=True,
        random_state=0,
        **options,
    )

    def fit(epochs: int) -> None:
        classifier.set_params(max_iter=epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            classifier.fit(x, y)

    fit(1)
    return classifier, fit


def _sklearn(problem: Problem) -> Contender:
    """A warm start keeps the weights and makes a new optimizer: so the weights can be replaced after one epoch."""
    classifier, fit = _classifier("sklearn.neural_network", problem, shuffle=False)
    params = problem.params()
    for i, (weight, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True)):
        weight[...], bias[...] = params[2 * i].T, params[2 * i + 1]
    fit(COMPARED)
    pairs = zip((weight.T for weight in classifier.coefs_), classifier.intercepts_, strict=True)
    result = _result(classifier.loss_curve_[-COMPARED:], list(chain.from_iterable(pairs)))
    classifier.set_params(shuffle=True)
    return _epochs(fit, lambda: result)


def _estimator(module: str, problem: Problem) -> Contender:
    """One that starts from weights of its own: it has to come to a comparable loss."""
    classifier, fit = _classifier(module, problem)
    fit(LONG - 1)
    who = f"{module}.MLPClassifier, batch {problem.batch}, alpha {problem.alpha:g}, loss after {LONG} epochs"
    expected = problem.trained(LONG, shuffle=True)[0][-1]
    agreement.check(who, {"loss": np.array(classifier.loss_curve_[-1])}, {"loss": np.array(expected)}, 0.25, 0.0)
    return _epochs(fit)


def cases(selection: Selection) -> list[Case]:
    found = []
    for batch in (200, 64):
        for alpha in (0.0, 1e-4):
            problem = Problem(batch, alpha)
            entries = (
                Entry("onepass", partial(_onepass, problem), (DATA, "scipy")),
                Entry("onepass.sklearn", partial(_estimator, "onepass.sklearn", problem), (DATA, "onepass.sklearn")),
                Entry("scikit-learn", partial(_sklearn, problem), ("sklearn",)),
            )
            found.append(
                Case(
                    f"training/digits_epoch/batch_{batch}/alpha_{alpha:g}",
                    "small",
                    entries,
                    problem.expected,
                    (Goal(GOAL, "scikit-learn"), Goal(GOAL, "scikit-learn", "onepass.sklearn")),
                    rtol=1e-3,
                    atol=1e-4,
                )
            )
    return found
