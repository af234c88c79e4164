"""Ctrl-C and SIGTERM as something to ask for, so that a trial is never cut in the middle of a database write."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Context manager that notes SIGINT and SIGTERM. A second Ctrl-C interrupts at once.

    Attributes:
        signal: the first signal that came, None until then.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """True once a signal came."""
        return self.signal is not None

    @property
    def came_from_terminal(self) -> bool:
        """True for Ctrl-C."""
        return self.signal is signal.SIGINT

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
