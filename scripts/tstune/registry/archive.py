"""One version as one file: `record.json` and `files/…`, as .tar.gz or .zip. Nothing in an archive is trusted."""

from __future__ import annotations

import gzip
import io
import json
import os
import secrets
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tstune.errors import RegistryError
from tstune.registry.checksums import copy_checked, sync_folder
from tstune.registry.names import check_stored_path
from tstune.registry.records import ModelVersion
from tstune.registry.run_record import NEEDED

RECORD = "record.json"
FILES = "files/"
_FORMAT = 1
_LARGEST_RECORD = 1 << 26
_TAR_ENDINGS = (".tar.gz", ".tgz")

Opener = Callable[[], BinaryIO]


def write_archive(version: ModelVersion, folder: Path, path: Path, overwrite: bool = False) -> Path:
    """Pack the files of a version, which lie in `folder`; the archive appears when it is whole.

    Raises:
        RegistryError: unknown ending, or the file exists.
    """
    writer = _write_zip if path.name.endswith(".zip") else _write_tar if path.name.endswith(_TAR_ENDINGS) else None
    if writer is None:
        raise RegistryError(f"{path}: unknown kind of archive; use .tar.gz or .zip")
    if path.exists() and (not overwrite or not path.is_file()):
        raise RegistryError(f"{path} exists; add --overwrite or choose another file")
    if not path.parent.is_dir():
        raise RegistryError(f"{path}: the folder {path.parent} does not exist")
    record = json.dumps({"format": _FORMAT} | version.to_dict(), indent=2).encode()
    aside = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as stream:
            writer(stream, record, [(file.path, folder / file.path) for file in version.files])
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)
    return path


def read_archive(path: Path, folder: Path) -> ModelVersion:
    """Unpack an archive into an empty folder, and return its record.

    Raises:
        RegistryError: not such an archive, a file that is damaged, missing or too much, a link, or a name that leads
            out of the folder.
    """
    if not path.is_file():
        raise RegistryError(f"{path} does not exist; give an archive that was exported")
    with _members(path) as members:
        if RECORD not in members:
            raise RegistryError(f"{path} holds no {RECORD}: it is not an exported model version")
        with members[RECORD]() as stream:
            record = stream.read(_LARGEST_RECORD + 1)
        version = _parse_record(record, f"{path}: {RECORD}")
        tops = {file.path.partition("/")[0] for file in version.files}
        for needed in NEEDED:
            if needed not in tops:
                raise RegistryError(f"{path} holds no finished run: {needed} is missing")
        listed = {FILES + file.path for file in version.files}
        for name in members:
            if name != RECORD and name not in listed:
                raise RegistryError(f"{path} holds {name}, which its {RECORD} does not list")
        for file in version.files:
            if FILES + file.path not in members:
                raise RegistryError(f"{path} lacks {FILES}{file.path}, which its {RECORD} lists")
            with members[FILES + file.path]() as stream:
                copy_checked(stream, folder, file, str(path))
    return version


def _parse_record(record: bytes, origin: str) -> ModelVersion:
    try:
        values = json.loads(record) if len(record) <= _LARGEST_RECORD else None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise RegistryError(f"{origin} is damaged: not JSON")
    found = values.pop("format", "unknown")
    if found != _FORMAT:
        raise RegistryError(f"{origin} is of format {found!r}; this tstune reads {_FORMAT}")
    return ModelVersion.from_dict(values, origin)


@contextmanager
def _members(path: Path) -> Iterator[dict[str, Opener]]:
    """Name -> opener of every plain file; anything else but a plain folder is refused."""
    damaged = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield dict(_unique(_zip_members(archive, str(path)), str(path)))
        else:
            with tarfile.open(path, "r:gz") as archive:
                yield dict(_unique(_tar_members(archive, str(path)), str(path)))
    except damaged as error:
        raise RegistryError(f"{path} is damaged, or neither .tar.gz nor .zip: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise RegistryError(f"{path} is damaged, or neither .tar.gz nor .zip: {error}") from None  # gzip's own


def _tar_members(archive: tarfile.TarFile, origin: str) -> Iterator[tuple[str, Opener]]:
    for member in archive:
        name = check_stored_path(member.name, origin)
        if member.isreg() and not member.issparse():
            yield name, lambda member=member: archive.extractfile(member)
        elif not member.isdir():
            what = "a link" if member.issym() or member.islnk() else "not a plain file"
            raise RegistryError(f"{origin}: {name} is {what}; an exported version holds plain files only")


def _zip_members(archive: zipfile.ZipFile, origin: str) -> Iterator[tuple[str, Opener]]:
    for member in archive.infolist():
        name = check_stored_path(member.orig_filename.removesuffix("/"), origin)
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if kind == stat.S_IFLNK else "not a plain file"
            raise RegistryError(f"{origin}: {name} is {what}; an exported version holds plain files only")
        if member.flag_bits & 1:
            raise RegistryError(f"{origin}: {name} is encrypted")
        if not member.is_dir():
            yield name, lambda member=member: archive.open(member)


def _unique(members: Iterator[tuple[str, Opener]], origin: str) -> Iterator[tuple[str, Opener]]:
    seen: set[str] = set()
    for name, opener in members:
        if name in seen:
            raise RegistryError(f"{origin} holds {name} twice")
        seen.add(name)
        yield name, opener


def _write_tar(stream: BinaryIO, record: bytes, files: list[tuple[str, Path]]) -> None:
    # mtime and no name: the same version always gives the same archive
    with (
        gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.addfile(_tar_header(RECORD, len(record)), io.BytesIO(record))
        for name, path in files:
            with path.open("rb") as content:
                archive.addfile(_tar_header(FILES + name, path.stat().st_size), content)


def _tar_header(name: str, size: int) -> tarfile.TarInfo:
    """No owner and no time: they say nothing about the model."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    return header


def _write_zip(stream: BinaryIO, record: bytes, files: list[tuple[str, Path]]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_zip_header(RECORD), record)
        for name, path in files:
            header = _zip_header(FILES + name)
            header.file_size = path.stat().st_size  # more than 2 GB needs another header
            with path.open("rb") as content, archive.open(header, "w") as target:
                while chunk := content.read(1 << 20):
                    target.write(chunk)


def _zip_header(name: str) -> zipfile.ZipInfo:
    header = zipfile.ZipInfo(name)
    header.external_attr = (stat.S_IFREG | 0o644) << 16
    header.compress_type = zipfile.ZIP_DEFLATED
    return header
