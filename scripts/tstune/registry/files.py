"""Files of a registry: copied with their checksum, kept by their content, locked while they are used."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tstune.errors import RegistryError
from tstune.foreign_files import sha256_of
from tstune.registry.versions import StoredFile
from tstune.runtime.files import sync

_CHUNK = 1 << 20
_READ_ONLY = 0o444


def copy_stream(source: BinaryIO, target: Path, limit: int | None = None, lasting: bool = True) -> tuple[str, int]:
    """Write a new file, flushed to the disk if it is a `lasting` one; at most one byte more than `limit`.

    Returns:
        SHA-256 in hexadecimal and bytes of what was written.
    """
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as stream:
        while chunk := source.read(_CHUNK if limit is None else min(_CHUNK, limit + 1 - size)):
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        if lasting:
            stream.flush()
            os.fsync(stream.fileno())
    return digest.hexdigest(), size


def require_same(file: StoredFile, sha256: str, size: int, origin: str) -> None:
    """Stop if a file is not the one that was registered (`RegistryError`: naming the file and both checksums)."""
    if (sha256, size) != (file.sha256, file.size):
        found = f"more than {file.size} bytes" if size > file.size else f"{size} bytes with sha256 {sha256[:12]}…"
        raise RegistryError(
            f"{origin}: {file.path} is damaged: {found} instead of {file.size} bytes with sha256 {file.sha256[:12]}…; "
            "take the model from a backup, or register the run again"
        )


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into one `RegistryError`, which names `what` and the reason."""
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise RegistryError(f"{what}: {error.strerror or error}{place}") from None


@contextmanager
def lock(path: Path, exclusive: bool, timeout: float) -> Iterator[None]:
    """Hold the file `path`, shared or alone; the kernel lets go when a process dies.

    Raises:
        RegistryError: others held it longer than `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    with path.open("a" if exclusive or not path.exists() else "r") as stream:
        while True:
            try:
                fcntl.flock(stream, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    others = "a registration or a load" if exclusive else "a clean-up"
                    raise RegistryError(f"{path.parent} is busy with {others}; try again later") from None
                time.sleep(0.02)
        yield


class BlobStore:
    """`objects/ab/ab…` holds what has the SHA-256 `ab…`, once, and never changes.

    A file is written to `incoming/`, flushed, and renamed to its place, so whatever lies under `objects/` is whole.
    A file whose content rotted on the disk is replaced when the same content is stored again.

    Args:
        root: folder of the registry.
    """

    def __init__(self, root: Path) -> None:
        self._objects, self._incoming = root / "objects", root / "incoming"

    def put(self, source: Path, path: str) -> StoredFile:
        """Store the content of a file; `path` is what it is called in its version."""
        aside = self._incoming / secrets.token_hex(8)
        try:
            with source.open("rb") as stream:
                sha256, size = copy_stream(stream, aside)
            place = self._place(sha256)
            if not (place.exists() and sha256_of(place) == sha256):
                aside.chmod(_READ_ONLY)
                place.parent.mkdir(parents=True, exist_ok=True)
                aside.replace(place)
                sync(place.parent)
                sync(self._objects)
        finally:
            aside.unlink(missing_ok=True)
        return StoredFile(path, sha256, size)

    def get(self, file: StoredFile, folder: Path, origin: str) -> None:
        """Write a stored file to ``folder/file.path``, checked.

        Raises:
            RegistryError: it is damaged or gone; the message names the file.
        """
        place = self._place(file.sha256)
        if not place.exists():
            raise RegistryError(f"{origin}: {file.path} is gone: {place} does not exist")
        with place.open("rb") as stream:
            require_same(file, *copy_stream(stream, folder / file.path, file.size), origin)

    def remove_all_but(self, wanted: Collection[str]) -> tuple[int, int]:
        """Remove every file whose checksum is not wanted; nobody else may be storing meanwhile.

        Returns:
            number of files and their bytes.
        """
        leftovers = [path for path in self._objects.glob("*/*") if path.name not in wanted]
        leftovers += self._incoming.glob("*")
        size = sum(path.stat().st_size for path in leftovers)
        for path in leftovers:
            path.unlink()
        for folder in self._objects.glob("*"):
            if not any(folder.iterdir()):
                folder.rmdir()
        shutil.rmtree(self._incoming, ignore_errors=True)
        return len(leftovers), size

    def _place(self, sha256: str) -> Path:
        return self._objects / sha256[:2] / sha256
