"""Points of the search and the attempts at them: an attempt that died is made again, by whoever sees it first.

Each of Optuna's trials is an attempt at a point. Which point, and which attempt it follows, is written with it in one
transaction, so that of two jobs that begin the same attempt at the same moment only the first one has it; a trial taken
from Optuna's queue may be had by two, where the database is a SQLite file. All that is known lies in the database: any
job on any machine comes to the same answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from tstune.runtime.children import are_gone, sign_of_life
from tstune.sweeps.space import Dimension, Value

MAX_DEATHS = 3
"""A point whose attempts died more often than this is given up: it may be what kills them."""

# User attributes of an attempt: its point, the number of the attempt it follows, who works on it, why it failed by
# itself, that this program gave it up, where it was pruned.
POINT, AFTER, WORKERS, REASON, INTERRUPTED, STEP = (
    "point",
    "after",
    "workers",
    "reason",
    "interrupted",
    "stopped_at_step",
)
_STATES = {TrialState.RUNNING: "running", TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}


@dataclass(frozen=True)
class Point:
    """One point of the search.

    Attributes:
        number: its place, counted from 0, which names its files.
        state: ``running``, ``finished``, ``pruned``, ``failed``, or ``waiting``: to be made again.
        attempts: how many there are.
        last: the attempt that counts.
        loss: validation loss; None unless finished.
        reason: why it failed.
    """

    number: int
    state: str
    attempts: int
    last: FrozenTrial
    loss: float | None
    reason: str | None

    @property
    def is_done(self) -> bool:
        """Nothing more will happen to it."""
        return self.state in ("finished", "pruned", "failed")


def points(study: optuna.Study) -> list[Point]:
    """All points of a study that were begun, in their order."""
    attempts: dict[int, dict[int | None, FrozenTrial]] = {}
    for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number):
        if POINT in trial.user_attrs:
            attempts.setdefault(trial.user_attrs[POINT], {}).setdefault(trial.user_attrs[AFTER], trial)
    return [_point(number, list(tried.values())) for number, tried in sorted(attempts.items())]


def begin(
    study: optuna.Study,
    storage: RDBStorage,
    point: Point | int,
    space: Sequence[Dimension],
    fixed: Mapping[str, Value],
) -> Trial | None:
    """Begin an attempt.

    Args:
        study: where it is written to.
        storage: of the study.
        point: one to be made again, with the values it had, or the number of the next one.
        space: what the study draws from.
        fixed: values of a next one that are not drawn, as a study stores them.

    Returns:
        the running trial; None if another job has begun the same attempt.
    """
    distributions = {dimension.key: dimension.distribution for dimension in space if dimension.key in fixed}
    number, after = point, None
    if isinstance(point, Point):
        number, after = point.number, point.last.number
        fixed, distributions = point.last.params, point.last.distributions
    attempt = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=dict(fixed),
        distributions=dict(distributions),
        user_attrs={POINT: number, AFTER: after},
    )
    attempt_id = storage.create_new_trial(storage.get_study_id_from_name(study.study_name), attempt)
    trial = Trial(study, attempt_id)
    if all(point.last.number != trial.number for point in points(study)):
        study.tell(trial, state=TrialState.FAIL)
        return None
    storage.record_heartbeat(attempt_id)
    trial.set_user_attr(WORKERS, sign_of_life(os.getpid()))
    return trial


def give_up_the_dead(study: optuna.Study, grace_seconds: float) -> None:
    """End attempts whose process is gone.

    Args:
        study: whose attempts.
        grace_seconds: how long an attempt may be silent.
    """
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # gone from this machine, or before its first sign of life, which Optuna waits for
        workers, age = trial.user_attrs.get(WORKERS), (datetime.now() - trial.datetime_start).total_seconds()
        if age > grace_seconds if workers is None else are_gone(workers):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):  # another job was quicker
                continue


def _point(number: int, attempts: list[FrozenTrial]) -> Point:
    last = attempts[-1]
    state, reason = _STATES.get(last.state, "failed"), last.user_attrs.get(REASON)
    if state == "failed" and reason is None:
        told = {REASON, INTERRUPTED}
        deaths = sum(one.state is TrialState.FAIL and not told & one.user_attrs.keys() for one in attempts)
        if deaths > MAX_DEATHS and INTERRUPTED not in last.user_attrs:
            reason = f"its process was killed {deaths} times"
        else:
            state = "waiting"
    return Point(number, state, len(attempts), last, last.value if state == "finished" else None, reason)
