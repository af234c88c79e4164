"""Programs this one starts: followed, measured, and ended with all they started, when asked or when this one is gone.

    python -I children.py SECONDS COMMAND …

is the keeper that stands between. SIGTERM, or the end of its standard input, which is a pipe that closes however this
program dies, ends the command: SIGTERM to all its processes, SIGKILL to those that are left after SECONDS. Its exit
code 75 says so; else it is the command's own, or 256 less the number of the signal that killed it.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

ENDED = 75
"""Exit code of a program that was ended from outside."""
END_SECONDS = 20
"""From SIGTERM to SIGKILL; SLURM allows a whole job about 30."""

_PR_SET_CHILD_SUBREAPER = 36
_KIB_PER_UNIT = 1 / 2**10 if sys.platform == "darwin" else 1  # ru_maxrss is in bytes there
_NOT_THE_CAUSE = ("CalledProcessError", "ChildFailedError")


class Child:
    """A started program and all processes it starts. Leaving the context ends what still runs.

    Args:
        command: its words.
        log: file that what it says is appended to.
        hidden: environment variables it does not get.

    Attributes:
        pid: of the keeper, which lives as long as any of the processes.
        code: exit code, negative for a signal, `ENDED` if it was ended from outside; None while it runs.
        peak_memory_mib: resident memory at most of any one of its processes, once it has ended.
    """

    def __init__(self, command: Sequence[str], log: Path, hidden: Collection[str] = ()) -> None:
        self.log, self.code, self.peak_memory_mib = log, None, 0.0
        self._begins_at = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", __file__, str(END_SECONDS), *command],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name not in hidden},
                start_new_session=True,  # Ctrl-C is for this program, which ends its children by itself
            )
        self.pid = self._keeper.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._keeper.stdin.close()

    @property
    def has_ended(self) -> bool:
        """True once nothing of it runs."""
        if self.code is None:
            self._look(os.WNOHANG)
        return self.code is not None

    def end(self) -> None:
        """End it and wait until it is gone."""
        if not self.has_ended:
            self._keeper.terminate()
            self._look(0)

    def said(self) -> list[str]:
        """The lines it wrote to its log."""
        with self.log.open("rb") as stream:
            stream.seek(self._begins_at)
            return stream.read().decode("utf-8", errors="replace").splitlines()

    def why(self) -> str | None:
        """Our own error line, else the last exception that is not a launcher's report of it; None if it told none."""
        said = [re.sub(r"^\[rank\d+\]: ?", "", line) for line in self.said()]
        own = [line for line in said if re.match(r"error( \(rank \d+\))?: ", line)]
        if own:
            return own[0].partition(": ")[2]
        raised = [line for line in said if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        raised = [line for line in raised if not any(name in line for name in _NOT_THE_CAUSE)]
        return raised[-1] if raised else None

    def _look(self, options: int) -> None:
        found, status, usage = os.wait4(self.pid, options)  # of this child alone; getrusage has the largest of all
        if found:
            code = self._keeper.returncode = os.waitstatus_to_exitcode(status)
            # the keeper itself was killed, or tells of a signal
            self.code = ENDED if code < 0 else code - 256 if code > 128 else code
            self.peak_memory_mib = usage.ru_maxrss * _KIB_PER_UNIT / 2**10


class StopRequest:
    """Context manager that notes SIGINT and SIGTERM, so that nothing is cut in half; a second Ctrl-C cuts.

    It notes them also where the shell told its background jobs to ignore them.

    Attributes:
        signal: the first signal that came, None until then.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave(self, message: str) -> NoReturn:
        """Raise what says that a signal came: `KeyboardInterrupt` for Ctrl-C, else `Preempted` with the message."""
        from tstune.errors import Preempted  # the keeper runs this file without the package

        raise KeyboardInterrupt if self.signal == signal.SIGINT else Preempted(message)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


def sign_of_life(*pids: int) -> dict[str, object]:
    """What tells others, on this machine or elsewhere, which processes work on something; for `are_gone`."""
    started = [[pid, psutil.Process(pid).create_time()] for pid in pids]
    return {"host": socket.gethostname(), "processes": started}


def are_gone(sign: Mapping[str, object]) -> bool:
    """True if all these processes were of this machine and none of them lives; of others nothing is known."""
    return sign["host"] == socket.gethostname() and not any(_is_alive(*one) for one in sign["processes"])


def _is_alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _keep(seconds: float, command: Sequence[str]) -> int:
    asked = threading.Event()
    # a handler, not SIG_IGN: what is ignored here would be ignored by the command too
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    if sys.platform == "linux":
        # launchers die on SIGTERM and leave their workers alone: these become our children then, and can be found
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_wait_for_end_of_input, args=[asked], daemon=True).start()
    while process.poll() is None and not asked.wait(0.1):
        pass
    code = process.poll()
    _end_all(seconds)
    from_outside = code is None or code == -signal.SIGTERM or (asked.is_set() and code != 0)
    return ENDED if from_outside else code % 256


def _wait_for_end_of_input(asked: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1):  # the buffered read of sys.stdin would hold a lock at exit
        pass
    asked.set()


def _end_all(seconds: float) -> None:
    for send in (psutil.Process.terminate, psutil.Process.kill):
        processes = psutil.Process().children(recursive=True)
        for process in processes:
            try:
                send(process)
            except psutil.NoSuchProcess:  # it ended meanwhile
                continue
        psutil.wait_procs(processes, seconds)


if __name__ == "__main__":
    raise SystemExit(_keep(float(sys.argv[1]), sys.argv[2:]))
