"""What fewer bits cost in training: the final losses of `python -m bench.storage_quality`, with fewer epochs."""

from __future__ import annotations

import pytest

from bench.storage_quality import STORAGES, Storage, digits, teacher, train

PROBLEMS = {"digits": (digits, 8), "teacher": (lambda: teacher(12_000), 4)}


@pytest.fixture(scope="module", params=PROBLEMS)
def found(request):
    """storage -> loss, test loss, accuracy"""
    make, epochs = PROBLEMS[request.param]
    problem = make()
    return {storage: train(problem, storage, epochs) for storage in STORAGES}


def test_float32_learns(found):
    assert found[Storage()]["accuracy"] > 0.5


KEPT = [s for s in STORAGES if s.stochastic or s.master]


@pytest.mark.parametrize("storage", KEPT, ids=str)
def test_stochastic_rounding_and_master_weights_end_where_float32_does(found, storage):
    """Measured: losses within 1.1 %, accuracy within 0.3 points."""
    expected, actual = found[Storage()], found[storage]
    assert actual["loss"] == pytest.approx(expected["loss"], rel=0.03)
    assert actual["test loss"] == pytest.approx(expected["test loss"], rel=0.03)
    assert actual["accuracy"] == pytest.approx(expected["accuracy"], abs=0.01)


def test_parameters_in_bfloat16_stall_without_it(found):
    """Small steps are rounded away: what stochastic rounding is for."""
    assert found[Storage("bfloat16")]["loss"] > 1.05 * found[Storage()]["loss"]


def test_states_in_float8_rounded_to_nearest_are_another_optimizer(found):
    """Frozen second moments: why stochastic rounding is the default."""
    assert abs(found[Storage(state="float8")]["loss"] / found[Storage()]["loss"] - 1) > 0.05
