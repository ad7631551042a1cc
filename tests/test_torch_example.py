"""The language model of examples/torch: torch's AdamW and ours give the same losses; states have the bytes claimed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from examples.torch import compare, language_model
from examples.torch.language_model import OPTIMIZERS, QUICK, Training


@pytest.fixture(scope="module")
def trainings() -> Iterator[dict[str, Training]]:
    """Losses of all three, on one thread of torch's: so small a model gains nothing from two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield compare.trained(QUICK)
    torch.set_num_threads(before)


def test_the_losses_are_torchs(trainings: dict[str, Training]) -> None:
    theirs, ours = (np.array(trainings[name].losses) for name in ("torch", "onepass"))
    assert len(ours) == QUICK.steps
    np.testing.assert_allclose(ours[:10], theirs[:10], rtol=3e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert ours[-1] < 0.75 * ours[0]


def test_8_bit_states_end_where_float32_does(trainings: dict[str, Training]) -> None:
    full, small = trainings["onepass"], trainings["onepass-8bit"]
    assert small.losses != full.losses
    np.testing.assert_allclose(np.mean(small.losses[-10:]), np.mean(full.losses[-10:]), rtol=0.02)
    assert small.validation_loss() == pytest.approx(full.validation_loss(), rel=0.02)


def test_states_take_the_bytes_that_are_claimed(trainings: dict[str, Training]) -> None:
    shapes = [p.shape for p in trainings["torch"].model.parameters()]
    sizes = np.array([shape.numel() for shape in shapes])
    steps = 4 * len(sizes)
    expected = {
        "torch": 8 * sizes.sum() + steps,
        "onepass": 8 * sizes.sum() + steps,
        # two states of 128 codes and a scale each, and the order of the parameter's axes
        "onepass-8bit": 2 * 129 * np.ceil(sizes / 128).sum() + steps + 8 * sum(map(len, shapes)),
    }
    for name, training in trainings.items():
        assert language_model.state_bytes(training.optimizer) == expected[name], name
    for state in trainings["onepass-8bit"].optimizer.state.values():
        assert {value.dtype for name, value in state.items() if name.startswith("exp_avg")} == {torch.uint8}


def test_one_import_is_the_difference() -> None:
    """Type and place of the optimizer's class are all that differs from torch's, and 8 bits one argument more."""
    settings = replace(QUICK, steps=1)
    text = language_model.documentation()
    theirs, ours, small = (Training(name, settings, text).optimizer for name in OPTIMIZERS)
    assert type(theirs) is torch.optim.AdamW
    assert (type(ours).__module__.partition("._")[0], type(ours).__name__) == ("onepass.torch", "AdamW")
    for group, other, third in zip(theirs.param_groups, ours.param_groups, small.param_groups, strict=True):
        assert {k: group[k] for k in ("lr", "betas", "eps", "weight_decay")} == {
            k: other[k] for k in ("lr", "betas", "eps", "weight_decay")
        }
        assert [p.shape for p in group["params"]] == [p.shape for p in other["params"]]
        assert {k: other[k] for k in other if k != "params"} == {k: third[k] for k in third if k != "params"}


def test_table_and_picture(trainings: dict[str, Training], tmp_path: Path) -> None:
    rows = {name: compare.measured(training) for name, training in trainings.items()}
    assert [row["each"] for row in rows.values()] == pytest.approx([8.0, 8.0, 2.04], abs=0.01)
    for row in rows.values():
        assert 0 < row["optimizer"] < row["step"]
    lines = compare.table(rows).splitlines()
    assert len(lines) == 2 + len(OPTIMIZERS)
    assert {line.count("|") for line in lines} == {8}
    figure = compare.draw(trainings, rows)
    curves, *bars = figure.get_axes()
    assert len(curves.get_lines()) == 3
    for axes, key, scale in zip(bars, ("step", "optimizer", "bytes"), (1, 1, 1e-6), strict=True):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx([scale * row[key] for row in rows.values()])
        assert axes.get_ylim()[0] == 0
    figure.savefig(tmp_path / "picture.png", dpi=50)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_script_runs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(language_model, "QUICK", replace(QUICK, steps=10))
    monkeypatch.setattr("sys.argv", ["language_model.py", "--quick", "--optimizer", name])
    language_model.main()
    printed = capsys.readouterr().out
    each = {"torch": "8.00", "onepass": "8.00", "onepass-8bit": "2.04"}[name]
    assert f"whose states take {each} bytes a parameter" in printed
    assert "\n## " in printed
