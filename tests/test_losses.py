"""Losses against their formulas; gradients by finite differences in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onepass import losses


def numeric(function, x, h=1e-6):
    """d function / d x by central differences."""
    slope = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = function()
        x[index] = kept - h
        slope[index] = (above - function()) / (2 * h)
        x[index] = kept
    return slope


def test_cross_entropy_formula():
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]))
    loss, grad = losses.CrossEntropy()(logits, np.array([0, 2]))
    assert isinstance(loss, float)
    assert loss == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2, rel=1e-12)
    np.testing.assert_allclose(grad, [[-0.15, 0.1, 0.05], [0.05, 0.4, -0.45]], atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"weight": np.array([1.0, 0.5, 2.0, 0.1, 3.0])},
        {"ignore_index": 2},
        {"weight": np.array([1.0, 0.5, 2.0, 0.1, 3.0]), "label_smoothing": 0.2, "ignore_index": 1},
    ],
)
def test_cross_entropy_gradient(options):
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    loss = losses.CrossEntropy(**options)
    _, grad = loss(logits, target)
    slope = numeric(lambda: loss(logits, target, False)[0], logits)
    np.testing.assert_allclose(grad, slope, atol=1e-8)


def test_mean_squared_error_gradient():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    loss = losses.MeanSquaredError()
    value, grad = loss(prediction, target)
    assert value == pytest.approx(((prediction - target) ** 2).mean(), rel=1e-12)
    slope = numeric(lambda: loss(prediction, target, False)[0], prediction)
    np.testing.assert_allclose(grad, slope, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["CrossEntropy", "MeanSquaredError"])
def test_where_the_gradient_goes(name, dtype):
    loss = getattr(losses, name)()
    rng = np.random.default_rng(1)
    prediction = rng.normal(size=(6, 4)).astype(dtype)
    target = rng.integers(0, 4, 6) if name == "CrossEntropy" else prediction[::-1].copy()
    value, new = loss(prediction, target)
    assert new.dtype == dtype
    assert loss(prediction, target, False) == (value, None)
    buffer = np.empty_like(prediction)
    again, grad = loss(prediction, target, buffer)
    assert grad is buffer
    assert again == value
    np.testing.assert_array_equal(grad, new)
    again, grad = loss(prediction, target, prediction)
    assert grad is prediction
    assert again == value
    np.testing.assert_array_equal(grad, new)


def test_correct_counts_rows():
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    loss = losses.CrossEntropy()
    assert loss.correct(logits, np.array([0, 1, 1])) == 2
    assert loss.correct(logits, np.array([0, -100, 1])) == 1
    assert loss.correct(logits, np.eye(2, dtype=np.float32)[[0, 1, 0]]) == 3
    assert losses.MeanSquaredError().correct(logits, logits) is None


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_label_smoothing_is_checked(value):
    with pytest.raises(ValueError, match="label_smoothing"):
        losses.CrossEntropy(label_smoothing=value)


def test_a_label_out_of_range_names_its_row():
    with pytest.raises(ValueError, match=r"targets\[3\] is 12"):
        losses.CrossEntropy()(np.zeros((5, 10)), np.array([0, 1, 2, 12, 4]))
