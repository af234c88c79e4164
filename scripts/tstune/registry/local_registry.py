"""A model registry in a folder: `registry.db` (SQLite) and `objects/` (files by content)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tstune.errors import RegistryError
from tstune.registry.alias_history import Action, AliasChange
from tstune.registry.blob_store import BlobStore
from tstune.registry.checksums import disk_errors
from tstune.registry.database import Database
from tstune.registry.interfaces import Cleaned, ModelRegistry, protected
from tstune.registry.locking import lock
from tstune.registry.names import check_name
from tstune.registry.records import ModelVersion, StoredFile, check_files
from tstune.registry.run_record import files_to_store


class LocalModelRegistry(ModelRegistry):
    """Model versions in a folder that many processes may use at once.

    A registration stores the files first and then adds the version in one transaction: killed before that, it leaves
    files that nothing refers to (`clean` removes them) and no version.

    The folder must lie on a local disk, or on a network file system with working locks (flock and POSIX locks) that
    is used from one machine at a time: SQLite's write-ahead mode shares memory between its users.

    Args:
        root: the folder; the first registration makes it.
        timeout: seconds to wait for other processes.
    """

    def __init__(self, root: str | Path, timeout: float = 60.0) -> None:
        self.root = Path(root)
        self.location = str(root)
        self._database = Database(self.root / "registry.db", timeout)
        self._blobs = BlobStore(self.root)
        self._timeout = timeout

    def names(self) -> list[str]:
        """All models that have a version, sorted."""
        with self._reading() as connection:
            rows = connection.execute("SELECT DISTINCT name FROM versions WHERE record IS NOT NULL ORDER BY name")
            return [name for (name,) in rows]

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, by number; none for an unknown name."""
        check_name(name)
        with self._reading() as connection:
            query = "SELECT version FROM versions WHERE name = ? AND record IS NOT NULL ORDER BY version"
            numbers = [number for (number,) in connection.execute(query, (name,))]
            return [self._read(connection, name, number) for number in numbers]

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version number."""
        with self._reading() as connection:
            query = "SELECT alias, version FROM aliases WHERE name = ? ORDER BY alias"
            return dict(connection.execute(query, (name,)))

    def alias_history(self, name: str, alias: str) -> list[AliasChange]:
        """Every move of an alias, the oldest first."""
        query = "SELECT action, version, changed FROM alias_changes WHERE name = ? AND alias = ? ORDER BY number"
        with self._reading() as connection:
            return [AliasChange(*row) for row in connection.execute(query, (name, alias))]

    def clean(self) -> Cleaned:
        """Remove files that no version refers to. It runs alone: registrations wait, or it gives up after 10 s."""
        self._require()
        with self._disk_errors(), lock(self._lock_file, exclusive=True, timeout=min(10.0, self._timeout)):
            with self._database.reading() as connection:
                wanted = {sha256 for (sha256,) in connection.execute("SELECT DISTINCT sha256 FROM files")}
            return Cleaned(*self._blobs.remove_all_but(wanted))

    def _find(self, name: str, version: int) -> ModelVersion | None:
        with self._reading() as connection:
            return self._read(connection, name, version)

    def _store(self, draft: ModelVersion, folder: Path, number: int | None) -> ModelVersion:
        paths = files_to_store(folder)
        self._create()
        with self._disk_errors(), lock(self._lock_file, exclusive=False, timeout=self._timeout):
            files = tuple(self._blobs.put(folder / path, path) for path in paths)
            check_files(files, str(folder))
            with self._database.writing() as connection:
                used = "SELECT 1 FROM versions WHERE name = ? AND version = ?"
                if number is None or connection.execute(used, (draft.name, number)).fetchone():
                    last = "SELECT COALESCE(MAX(version), 0) FROM versions WHERE name = ?"
                    number = connection.execute(last, (draft.name,)).fetchone()[0] + 1
                version = replace(draft, version=number, files=files)
                record = {key: value for key, value in version.to_dict().items() if key != "files"}
                row = (draft.name, number, json.dumps(record, allow_nan=False))
                connection.execute("INSERT INTO versions (name, version, record) VALUES (?, ?, ?)", row)
                rows = [(draft.name, number, file.path, file.sha256, file.size) for file in files]
                connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?)", rows)
        return version

    def _fetch(self, version: ModelVersion, files: Iterable[StoredFile], folder: Path) -> None:
        with self._disk_errors(), lock(self._lock_file, exclusive=False, timeout=self._timeout):
            for file in files:
                self._blobs.get(file, folder, f"{self.location}: {version.reference}")

    def _move_alias(self, name: str, alias: str, version: int | None, action: Action, expected: int | None) -> None:
        self._require()
        with self._database.writing() as connection:
            query = "SELECT version FROM aliases WHERE name = ? AND alias = ?"
            found = connection.execute(query, (name, alias)).fetchone()
            current = found[0] if found else None
            if current != expected:
                raise RegistryError(f"{name}@{alias} has just moved to {current}; look again and repeat")
            if version is None:
                connection.execute("DELETE FROM aliases WHERE name = ? AND alias = ?", (name, alias))
            else:
                if self._read(connection, name, version) is None:
                    raise RegistryError(f"{name}:{version} has just been deleted")
                connection.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?)", (name, alias, version))
            row = (name, alias, action, version, datetime.now(UTC).isoformat(timespec="seconds"))
            insert = "INSERT INTO alias_changes (name, alias, action, version, changed) VALUES (?, ?, ?, ?, ?)"
            connection.execute(insert, row)

    def _delete(self, version: ModelVersion) -> None:
        key = (version.name, version.version)
        with self._database.writing() as connection:
            query = "SELECT alias FROM aliases WHERE name = ? AND version = ? ORDER BY alias"
            aliases = [alias for (alias,) in connection.execute(query, key)]
            if aliases:
                raise protected(version, aliases)
            connection.execute("DELETE FROM files WHERE name = ? AND version = ?", key)
            connection.execute("UPDATE versions SET record = NULL WHERE name = ? AND version = ?", key)

    @property
    def _lock_file(self) -> Path:
        return self.root / "lock"

    def _create(self) -> None:
        with self._disk_errors():
            self.root.mkdir(parents=True, exist_ok=True)
            if self._database.is_ready():
                return
            with lock(self._lock_file, exclusive=True, timeout=self._timeout):
                if not self._database.is_ready():
                    self._database.create()

    def _require(self) -> None:
        check = self._database.path
        with self._disk_errors():
            if not self._database.is_ready():
                raise RegistryError(
                    f"there is no registry in {self.location} ({check.name} is missing): register a run first, or name "
                    "another one with --registry or TSTUNE_REGISTRY"
                )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        self._require()
        with self._database.reading() as connection:
            yield connection

    def _read(self, connection: sqlite3.Connection, name: str, number: int) -> ModelVersion | None:
        key = (name, number)
        row = connection.execute("SELECT record FROM versions WHERE name = ? AND version = ?", key).fetchone()
        if row is None or row[0] is None:
            return None
        files = connection.execute("SELECT path, sha256, size FROM files WHERE name = ? AND version = ?", key)
        values = {"files": [vars(StoredFile(*file)) for file in files]}
        aliases = connection.execute("SELECT alias FROM aliases WHERE name = ? AND version = ? ORDER BY alias", key)
        try:
            values |= json.loads(row[0])
        except ValueError:
            raise RegistryError(f"{self._database.path} is damaged: the record of {name}:{number}") from None
        version = ModelVersion.from_dict(values, f"{self.location}: the record of {name}:{number}")
        return replace(version, aliases=tuple(alias for (alias,) in aliases))

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        with disk_errors(f"the registry {self.location} cannot be used"):
            yield
