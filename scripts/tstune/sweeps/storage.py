"""Where a study lives, and which points it holds: an attempt that died is made again, by whoever sees it first.

A study lives in any database SQLAlchemy reaches; its URL may hold a password and is never shown. Each of its trials is
an attempt at a point. Which point, and which attempt it follows, is written with it in one transaction, so that of two
jobs that begin the same attempt only the first has it; a trial taken from Optuna's queue may be had by two, where the
database is a SQLite file. All that is known lies there: any job on any machine comes to the same answer.
"""

from __future__ import annotations

import os
import random
import shlex
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from tstune.config.section import without_credentials
from tstune.errors import ConfigError, MissingDependencyError, OutputError
from tstune.runtime.children import are_gone, sign_of_life
from tstune.sweeps.space import Dimension, Value

ENVIRONMENT_VARIABLE = "TSTUNE_SWEEP_STORAGE"
_LOCK_SECONDS = 60
_ATTEMPTS = 5
MAX_DEATHS = 3
"""A point whose attempts died more often than this is given up: it may be what kills them."""

_STATES = {TrialState.RUNNING: "running", TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}


def storage_url(given: str | None, output: Path) -> str:
    """What the command line says, without a password, else the environment, else a SQLite file in the output.

    A SQLite file is made, its folder is not, but for the output: a mistyped place would hold a new and empty study.
    """
    if given is not None and given != without_credentials(given):
        raise ConfigError(f"--storage holds a user name or password; give the address in {ENVIRONMENT_VARIABLE}")
    text = given or os.environ.get(ENVIRONMENT_VARIABLE)
    if not text:
        return f"sqlite:///{output}/study.db"
    try:
        url = make_url(text)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(
            f"--storage or {ENVIRONMENT_VARIABLE} is not the URL of a database SQLAlchemy knows; "
            "e.g. sqlite:///runs/sweep/study.db or postgresql://user:password@host/name"
        ) from None
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ConfigError("--storage sqlite:// forgets the study at the end; give a file, sqlite:///path/study.db")
        folder = Path(url.database).parent
        if not folder.is_dir() and folder.resolve() != output.resolve():
            make = f"mkdir -p {shlex.quote(str(folder))}"
            raise OutputError(f"storage {_shown(url)}: there is no folder {folder}; for a new study: {make}")
    return text


def open_storage(text: str, heartbeat_seconds: int) -> RDBStorage:
    """Connect to what `storage_url` gives, and make tables if there are none; every refusal is a `TstuneError`."""
    options: dict = {"pool_pre_ping": True}
    url = make_url(text)
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": _LOCK_SECONDS}  # several jobs take turns in writing
    attempts_left = _ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            # a trial that is silent for two intervals is taken for dead
            return RDBStorage(text, options, heartbeat_interval=heartbeat_seconds)
        except ImportError as error:  # Optuna raises its own from it
            name = error.name or getattr(error.__context__, "name", None) or url.drivername
            needs = f"storage {_shown(url)} needs a driver that is not installed"
            raise MissingDependencyError(f"{needs}: pip install {name}") from None
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            if attempts_left == 0:
                raise OutputError(f"storage {_shown(url)} cannot be used: {_reason(error, url)}") from None
            time.sleep(random.uniform(0, 1))  # jobs that start together trip over each other making the tables


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
    """Sweeps have their own lines; heartbeat and retry have been called experimental since 2021."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", "Heartbeat of storage", module="optuna")  # of trials that are asked for


@dataclass(frozen=True)
class Point:
    """One point of the search."""

    number: int  # its place, counted from 0, which names its files
    state: str  # running, finished, pruned, failed, or waiting: to be made again
    attempts: int
    last: FrozenTrial  # the attempt that counts
    loss: float | None  # of the validation; None unless finished
    reason: str | None  # why it failed

    @property
    def is_done(self) -> bool:
        """Nothing more will happen to it."""
        return self.state in ("finished", "pruned", "failed")


def points(study: optuna.Study) -> list[Point]:
    """All points of a study that were begun, in their order."""
    attempts: dict[int, dict[int | None, FrozenTrial]] = {}
    for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number):
        if "point" in trial.user_attrs:
            attempts.setdefault(trial.user_attrs["point"], {}).setdefault(trial.user_attrs["after"], trial)
    return [_point(number, list(tried.values())) for number, tried in sorted(attempts.items())]


def begin(
    study: optuna.Study, storage: RDBStorage, point: Point | int, space: Sequence[Dimension], fixed: Mapping[str, Value]
) -> Trial | None:
    """Begin an attempt at a point that is to be made again, or at the next one by its number, with its `fixed` values.

    None if another job has begun the same attempt.
    """
    number, after = point, None
    params, distributions = dict(fixed), {one.key: one.distribution for one in space if one.key in fixed}
    if isinstance(point, Point):
        number, after = point.number, point.last.number
        params, distributions = point.last.params, point.last.distributions
    attributes = {"point": number, "after": after}
    attempt = optuna.trial.create_trial(
        state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs=attributes
    )
    attempt_id = storage.create_new_trial(storage.get_study_id_from_name(study.study_name), attempt)
    trial = Trial(study, attempt_id)
    if all(point.last.number != trial.number for point in points(study)):
        study.tell(trial, state=TrialState.FAIL)
        return None
    storage.record_heartbeat(attempt_id)
    trial.set_user_attr("workers", sign_of_life(os.getpid()))
    return trial


def end(study: optuna.Study, trial: Trial, state: TrialState, loss: float | None = None, **told: object) -> None:
    """End an attempt; `reason` tells why it failed by itself, `interrupted` that it is to be made again."""
    for name, value in told.items():
        trial.set_user_attr(name, value)
    study.tell(trial, loss, state=state)


def give_up_the_dead(study: optuna.Study, grace_seconds: float) -> None:
    """End attempts whose process is gone, and those that have never given a sign of life for so long."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # Optuna finds those that were silent for long; these are gone from this machine, or had no first sign
        workers, age = trial.user_attrs.get("workers"), (datetime.now() - trial.datetime_start).total_seconds()
        if age > grace_seconds if workers is None else are_gone(workers):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):  # another job was quicker
                continue


def _shown(url: URL) -> str:
    """Kind, host and name of a database: nothing that is secret."""
    return f"{url.get_backend_name()}://{url.host or ''}/{url.database or ''}"


def _reason(error: BaseException, url: URL) -> str:
    """First line of what the driver says, without the password."""
    text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    for secret in filter(None, (url.password, *url.query.values())):
        text = text.replace(str(secret), "***")
    return text


def _point(number: int, attempts: list[FrozenTrial]) -> Point:
    last = attempts[-1]
    state, reason = _STATES.get(last.state, "failed"), last.user_attrs.get("reason")
    if state == "failed" and reason is None:
        told = {"reason", "interrupted"}
        deaths = sum(one.state is TrialState.FAIL and not told & one.user_attrs.keys() for one in attempts)
        if deaths > MAX_DEATHS and "interrupted" not in last.user_attrs:
            reason = f"its process was killed {deaths} times"
        else:
            state = "waiting"
    return Point(number, state, len(attempts), last, last.value if state == "finished" else None, reason)
