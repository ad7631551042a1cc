"""A table for each group of cases, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.case import Case
from bench.run import CaseResult, GoalResult, Row

HEADER = ("case", "contender", "median", "ratio", "of limit", "Python", "bytes", "goal")


def milliseconds(seconds: float) -> str:
    """Four significant digits."""
    value = seconds * 1e3
    digits = 1 if value >= 100 else 2 if value >= 10 else 3 if value >= 1 else 4
    return f"{value:.{digits}f} ms"


def quantity(count: int) -> str:
    """In powers of 1000."""
    for power, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= power:
            return f"{count / power:.3g} {unit}"
    return f"{count} B"


def verdict(result: GoalResult) -> str:
    """2.41 >= 1.5 reached."""
    goal = result.goal
    who = "" if goal.contender == "onepass" else f" ({goal.contender})"
    if result.measured is None:
        return f"{goal.against}: >= {goal.at_least:.3g} not measured{who}"
    word = "reached" if result.reached else "MISSED"
    measured = f"{result.measured:.3g}" if result.measured < 100 else f"{result.measured:.0f}"
    return f"{measured} >= {goal.at_least:.3g} {word}{who}"


def python_cost(row: Row) -> str:
    """What Python adds to the native calls, and its share of the whole: 12.3 us, 11%."""
    if row.python is None or not row.median:
        return ""
    return f"{row.python * 1e6:.1f} us, {row.python / row.median:.0%}"


def _line(case: Case, row: Row, goals: Sequence[GoalResult], first: bool) -> tuple[str, ...]:
    name = case.name if first else ""
    if row.median is None:
        return (name, row.contender, "-", "", "", "", "", row.note)
    return (
        name,
        row.contender,
        milliseconds(row.median),
        f"{row.ratio:.2f}x" if row.ratio is not None else "",
        f"{row.share:.0%}" if row.share is not None else "",
        python_cost(row),
        quantity(case.bytes) if first and case.bytes else "",
        "; ".join(verdict(result) for result in goals),
    )


def lines(result: CaseResult) -> list[tuple[str, ...]]:
    """A line a contender; a goal stands beside the peer that it was measured against."""
    found = []
    for i, row in enumerate(result.rows):
        goals = [goal for goal in result.goals if goal.row == row.contender]
        found.append(_line(result.case, row, goals, i == 0))
    open_goals = [goal for goal in result.goals if goal.row is None]
    found += [("", "", "", "", "", "", "", verdict(goal)) for goal in open_goals]
    return found


def table(results: Iterable[CaseResult]) -> str:
    rows = [HEADER, *(line for result in results for line in lines(result))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    right = {2, 3, 4, 5, 6}
    text = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def _cell(row: Row, base: bool) -> str:
    if row.median is None:
        return "-"
    python = f" (Python: {python_cost(row)})" if row.python is not None else ""
    return milliseconds(row.median) + python if base or row.ratio is None else f"{row.ratio:.3g}"


def markdown(results: Sequence[CaseResult]) -> str:
    """Tables for a page: a line a case, a column a contender; the first's time, and how many times as long others take.

    Cases that follow each other with the same contenders share a table.
    """
    tables = []
    for names, group in groupby(results, key=lambda result: tuple(row.contender for row in result.rows)):
        cases = list(group)
        lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for result in cases:
            cells = [_cell(row, row.contender == result.case.base) for row in result.rows]
            lines.append(f"| {result.case.name} | " + " | ".join(cells) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def summary(results: Sequence[CaseResult]) -> str:
    goals = [goal for result in results for goal in result.goals]
    reached = sum(goal.reached is True for goal in goals)
    missed = sum(goal.reached is False for goal in goals)
    others = len(goals) - reached - missed
    return f"goals: {reached} reached, {missed} missed, {others} not measured"


def heading(machine: dict[str, Any]) -> str:
    versions = machine["versions"]
    present = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    absent = ", ".join(name for name, version in versions.items() if not version)
    busy = (machine["load"] or 0.0) > machine["cores"] / 2
    load = f"load {machine['load']}{' (busy: do not trust the times)' if busy else ''}"
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{load}; onepass {machine['onepass']} ({machine['isa']})\n"
        f"Python {machine['python']}, {present}; absent: {absent or 'none'}\n"
        "ratio: its time over onepass's (or the first contender's); "
        "of limit: time of a loop with the same streams and no arithmetic over its time; "
        "Python: what is left of its time without the native calls"
    )


def as_json(machine: dict[str, Any], results: Sequence[CaseResult]) -> dict[str, Any]:
    return {
        "machine": machine,
        "cases": [
            {
                "name": result.case.name,
                "group": result.case.group,
                "size": result.case.size,
                "bytes": result.case.bytes,
                "base": result.case.base,
                "rows": [vars(row) for row in result.rows],
                "goals": [
                    {
                        "contender": goal.goal.contender,
                        "against": goal.goal.against,
                        "row": goal.row,
                        "at_least": goal.goal.at_least,
                        "measured": goal.measured,
                        "reached": goal.reached,
                    }
                    for goal in result.goals
                ],
            }
            for result in results
        ],
    }


def write(path: Path, machine: dict[str, Any], results: Sequence[CaseResult]) -> None:
    path.write_text(json.dumps(as_json(machine, results), indent=1) + "\n")
