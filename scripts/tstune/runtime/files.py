"""Files that are replaced as a whole, and what the disk refuses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tstune.errors import OutputError


@contextmanager
def aside(path: Path, key: str = "") -> Iterator[Path]:
    """A file to write to, which replaces `path` when it is whole; each process has its own.

    Args:
        path: the file.
        key: what errors call it by, before its path.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{key}{path} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def is_disk_trouble(error: Exception) -> bool:
    """Whether the disk refused something; torch and safetensors tell of a full one by errors of their own."""
    text, signs = str(error).lower(), ("no space left", "file write failed", "unexpected pos", "i/o error", "iostream")
    return isinstance(error, OSError) or any(sign in text for sign in signs)
