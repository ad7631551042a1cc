"""What several tests share: fixtures and the report's header. How arrays are compared is in measure.py."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest

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
