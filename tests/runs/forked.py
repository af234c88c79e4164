"""A script in a forked process, which is stopped at an exact place: the modules are loaded already."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import finetune_ttm
from tstune.runtime.logs import logger


def before(place: object, name: str, act: Callable[[], None], calls: int = 1) -> None:
    """Act at the start of the given call of a function."""
    original, count = getattr(place, name), iter(range(1, 10_000))

    def wrapped(*args: object, **keywords: object) -> object:
        if next(count) == calls:
            act()
        return original(*args, **keywords)

    setattr(place, name, wrapped)


def after(place: object, name: str, act: Callable[[], None]) -> None:
    """Act at the end of the first call of a function, before its caller knows."""
    original = getattr(place, name)

    def wrapped(*args: object, **keywords: object) -> object:
        answer = original(*args, **keywords)
        act()
        return answer

    setattr(place, name, wrapped)


def send(number: signal.Signals) -> Callable[[], None]:
    """Send this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def start(arguments: Sequence[str], log: Path, prepare: Callable[[], None]) -> int:
    """Run finetune_ttm.py in a child that `prepare` has patched; returns its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logger.handlers = [logging.StreamHandler(sys.stderr)]  # not the one of an earlier test, which is closed
        prepare()
        code = finetune_ttm.main(list(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int) -> int:
    """Exit code of a child; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
