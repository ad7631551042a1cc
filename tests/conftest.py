"""What several tests share: distances in units in the last place, fixtures, the report's header."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

import onepass
from onepass import kernels, reference

hypothesis.settings.register_profile("onepass", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("onepass")


def pytest_report_header() -> str:
    """Levels that were built but that this CPU cannot run are named here, since no test may be skipped for them."""
    info = onepass.info()
    missing = [level for level in info["isa_built"] if level not in info["isa_available"]]
    return (
        f"onepass {info['version']}: level in use {info['isa']}, tested {', '.join(info['isa_available'])}, "
        f"built but not run on this CPU: {', '.join(missing) or 'none'}"
    )


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype[Any]:
    return np.dtype(request.param)


@pytest.fixture(params=["kernels", "reference"])
def functions(request: pytest.FixtureRequest) -> Any:
    """What holds for the kernels must hold for their oracle too."""
    return {"kernels": kernels, "reference": reference}[request.param]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


def ulp_distance(actual: NDArray[Any], expected: NDArray[Any], scale: Any = None) -> float:
    """Largest elementwise |actual - expected| in units in the last place of ``scale`` (of ``expected`` without one), in
    actual's type. NaN must meet NaN, infinities must be equal."""
    dtype = actual.dtype.type
    expected = np.asarray(expected, np.float64)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite].astype(dtype))
    if not finite.any():
        return 0.0
    reference = np.abs(expected if scale is None else np.broadcast_to(scale, expected.shape))[finite]
    spacing = np.spacing(np.maximum(reference.astype(dtype), np.finfo(dtype).tiny)).astype(np.float64)
    return float((np.abs(actual.astype(np.float64)[finite] - expected[finite]) / spacing).max())


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Equal bit for bit, except that any NaN equals any NaN (their payload depends on the order of operands)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    unsigned = {4: np.uint32, 8: np.uint64}[a.itemsize]
    equal = np.ascontiguousarray(a).view(unsigned) == np.ascontiguousarray(b).view(unsigned)
    return bool((equal | (np.isnan(a) & np.isnan(b))).all())
