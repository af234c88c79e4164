"""Several trackers at once, none of which can stop the training: what one cannot take is kept for later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.config.schema import TrackingSection
from tstune.errors import ConfigError, TrackingError
from tstune.runtime.logs import logger
from tstune.tracking.backlog import Backlog, Header, MissedCall, tidy
from tstune.tracking.interfaces import (
    TRACKERS,
    ExperimentTracker,
    PassingTracker,
    PrefixedTracker,
    RunStatus,
    call,
    check_run_id,
    first_line,
    inside,
    tracker_class,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


class GuardedTracker(PassingTracker):
    """Passes every call on to a tracker; once that fails, it is reported once and put aside.

    What it misses is kept on disk, in ``<folder>/<experiment>/<run_id>/<number>-<tracker>.jsonl``. It is tried again
    after `retry_seconds` and at the end of the run, and then gets all it missed, in order. `own_id` is what the tracker
    itself calls the run.
    """

    def __init__(self, tracker: ExperimentTracker, folder: Path, number: int, retry_seconds: float) -> None:
        self.tracker, self.name = tracker, tracker.name
        self.backlog: Backlog | None = None
        self.own_id: object = None
        self._folder, self._number, self._retry_seconds = folder, number, retry_seconds
        self._is_started = False
        self._failed_at: float | None = None
        self._told: set[str] = set()

    def start_experiment(
        self, experiment_name: str, config: dict, run_id: str | None = None, required: bool = False
    ) -> str:
        """Begin the run, now or, unless it is `required`, when the tracker answers."""
        run_id = check_run_id(run_id)
        self._is_started, self._failed_at = False, None
        kind, settings = type(self.tracker), self.tracker.settings()
        header = Header(f"{kind.__module__}:{kind.__qualname__}", settings, experiment_name, run_id, config)
        path = self._folder / experiment_name / run_id / f"{self._number}-{self.name}.jsonl"
        self.backlog = Backlog(path, header)
        if path.exists():
            self.backlog.take_over()
        try:
            self._start()
        except Exception as error:
            if required:
                raise
            self._report(error)
            self.backlog.write(keep=True)
        else:
            if self.backlog.calls:  # a run that is resumed left something behind when it was killed
                self._replay()
        return run_id

    def take(self, method: str, **keywords: object) -> None:
        """Pass on, or keep; a figure that is to be kept must be a file."""
        if self.backlog is None:
            raise TrackingError(f"tracker {self.name} has no run: call start_experiment before {method}")
        was_away, missed = self.is_away, MissedCall.of(method, keywords)
        if not was_away:
            try:
                call(getattr(self.tracker, method), **keywords)
                return
            except Exception as error:
                if missed.logs and (isinstance(error, TrackingError) or missed.lost_file()):
                    self._skip(missed, first_line(error))
                    return
                self._report(error)
        self.backlog.add(missed)
        rested = self._failed_at is None or time.monotonic() - self._failed_at >= self._retry_seconds
        if was_away and (rested or method == "end_experiment"):
            self._replay()

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End the run; a tracker that is away is tried one last time."""
        self.take("end_experiment", status=status)
        if self.is_away:
            logger.warning(
                "tracker %s missed %d calls of this run: %s; send them with: python scripts/replay_tracking.py %s%s",
                self.name,
                len(self.backlog.calls),
                self.backlog.path,
                self.backlog.path,
                "" if self.backlog.header.tracker in TRACKERS.values() else " --trust-code",
            )
        return self.backlog.header.run_id

    def show(self, method: str, module: nn.Module) -> None:
        """Hand the network to a method of the tracker, if it has that; it cannot be kept for later."""
        try:
            getattr(self.tracker, method, lambda module: None)(module)
        except Exception as error:
            self._warn_once(f"tracker {self.name}: {method} failed ({first_line(error)})")

    def child(self, name: str) -> ExperimentTracker:
        """The tracker's own child, or a part of this run that is guarded with it."""
        try:
            child = self.tracker.child(name)
        except Exception as error:
            self._warn_once(f"tracker {self.name} has no run for {name} ({first_line(error)}): logged with this run")
            return PrefixedTracker(self, name)
        return PrefixedTracker(self, name) if isinstance(child, PrefixedTracker) else child

    @property
    def is_away(self) -> bool:
        """True while something is waiting for the tracker."""
        return not self._is_started or bool(self.backlog.calls)

    def _start(self) -> None:
        self.own_id = self.backlog.header.begin(self.tracker)
        self._is_started = True

    def _replay(self) -> None:
        waiting = len(self.backlog.calls)
        try:
            if not self._is_started:
                self._start()
            self.backlog.replay(self.tracker, self._skip)
        except Exception as error:
            self._failed_at = time.monotonic()
            logger.debug("tracker %s is still away: %s", self.name, first_line(error))
        else:
            self._failed_at = None
            logger.info("tracker %s is back and got the %d calls it had missed", self.name, waiting)

    def _skip(self, missed: MissedCall, reason: str) -> None:
        named = missed.keywords.get("name") or missed.keywords.get("model_name") or ""
        self._warn_once(f"tracker {self.name}: {f'{missed.method} {named}'.strip()} left out: {reason}")

    def _report(self, error: Exception) -> None:
        if self._failed_at is None:
            what = first_line(error).partition("; ")[0]  # the fix is for runs that need it
            logger.warning("tracker %s failed (%s); training goes on, what it misses is kept", self.name, what)
        self._failed_at = time.monotonic()

    def _warn_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning("%s", message)


class CompositeTracker(PassingTracker):
    """Passes every call on to each tracker; one that fails is reported once and put aside.

    What it misses is kept on disk. It is tried again after `retry_seconds` and at the end, and then gets all it missed
    in order. What is still missing at the end stays in
    ``<backlog_dir>/<experiment>/<run_id>/<number>-<tracker>.jsonl``, which `scripts/replay_tracking.py` sends later. A
    tracker that cannot start is an error if it is `required`.
    """

    name = "composite"

    def __init__(
        self,
        trackers: Sequence[ExperimentTracker],
        backlog_dir: str | Path = "runs/tracking/backlog",
        retry_seconds: float = 30.0,
        required: bool = True,
    ) -> None:
        self.trackers = list(trackers)
        self._backlog_dir, self._retry_seconds, self._required = Path(backlog_dir), retry_seconds, required
        self._guards: list[GuardedTracker] = []
        self._folder: Path | None = None
        self._run_id = ""

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Start all, with one run id; a single tracker that takes none names the run itself.

        If one cannot start, and that is `required`, those before it are ended as FAILED.
        """
        self._run_id = check_run_id(run_id)
        self._folder = inside(self._backlog_dir, experiment_name, "experiment") / self._run_id
        self._guards = [
            GuardedTracker(tracker, self._backlog_dir, number, self._retry_seconds)
            for number, tracker in enumerate(self.trackers)
        ]
        for number, guard in enumerate(self._guards):
            try:
                guard.start_experiment(experiment_name, config, self._run_id, self._required)
            except BaseException as error:
                is_signal = not isinstance(error, Exception)
                for started in self._guards[:number]:
                    started.end_experiment("KILLED" if is_signal else "FAILED")
                if is_signal or isinstance(error, TrackingError):
                    raise
                raise TrackingError(
                    f"tracker {guard.name} cannot start: {first_line(error)}; mend it, take it out of "
                    "tracking.trackers, or set tracking.required=false to train without it"
                ) from error
        ids = [str(guard.own_id) for guard in self._guards if guard.own_id]
        return ids[0] if len(self.trackers) == len(ids) == 1 else self._run_id

    def take(self, method: str, **keywords: object) -> None:
        for guard in self._started():
            guard.take(method, **keywords)

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Pass on as a file, so that a tracker that is away can have it later."""
        if not self._started():
            return
        try:
            file = write_figure(figure, inside(self._folder / "figures", name))
        except (OSError, TrackingError) as error:
            logger.warning("trackers: log_figure %s left out: %s", name, first_line(error))
        else:
            super().log_figure(file, name)

    def watch_model(self, module: nn.Module) -> None:
        self.show("watch_model", module)

    def show(self, method: str, module: nn.Module) -> None:
        """Hand the network to this method of every tracker that has it."""
        for guard in self._started():
            guard.show(method, module)

    def child(self, name: str) -> ExperimentTracker:
        """The children of all, as guarded as their parents."""
        children = [guard.child(name) for guard in self._started()]
        return CompositeTracker(children, self._backlog_dir, self._retry_seconds, required=False)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End all; a tracker that is away is tried one last time."""
        guards, self._guards = self._started(), []
        for guard in guards:
            guard.end_experiment(status)
        if not any(guard.is_away for guard in guards) and (self._folder / "figures").is_dir():
            tidy(self._folder, self._backlog_dir)
        return self._run_id

    def _started(self) -> list[GuardedTracker]:
        if self.trackers and not self._guards:
            raise TrackingError("the trackers have no run: call start_experiment first")
        return self._guards


def build_tracker(tracking: TrackingSection, is_main: bool = True) -> CompositeTracker:
    """All trackers of a configuration behind one; none on the processes that are not the main one."""
    twice = {name for name in tracking.trackers if tracking.trackers.count(name) > 1}
    if twice:
        raise ConfigError(f"tracking.trackers: {', '.join(sorted(twice))} is named twice; name it once")
    trackers = []
    for name in tracking.trackers if is_main else ():
        try:
            trackers.append(tracker_class(name).from_config(tracking))
        except TypeError as error:  # abstract methods, or a constructor that from_config does not fit
            raise ConfigError(f"tracking.trackers: {name} cannot be built: {error}; see ExperimentTracker") from None
    return guarded(trackers, tracking)


def guarded(trackers: list[ExperimentTracker], tracking: TrackingSection) -> CompositeTracker:
    """Trackers that cannot stop the training."""
    return CompositeTracker(trackers, Path(tracking.folder) / "backlog", tracking.retry_seconds, tracking.required)
