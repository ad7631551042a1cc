"""What the command says, and how it fails."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

__all__ = ["Output", "UsageError", "fail", "flush"]


class UsageError(Exception):
    """An option's value cannot be used; the message is one sentence."""


class Output:
    """Lines on stdout. A stream that fails costs the lines only; ``error`` keeps why."""

    def __init__(self) -> None:
        self.error: OSError | None = None

    def line(self, text: str) -> None:
        stream = sys.stdout
        if stream is None or self.error is not None:  # None: closed before the start
            return
        try:
            try:
                print(text, flush=True)
            except UnicodeEncodeError:
                encoding = stream.encoding
                print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
        except OSError as error:
            self.error = error

    def complain(self, lost: str) -> None:
        """One line on stderr if what was to be printed is lost; a closed pipe is no reason."""
        if self.error is not None and not isinstance(self.error, BrokenPipeError):
            what, _, consolation = lost.partition(";")
            fail(2, f"cannot print {what}: {self.error.strerror}" + (f";{consolation}" if consolation else ""))


def flush(stream: TextIO | None) -> OSError | None:
    """Why ``stream`` cannot be written; what it still holds is then dropped, or Python would complain at its exit."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except OSError:  # no file at all
            pass
        return error
    return None


def fail(code: int, message: str) -> int:
    with contextlib.suppress(OSError):  # nobody to tell
        print("onepass:", " ".join(message.split()), file=sys.stderr, flush=True)
    return code
