"""Runs a command for a sweep and takes it down, with all it started, when asked or when the sweep is gone.

    python -I guard.py SECONDS COMMAND …

SIGTERM, or the end of standard input, which is a pipe that dies with the sweep however the sweep dies, ends the
command: SIGTERM to all its processes, SIGKILL to those that are left after SECONDS. Exit code 75 says so; else it is
the command's own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

_PR_SET_CHILD_SUBREAPER = 36
ENDED = 75


def main() -> int:
    """Run the command."""
    seconds, *command = sys.argv[1:]
    asked = threading.Event()
    # a handler, not SIG_IGN: what is ignored here would be ignored by the command too
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    # launchers die on SIGTERM and leave their workers alone: these become our children then, and can be found
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_wait_for_end_of_input, args=[asked], daemon=True).start()
    while process.poll() is None and not asked.wait(0.1):
        pass
    code = process.poll()
    _end_all(float(seconds))
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
    raise SystemExit(main())
