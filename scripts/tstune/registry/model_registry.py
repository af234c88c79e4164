"""The model registry: a folder with `registry.db` (SQLite) and `objects/` (files by their content)."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tstune.errors import RegistryError
from tstune.foreign_files import read_object, sha256_of
from tstune.registry.archive import FILES, read_archive, write_archive
from tstune.registry.files import BlobStore, describe_run, disk_errors, files_to_store, lock
from tstune.registry.versions import (
    LARGEST_VERSION,
    MANIFEST,
    AliasChange,
    ModelVersion,
    Reference,
    VersionComparison,
    check_alias,
    check_files,
    check_name,
    compare,
    differences,
    previous_version,
)
from tstune.runtime.files import sync_all

if TYPE_CHECKING:
    from tstune.models.base import BaseTimeSeriesFoundationModel

VARIABLE = "TSTUNE_REGISTRY"
DEFAULT = "registry"
PREFIX = "registry:"

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE versions (
    name TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    record TEXT,                          -- JSON; NULL once deleted: the row stays, so that no number is given twice
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE files (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    PRIMARY KEY (name, version, path),
    FOREIGN KEY (name, version) REFERENCES versions
) WITHOUT ROWID;
CREATE TABLE aliases (
    name TEXT NOT NULL,
    alias TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY (name, version) REFERENCES versions
) WITHOUT ROWID;
CREATE TABLE alias_changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    alias TEXT NOT NULL,
    action TEXT NOT NULL,
    version INTEGER,
    changed TEXT NOT NULL
);
"""


class Promotion(NamedTuple):
    """An alias that moved because a metric improved."""

    version: ModelVersion  # the new holder of the alias
    value: float  # its metric
    replaced: ModelVersion | None  # the holder before; None if the alias is new
    replaced_value: float | None  # that one's metric


class Cleaned(NamedTuple):
    """Number of files that `clean` removed, and their bytes."""

    count: int
    size: int


class ModelRegistry:
    """Numbered versions of finished runs, in a folder, made by the first, that many processes may use at once.

    A reference is ``name:version`` or ``name@alias``. Whatever is read is checked against the checksums taken at
    registration. All methods raise `RegistryError` with one line for whatever the caller can fix, and after `timeout`
    seconds of waiting for other processes.

    A registration stores the files first and then adds the version in one transaction: killed before that, it leaves
    files that nothing refers to (`clean` removes them) and no version.

    The folder must lie on a local disk, or on a network file system with working locks (flock and POSIX locks) that is
    used from one machine at a time: SQLite's write-ahead mode shares memory between its users.
    """

    def __init__(self, root: str | Path, timeout: float = 60.0) -> None:
        self.root = Path(root)
        self.location = str(root)
        self._database = self.root / "registry.db"
        self._blobs = BlobStore(self.root)
        self._timeout = timeout

    def register(
        self, run_folder: str | Path, name: str, description: str | None = None, tags: Mapping[str, str] | None = None
    ) -> ModelVersion:
        """Store a finished run, without `checkpoints/` and `plots/`, as the next version of a model."""
        return self._store(describe_run(Path(run_folder), name, description, tags), Path(run_folder), None)

    def register_once(
        self, run_folder: str | Path, name: str, description: str | None = None, tags: Mapping[str, str] | None = None
    ) -> ModelVersion:
        """The same, unless a start that was killed just after it has done so."""
        from tstune.runs.folder import ENVIRONMENT

        digest = sha256_of(Path(run_folder) / ENVIRONMENT)  # holds the seconds of this run: no other has the same
        known = self.versions(name) if self._is_ready() else []
        same = (one for one in known if any((file.path, file.sha256) == (ENVIRONMENT, digest) for file in one.files))
        return next(same, None) or self.register(run_folder, name, description, tags)

    def names(self) -> list[str]:
        """All models that have a version, sorted."""
        with self._open() as db:
            return _names(db)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, by number; none for an unknown name."""
        with self._open() as db:
            return [self._read(db, name, number) for number in _numbers(db, check_name(name))]

    def get(self, reference: str) -> ModelVersion:
        """Look a version up."""
        Reference.parse(reference)  # what is no reference is said even where there is no registry
        with self._open() as db:
            return self._get(db, reference)

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version number."""
        with self._open() as db:
            return _aliases(db, name)

    def alias_history(self, name: str, alias: str) -> list[AliasChange]:
        """Every move of an alias, the oldest first."""
        with self._open() as db:
            return _history(db, name, alias)

    def compare(self, left: str, right: str) -> VersionComparison:
        """Two versions side by side: configuration, metrics, data."""
        pair = self.get(left), self.get(right)
        return compare(*pair, self._other_data(*pair))

    def set_alias(self, reference: str, alias: str) -> ModelVersion:
        """Point an alias to a version, whatever its metrics are."""
        with self._open(writing=True) as db:
            version = self._get(db, reference)
            if _aliases(db, version.name).get(check_alias(alias)) != version.version:
                _point(db, "set", version.name, alias, version.version)
            return self._get(db, version.reference)

    def remove_alias(self, name: str, alias: str) -> None:
        """Let an alias point nowhere; a roll back brings it back."""
        with self._open(writing=True) as db:
            if check_alias(alias) not in _aliases(db, check_name(name)):
                raise self._unknown(db, f"{name}@{alias}", name)
            _point(db, "remove", name, alias, None)

    def promote(
        self, reference: str, alias: str, metric: str, lower_is_better: bool = True, allow_other_data: bool = False
    ) -> Promotion:
        """Point an alias to a version if its metric is better than that of the version it points to now.

        An alias that points nowhere yet is taken without a comparison. A metric is, for example,
        ``test/fine_tuned/rmse``; `allow_other_data` compares whatever the manifests say.
        """
        with self._open(writing=True) as db:
            version = self._get(db, reference)
            value, before = _metric(version, metric), None
            current = _aliases(db, version.name).get(check_alias(alias))
            holder = None if current is None else self._read(db, version.name, current)
            if holder is not None:
                self._require_comparable(version, holder, alias, allow_other_data)
                before = _metric(holder, metric)
                if not (value < before if lower_is_better else value > before):
                    better = "lower" if lower_is_better else "higher"
                    raise RegistryError(
                        f"{version.reference} is not better than {holder.reference} ({alias}): {metric} is {value:.6g} "
                        f"against {before:.6g}, {better} is better"
                    )
            _point(db, "set", version.name, alias, version.version)
            return Promotion(self._get(db, version.reference), value, holder, before)

    def rollback(self, name: str, alias: str) -> ModelVersion:
        """Point an alias to the version it pointed to before."""
        with self._open(writing=True) as db:
            history = _history(db, check_name(name), check_alias(alias))
            target = previous_version(history, _aliases(db, name).get(alias), _numbers(db, name))
            if target is None:
                raise RegistryError(f"{name}@{alias} has no earlier version to go back to")
            _point(db, "rollback", name, alias, target)
            return self._read(db, name, target)

    def delete(self, reference: str) -> ModelVersion:
        """Forget a version; one that an alias points to is protected. Its number is never given again."""
        with self._open(writing=True) as db:
            version = self._get(db, reference)
            if version.aliases:
                raise RegistryError(
                    f"{version.reference} is protected by its alias {', '.join(version.aliases)}; move or remove the "
                    "alias first"
                )
            key = (version.name, version.version)
            db.execute("DELETE FROM files WHERE name = ? AND version = ?", key)
            db.execute("UPDATE versions SET record = NULL WHERE name = ? AND version = ?", key)
        return version

    def download(self, reference: str, folder: str | Path) -> Path:
        """Write a version to a new folder, which `load_model` reads; it appears when every file has been checked."""
        version, folder = self.get(reference), Path(folder)
        with disk_errors(f"{folder} cannot be written"):
            if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
                raise RegistryError(f"{folder} exists already; choose a new folder")
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial-", dir=folder.parent) as aside:
                whole = Path(aside) / "whole"
                self._fetch(version, whole)
                sync_all(whole)
                whole.rename(folder)
        return folder

    def verify(self, reference: str) -> ModelVersion:
        """Read every file of a version and compare its checksum."""
        version = self.get(reference)
        with _temporary(f"{reference} cannot be read") as folder:
            self._fetch(version, folder)
        return version

    def load(self, reference: str, trust_code: bool = False) -> BaseTimeSeriesFoundationModel:
        """Load a version on the CPU, ready to predict, once every file has been checked; see `load_model`."""
        from tstune.models.registry import load_model

        with _temporary(f"{reference} cannot be read") as folder:
            return load_model(self.download(reference, folder / "run"), trust_code)

    def export_archive(self, reference: str, path: str | Path, overwrite: bool = False) -> Path:
        """Write a version as one archive, .tar.gz or .zip by the name of `path`."""
        version = self.get(reference)
        with _temporary(f"{path} cannot be written") as folder:
            self._fetch(version, folder / FILES)
            return write_archive(version, folder, Path(path), overwrite)

    def import_archive(self, path: str | Path, name: str | None = None) -> tuple[ModelVersion, ModelVersion]:
        """Store what `export_archive` wrote, if every file in it has the checksum that was registered.

        The version keeps its number if that was never used here, else it gets the next one. Returns it as stored here,
        and as it was in the archive.
        """
        with _temporary(f"{path} cannot be imported") as folder:
            archived = read_archive(Path(path), folder)
            draft = replace(
                describe_run(folder / FILES, name or archived.name, archived.description, archived.tags),
                created=archived.created,
                git_commit=archived.git_commit,
                git_dirty=archived.git_dirty,
            )
            return self._store(draft, folder / FILES, archived.version), archived

    def clean(self) -> Cleaned:
        """Remove files that no version refers to. It runs alone: registrations wait, or it gives up after 10 s."""
        self._require()
        with self._locked(exclusive=True, timeout=min(10.0, self._timeout)):
            with self._open() as db:
                wanted = {sha256 for (sha256,) in db.execute("SELECT DISTINCT sha256 FROM files")}
            return Cleaned(*self._blobs.remove_all_but(wanted))

    def _store(self, draft: ModelVersion, folder: Path, number: int | None) -> ModelVersion:
        """Store a run folder as a whole or not at all; `number` is taken if it was never used, None takes the next."""
        paths = files_to_store(folder)
        self._create()
        with self._locked():
            files = tuple(self._blobs.put(folder / path, path) for path in paths)
            check_files(files, str(folder))
            with self._open(writing=True) as db:
                used = "SELECT 1 FROM versions WHERE name = ? AND version = ?"
                if number is None or db.execute(used, (draft.name, number)).fetchone():
                    last = "SELECT COALESCE(MAX(version), 0) FROM versions WHERE name = ?"
                    number = db.execute(last, (draft.name,)).fetchone()[0] + 1
                    if number > LARGEST_VERSION:
                        raise RegistryError(f"{self.location}: {draft.name} has no number left; choose another name")
                version = replace(draft, version=number, files=files)
                record = {key: value for key, value in version.to_dict().items() if key != "files"}
                row = (draft.name, number, json.dumps(record, allow_nan=False))
                db.execute("INSERT INTO versions (name, version, record) VALUES (?, ?, ?)", row)
                rows = [(draft.name, number, file.path, file.sha256, file.size) for file in files]
                db.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", rows)
        return version

    def _fetch(self, version: ModelVersion, folder: Path, only: str | None = None) -> None:
        """Write the files of a version, or one of them, into an empty folder, each checked."""
        with self._locked():
            for file in version.files:
                if only in (None, file.path):
                    self._blobs.get(file, folder, f"{self.location}: {version.reference}")

    def _require_comparable(self, version: ModelVersion, holder: ModelVersion, alias: str, other_data: bool) -> None:
        if holder.version == version.version:
            raise RegistryError(f"{version.reference} is {version.name}@{alias} already")
        differing = () if other_data else self._other_data(holder, version)
        if differing:
            raise RegistryError(
                f"{version.reference} and {holder.reference} ({alias}) were judged on different data, so their metrics "
                f"are not comparable (manifest.json differs in {', '.join(differing)}); add --allow-other-data to "
                "compare them all the same"
            )

    def _other_data(self, left: ModelVersion, right: ModelVersion) -> tuple[str, ...]:
        """Keys of the data manifest in which two versions differ."""
        if left.manifest_sha256 == right.manifest_sha256:
            return ()
        manifests = [self._manifest(version) for version in (left, right)]
        keys = [row.name for row in differences(*manifests)] or ["its spelling"]
        return tuple(key for key in keys if key != "weights")  # where the weights came from is not the data

    def _manifest(self, version: ModelVersion) -> dict:
        origin = f"{MANIFEST} of {version.reference}"
        with _temporary(origin) as folder:
            self._fetch(version, folder, only=MANIFEST)
            return read_object(folder / MANIFEST, RegistryError, name=origin)

    # The database: one SQLite file in write-ahead mode; readers never wait, writers wait for each other.

    def _get(self, db: sqlite3.Connection, reference: str) -> ModelVersion:
        wanted = Reference.parse(reference)
        number = wanted.version if wanted.alias is None else _aliases(db, wanted.name).get(wanted.alias)
        version = None if number is None else self._read(db, wanted.name, number)
        if version is None:
            raise self._unknown(db, reference, wanted.name)
        return version

    def _unknown(self, db: sqlite3.Connection, reference: str, name: str) -> RegistryError:
        numbers = _numbers(db, name)
        if not numbers:
            what_there_is = f"models here: {', '.join(_names(db)) or 'none'}"
        else:
            shown = ("…, " if len(numbers) > 10 else "") + ", ".join(map(str, numbers[-10:]))
            what_there_is = f"versions of {name}: {shown}; aliases: {', '.join(_aliases(db, name)) or 'none'}"
        return RegistryError(f"{self.location} has no {reference}; {what_there_is}")

    def _read(self, db: sqlite3.Connection, name: str, number: int) -> ModelVersion | None:
        key = (name, number)
        row = db.execute("SELECT record FROM versions WHERE name = ? AND version = ?", key).fetchone()
        if row is None or row[0] is None:
            return None
        origin = f"{self._database}: the record of {name}:{number}"
        files = db.execute("SELECT path, sha256, size FROM files WHERE name = ? AND version = ?", key)
        values = read_object(row[0].encode(), RegistryError, name=origin)
        values["files"] = [{"path": path, "sha256": sha256, "size": size} for path, sha256, size in files]
        aliases = tuple(alias for alias, version in _aliases(db, name).items() if version == number)
        return replace(ModelVersion.from_dict(values, origin), aliases=aliases)

    @contextmanager
    def _open(self, writing: bool = False) -> Iterator[sqlite3.Connection]:
        """One consistent view, or one transaction that an exception undoes."""
        self._require()
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            yield db
            db.execute("COMMIT")  # closing without it rolls back

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        uri = f"{self._database.resolve().as_uri()}?mode=rw"  # never make an empty file by accident
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=self._timeout, isolation_level=None)) as db:
                db.execute("PRAGMA foreign_keys = ON")
                db.execute("PRAGMA synchronous = FULL")  # a version that was reported survives a power cut
                yield db
        except sqlite3.OperationalError as error:
            raise RegistryError(f"{self._database} cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise RegistryError(f"{self._database} is damaged: {error}") from None

    def _is_ready(self) -> bool:
        """True if the database exists and has its tables; one of a newer tstune is refused."""
        if not self._database.exists():
            return False
        with self._connected() as db:
            found = db.execute("PRAGMA user_version").fetchone()[0]
        if found > _SCHEMA_VERSION:
            raise RegistryError(
                f"{self._database} is of a newer tstune (format {found}); this one reads {_SCHEMA_VERSION}"
            )
        return found == _SCHEMA_VERSION

    def _require(self) -> None:
        with self._disk_errors():
            if not self._is_ready():
                raise RegistryError(
                    f"there is no registry in {self.location} ({self._database.name} is missing): register a run "
                    f"first, or name another one with --registry or {VARIABLE}"
                )

    def _create(self) -> None:
        with self._disk_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            if self._is_ready():
                return
        with self._locked(exclusive=True):
            if not self._is_ready():
                self._database.touch()
                with self._connected() as db:
                    db.execute("PRAGMA journal_mode = WAL")
                    db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def _locked(self, exclusive: bool = False, timeout: float | None = None) -> Iterator[None]:
        """Many registrations and loads at once, or one clean-up alone."""
        with self._disk_errors(), lock(self.root / "lock", exclusive, self._timeout if timeout is None else timeout):
            yield

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors(f"the registry {self.location} cannot be used")


LocalModelRegistry = ModelRegistry
"""The same class: registries lie in folders."""


def open_registry(location: str | Path | None = None) -> ModelRegistry:
    """The registry in a folder; None takes the environment variable TSTUNE_REGISTRY, else the folder ``registry``."""
    place = str(location or os.environ.get(VARIABLE) or DEFAULT)
    scheme, separator, _ = place.partition("://")
    if separator or place.startswith("mlflow+"):
        raise RegistryError(
            f"the registry {scheme.partition(':')[0]}:… is an address, and a registry is a folder; to register in "
            "MLflow set tracking.trackers=[mlflow], tracking.mlflow_uri to its address and tracking.register_as to the "
            "name, and tracking.registry to a folder"
        )
    return ModelRegistry(place)


def load_saved_model(
    model: str | Path, registry: str | Path | None = None, trust_code: bool = False
) -> BaseTimeSeriesFoundationModel:
    """Load a run folder, or ``registry:name@alias`` and ``registry:name:version``; see `load_model`."""
    if str(model).startswith(PREFIX):
        return open_registry(registry).load(str(model).removeprefix(PREFIX), trust_code)
    from tstune.models.registry import load_model

    return load_model(model, trust_code)


@contextmanager
def saved_folder(model: str | Path, registry: str | Path | None = None) -> Iterator[Path]:
    """The run folder of a model; of ``registry:…`` a copy, every file checked, which goes away afterwards."""
    if not str(model).startswith(PREFIX):
        yield Path(model)
        return
    with tempfile.TemporaryDirectory(prefix="tstune-") as place:
        yield open_registry(registry).download(str(model).removeprefix(PREFIX), Path(place) / "run")


@contextmanager
def _temporary(what: str) -> Iterator[Path]:
    """A folder for a while; what the disk refuses there is one line."""
    with disk_errors(what), tempfile.TemporaryDirectory(prefix="tstune-") as folder:
        yield Path(folder)


def _names(db: sqlite3.Connection) -> list[str]:
    query = "SELECT DISTINCT name FROM versions WHERE record IS NOT NULL ORDER BY name"
    return [name for (name,) in db.execute(query)]


def _numbers(db: sqlite3.Connection, name: str) -> list[int]:
    query = "SELECT version FROM versions WHERE name = ? AND record IS NOT NULL ORDER BY version"
    return [number for (number,) in db.execute(query, (name,))]


def _aliases(db: sqlite3.Connection, name: str) -> dict[str, int]:
    return dict(db.execute("SELECT alias, version FROM aliases WHERE name = ? ORDER BY alias", (name,)))


def _history(db: sqlite3.Connection, name: str, alias: str) -> list[AliasChange]:
    query = "SELECT action, version, changed FROM alias_changes WHERE name = ? AND alias = ? ORDER BY number"
    return [AliasChange(*row) for row in db.execute(query, (name, alias))]


def _point(db: sqlite3.Connection, action: str, name: str, alias: str, version: int | None) -> None:
    """Point an alias to a version, or nowhere, and note it."""
    db.execute("DELETE FROM aliases WHERE name = ? AND alias = ?", (name, alias))
    if version is not None:
        db.execute("INSERT INTO aliases VALUES (?, ?, ?)", (name, alias, version))
    row = (name, alias, action, version, datetime.now(UTC).isoformat(timespec="seconds"))
    db.execute("INSERT INTO alias_changes (name, alias, action, version, changed) VALUES (?, ?, ?, ?, ?)", row)


def _metric(version: ModelVersion, name: str) -> float:
    metrics = version.flat_metrics()
    if name not in metrics:
        raise RegistryError(f"{version.reference} has no metric {name!r}; it has {', '.join(metrics) or 'none'}")
    return metrics[name]
