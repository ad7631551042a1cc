"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from bench import machine, peers, report, timing
from bench.agreement import AgreementError
from bench.cases import selected
from bench.run import CaseResult, run
from bench.selection import Selection, parse_sizes

EVERY_SIZE = "small,cache,memory"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m bench",
        description="Times onepass, NumPy and the installed peers in one process, after asserting "
        "that their results agree with float64.",
    )
    add = found.add_argument
    add(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="cases whose name contains this (globs work); may be repeated",
    )
    add(
        "--sizes",
        default=None,
        help="small, cache, memory or numbers of elements, by commas (default: all three)",
    )
    add("--threads", type=int, default=None, help="default: what onepass uses")
    add("--rounds", type=int, default=None, help="samples of a contender (default: 25)")
    add("--quick", action="store_true", help="a few minutes: small sizes, few rounds")
    add("--compile", action="store_true", help="torch.compile takes part (slow to start)")
    add(
        "--json",
        type=Path,
        default=Path("bench-results.json"),
        metavar="FILE",
        help="where the results go (default: %(default)s)",
    )
    add("--markdown", action="store_true", help="tables for a page of documentation, besides")
    add("--list", action="store_true", help="names of the cases, and nothing is run")
    return found


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        sizes, classes = parse_sizes(options.sizes or ("small" if options.quick else EVERY_SIZE))
    except ValueError as error:
        parser().error(str(error))
    peers.configure(options.threads, options.compile)
    cases = selected(Selection(sizes, classes, tuple(options.only)))
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    if not cases:
        parser().error("no case has such a name and size; --list shows them")
    plan = timing.QUICK if options.quick else timing.Plan()
    if options.rounds is not None:
        plan = replace(plan, rounds=max(1, options.rounds))
    described = machine.describe()
    print(report.heading(described), flush=True)
    results: list[CaseResult] = []
    try:
        for _, group in groupby(cases, key=lambda case: case.group):
            start = len(results)
            for case in group:
                print(f"... {case.name}", file=sys.stderr, flush=True)
                results.append(run(case, plan))
            print("\n" + report.table(results[start:]), flush=True)
            if options.markdown:
                print("\n" + report.markdown(results[start:]), flush=True)
            report.write(options.json, described, results)
    except AgreementError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(f"\n{report.summary(results)}; written to {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
