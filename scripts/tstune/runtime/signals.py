"""SIGTERM, the way schedulers take a machine away: write a checkpoint, leave, be started again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tstune.errors import Preempted


class StopSignal:
    """Turns SIGTERM into `Preempted`, or into a flag, `requested`, while something must not be cut in half.

    Use as a context manager around a whole run. Outside the main thread signals cannot be caught and nothing is
    changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False
        self._before: object = None
        self._installed = False

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, self._before)
            self._installed = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note the signal in here; who runs in here looks at `requested`."""
        before, self._deferring = self._deferring, True
        try:
            yield
        finally:
            self._deferring = before

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let neither SIGTERM nor Ctrl-C into this: the first is noted, the second comes when it is over."""
        if not self._installed:
            yield
            return
        pressed: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
        try:
            with self.deferred():
                yield
        finally:
            signal.signal(signal.SIGINT, before)
        if pressed:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Stop here if SIGTERM has come while it was only noted (`Preempted`: it has)."""
        if self.requested:
            raise Preempted

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if not self._deferring:
            raise Preempted
