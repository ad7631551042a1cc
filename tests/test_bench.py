"""The benchmarks check before they time: a small run end to end, and what a wrong result does."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import agreement, arrays, peers, report, run, selection, timing  # noqa: E402
from bench.case import Case, Contender, Entry, Goal  # noqa: E402
from bench.cases import (  # noqa: E402
    convolution,
    data,
    jax_step,
    numpy_loop_step,
    python_cost,
    torch_step,
    torch_step_alone,
    training,
    training_cnn,
    training_digits,
    vanishing,
)
from bench.contenders import deepspeed_updates, native_calls  # noqa: E402
from bench.contenders.problem import Problem  # noqa: E402

PLAN = timing.Plan(rounds=2, sample=1e-5, budget=0.1, least=1)


def contender(value: float) -> Contender:
    out = np.zeros(100, np.float32)
    return Contender(lambda: out.fill(value), lambda: {"out": out})


def case(*entries: Entry, goals: tuple[Goal, ...] = ()) -> Case:
    everyone = (Entry("onepass", lambda: contender(2.0), limit="limit"), *entries)
    return Case("group/case", "small", everyone, lambda: {"out": np.full(100, 2.0)}, goals)


def case_of(topic: Any, part: str) -> Case:
    (found,) = [case for case in topic.cases(selection.Selection((), frozenset())) if part in case.name]
    return found


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_quick_run_writes_table_and_json(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = bench("--quick", "--only", "update/sgd/4096", "--threads", "1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "update/sgd/4096" in done.stdout
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["machine"]["threads"] == 1
    assert found["machine"]["isa"]
    assert set(found["machine"]["versions"]) >= {"numpy", "torch", "jax", "optax", "numba"}
    (only,) = found["cases"]
    assert (only["name"], only["bytes"]) == ("update/sgd/4096", 12 * 4096)
    rows = {row["contender"]: row for row in only["rows"]}
    assert {"onepass", "limit", "NumPy in place", "torch fused", "JAX+Optax"} <= set(rows)
    for name in ("onepass", "limit", "NumPy in place"):
        assert rows[name]["median"] > 0
        assert rows[name]["samples"]
    assert rows["onepass"]["ratio"] == 1
    assert rows["onepass"]["share"] > 0
    for row in rows.values():  # who did not run says why
        assert row["median"] is not None or row["note"]
    assert [goal["against"] for goal in only["goals"]] == ["torch fused"]


def test_every_rule_of_the_registry_is_a_case() -> None:
    from onepass import kernels

    done = bench("--list", "--sizes", "small")
    assert done.returncode == 0, done.stderr
    assert {f"update/{rule}/4096" for rule in kernels.UPDATES} <= set(done.stdout.split())


@pytest.mark.parametrize("arguments", [("--sizes", "huge"), ("--only", "no such case")])
def test_bad_arguments_end_with_code_2(arguments: tuple[str, ...]) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_wrong_contender_raises_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "interleave", lambda *_: pytest.fail("timed a wrong result"))
    wrong = Entry("wrong", lambda: contender(2.001))
    with pytest.raises(agreement.AgreementError, match=r"group/case: wrong: out\[0\] is .*2\.0"):
        run.run(case(wrong), PLAN)


def test_failing_onepass_raises_and_a_failing_peer_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Contender:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(peers, "installed", lambda name: True)
    result = run.run(case(Entry("torch", fail, ("torch",))), PLAN)
    assert result.rows[-1].note == "failed: RuntimeError: no such thing"
    with pytest.raises(RuntimeError, match="no such thing"):
        run.run(case(Entry("onepass function", fail)), PLAN)


def test_absent_peer_is_listed_and_its_goal_is_not_measured() -> None:
    absent = Entry("peer", lambda: contender(2.0), ("no_such_package",))
    result = run.run(case(absent, goals=(Goal(2.0, "peer"),)), PLAN)
    assert result.rows[-1].note == "absent: no_such_package not installed"
    assert result.goals[0].reached is None
    text = report.table([result])
    assert "no_such_package not installed" in text
    assert "not measured" in text


def test_goal_is_measured_against_the_fastest_match() -> None:
    slow = {0: 4.0, 1: 4.0}
    samples = {"onepass": {0: 1.0, 1: 1.0}, "torch a": slow, "torch b": {0: 2.0, 1: 2.0}}
    found = run._evaluate(Goal(3.0, "torch*|NumPy"), samples)
    assert (found.row, found.measured, found.reached) == ("torch b", 2.0, False)


def test_ratio_is_the_median_over_common_rounds() -> None:
    samples = {"a": {0: 2.0, 1: 9.0, 2: 6.0}, "b": {0: 1.0, 2: 2.0}}
    assert timing.ratio(samples, "a", "b") == 2.5


def test_python_cost_is_the_median_difference_and_its_share() -> None:
    samples = {"onepass": {0: 5.0, 1: 9.0, 2: 7.0}, "bare": {0: 4.0, 2: 4.0}}
    assert timing.difference(samples, "onepass", "bare") == 2.0
    assert report.python_cost(run.Row("onepass", median=1e-4, python=2.5e-5)) == "25.0 us, 25%"
    assert report.python_cost(run.Row("onepass", median=1e-4)) == ""


def test_python_cost_stands_in_the_table() -> None:
    entries = (Entry("onepass", lambda: contender(2.0), bare="bare"), Entry("bare", lambda: contender(2.0)))
    result = run.run(replace(case(), entries=entries), PLAN)
    assert result.rows[0].python is not None
    assert result.rows[1].python is None
    assert " us, " in report.table([result])


def test_markdown_has_a_table_for_the_same_contenders() -> None:
    rows = [run.Row("onepass", 1e-3, 1.0, python=1e-4), run.Row("torch", 2e-3, 2.04), run.Row("JAX", note="absent")]
    results = [run.CaseResult(replace(case(), name=name), rows, []) for name in ("a/1", "a/2")]
    results.append(run.CaseResult(case(), rows[:2], []))
    first, second = report.markdown(results).split("\n\n")
    assert first.splitlines() == [
        "| | onepass | torch | JAX |",
        "|---|---|---|---|",
        "| a/1 | 1.000 ms (Python: 100.0 us, 10%) | 2.04 | - |",
        "| a/2 | 1.000 ms (Python: 100.0 us, 10%) | 2.04 | - |",
    ]
    assert second.splitlines()[0] == "| | onepass | torch |"


def test_recorded_native_calls_are_all_calls_and_leave_the_core_as_it_was() -> None:
    from onepass import _core, kernels

    before = {name: value for name, value in vars(_core).items() if callable(value)}
    out = np.empty((2, 2), np.float32)
    x = np.array([[-1.0, 2.0], [3.0, -4.0]], np.float32)
    step = _core.Plan.step

    def some() -> None:
        kernels.relu(x, out=out)
        kernels.softmax_cross_entropy(out, np.array([0, 1]))

    calls = native_calls.recorded(some)
    assert [call.func.__name__ for call in calls] == ["activate", "softmax_cross_entropy"]
    assert {name: value for name, value in vars(_core).items() if callable(value)} == before
    assert _core.Plan.step is step
    out.fill(7.0)
    calls[0]()
    np.testing.assert_array_equal(out, [[0.0, 2.0], [3.0, 0.0]])


@pytest.mark.parametrize(
    ("topic", "part"),
    [
        (training, "/64-128-128-10/batch_32"),
        (training_cnn, "/cnn/"),
        (training_digits, "/batch_200/alpha_0.0001"),
        (python_cost, "/4-4-4-2/"),
        (numpy_loop_step, "/64-128-10/"),
        (convolution, "conv2d/forward/64x16x14x14"),
        (convolution, "conv2d/backward/64x16x14x14"),
        (convolution, "max_pool2d/forward/64x32x14x14"),
        (convolution, "max_pool2d/backward/64x32x14x14"),
        (torch_step, "/mlp/64-128-128-10/"),
        (torch_step, "/cnn/"),
        (torch_step, "/transformer/"),
        (torch_step_alone, "/alone/mlp_6"),
        (torch_step_alone, "/in_turns/"),
    ],
)
def test_contenders_of_training_agree(topic: Any, part: str) -> None:
    found = case_of(topic, part)
    contenders, notes = run.build(found)
    assert set(contenders) | set(notes) == {entry.name for entry in found.entries}
    assert {name: note for name, note in notes.items() if not note.startswith("absent: ")} == {}
    assert {name for name, who in contenders.items() if not who.result()} <= {"onepass with ReLU", "onepass.sklearn"}


@pytest.mark.parametrize(
    ("topic", "part", "goals"),
    [
        (training, "/64-128-128-10/batch_32", {"torch": 4.0}),
        (training, "/64-128-128-10/batch_256", {"torch": 2.5}),
        (training, "/784-512-512-10/batch_128", {"torch": 1.2}),
        (training_cnn, "/cnn/", {"torch|torch channels last": 1.0}),
        (training_digits, "/batch_200/alpha_0.0001", {"scikit-learn": 5.0}),
        (training_digits, "/batch_64/alpha_0.0001", {"scikit-learn": 5.0}),
    ],
)
def test_goals_of_training(topic: Any, part: str, goals: dict[str, float]) -> None:
    found = case_of(topic, part)
    assert {goal.against: goal.at_least for goal in found.goals if goal.contender == "onepass"} == goals
    for goal in found.goals:
        assert any(goal.meets(entry.name) for entry in found.entries)


def test_a_convolution_that_forgets_its_relu_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from onepass import kernels

    conv2d = kernels.conv2d
    monkeypatch.setattr(kernels, "conv2d", lambda *arguments, relu, out: conv2d(*arguments, out=out))
    with pytest.raises(agreement.AgreementError, match="with ReLU"):
        run.build(case_of(convolution, "conv2d/forward/64x16x14x14"))


@pytest.mark.parametrize("who", ["onepass", "onepass, optimizer alone"])
def test_a_torch_step_without_its_optimizer_is_found_out(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    import onepass.torch

    monkeypatch.setattr(onepass.torch.Adam, "step", lambda self: None)
    found = case_of(torch_step, "/mlp/64-128-128-10/")
    only = replace(found, entries=tuple(entry for entry in found.entries if entry.name == who))
    with pytest.raises(agreement.AgreementError, match=rf"{who}: losses\[4\]"):
        run.build(only)


@pytest.mark.parametrize("topic", [torch_step, torch_step_alone])
def test_goals_of_torch_steps(topic: Any) -> None:
    for found in topic.cases(selection.Selection((), frozenset())):
        assert {goal.contender for goal in found.goals} <= {entry.name for entry in found.entries}
        assert all(any(goal.meets(entry.name) for entry in found.entries) for goal in found.goals), found.name


def test_a_step_without_its_optimizer_is_found_out() -> None:
    from onepass import optim

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim.Adam, "step", lambda self, grads: None)
        with pytest.raises(agreement.AgreementError, match=r"onepass: losses\[4\]"):
            run.build(case_of(training, "/64-128-128-10/batch_32"))


def test_digits_without_the_decay_are_found_out() -> None:
    pytest.importorskip("sklearn")
    with_decay, without = (training_digits.Problem(200, alpha) for alpha in (1e-4, 0.0))
    result = training_digits._onepass(without).result()
    agreement.check("without", result, without.expected(), 1e-3, 1e-4)
    with pytest.raises(agreement.AgreementError, match="param"):
        agreement.check("without", result, with_decay.expected(), 1e-3, 1e-4)


def test_an_estimator_with_weights_of_its_own_comes_to_a_comparable_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    problem = training_digits.Problem(200, 1e-4)
    training_digits._estimator("sklearn.neural_network", problem)
    monkeypatch.setattr(training_digits, "LR", 3e-4)
    slow, fit = training_digits._classifier("sklearn.neural_network", problem)
    fit(training_digits.LONG - 1)
    monkeypatch.setattr(training_digits, "LR", 1e-3)
    monkeypatch.setattr(training_digits, "_classifier", lambda *_: (slow, lambda _: None))
    with pytest.raises(agreement.AgreementError, match="loss after 30 epochs"):
        training_digits._estimator("sklearn.neural_network", problem)


def test_steps_inside_jax_agree_with_optax(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    found = case_of(jax_step, "/4096")
    contenders, notes = run.build(found)
    assert {"onepass.jax", "onepass.jax updates", "JAX+Optax", "onepass", "limit"} == set(contenders) | set(notes)
    assert [name for name, note in notes.items() if not note.startswith("absent: ")] == []
    assert found.goals[0].meets("JAX+Optax")
    optimizers = pytest.importorskip("onepass.jax")
    monkeypatch.setattr(optimizers, "adam", lambda lr, *others: optimizers.sgd(lr))
    with pytest.raises(agreement.AgreementError, match=r"onepass\.jax: param"):
        run.build(found)


@pytest.mark.parametrize("rule", vanishing.RULES)
def test_vanishing_gradients_vanish_for_all_and_are_compared(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vanishing, "STEPS", 20)
    monkeypatch.setattr(vanishing, "SIZE", 1000)
    (found,) = [case for case in vanishing.cases(selection.Selection((), frozenset())) if f"/{rule}/" in case.name]
    contenders, notes = run.build(found)
    assert set(contenders) | set(notes) == {entry.name for entry in found.entries}
    assert {"onepass", "onepass, fresh", "NumPy in place"} <= set(contenders)
    assert [(goal.contender, goal.against) for goal in found.goals] == [("onepass", "onepass, fresh")]
    monkeypatch.setattr(vanishing.Vanishing, "vanish", lambda problem: None)
    with pytest.raises(agreement.AgreementError, match=f"vanishing/{rule}/1000: onepass"):
        run.build(found)


def test_batches_are_compared_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "ROWS", 600)
    monkeypatch.setattr(data, "BATCHES", 3)
    found = data.cases(selection.Selection((), frozenset()))
    assert [case.name.split("/")[1] for case in found] == ["gather", "train", "augment"]
    for case in found:
        contenders, notes = run.build(case)
        assert set(contenders) | set(notes) == {entry.name for entry in case.entries}
        assert {"onepass", "onepass, prefetch", data.MAPPED, f"{data.MAPPED}, prefetch"} <= set(contenders)
    monkeypatch.setattr(data, "_mapped", lambda x: x + np.float32(2**-20))
    with pytest.raises(agreement.AgreementError, match=r"data/gather/784/batch_128: onepass, memory map: x\["):
        run.build(found[0])


def test_deepspeed_takes_part_where_it_has_the_rule() -> None:
    found = {
        rule: [entry.needs for entry in deepspeed_updates.entries(Problem(rule, ((8,),)))] for rule in ("adam", "lion")
    }
    assert found == {"adam": [("deepspeed", "torch")], "lion": []}


@pytest.mark.parametrize("position", [0, 4095, 4096, 9999])
@pytest.mark.parametrize("value", [1.5, np.nan, np.inf])
def test_agreement_finds_one_wrong_element(position: int, value: float) -> None:
    period = np.arange(1, 4097, dtype=np.float32)
    actual = arrays.repeated(period, 10000)
    agreement.check("right", {"x": actual}, {"x": period}, 1e-6, 0.0)
    actual[position] = value * actual[position]
    with pytest.raises(agreement.AgreementError, match=rf"who: x\[{position}\]"):
        agreement.check("who", {"x": actual}, {"x": period}, 1e-6, 0.0)


def test_agreement_needs_the_same_names_and_sizes() -> None:
    with pytest.raises(agreement.AgreementError, match="expected \\['y'\\]"):
        agreement.check("who", {"x": np.ones(2)}, {"y": np.ones(2)}, 0.0, 0.0)
    with pytest.raises(agreement.AgreementError, match="has 2 elements, expected 3"):
        agreement.check("who", {"x": np.ones(2)}, {"x": np.ones(3)}, 0.0, 0.0)


def test_sizes_are_names_or_numbers() -> None:
    assert selection.parse_sizes("small,5000000") == (
        (4096, 5_000_000),
        frozenset({"small", "memory"}),
    )
    with pytest.raises(ValueError, match="'huge' is not a size"):
        selection.parse_sizes("huge")
