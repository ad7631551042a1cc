"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as truth

from onepass import losses, metrics, nn, optim
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)


def in_batches(metric, prediction, target, size=7):
    metric.reset()
    for start in range(0, len(target), size):
        metric.update(prediction[start : start + size], target[start : start + size])
    return metric.value()


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k(k):
    logits, labels = RNG.normal(size=(60, 6)).astype(np.float32), RNG.integers(0, 6, 60)
    value = in_batches(metrics.TopK(k), logits, labels)
    assert value == (1.0 if k >= 6 else truth.top_k_accuracy_score(labels, logits, k=k, labels=range(6)))


def test_top_k_ties_and_ignored_rows():
    logits = np.zeros((4, 3))
    assert in_batches(metrics.TopK(2), logits, np.array([0, 1, 2, 2])) == 0.5
    assert in_batches(metrics.TopK(2), logits, np.array([0, -100, 2, -100])) == 0.5
    assert np.isnan(in_batches(metrics.Accuracy(), logits, np.full(4, -100)))


def test_accuracy():
    logits, labels = RNG.normal(size=(60, 6)), RNG.integers(0, 6, 60)
    assert in_batches(metrics.Accuracy(), logits, labels) == truth.accuracy_score(labels, logits.argmax(1))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_regression(offset):
    prediction, target = RNG.normal(size=(50, 3)) + offset, RNG.normal(size=(50, 3)) + offset
    value = in_batches(metrics.MeanAbsoluteError(), prediction, target)
    assert value == pytest.approx(truth.mean_absolute_error(target, prediction), rel=1e-9)
    value = in_batches(metrics.R2(), prediction.ravel(), target.ravel())
    assert value == pytest.approx(truth.r2_score(target.ravel(), prediction.ravel()), rel=1e-8)
    assert np.isnan(in_batches(metrics.R2(), np.zeros(3), np.ones(3)))


def test_confusion_matrix(tmp_path):
    labels, predicted = RNG.integers(0, 4, 50), RNG.integers(0, 4, 50)
    assert (metrics.confusion_matrix(labels, predicted) == truth.confusion_matrix(labels, predicted)).all()
    assert metrics.confusion_matrix(labels[:1] * 0, predicted[:1] * 0, classes=3).shape == (3, 3)
    figure = metrics.plot_confusion_matrix(labels, predicted, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").read_bytes()[:4] == b"\x89PNG"
    shown = {tuple(map(int, t.get_position()[::-1])): int(t.get_text()) for t in figure.axes[0].texts}
    matrix = truth.confusion_matrix(labels, predicted)
    assert figure.axes[1].get_ylabel() == "share of the true class"  # what the color means
    assert shown == {place: int(matrix[place]) for place in zip(*map(list, np.nonzero(matrix)), strict=True)}


def test_errors():
    with pytest.raises(
        ValueError, match=r"predicted is float64 \(2, 3\), expected integers \(N,\); of logits take argmax"
    ):
        metrics.confusion_matrix(np.array([0, 1]), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="k is 0"):
        metrics.TopK(0)
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(4,\)"):
        metrics.TopK(1).update(np.zeros((3, 2)), np.zeros(4, int))


def test_in_the_trainer():
    x, y = RNG.normal(size=(40, 5)).astype(np.float32), RNG.integers(0, 4, 40)
    model = nn.Sequential(nn.Linear(5, 4))
    wanted = [metrics.TopK(2), metrics.Accuracy()]
    trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters()), metrics=wanted)
    history = trainer.fit(x, y, epochs=2, validation=(x, y))
    result = trainer.evaluate(x, y, batch_size=7)
    assert result["top_2"] == truth.top_k_accuracy_score(y, trainer.predict(x), k=2) == history[-1]["validation_top_2"]
    assert result["accuracy"] == truth.accuracy_score(y, trainer.predict(x).argmax(1))
    with pytest.raises(
        TypeError, match=r"metrics\[0\] is 'accuracy', expected an object with name, reset, update and value"
    ):
        Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters()), metrics=["accuracy"])
