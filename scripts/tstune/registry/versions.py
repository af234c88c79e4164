"""What models, versions and aliases may be called, what is known of a version, and two versions side by side."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_json

from tstune.config.names import dotted
from tstune.errors import RegistryError

LARGEST_VERSION = 999_999_999

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_LOOKS_LIKE_A_VERSION = re.compile(r"[vV]?[0-9]+")
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclasses.dataclass(frozen=True)
class Reference:
    """One version of a model: by number (`cgm:3`) or by alias (`cgm@champion`); the other one is None."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``name:version`` or ``name@alias`` (`RegistryError`: neither of the two)."""
        name, separator, rest = re.fullmatch("([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()
        if not separator:
            raise RegistryError(f"{text!r} names no version: write name:version or name@alias, e.g. cgm:3")
        check_name(name)
        if separator == "@":
            return cls(name, alias=check_alias(rest))
        if not _VERSION.fullmatch(rest):
            raise RegistryError(f"{text!r}: the version {rest!r} is not a whole number from 1 on, e.g. cgm:3")
        return cls(name, version=int(rest))

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias is not None else f"{self.name}:{self.version}"


def check_name(name: str, what: str = "model name") -> str:
    """Return the name if it may be used: short, and nothing in it means something in a path or a reference."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise RegistryError(
            f"{what} {name!r} is not allowed: begin with a letter or digit, then letters, digits, '.', '_' and '-', "
            "at most 100, and no '..'"
        )
    return name


def check_alias(alias: str) -> str:
    """Return the alias if it may be used (`RegistryError`: not a name, or one that could be mistaken for a version)."""
    check_name(alias, "alias")
    if _LOOKS_LIKE_A_VERSION.fullmatch(alias) or alias.lower() == "latest":
        raise RegistryError(f"alias {alias!r} could be mistaken for a version; use a word such as champion")
    return alias


def check_stored_path(path: str, origin: str) -> str:
    """Return a relative path that stays inside the folder it is written to, on any system."""
    parts = PurePosixPath(path).parts
    is_plain = bool(parts) and "/".join(parts) == path and not path.startswith("/") and ".." not in parts
    if not is_plain or "\\" in path or _DRIVE.match(path) or not path.isprintable() or len(path) > 500:
        raise RegistryError(f"{origin} holds a file with the name {path!r}, which is not a plain relative path")
    return path


MANIFEST = "manifest.json"
"""File of a run folder that says what data it was judged on."""

_STRICT = ConfigDict(strict=True, extra="forbid")
_NOTHING = "(not set)"


@dataclass(frozen=True, config=_STRICT)
class StoredFile:
    """One file of a version."""

    path: str  # relative, with ``/``
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # of its content, in hexadecimal
    size: Annotated[int, Field(ge=0)]  # bytes


@dataclass(frozen=True, config=_STRICT)
class ModelVersion:
    """A registered run."""

    name: str  # of the model
    version: Annotated[int, Field(ge=0, le=LARGEST_VERSION)]  # number, from 1 on; 0 while it is not stored yet
    created: str  # UTC time of the registration, ISO 8601
    config: dict  # resolved configuration of the run, nested
    metrics: dict  # ``{part: {model: {metric: value}}}`` as in `metrics.json`; None where there is no number
    run_id: str | None = None  # id of the run in the experiment trackers; None if it was not tracked
    git_commit: str | None = None  # commit of the repository the registration was made in; None outside one
    git_dirty: bool | None = None  # True if tracked files differed from that commit
    description: str | None = None  # free text
    tags: dict[str, str] | None = None  # free key-value pairs
    files: tuple[StoredFile, ...] = ()  # everything that is stored
    aliases: tuple[str, ...] = ()  # names that point here now

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
        return {name: value for name, value in dotted(self.metrics, sign="/") if value is not None}

    def to_dict(self) -> dict:
        """JSON values only; aliases are left out, they belong to the registry and not to the version."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "aliases"}
        return values | {"files": [vars(file).copy() for file in self.files]}

    @classmethod
    def from_dict(cls, values: Mapping, origin: str) -> ModelVersion:
        """Read what `to_dict` wrote; nothing in it is trusted (`RegistryError`: not such a record)."""
        try:
            files = tuple(StoredFile(**file) for file in values["files"])
            version = cls(**{**values, "files": files})
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"]))
            found = to_json(wrong["input"], serialize_unknown=True).decode()
            raise RegistryError(f"{origin} is damaged: {place} is {found:.100}: {wrong['msg']}") from None
        except (TypeError, KeyError) as error:
            raise RegistryError(f"{origin} is damaged: not a record of a model version ({error})") from None
        check_name(version.name)
        check_files(version.files, origin)
        return version


def check_files(files: tuple[StoredFile, ...], origin: str) -> None:
    """Stop if two files could not lie in one folder, or one would lie outside it (`RegistryError`: naming the file)."""
    folders = {str(parent) for file in files for parent in PurePosixPath(check_stored_path(file.path, origin)).parents}
    seen: set[str] = set()
    for file in files:
        if file.path in seen or file.path in folders:
            raise RegistryError(f"{origin} holds {file.path} twice")
        seen.add(file.path)


def check_metrics(metrics: dict, origin: str) -> dict:
    """Return nested numbers (`RegistryError`: something else)."""
    for name, value in dotted(metrics, sign="/"):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RegistryError(f"{origin}: {name} is {value!r}, not a number")
        if value is not None and not math.isfinite(value):
            raise RegistryError(f"{origin}: {name} is {value}, which JSON does not have; write null")
    return metrics


class AliasChange(NamedTuple):
    """One move of an alias."""

    action: Literal["set", "rollback", "remove"]  # ``set`` (by hand or by a promotion), ``rollback`` or ``remove``
    version: int | None  # number it points to since; None once removed
    changed: str  # UTC time, ISO 8601


def previous_version(changes: Sequence[AliasChange], current: int | None, existing: Collection[int]) -> int | None:
    """The version a roll back leads to: the latest one before `current` that still exists; None if there is none.

    A second roll back goes one further back, not forth again: what was rolled back is forgotten.
    """
    path: list[int] = []
    for change in changes:
        if change.action == "set":
            path.append(change.version)
        elif change.action == "rollback":
            while path and path[-1] != change.version:
                path.pop()
            path = path or [change.version]
    while path and (path[-1] == current or path[-1] not in existing):
        path.pop()
    return path[-1] if path else None


class Difference(NamedTuple):
    """One name with its value in either version; None where a version has no such number."""

    name: str
    left: object
    right: object


class VersionComparison(NamedTuple):
    """What two versions have and have not in common."""

    left: ModelVersion  # first version
    right: ModelVersion  # second version
    config: tuple[Difference, ...]  # keys that differ, as dotted names
    metrics: tuple[Difference, ...]  # every number that either has, by names such as ``test/fine_tuned/rmse``
    # keys of the data manifest that differ; if there is one, the metrics are not comparable
    other_data: tuple[str, ...]

    def __str__(self) -> str:
        data = f"same data manifest ({(self.left.manifest_sha256 or '')[:12]}…)"
        if self.other_data:
            data = f"other data: manifest.json differs in {', '.join(self.other_data)}; the metrics are not comparable"
        settings = [(row.name, str(row.left), str(row.right)) for row in self.config]
        numbers = [(row.name, _number(row.left), _number(row.right), _change(row)) for row in self.metrics]
        return "\n".join(["configuration:", *self._rows(settings), "", "metrics:", *self._rows(numbers), "", data])

    def _rows(self, rows: list[tuple[str, ...]]) -> list[str]:
        head = ("", self.left.reference, self.right.reference)
        return [f"  {line}" for line in table([head, *rows])] if rows else ["  no difference"]


def compare(left: ModelVersion, right: ModelVersion, other_data: tuple[str, ...]) -> VersionComparison:
    """Compare two versions, of one model or of two, whose data manifests differ in the keys `other_data`."""
    settings = differences(dict(dotted(left.config)), dict(dotted(right.config)))
    metrics = _pairs(left.flat_metrics(), right.flat_metrics(), None)
    return VersionComparison(left, right, settings, metrics, other_data)


def differences(left: dict, right: dict) -> tuple[Difference, ...]:
    """Names whose values differ, or that only one side has."""
    return tuple(row for row in _pairs(left, right, _NOTHING) if row.left != row.right)


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with columns as wide as their widest cell; what a terminal would obey is shown as ``?``."""
    columns = max(map(len, rows), default=0)
    shown = [["".join(sign if sign.isprintable() else "?" for sign in cell) for cell in row] for row in rows]
    padded = [(*row, *[""] * (columns - len(row))) for row in shown]
    widths = [max(len(row[column]) for row in padded) for column in range(columns)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in padded]


def _pairs(left: dict, right: dict, nothing: object) -> tuple[Difference, ...]:
    return tuple(Difference(name, left.get(name, nothing), right.get(name, nothing)) for name in {**left, **right})


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _change(row: Difference) -> str:
    """Change from left to right, in percent where that says something."""
    if row.left is None or row.right is None or row.left in (0, row.right):
        return ""
    return f"{100 * (row.right / row.left - 1):+.2f} %"
