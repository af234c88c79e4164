"""Copies that are checked on the way, so that what was checked is what was copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tstune.errors import RegistryError
from tstune.registry.records import StoredFile

_CHUNK = 1 << 20


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hexadecimal and bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()


def copy_stream(source: BinaryIO, target: Path, limit: int | None = None) -> tuple[str, int]:
    """Write a new file, flushed to the disk; at most one byte more than `limit`.

    Returns:
        SHA-256 in hexadecimal and bytes of what was written.
    """
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as stream:
        while chunk := source.read(_CHUNK if limit is None else min(_CHUNK, limit + 1 - size)):
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest(), size


def copy_checked(source: BinaryIO, folder: Path, file: StoredFile, origin: str) -> None:
    """Write ``folder/file.path`` from a stream.

    Raises:
        RegistryError: what came is not what was registered; the message names the file.
    """
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    require_same(file, *copy_stream(source, target, file.size), origin)


def require_same(file: StoredFile, sha256: str, size: int, origin: str) -> None:
    """Stop if a file is not the one that was registered.

    Raises:
        RegistryError: naming the file and both checksums.
    """
    if (sha256, size) != (file.sha256, file.size):
        found = f"more than {file.size} bytes" if size > file.size else f"{size} bytes with sha256 {sha256[:12]}…"
        raise RegistryError(
            f"{origin}: {file.path} is damaged: {found} instead of {file.size} bytes with sha256 {file.sha256[:12]}…; "
            "take the model from a backup, or register the run again"
        )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into one line.

    Raises:
        RegistryError: naming `what` and the reason.
    """
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise RegistryError(f"{what}: {error.strerror or error}{place}") from None
