"""Where a study lives: any database SQLAlchemy reaches. Its URL may hold a password and is never shown."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from tstune.errors import ConfigError, MissingDependencyError, OutputError

ENVIRONMENT_VARIABLE = "TSTUNE_SWEEP_STORAGE"
GRACE_INTERVALS = 2
"""A job that has not given a sign of life for this many intervals is taken for dead."""

_LOCK_SECONDS = 60
_ATTEMPTS = 5


def storage_url(given: str | None, output: Path) -> str:
    """What the command line says, else the environment, else a SQLite file in the output folder."""
    return given or os.environ.get(ENVIRONMENT_VARIABLE) or f"sqlite:///{output}/study.db"


def open_storage(text: str, heartbeat_seconds: int) -> RDBStorage:
    """Connect, and make the tables if there are none.

    Args:
        text: URL of SQLAlchemy, such as ``sqlite:///runs/sweep/study.db`` or ``postgresql://user@host/sweeps``.
        heartbeat_seconds: how often a running trial gives a sign of life.

    Raises:
        ConfigError: no URL, or a database that forgets.
        MissingDependencyError: the driver is not installed.
        OutputError: the database does not answer.
    """
    try:
        url = make_url(text)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(
            f"--storage or {ENVIRONMENT_VARIABLE} is not the URL of a database SQLAlchemy knows; "
            "e.g. sqlite:///runs/sweep/study.db or postgresql://user:password@host/name"
        ) from None
    except ImportError as error:
        raise _driver_missing(url, error) from None
    options: dict = {"pool_pre_ping": True}
    if url.get_backend_name() == "sqlite":
        _make_folder(url)
        options["connect_args"] = {"timeout": _LOCK_SECONDS}  # several jobs take turns in writing
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            grace = GRACE_INTERVALS * heartbeat_seconds
            return RDBStorage(text, options, heartbeat_interval=heartbeat_seconds, grace_period=grace)
        except ImportError as error:
            raise _driver_missing(url, error) from None
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            if attempt == _ATTEMPTS:
                raise OutputError(f"storage {_shown(url)} cannot be used: {_reason(error, url)}") from None
            time.sleep(random.uniform(0, 1))  # jobs that start together trip over each other making the tables
    raise AssertionError("unreachable")


@contextmanager
def explained(storage: RDBStorage) -> Iterator[None]:
    """Turn a database that is gone into one line."""
    try:
        yield
    except StorageInternalError as error:
        url = make_url(storage.url)
        reason = _reason(error.__cause__ or error, url)
        raise OutputError(f"storage {_shown(url)} failed: {reason}; the same command goes on") from None


def quiet_optuna() -> None:
    """The sweep has its own lines; heartbeat and retry have been called experimental since 2021."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)


def _shown(url: URL) -> str:
    """Kind, host and name of a database: nothing that is secret."""
    return f"{url.get_backend_name()}://{url.host or ''}/{url.database or ''}"


def _make_folder(url: URL) -> None:
    if url.database in (None, "", ":memory:"):
        raise ConfigError("--storage sqlite:// forgets the study at the end; give a file, sqlite:///path/study.db")
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"storage {_shown(url)}: {folder} cannot be made: {error.strerror}") from None


def _driver_missing(url: URL, error: ImportError) -> MissingDependencyError:
    name = error.name or getattr(error.__context__, "name", None) or url.drivername  # Optuna raises its own from it
    return MissingDependencyError(f"storage {_shown(url)} needs a driver that is not installed: pip install {name}")


def _reason(error: BaseException, url: URL) -> str:
    """First line of what the driver says, without the password."""
    text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return text.replace(url.password, "***") if url.password else text
