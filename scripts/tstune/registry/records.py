"""What the registry knows about one version of a model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from tstune.errors import RegistryError
from tstune.registry.names import check_name, check_stored_path

MANIFEST = "manifest.json"
"""File of a run folder that says what data it was judged on."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredFile:
    """One file of a version.

    Attributes:
        path: relative, with ``/``.
        sha256: of its content, in hexadecimal.
        size: bytes.
    """

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class ModelVersion:
    """A registered run.

    Attributes:
        name: of the model.
        version: number, from 1 on; 0 while it is not stored yet.
        created: UTC time of the registration, ISO 8601.
        config: resolved configuration of the run, nested.
        metrics: ``{part: {model: {metric: value}}}`` as in `metrics.json`; None where there is no number.
        run_id: id of the run in the experiment trackers; None if it was not tracked.
        git_commit: commit of the repository the registration was made in; None outside one.
        git_dirty: True if tracked files differed from that commit.
        description: free text.
        tags: free key-value pairs.
        files: everything that is stored.
        aliases: names that point here now.
    """

    name: str
    version: int
    created: str
    config: dict
    metrics: dict
    run_id: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    description: str | None = None
    tags: dict[str, str] | None = None
    files: tuple[StoredFile, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """For example ``cgm:3``."""
        return f"{self.name}:{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def manifest_sha256(self) -> str | None:
        """Checksum of the data manifest: equal for runs on the same data, split and windows."""
        return next((file.sha256 for file in self.files if file.path == MANIFEST), None)

    def flat_metrics(self) -> dict[str, float]:
        """Every number, by names such as ``test/fine_tuned/rmse``."""
        return {name: value for name, value in _leaves(self.metrics) if value is not None}

    def to_dict(self) -> dict:
        """JSON values only; aliases are left out, they belong to the registry and not to the version."""
        values = asdict(self)
        values["files"] = [asdict(file) for file in self.files]
        del values["aliases"]
        return values

    @classmethod
    def from_dict(cls, values: object, origin: str) -> ModelVersion:
        """Read what `to_dict` wrote; nothing in it is trusted.

        Raises:
            RegistryError: not such a record.
        """
        try:
            fields = dict(values)
            fields["files"] = tuple(StoredFile(**file) for file in fields["files"])
            version = cls(**fields)
        except (TypeError, ValueError, KeyError) as error:
            raise RegistryError(f"{origin} is damaged: not a record of a model version ({error})") from None
        check_name(version.name)
        wrong = next(_wrong_types(version), None)
        if wrong is not None:
            raise RegistryError(f"{origin} is damaged: {wrong}")
        check_files(version.files, origin)
        return version


def check_files(files: tuple[StoredFile, ...], origin: str) -> None:
    """Stop if two files could not lie in one folder, or one would lie outside it.

    Raises:
        RegistryError: naming the file.
    """
    folders = {str(parent) for file in files for parent in PurePosixPath(check_stored_path(file.path, origin)).parents}
    seen: set[str] = set()
    for file in files:
        if file.path in seen or file.path in folders:
            raise RegistryError(f"{origin} holds {file.path} twice")
        seen.add(file.path)


def check_metrics(metrics: dict, origin: str) -> dict:
    """Return nested numbers.

    Raises:
        RegistryError: something else.
    """
    for name, value in _leaves(metrics):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RegistryError(f"{origin}: {name} is {value!r}, not a number")
        if value is not None and not math.isfinite(value):
            raise RegistryError(f"{origin}: {name} is {value}, which JSON does not have; write null")
    return metrics


def _leaves(values: Mapping, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _wrong_types(version: ModelVersion) -> Iterator[str]:
    """Say what is wrong with the values of a record."""
    kinds = {
        "version": int,
        "created": str,
        "config": dict,
        "metrics": dict,
        "run_id": str | None,
        "git_commit": str | None,
        "git_dirty": bool | None,
        "description": str | None,
        "tags": dict | None,
    }
    for name, kind in kinds.items():
        value = getattr(version, name)
        if not isinstance(value, kind):
            yield f"{name} is {value!r}"
    for file in version.files:
        if not isinstance(file.path, str) or not isinstance(file.size, int) or file.size < 0:
            yield f"the file {file.path!r} has the size {file.size!r}"
        elif not isinstance(file.sha256, str) or not _SHA256.fullmatch(file.sha256):
            yield f"the file {file.path!r} has the checksum {file.sha256!r}"
