"""The yardstick of the other tests measures: a test that cannot fail is a defect."""

from __future__ import annotations

import numpy as np
import pytest
from measure import assert_same_bits, numeric_gradient, ulps


def test_ulps(dtype):
    one, eps = np.ones(3, dtype), np.finfo(dtype).eps
    assert ulps(one, one) == 0
    assert ulps(one * (1 + 2 * eps), one) == 2
    assert ulps(one * (1 + 2 * eps), one, 4.0) == 0.5
    assert ulps(one * np.finfo(dtype).tiny, one * 0) == 0
    assert ulps(one * 0, one * 1e-30) == pytest.approx(1 / eps)


@pytest.mark.parametrize("pair", [(np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0), (np.inf, -np.inf), (np.nan, np.inf)])
def test_ulps_between_numbers_and_what_is_none(pair, dtype):
    a, b = (np.array([v, 1.0], dtype) for v in pair)
    assert ulps(a, b) == np.inf
    assert ulps(a, a) == 0


def test_same_bits(dtype):
    a = np.array([0.0, 1.0, np.nan], dtype)
    assert_same_bits(a, a.copy())
    for i, other in enumerate((-0.0, np.nextafter(dtype.type(1), dtype.type(2)), 0.0)):
        b = a.copy()
        b[i] = other
        with pytest.raises(AssertionError, match="1 of 3 elements"):
            assert_same_bits(b, a)


def test_numeric_gradient():
    x = np.array([1.0, -2.0])
    np.testing.assert_allclose(numeric_gradient(lambda: float((x**3).sum()), x), [3, 12], rtol=1e-8)
    assert x.tolist() == [1.0, -2.0]
