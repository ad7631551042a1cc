"""Runs one case: build, check, time, compare."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, field

from bench import agreement, peers, timing
from bench.case import Case, Contender, Entry, Goal

LARGE = 1 << 28  # bytes


@dataclass(frozen=True)
class GoalResult:
    goal: Goal
    row: str | None
    """The contender that the goal was measured against; None: none of them took part."""
    measured: float | None

    @property
    def reached(self) -> bool | None:
        return None if self.measured is None else self.measured >= self.goal.at_least


@dataclass(frozen=True)
class Row:
    contender: str
    median: float | None = None
    ratio: float | None = None
    share: float | None = None
    python: float | None = None
    """Seconds that Python adds to the native calls."""
    samples: list[float] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class CaseResult:
    case: Case
    rows: list[Row]
    goals: list[GoalResult]


def _absent(entry: Entry) -> str:
    missing = [name for name in entry.needs if not peers.installed(name)]
    return f"absent: {', '.join(missing)} not installed" if missing else ""


def _available_memory() -> int | None:
    """Bytes that can be had without swapping."""
    try:
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (AttributeError, ValueError):
            return None


def _evaluate(goal: Goal, samples: timing.Samples) -> GoalResult:
    rivals = [name for name in samples if goal.meets(name)]
    if goal.contender not in samples or not rivals:
        return GoalResult(goal, None, None)
    fastest = min(rivals, key=lambda name: timing.median(samples, name))
    return GoalResult(goal, fastest, timing.ratio(samples, fastest, goal.contender))


def build(case: Case) -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders, their first runs checked, and why others do not take part.

    A peer that fails is noted like an absent one; only a wrong result, or onepass failing, raises.
    """
    expected = case.expected()
    contenders: dict[str, Contender] = {}
    notes: dict[str, str] = {}
    for entry in case.entries:
        if note := _absent(entry):
            notes[entry.name] = note
            continue
        try:
            contender = entry.make()
            for _ in range(case.steps):
                contender.run()
            result = contender.result()
        except Exception as error:
            if not set(peers.PEERS).intersection(entry.needs):
                raise
            notes[entry.name] = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            continue
        who = f"{case.name}: {entry.name}"
        agreement.check(who, result, expected, case.rtol, case.atol)
        contenders[entry.name] = contender
    return contenders, notes


def run(case: Case, plan: timing.Plan) -> CaseResult:
    """Raises AgreementError when a contender's result is wrong."""
    available = _available_memory()
    if available is not None and case.memory > 0.9 * available:
        note = f"skipped: needs {case.memory / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free"
        rows = [Row(entry.name, note=note) for entry in case.entries]
        return CaseResult(case, rows, [GoalResult(goal, None, None) for goal in case.goals])
    contenders, notes = build(case)
    samples = timing.interleave(contenders, plan)
    contenders.clear()
    if case.memory > LARGE:
        gc.collect()  # what hangs in cycles: the next case may need the memory
    rows = []
    for entry in case.entries:
        if entry.name in notes:
            rows.append(Row(entry.name, note=notes[entry.name]))
            continue
        base, limit, bare, name = entry.base or case.base, entry.limit, entry.bare, entry.name
        rows.append(
            Row(
                name,
                timing.median(samples, name),
                timing.ratio(samples, name, base) if base in samples else None,
                timing.ratio(samples, limit, name) if limit in samples else None,
                timing.difference(samples, name, bare) if bare in samples else None,
                list(samples[name].values()),
            )
        )
    return CaseResult(case, rows, [_evaluate(goal, samples) for goal in case.goals])
