"""``onepass info``."""

from __future__ import annotations

import argparse

from onepass.cli.output import Output

__all__ = ["run"]


def run(options: argparse.Namespace, output: Output) -> int:
    import onepass

    for name, value in onepass.info().items():
        if name == "openmp":
            value = (
                "threadpoolctl is not installed; pip install 'onepass[train]'"
                if value is None
                else ", ".join(f"{r['filepath']} ({r['num_threads']})" for r in value) or "none"
            )
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        output.line(f"{name:14}{value}")
    output.complain("to stdout")
    return 0
