"""Files of a registry, copied with their checksum and kept by their content, and what it records of a run folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from tstune.config.managers import load_saved_config
from tstune.errors import RegistryError
from tstune.foreign_files import read_object, sha256_of
from tstune.registry.versions import MANIFEST, ModelVersion, StoredFile, check_metrics, check_name, check_stored_path
from tstune.runtime.environment import git
from tstune.runtime.files import sync

_CHUNK = 1 << 20
_READ_ONLY = 0o444


def copy_stream(source: BinaryIO, target: Path, limit: int | None = None, lasting: bool = True) -> tuple[str, int]:
    """Write a new file, flushed to the disk if it is a `lasting` one; returns its SHA-256 in hexadecimal and its bytes.

    At most one byte more than `limit` is written.
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
    """Hold the file `path`, shared or alone, for `timeout` seconds at most; a dead process holds nothing."""
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
    """`objects/ab/ab…` below the folder of the registry holds what has the SHA-256 `ab…`, once, and never changes.

    A file is written to `incoming/`, flushed, and renamed to its place, so whatever lies under `objects/` is whole. A
    file whose content rotted on the disk is replaced when the same content is stored again.
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
        """Write a stored file to ``folder/file.path``, checked; one that is damaged or gone is a `RegistryError`."""
        place = self._place(file.sha256)
        if not place.exists():
            raise RegistryError(f"{origin}: {file.path} is gone: {place} does not exist")
        with place.open("rb") as stream:
            require_same(file, *copy_stream(stream, folder / file.path, file.size), origin)

    def remove_all_but(self, wanted: Collection[str]) -> tuple[int, int]:
        """Remove every file whose checksum is not wanted, while nobody stores; returns their number and bytes."""
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


NEEDED = ("config.yaml", "preprocessor.json", MANIFEST, "metrics.json", "model")
"""What makes a folder a finished run."""
NOT_STORED = ("checkpoints", "plots")
"""Folders of a run that a model does not need: the first are large, the second can be drawn again."""

_LONGEST_TEXT = 1000


def describe_run(
    folder: Path, name: str, description: str | None = None, tags: Mapping[str, str] | None = None
) -> ModelVersion:
    """What a registry records about a run folder, without number and files, which only storing gives."""
    check_name(name)
    with disk_errors(f"{folder} cannot be read"):
        for needed in NEEDED:
            if not (folder / needed).exists():
                raise RegistryError(f"{folder} is not a finished run: {needed} is missing; give a run's output_dir")
        read_object(folder / MANIFEST, RegistryError)
        metrics = folder / "metrics.json"
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no") if commit else None
        return ModelVersion(
            name=name,
            version=0,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            config=load_saved_config(folder / "config.yaml").model_dump(mode="json"),
            metrics=check_metrics(read_object(metrics, RegistryError), str(metrics)),
            run_id=_run_id(folder / "tracking.json"),
            git_commit=commit,
            git_dirty=None if changes is None else bool(changes),
            description=None if description is None else _check_text("description", description),
            tags={check_name(key, "tag"): _check_text(f"tag {key}", value) for key, value in (tags or {}).items()},
        )


def files_to_store(folder: Path) -> list[str]:
    """Relative paths of everything that is stored, sorted; links, whose content lies elsewhere, are refused."""
    paths = []
    with disk_errors(f"{folder} cannot be read"):
        for place, subfolders, names in os.walk(folder, onerror=_raise):
            if Path(place) == folder:
                subfolders[:] = [name for name in subfolders if name not in NOT_STORED]
            for name in [*subfolders, *names]:
                path = Path(place) / name
                kind = path.lstat().st_mode
                if stat.S_ISREG(kind):
                    paths.append(check_stored_path(path.relative_to(folder).as_posix(), str(folder)))
                elif not stat.S_ISDIR(kind):
                    what = "a link" if stat.S_ISLNK(kind) else "not a plain file"
                    raise RegistryError(f"{path} is {what}; a registered run holds plain files only")
    return sorted(paths)


def _run_id(path: Path) -> str | None:
    run_id = read_object(path, RegistryError).get("run_id") if path.exists() else None
    if not isinstance(run_id, str | None):
        raise RegistryError(f"{path} is damaged: run_id is {run_id!r}")
    return run_id


def _check_text(what: str, text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise RegistryError(f"{what} has {len(text)} characters; at most {_LONGEST_TEXT} are kept")
    return text


def _raise(error: OSError) -> None:
    raise error
