"""How the tests compare arrays: in bits, or in units in the last place of a scale that the test names."""

from __future__ import annotations

import numpy as np


def bits(a):
    """The array's bits as integers, with one pattern for every NaN (NumPy and the kernels differ in payloads)."""
    a = np.ascontiguousarray(a)
    if a.dtype.kind != "f":
        return a
    return np.where(np.isnan(a), a.dtype.type(np.nan), a).view(f"u{a.dtype.itemsize}")


def assert_same_bits(actual, expected, what=""):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    differ = np.argwhere(bits(actual) != bits(expected)).tolist()
    shown = [f"{at}: {actual[tuple(at)]!r} != {expected[tuple(at)]!r}" for at in differ[:4]]
    assert not differ, f"{what}: {len(differ)} of {actual.size} elements differ, {'; '.join(shown)}"


def ulps(actual, expected, scale=None, dtype=None):
    """Largest elementwise distance in units of ``eps * scale`` (default: ``|expected|``), eps that of actual's type.

    Equal infinities and NaN facing NaN are no distance; a NaN or an infinity facing anything else is infinitely far.
    Nor is a difference of a few times the smallest normal number: what is smaller the kernels flush to zero.
    """
    limits = np.finfo(dtype or np.asarray(actual).dtype)
    actual, expected = np.asarray(actual, np.longdouble), np.asarray(expected, np.longdouble)
    assert actual.shape == expected.shape
    if actual.size == 0:
        return 0.0
    scale = np.abs(expected) if scale is None else np.asarray(scale, np.longdouble)
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        same |= np.abs(actual - expected) <= 8 * float(limits.tiny)
        distance = np.abs(actual - expected) / (float(limits.eps) * scale)
        distance = np.where(same, 0.0, np.where(np.isfinite(distance), distance, np.inf))
    return float(distance.max())


def numeric_gradient(function, x, step=1e-6):
    """d function() / d x by central differences; x is changed in place and restored."""
    slope = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = function()
        x[index] = kept - step
        slope[index] = (above - function()) / (2 * step)
        x[index] = kept
    return slope
