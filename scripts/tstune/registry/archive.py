"""One version as one file: `record.json` and `files/…`, as .tar.gz or .zip. Nothing in an archive is trusted."""

from __future__ import annotations

import gzip
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tstune.errors import RegistryError
from tstune.foreign_files import read_object
from tstune.registry.files import NEEDED, copy_stream, require_same
from tstune.registry.versions import ModelVersion, check_stored_path
from tstune.runtime.files import aside, sync

RECORD = "record.json"
FILES = "files/"
_FORMAT = 1
_ENDINGS = (".tar.gz", ".tgz", ".zip")
_SMALL, _LARGEST_RATIO = 1 << 26, 100
"""Bytes that any archive may hold, and how many times its own size a larger one may: weights hardly pack at all."""


def write_archive(version: ModelVersion, folder: Path, path: Path, overwrite: bool = False) -> Path:
    """Pack the files of a version, which lie in ``folder/files``; the archive appears when it is whole.

    The same version gives the same archive: times and owners are left out.
    """
    if not path.name.endswith(_ENDINGS):
        raise RegistryError(f"{path}: unknown kind of archive; use .tar.gz or .zip")
    if path.exists() and (not overwrite or not path.is_file()):
        raise RegistryError(f"{path} exists; add --overwrite or choose another file")
    if not path.parent.is_dir():
        raise RegistryError(f"{path}: the folder {path.parent} does not exist")
    (folder / RECORD).write_text(json.dumps({"format": _FORMAT} | version.to_dict(), indent=2), encoding="utf-8")
    names = [RECORD, *(FILES + file.path for file in version.files)]
    with aside(path) as partial:
        with partial.open("xb") as stream:
            (_write_zip if path.suffix == ".zip" else _write_tar)(stream, folder, names)
        sync(partial)
    sync(path.parent)
    return path


def _write_tar(stream: BinaryIO, folder: Path, names: list[str]) -> None:
    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        return member.replace(mtime=0, mode=0o644, uid=0, gid=0, uname="", gname="", deep=False)

    with (
        gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            archive.add(folder / name, name, filter=anonymous)


def _write_zip(stream: BinaryIO, folder: Path, names: list[str]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for name in names:
            os.utime(folder / name, (0, 0))  # becomes 1980, the beginning of zip's time
            archive.write(folder / name, name)


def read_archive(path: Path, folder: Path) -> ModelVersion:
    """Unpack an archive into ``folder/files``, where `folder` is empty, and return its record.

    A file that is damaged, missing or too much, a link, a name that leads out of the folder, and more bytes than a
    model of this size can have are each a `RegistryError`.
    """
    if not path.is_file():
        raise RegistryError(f"{path} does not exist; give an archive that was exported")
    found: dict[str, tuple[str, int]] = {}
    with _damage(path):
        for name, stream in _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path):
            try:
                found[name] = copy_stream(stream, folder / name, lasting=False)
            except (FileExistsError, NotADirectoryError):
                raise RegistryError(f"{path} holds {name} twice, or as a file and as a folder") from None
    if RECORD not in found:
        raise RegistryError(f"{path} holds no {RECORD}: it is not an exported model version")
    version = _read_record(folder / RECORD, f"{path}: {RECORD}")
    tops = {file.path.partition("/")[0] for file in version.files}
    for needed in NEEDED:
        if needed not in tops:
            raise RegistryError(f"{path} holds no finished run: {needed} is missing")
    for file in version.files:
        if FILES + file.path not in found:
            raise RegistryError(f"{path} lacks {FILES}{file.path}, which its {RECORD} lists")
        require_same(file, *found[FILES + file.path], str(path))
    for name in found.keys() - {RECORD} - {FILES + file.path for file in version.files}:
        raise RegistryError(f"{path} holds {name}, which its {RECORD} does not list")
    return version


def _read_record(path: Path, origin: str) -> ModelVersion:
    values = read_object(path, RegistryError, name=origin)
    found = values.pop("format", "unknown")
    if found != _FORMAT:
        raise RegistryError(f"{origin} is of format {found!r}; this tstune reads {_FORMAT}")
    version = ModelVersion.from_dict(values, origin)
    if version.version < 1:
        raise RegistryError(f"{origin} is damaged: version is {version.version}; numbers begin with 1")
    return version


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Whatever three libraries raise of content that they do not expect; what the disk refuses stays."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RegistryError) or getattr(error, "errno", None) is not None:
            raise
        raise RegistryError(f"{path} is damaged, or neither .tar.gz nor .zip: {error}") from None


class _Unpacked:
    """What gzip unpacks, up to a limit; headers count too, so no trick of tar's goes past it."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, _largest(path)

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._path)
        return data


def _largest(path: Path) -> int:
    return max(_SMALL, _LARGEST_RATIO * path.stat().st_size)


def _too_large(path: Path) -> RegistryError:
    return RegistryError(
        f"{path} unpacks to more than {_largest(path):,} bytes, {_LARGEST_RATIO} times its own size, as no model does; "
        "register the run folder itself if this is one"
    )


def _tar_members(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Every plain file; anything else but a plain folder is refused."""
    with gzip.open(path) as stream, tarfile.open(fileobj=_Unpacked(stream, path), mode="r|") as archive:
        for member in archive:
            name = check_stored_path(member.name, str(path))
            if member.isreg() and not member.issparse():
                yield name, archive.extractfile(member)
            elif not member.isdir():
                raise _not_plain(path, name, member.issym() or member.islnk())


def _zip_members(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _largest(path):
            raise _too_large(path)
        for member in archive.infolist():
            name = check_stored_path(member.orig_filename.removesuffix("/"), str(path))
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_plain(path, name, kind == stat.S_IFLNK)
            if member.flag_bits & 1:
                raise RegistryError(f"{path}: {name} is encrypted")
            if not member.is_dir():
                yield name, archive.open(member)


def _not_plain(path: Path, name: str, is_link: bool) -> RegistryError:
    what = "a link" if is_link else "not a plain file"
    return RegistryError(f"{path}: {name} is {what}; an exported version holds plain files only")
