"""One run as a process of its own: its time, its memory, and why it ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tstune.errors import Preempted

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 20.0  # to write a checkpoint, or to clean up
_KIB_PER_UNIT = 1 / 2**10 if sys.platform == "darwin" else 1  # ru_maxrss is in bytes there
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|^MemoryError", re.IGNORECASE)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code, negative for a signal.
        seconds: how long it ran.
        peak_memory_mib: its resident memory at most.
        timed_out: it was stopped because it took too long.
        log: the file with all it said.
    """

    code: int
    seconds: float
    peak_memory_mib: float
    timed_out: bool
    log: Path

    @property
    def reason(self) -> str | None:
        """Why it failed, in one line; None if it did not."""
        if self.timed_out:
            return f"stopped after {self.seconds / 60:.3g} min (--timeout)"
        if self.code == 0:
            return None
        if self.code == -signal.SIGKILL:
            return f"out of memory, by all appearance: killed by the system at {self.peak_memory_mib:,.0f} MiB"
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line]
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        last = told[-1] if told else lines[-1] if lines else "it said nothing"
        if _OUT_OF_MEMORY.search(last) and not last.startswith("out of memory"):
            return f"out of memory: {last}"
        return last if told else f"exit code {self.code}: {last}"


def run_process(command: Sequence[str], log: Path, timeout_seconds: float | None) -> Ended:
    """Run a command to its end; what it says goes to `log`.

    It is a process group of its own, so that an interruption reaches it once, from here, and all its workers.

    Raises:
        KeyboardInterrupt, Preempted: passed on to the process, which was waited for.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    timed_out = False
    try:
        ended = _wait(process, None if timeout_seconds is None else begin + timeout_seconds)
        if ended is None:
            timed_out = True
            ended = _stop(process, signal.SIGTERM)
    except (KeyboardInterrupt, Preempted) as stop:
        _stop(process, signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
        raise
    code, peak = ended
    return Ended(code, time.monotonic() - begin, peak, timed_out, log)


def _wait(process: subprocess.Popen, deadline: float | None) -> tuple[int, float] | None:
    """(exit code, peak memory in MiB), or None when the time is over."""
    while deadline is None or time.monotonic() < deadline:
        found, status, usage = os.wait4(
            process.pid, os.WNOHANG
        )  # of this child alone; getrusage has the largest of all
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss * _KIB_PER_UNIT / 2**10
        time.sleep(_POLL_SECONDS)
    return None


def _stop(process: subprocess.Popen, number: int) -> tuple[int, float]:
    if process.returncode is not None:  # it ended by itself in the same moment
        return process.returncode, 0.0
    ended = None
    for kind in (number, signal.SIGKILL):
        if ended is None:
            _signal_group(process, kind)
            ended = _wait(process, time.monotonic() + _GRACE_SECONDS)
    _signal_group(process, signal.SIGKILL)  # workers that outlived it
    return ended if ended is not None else (-signal.SIGKILL, 0.0)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM stop what runs in here, also where the shell told its background jobs to ignore them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _preempt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _preempt(_number: int, _frame: FrameType | None) -> None:
    raise Preempted("SIGTERM; the same command goes on")
