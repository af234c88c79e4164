"""Programs this one starts: followed, measured, and ended with all they started, when asked or when this one is gone.

    python -I children.py SECONDS COMMAND …

is the keeper that stands between; a `ForkedChild` has one of the same kind. SIGTERM, or the end of its standard input,
which is a socket that closes however this program dies, ends the command: SIGTERM to all its processes, SIGKILL to
those that are left after SECONDS. Its exit code 75 says so; else it is the command's own, or 256 less the number of the
signal that killed it. The socket's other way tells the peak memory of the command.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
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

    What it says is appended to the log, and it does not get the `hidden` environment variables.

    Attributes:
        pid: of the keeper, which lives as long as any of the processes.
        code: exit code, negative for a signal, `ENDED` if it was ended from outside; None while it runs.
        peak_memory_mib: resident memory at most of any one of its processes, once it has ended.
    """

    def __init__(self, command: Sequence[str], log: Path, hidden: Collection[str] = ()) -> None:
        self.log, self.code, self.peak_memory_mib = log, None, 0.0
        self._begins_at = log.stat().st_size if log.exists() else 0
        self._lifeline, its_end = socket.socketpair()
        with log.open("ab") as stream, its_end:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", __file__, str(END_SECONDS), *command],
                stdin=its_end,
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
        self._lifeline.close()

    @property
    def has_ended(self) -> bool:
        """True once nothing of it runs."""
        if self.code is None:
            self._look(wait=False)
        return self.code is not None

    def end(self) -> None:
        """End it and wait until it is gone."""
        if not self.has_ended:
            self._keeper.terminate()
            self._look(wait=True)

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

    def _look(self, wait: bool) -> None:
        code = self._keeper.wait() if wait else self._keeper.poll()
        if code is not None:
            self.code = _told(code)
            self.peak_memory_mib = float(self._lifeline.recv(64) or 0)


class ForkedChild(Child):
    """A Python script that does not start from nothing: it is forked from a server that has loaded its libraries.

    The server starts with the first child, knows the libraries that this one names, as far as they are installed, and
    lives as long as this program.
    """

    def __init__(
        self, script: Path, words: Sequence[str], libraries: Sequence[str], log: Path, hidden: Collection[str] = ()
    ) -> None:
        self.log, self.code, self.peak_memory_mib = log, None, 0.0
        self._begins_at = log.stat().st_size if log.exists() else 0
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(list(libraries))
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        its_end, self._lifeline = server.Pipe(duplex=False)
        arguments = (its_end, END_SECONDS, str(script), list(words), str(log.absolute()), environment, os.getcwd())
        self._keeper = server.Process(target=_keep_fork, args=arguments)
        self._keeper.start()
        its_end.close()
        self.pid = self._keeper.pid

    def _look(self, wait: bool) -> None:
        if wait:
            self._keeper.join()
        if self._keeper.exitcode is not None:
            self.code = _told(self._keeper.exitcode)


def _told(code: int) -> int:
    """What the code of a keeper says of its program; if the keeper itself was killed, so was all else."""
    return ENDED if code < 0 else code - 256 if code > 128 else code


class StopRequest:
    """Context manager that notes SIGINT and SIGTERM, so that nothing is cut in half; a second Ctrl-C cuts.

    It notes them also where the shell told its background jobs to ignore them. `signal` is the first that came.
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
    return sign["host"] == socket.gethostname() and not any(is_alive(*one) for one in sign["processes"])


def is_alive(pid: int, started: float) -> bool:
    """True if the process that began then still runs, and is no zombie."""
    try:
        process = psutil.Process(pid)
        return process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _keep(seconds: float, start: Callable[[], Callable[[], int | None]], wait_for_end: Callable[[], object]) -> int:
    """Start a program, whose code is asked for again and again, and end it when asked to or when the wait is over."""
    asked = threading.Event()
    # a handler, not SIG_IGN: what is ignored here would be ignored by the command too
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    if sys.platform == "linux":
        # launchers die on SIGTERM and leave their workers alone: these become our children then, and can be found
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    code_of = start()
    threading.Thread(target=lambda: (wait_for_end(), asked.set()), daemon=True).start()
    while code_of() is None and not asked.wait(0.1):
        pass
    code = code_of()
    _end_all(seconds)
    from_outside = code is None or code == -signal.SIGTERM or (asked.is_set() and code != 0)
    return ENDED if from_outside else code % 256


def _keep_command(seconds: float, command: Sequence[str]) -> int:
    code = _keep(seconds, lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL).poll, _wait_for_end_of_input)
    # not the keeper's own: where it came of a fork, Linux counts what the program that forked held
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _KIB_PER_UNIT / 2**10
    with suppress(OSError):  # nobody may be there to hear it
        os.write(sys.stdin.fileno(), str(peak).encode())
    return code


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # the buffered read of sys.stdin would hold a lock at exit
        pass


def _keep_fork(
    lifeline: Connection,
    seconds: float,
    script: str,
    words: Sequence[str],
    log: str,
    environment: Mapping[str, str],
    folder: str,
) -> NoReturn:
    """Keep a fork of this process, itself one of the server, that runs a script."""
    os.setsid()
    with open(log, "ab") as stream:
        for told in (1, 2):
            os.dup2(stream.fileno(), told)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    process = multiprocessing.get_context("fork").Process(target=_run_script, args=(script, words))

    def start() -> Callable[[], int | None]:
        process.start()
        return lambda: process.exitcode

    # the pipe ends when the program at its other end does, however it dies
    raise SystemExit(_keep(seconds, start, lambda: lifeline.poll(None)))


def _run_script(script: str, words: Sequence[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


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
    raise SystemExit(_keep_command(float(sys.argv[1]), sys.argv[2:]))
