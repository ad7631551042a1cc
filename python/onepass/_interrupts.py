"""Signals that end a training after the batch at hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """While the context is open, the first Ctrl-C sets ``received``; the second one interrupts at once.

    ``terminated``: SIGTERM counts too. Only in the main thread, and only where a signal does what it does by default:
    handlers of the surrounding program stay.
    """

    def __init__(self, terminated: bool) -> None:
        self.received: int | None = None
        self._terminated = terminated
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._receive)
            if self._terminated and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def leave(self, message: str) -> None:
        """KeyboardInterrupt, or SystemExit after SIGTERM."""
        if self.received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(message)
