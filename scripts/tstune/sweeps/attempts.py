"""Points of the search and the attempts at them: an attempt that died is made again, by whoever sees it first.

Optuna has one kind of trial. Here, one of three things: the first attempt at a point, a further attempt at it, or
surplus, made because two jobs asked at the same moment. All that is known about an attempt lies in its user
attributes, so that any job on any machine comes to the same answer.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import datetime

import optuna
import psutil
from optuna.trial import FrozenTrial, Trial, TrialState

MAX_DEATHS = 3
"""A point whose attempts died more often than this is given up: it may be what kills them."""

_SURPLUS = "surplus"
_FIRST, _REPEATS, _DEATHS = "first", "repeats", "deaths"
_INTERRUPTED, _REASON, _STEP = "interrupted", "reason", "stopped_at_step"
_HOST, _PROCESSES = "host", "processes"


class Surplus(Exception):
    """An attempt that is not needed."""


@dataclass(frozen=True)
class Point:
    """One point of the search.

    Attributes:
        attempts: oldest first, at least one.
    """

    attempts: tuple[FrozenTrial, ...]

    @property
    def number(self) -> int:
        """Number of the first attempt, which names the point and its files."""
        return self.attempts[0].user_attrs.get(_FIRST, self.attempts[0].number)

    @property
    def last(self) -> FrozenTrial:
        """The attempt that counts."""
        return self.attempts[-1]

    @property
    def state(self) -> str:
        """``waiting``, ``running``, ``finished``, ``pruned``, ``failed``, or ``interrupted``: to be made again."""
        match self.last.state:
            case TrialState.COMPLETE:
                return "finished"
            case TrialState.PRUNED:
                return "pruned"
            case TrialState.FAIL:
                return "interrupted" if self.to_be_repeated else "failed"
        return self.last.state.name.lower()

    @property
    def is_done(self) -> bool:
        """Nothing more will happen to it."""
        return self.state in ("finished", "pruned", "failed")

    @property
    def loss(self) -> float | None:
        """Validation loss; None unless finished."""
        return self.last.value if self.state == "finished" else None

    @property
    def deaths(self) -> int:
        """How many attempts ended without a word."""
        return sum(_died(attempt) for attempt in self.attempts)

    @property
    def to_be_repeated(self) -> bool:
        """The last attempt neither finished nor failed by itself."""
        attrs = self.last.user_attrs
        lost = self.last.state is TrialState.FAIL and _REASON not in attrs
        return lost and (_INTERRUPTED in attrs or self.deaths <= MAX_DEATHS)

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        if self.state != "failed":
            return None
        return self.last.user_attrs.get(_REASON, f"its process was killed {self.deaths} times")

    @property
    def stopped_at_step(self) -> int | None:
        """Optimizer step at which it was pruned."""
        return self.last.user_attrs.get(_STEP)

    @property
    def seconds(self) -> float | None:
        """How long the last attempt took, or has taken."""
        if self.last.datetime_start is None or self.last.state is TrialState.WAITING:
            return None
        return ((self.last.datetime_complete or datetime.now()) - self.last.datetime_start).total_seconds()


def points(study: optuna.Study) -> list[Point]:
    """All points of a study, in the order in which they were begun; surplus is left out."""
    attempts: dict[int, list[FrozenTrial]] = {}
    repeated = set()
    for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number):
        attrs = trial.user_attrs
        if attrs.get(_SURPLUS) or attrs.get(_REPEATS) in repeated:
            continue
        if _REPEATS in attrs:
            repeated.add(attrs[_REPEATS])
        attempts.setdefault(attrs.get(_FIRST, trial.number), []).append(trial)
    return [Point(tuple(tried)) for _, tried in sorted(attempts.items())]


def position(study: optuna.Study, number: int) -> int | None:
    """Place of the point that a trial is an attempt at, counted from 0; None for surplus.

    A study counts its trials in one transaction each, so no two jobs get the same place.
    """
    for place, point in enumerate(points(study)):
        if any(attempt.number == number for attempt in point.attempts):
            return place
    return None


def claim(study: optuna.Study, trial: Trial, total: int) -> int:
    """Number of the point this trial is an attempt at.

    Raises:
        Surplus: the study has its `total` points without it, or another job attempts this one.
    """
    place = position(study, trial.number)
    if place is None or place >= total:
        trial.set_user_attr(_SURPLUS, True)
        raise Surplus
    return points(study)[place].number


def note_processes(trial: Trial, guard: int) -> None:
    """Write down who works on an attempt, so that another start on this machine can see that they are gone."""
    trial.set_user_attr(_HOST, socket.gethostname())
    trial.set_user_attr(_PROCESSES, [[pid, psutil.Process(pid).create_time()] for pid in (os.getpid(), guard)])


def note_failure(trial: Trial, reason: str) -> None:
    """The attempt failed by itself: it is not made again."""
    trial.set_user_attr(_REASON, reason)


def note_interruption(trial: Trial) -> None:
    """The attempt is given up by this program, to be made again."""
    trial.set_user_attr(_INTERRUPTED, True)


def note_pruning(trial: Trial, step: int) -> None:
    """The attempt was stopped at an optimizer step."""
    trial.set_user_attr(_STEP, step)


def tidy(study: optuna.Study, grace_seconds: float) -> None:
    """Give up attempts whose process is gone, and queue every point that has to be tried again.

    Args:
        grace_seconds: how long an attempt may be silent.
    """
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _died_here(trial) or _died_at_birth(trial, grace_seconds):
            _give_up(study, trial)
    for point in points(study):
        if point.to_be_repeated:
            study.add_trial(_repetition(point))


def _died(trial: FrozenTrial) -> bool:
    attrs = trial.user_attrs
    return trial.state is TrialState.FAIL and not {_REASON, _INTERRUPTED, _SURPLUS} & attrs.keys()


def _died_here(trial: FrozenTrial) -> bool:
    attrs = trial.user_attrs
    if _PROCESSES not in attrs:
        return False
    return attrs[_HOST] == socket.gethostname() and not any(_is_alive(*process) for process in attrs[_PROCESSES])


def _died_at_birth(trial: FrozenTrial, grace_seconds: float) -> bool:
    """Before its first sign of life, which Optuna would wait for."""
    age = (datetime.now() - trial.datetime_start).total_seconds()
    return _PROCESSES not in trial.user_attrs and age > grace_seconds


def _is_alive(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _give_up(study: optuna.Study, trial: FrozenTrial) -> None:
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, RuntimeError):  # another job was quicker
        return


def _repetition(point: Point) -> FrozenTrial:
    """A trial that waits, with the parameters the last attempt had."""
    last = point.last
    return optuna.trial.create_trial(
        state=TrialState.WAITING,
        params=last.params,
        distributions=last.distributions,
        user_attrs={_FIRST: point.number, _REPEATS: last.number},
    )
