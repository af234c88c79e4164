"""Files by their content: `objects/ab/ab…` holds what has the SHA-256 `ab…`, once, and never changes."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection
from pathlib import Path

from tstune.errors import RegistryError
from tstune.registry.checksums import copy_checked, copy_stream, hash_file, sync_folder
from tstune.registry.records import StoredFile

_READ_ONLY = 0o444


class BlobStore:
    """Content-addressed files under one folder.

    A file is written to `incoming/`, flushed, and renamed to its place, so whatever lies under `objects/` is whole.
    A file whose content rotted on the disk is replaced when the same content is stored again.

    Args:
        root: folder of the registry.
    """

    def __init__(self, root: Path) -> None:
        self.objects, self.incoming = root / "objects", root / "incoming"

    def put(self, source: Path, path: str) -> StoredFile:
        """Store the content of a file; `path` is what it is called in its version."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        aside = self.incoming / secrets.token_hex(8)
        try:
            with source.open("rb") as stream:
                sha256, size = copy_stream(stream, aside)
            place = self.place(sha256)
            if not (place.exists() and hash_file(place) == (sha256, size)):
                aside.chmod(_READ_ONLY)
                place.parent.mkdir(parents=True, exist_ok=True)
                aside.replace(place)
                sync_folder(place.parent)
                sync_folder(self.objects)
        finally:
            aside.unlink(missing_ok=True)
        return StoredFile(path, sha256, size)

    def get(self, file: StoredFile, folder: Path, origin: str) -> None:
        """Write a stored file to ``folder/file.path``, checked.

        Raises:
            RegistryError: it is damaged or gone; the message names the file.
        """
        try:
            stream = self.place(file.sha256).open("rb")
        except FileNotFoundError:
            raise RegistryError(f"{origin}: {file.path} is gone: {self.place(file.sha256)} does not exist") from None
        with stream:
            copy_checked(stream, folder, file, origin)

    def place(self, sha256: str) -> Path:
        """Where content with this checksum lies."""
        return self.objects / sha256[:2] / sha256

    def remove_all_but(self, wanted: Collection[str]) -> tuple[int, int]:
        """Remove every file whose checksum is not wanted; nobody else may be storing meanwhile.

        Returns:
            number of files and their bytes.
        """
        leftovers = [path for path in self.objects.glob("*/*") if path.name not in wanted]
        leftovers += self.incoming.glob("*")
        count, size = len(leftovers), 0
        for path in leftovers:
            size += path.stat().st_size
            path.unlink()
        for folder in self.objects.glob("*"):
            if not any(folder.iterdir()):
                folder.rmdir()
        shutil.rmtree(self.incoming, ignore_errors=True)
        return count, size
