"""Many registrations at once, or one clean-up alone; the kernel lets go when a process dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tstune.errors import RegistryError


@contextmanager
def lock(path: Path, exclusive: bool, timeout: float) -> Iterator[None]:
    """Hold the file `path`, shared or alone.

    Raises:
        RegistryError: others held it longer than `timeout` seconds.
    """
    flags = os.O_RDWR | os.O_CREAT if exclusive or not path.exists() else os.O_RDONLY
    descriptor = os.open(path, flags, 0o666)
    try:
        _take(descriptor, path, exclusive, time.monotonic() + timeout)
        yield
    finally:
        os.close(descriptor)  # this is what lets go


def _take(descriptor: int, path: Path, exclusive: bool, deadline: float) -> None:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                others = "a registration or a load" if exclusive else "a clean-up"
                raise RegistryError(f"{path.parent} is busy with {others}; try again later") from None
            time.sleep(0.02)
