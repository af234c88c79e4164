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
from contextlib import suppress

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
    """True if a process of this run has said why it ends; `now` this one does. They meet in the launcher's store."""
    group = sys.modules.get("torch.distributed.distributed_c10d")
    with suppress(RuntimeError):  # a store ends with the process that holds it
        if group is not None and group.is_initialized():
            store = group._get_default_store()
            return bool(store.set("tstune/spoken", "") if now else store.check(["tstune/spoken"]))
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
        except (OSError, MemoryError) as error:  # the machine: a file that is not there, a full disk, a dead line
            _spoken(now=True)
            told = describe_os_error(error) if isinstance(error, OSError) else f"{FULL_MEMORY} ({error})"
            print(f"error: {visible(told)}", file=sys.stderr)
            return EXIT_USER_ERROR
        except RuntimeError as error:
            told = next((line for words, line in _TOLD_BY_TORCH.items() if words in str(error)), None)
            if told is None:
                raise
            # of a dead worker torch tells by a signal, which may come again while the first error is on its way out
            if told != DEAD_RANK or not _spoken():
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
