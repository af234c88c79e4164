"""SHA-256 of input files, remembered while a file stays untouched: large ones are not read at every start."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from tstune.data.origin import file_sha256
from tstune.errors import DataError

_SETTLED = 2.0
"""Seconds; a file changed more recently could change again without another time of change."""


def remembered_sha256(path: Path, memory: Path) -> str:
    """SHA-256 of a file's content.

    Args:
        path: the file.
        memory: folder of a small file per path; what cannot be written there is computed again.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror}") from None
    # the time of change cannot be set back by copying or by touch
    now = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    note = memory / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    try:
        remembered = json.loads(note.read_text(encoding="utf-8"))
        if remembered["file"] == now:
            return remembered["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        remembered = None  # not there, or damaged
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise DataError(f"data file {path} cannot be read: {error.strerror}") from None
    if time.time() - found.st_ctime > _SETTLED and os.access(memory.parent, os.W_OK):
        memory.mkdir(exist_ok=True)
        aside = note.with_name(f"{note.name}.{os.getpid()}")
        aside.write_text(json.dumps({"file": now, "sha256": digest}), encoding="utf-8")
        aside.replace(note)
    return digest
