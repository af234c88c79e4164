"""The registry's SQLite file: opening, schema, transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tstune.errors import RegistryError

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


class Database:
    """One SQLite file in write-ahead mode: readers never wait, writers wait for each other.

    Args:
        path: of the file.
        timeout: seconds a writer waits for the others.
    """

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        self.path, self._timeout = path, timeout

    def is_ready(self) -> bool:
        """True if the file exists and has its tables.

        Raises:
            RegistryError: it is no database, or one of a newer tstune.
        """
        if not self.path.exists():
            return False
        with self._errors(), closing(self._connect()) as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > _SCHEMA_VERSION:
            raise RegistryError(f"{self.path} is of a newer tstune (format {found}); this one reads {_SCHEMA_VERSION}")
        return found == _SCHEMA_VERSION

    def create(self) -> None:
        """Make the file with its tables; call it alone."""
        self.path.touch()
        with self._errors(), closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view."""
        with self._errors(), closing(self._connect()) as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone from its first statement on; an exception undoes it."""
        with self._errors(), closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self.path.resolve().as_uri()}?mode=rw"  # never make an empty file by accident
        connection = sqlite3.connect(uri, uri=True, timeout=self._timeout, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # a version that was reported survives a power cut
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise RegistryError(f"{self.path} cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise RegistryError(f"{self.path} is damaged: {error}") from None
