"""Errors meant for the user, and how a script turns them into one line and an exit code."""

from __future__ import annotations

import atexit
import difflib
import functools
import gc
import os
import re
import sys
import time
from collections.abc import Callable, Collection

EXIT_OK = 0
EXIT_DIFFERENT = 1
EXIT_USER_ERROR = 2
EXIT_DRIFT = 3  # monitor_model.py: what a model reads, or how wrong it is, has changed
EXIT_NOT_PROMOTED = 4  # retune.py: the challenger is not clearly better
EXIT_REQUEUE = 75  # EX_TEMPFAIL: start the same command again
EXIT_INTERRUPTED = 130


class TstuneError(ValueError):
    """Something the user can fix. The message names the thing, its value, the choices and the fix."""


class ConfigError(TstuneError):
    """A configuration that does not say one clear thing."""


class DataError(TstuneError):
    """Data that cannot be read or cannot give a single window."""


class LeakError(DataError):
    """A split whose parts are not apart, or weights that were trained on what judges them, as `check` found."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"leak {check}: {message}")
        self.check = check


class CheckpointError(TstuneError):
    """Weights that are missing, damaged or of another shape."""


class DistributedError(TstuneError):
    """The launcher gave another set-up than the configuration asked for."""


class TrainingError(TstuneError):
    """Training that cannot go on, for example a loss that is not a number."""


class OutputError(TstuneError):
    """A place that cannot be written, or must not be overwritten."""


class FolderError(TstuneError):
    """A run folder that is missing, damaged, or not one."""


class ReportError(TstuneError):
    """A run folder that a report cannot be drawn from."""


class TrackingError(TstuneError):
    """An experiment tracker that cannot start, or that was asked for something impossible."""


class RegistryError(TstuneError):
    """A model version that is not there, is damaged, or must not be changed this way."""


class MissingDependencyError(TstuneError):
    """An optional package is not installed; the message names the pip line."""


class ServiceError(TstuneError):
    """A remote service that refused, did not answer, or answered what cannot be read."""


class Preempted(BaseException):
    """The machine is taken away (SIGTERM). Not an `Exception`: nothing on the way out may take it for a failure."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what is on the disk in words."""


DEAD_WORKER = (
    "a process that loads windows was killed, most often for want of memory; lower training.num_workers (0 needs no "
    "such process)"
)
DEAD_RANK = (
    "another process of this run has ended, and this one cannot go on without it; mend what its own lines say, then "
    "start the same command, with training.resume_from_checkpoint=auto where it had written checkpoints"
)
FULL_MEMORY = "the memory is full; ask for less at once, or use a larger machine"
_TOLD_BY_TORCH = {
    **{"DataLoader worker": DEAD_WORKER, "can't allocate memory": FULL_MEMORY},
    **dict.fromkeys(("gloo", "NCCL", "TCPStore"), DEAD_RANK),
}
"""Words in a RuntimeError -> what has happened."""


_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text whose control characters, and those that turn the direction of writing, are written out by number."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A question with the one of these that is written most alike, and a blank behind it; nothing where none is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""


def first_line(error: Exception) -> str:
    """The error in at most 200 characters."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def failure(error: BaseException) -> str:
    """The error in one line of at most 300 characters, with its kind where the words are not ours."""
    kind = "" if isinstance(error, TstuneError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"[:300]


def describe_os_error(error: OSError) -> str:
    """What the system refused, in one line that names the file if there is one."""
    reason = error.strerror or " ".join(str(error).split()) or "no reason given"
    return f"{error.filename}: {reason}" if error.filename else f"{type(error).__name__}: {reason}"


def _spoken(now: bool = False) -> bool:
    """Whether a process of this run has said why it ends, where they meet at a launcher; `now` this one does."""
    group = sys.modules.get("torch.distributed.distributed_c10d")
    if group is None or not group.is_initialized():
        return False
    try:
        store = group._get_default_store()
        if now:
            store.set("tstune/spoken", "")
        return store.check(["tstune/spoken"])
    except RuntimeError:  # the store has ended with the process that held it
        return False


def exits_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Wrap a script's ``main``: a user error becomes one ``error: …`` line on stderr and exit code 2.

    So does whatever the system refused (`OSError`). Any other exception is a bug of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> int:
        gc.set_threshold(50_000)  # at 700, a quarter of the imports is spent on looking through what they made
        atexit.register(gc.freeze)  # nor is it looked through at the end, when the system takes the memory back anyway
        try:
            return main(*args, **kwargs)
        except TstuneError as error:
            rank = os.environ.get("RANK", "0")
            prefix = "error" if rank == "0" else f"error (rank {rank})"
            if rank != "0":  # the launcher ends the others when one exits: let rank 0 speak first
                time.sleep(2)
            _spoken(now=True)
            print(f"{prefix}: {visible(' '.join(str(error).split()))}", file=sys.stderr)
            return EXIT_USER_ERROR
        except OSError as error:  # the machine: a file that is not there, a disk that is full, a line that is dead
            _spoken(now=True)
            print(f"error: {visible(describe_os_error(error))}", file=sys.stderr)
            return EXIT_USER_ERROR
        except MemoryError as error:
            print(f"error: {FULL_MEMORY} ({error})", file=sys.stderr)
            return EXIT_USER_ERROR
        except RuntimeError as error:
            told = next((line for words, line in _TOLD_BY_TORCH.items() if words in str(error)), None)
            if told is None:
                raise
            if told == DEAD_RANK and _spoken():
                return EXIT_USER_ERROR
            # of a dead worker torch tells by a signal, which may come again while the first error is on its way out
            print(f"error: {told}", file=sys.stderr)
            return EXIT_USER_ERROR
        except Preempted as stop:
            if os.environ.get("RANK", "0") == "0":
                print(f"preempted: {stop}", file=sys.stderr)
            return EXIT_REQUEUE
        except KeyboardInterrupt as stop:
            print(f"interrupted: {stop or 'nothing was written'}", file=sys.stderr)
            return EXIT_INTERRUPTED

    return guarded
