"""The command ``onepass``: one file a subcommand."""

from __future__ import annotations

# What takes time to import is imported where it is used: an interrupt meanwhile is one line too.
import importlib
import sys
from typing import TYPE_CHECKING

from onepass.cli.options import parser
from onepass.cli.output import Output, UsageError, fail, flush
from onepass.cli.results import FILES
from onepass.cli.schedules import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FILES", "SCHEDULES", "main"]


def _run(arguments: Sequence[str] | None, output: Output) -> int:
    try:
        import onepass

        options = parser(onepass.__version__).parse_args(arguments)
        command = importlib.import_module(f"onepass.cli.{options.command}")
        code: int = command.run(options, output)
        return code
    except MemoryError as error:
        return fail(1, f"not enough memory: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(2, f"{where}{error.strerror or error}")
    except (UsageError, ImportError) as error:
        return fail(2, str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns 0; 2 for what the user can mend; 1 for a run that diverged; 130 when interrupted; 141, as of a program
    that SIGPIPE ends, where stdout is a closed pipe (the result is written nevertheless).
    """
    output = Output()
    try:
        code = _run(arguments, output)
    except KeyboardInterrupt as interrupt:
        code = fail(130, "; ".join(["interrupted", *map(str, interrupt.args)]))
    except SystemExit as exit:  # argparse, after its message
        code = exit.code if isinstance(exit.code, int) else 2
    error = flush(sys.stdout) or output.error
    if error is not None and code == 0:
        code = 141 if isinstance(error, BrokenPipeError) else 2
    flush(sys.stderr)
    return code
