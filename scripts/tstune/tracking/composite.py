"""Several trackers at once, none of which can stop the training: what one cannot take is kept for later."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.config.schema import TrackingSection
from tstune.errors import ConfigError, TrackingError
from tstune.runtime.logs import logger
from tstune.tracking.backlog import Backlog, Header, MissedCall
from tstune.tracking.interfaces import (
    ExperimentTracker,
    PrefixedTracker,
    RunStatus,
    check_relative,
    check_run_id,
    first_line,
    inside,
    new_run_id,
    remove_empty,
    tracker_class,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


class GuardedTracker(ExperimentTracker):
    """Passes every call on to a tracker; once that fails, it is reported once and put aside.

    What it misses is kept on disk, in ``<folder>/<experiment>/<run_id>/<number>-<tracker>.jsonl``. It is tried
    again after `retry_seconds` and at the end of the run, and then gets all it missed, in order.

    Args:
        tracker: the one that may fail.
        folder: where missed calls are kept.
        number: tells two trackers of a kind apart.
        retry_seconds: how long a failing tracker is left alone.
    """

    def __init__(self, tracker: ExperimentTracker, folder: Path, number: int, retry_seconds: float) -> None:
        self.tracker, self.name = tracker, tracker.name
        self.backlog: Backlog | None = None
        self._folder, self._number, self._retry_seconds = folder, number, retry_seconds
        self._is_started = False
        self._failed_at: float | None = None
        self._told: set[str] = set()

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Begin the run, now or when the tracker answers; never raises."""
        run_id = run_id or new_run_id()
        self._prepare(experiment_name, config, run_id)
        try:
            self._start()
        except Exception as error:
            self._report(error)
            self._write_down(self.backlog.create)
        else:
            self._send_leftovers()
        return run_id

    def start_or_raise(self, experiment_name: str, config: dict, run_id: str) -> None:
        """Begin the run.

        Raises:
            Exception: whatever keeps the tracker from it.
        """
        self._prepare(experiment_name, config, run_id)
        self._start()
        self._send_leftovers()

    def log_params(self, params: Mapping[str, object]) -> None:
        """Pass on, or keep."""
        self._send("log_params", params=dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass on, or keep."""
        self._send("log_metrics", metrics=dict(metrics), step=step)

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Pass on, or keep."""
        self._send("log_model", model_path=Path(model_path), model_name=model_name)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Pass on, or keep."""
        self._send("log_artifact", path=Path(path), name=name)

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Pass on, or keep; a figure that is to be kept must be a file."""
        self._send("log_figure", figure=figure, name=name)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End the run; a tracker that is away is tried one last time."""
        self._send("end_experiment", now=True, status=status)
        if self.is_away:
            logger.warning(
                "tracker %s missed %d calls of this run: %s; send them with: python scripts/replay_tracking.py %s",
                self.name,
                len(self.backlog),
                self.backlog.path,
                self.backlog.path,
            )
        return self.backlog.header.run_id

    def watch_model(self, module: nn.Module) -> None:
        """Pass on; a network cannot be kept for later."""
        try:
            self.tracker.watch_model(module)
        except Exception as error:
            self._warn_once(f"tracker {self.name} cannot watch the model ({first_line(error)})")

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
        return not self._is_started or len(self.backlog) > 0

    def _prepare(self, experiment_name: str, config: dict, run_id: str) -> None:
        self._is_started, self._failed_at = False, None
        kind = type(self.tracker)
        header = Header(
            tracker=f"{kind.__module__}:{kind.__qualname__}",
            settings=self.tracker.settings(),
            experiment=experiment_name,
            run_id=run_id,
            config=config,
        )
        path = self._folder / experiment_name / run_id / f"{self._number}-{self.name}.jsonl"
        self.backlog = Backlog(path, header)
        if path.exists():
            self._write_down(self._take_over)

    def _take_over(self) -> None:
        path = self.backlog.path
        try:
            self.backlog.take_over(Backlog.read(path))
        except TrackingError as error:
            path.replace(path.with_suffix(".damaged"))
            self._warn_once(f"{first_line(error)}; renamed to .damaged")

    def _start(self) -> None:
        header = self.backlog.header
        self.tracker.start_experiment(header.experiment, header.config, header.run_id)
        self._is_started = True

    def _send_leftovers(self) -> None:
        """A run that is resumed may have left something behind when it was killed."""
        if len(self.backlog):
            self._replay()

    def _send(self, method: str, now: bool = False, **keywords: object) -> None:
        if self.backlog is None:
            raise TrackingError(f"tracker {self.name} has no run: call start_experiment before {method}")
        if self.is_away:
            self._write_down(lambda: self.backlog.add(method, keywords))
            if now or self._failed_at is None or time.monotonic() - self._failed_at >= self._retry_seconds:
                self._replay()
            return
        try:
            getattr(self.tracker, method)(**keywords)
        except Exception as error:
            call = MissedCall.of(method, keywords)
            if method.startswith("log_") and (isinstance(error, TrackingError) or call.lost_file()):
                self._skip(call, first_line(error))
                return
            self._report(error)
            self._write_down(lambda: self.backlog.add(method, keywords))

    def _replay(self) -> None:
        waiting = len(self.backlog)
        try:
            if not self._is_started:
                self._start()
            self.backlog.replay(self._send_missed, self._skip)
        except Exception as error:
            self._failed_at = time.monotonic()
            logger.debug("tracker %s is still away: %s", self.name, first_line(error))
        else:
            self._failed_at = None
            logger.info("tracker %s is back and got the %d calls it had missed", self.name, waiting)

    def _send_missed(self, call: MissedCall) -> None:
        getattr(self.tracker, call.method)(**call.arguments())

    def _skip(self, call: MissedCall, reason: str) -> None:
        named = call.keywords.get("name") or call.keywords.get("model_name") or ""
        self._warn_once(f"tracker {self.name}: {' '.join((call.method, str(named))).strip()} left out: {reason}")

    def _report(self, error: Exception) -> None:
        if self._failed_at is None:
            what = first_line(error).partition("; ")[0]  # the fix is for runs that need it
            logger.warning("tracker %s failed (%s); training goes on, what it misses is kept", self.name, what)
        self._failed_at = time.monotonic()

    def _write_down(self, write: Callable[[], object]) -> None:
        """Keep something in the backlog; a disk that refuses it is no reason to stop either."""
        try:
            write()
        except OSError as error:
            self._warn_once(f"{self.backlog.path} cannot be written ({first_line(error)}): kept in memory")

    def _warn_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning("%s", message)


class CompositeTracker(ExperimentTracker):
    """Passes every call on to each tracker; one that fails is reported once and put aside.

    What it misses is kept on disk. It is tried again after `retry_seconds` and at the end, and then gets all it
    missed in order. What is still missing at the end stays in
    ``<backlog_dir>/<experiment>/<run_id>/<number>-<tracker>.jsonl``, which `scripts/replay_tracking.py` sends later.

    Args:
        trackers: any number, none included.
        backlog_dir: where missed calls are kept.
        retry_seconds: how long a failing tracker is left alone.
        required: raise if a tracker cannot start; else train on without it.
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
        """Start all, with one run id.

        Raises:
            TrackingError: a tracker cannot start, and `required`; those before it are ended as FAILED.
        """
        self._run_id = check_run_id(run_id or new_run_id())
        self._folder = inside(self._backlog_dir, experiment_name, "experiment") / self._run_id
        self._guards = [
            GuardedTracker(tracker, self._backlog_dir, number, self._retry_seconds)
            for number, tracker in enumerate(self.trackers)
        ]
        for number, guard in enumerate(self._guards):
            try:
                if self._required:
                    guard.start_or_raise(experiment_name, config, self._run_id)
                else:
                    guard.start_experiment(experiment_name, config, self._run_id)
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
        return self._run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Pass on."""
        for guard in self._started():
            guard.log_params(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass on."""
        for guard in self._started():
            guard.log_metrics(metrics, step)

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Pass on."""
        for guard in self._started():
            guard.log_model(model_path, model_name)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Pass on."""
        for guard in self._started():
            guard.log_artifact(path, name)

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Pass on as a file, so that a tracker that is away can have it later."""
        guards = self._started()
        if not guards:
            return
        try:
            file = write_figure(figure, self._figures / check_relative(name))
        except (OSError, TrackingError) as error:
            logger.warning("trackers: log_figure %s left out: %s", name, first_line(error))
            return
        for guard in guards:
            guard.log_figure(file, name)

    def watch_model(self, module: nn.Module) -> None:
        """Pass on; a network cannot be kept for later."""
        for guard in self._started():
            guard.watch_model(module)

    def child(self, name: str) -> ExperimentTracker:
        """The children of all, as guarded as their parents."""
        children = [guard.child(name) for guard in self._started()]
        return CompositeTracker(children, self._backlog_dir, self._retry_seconds, required=False)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End all; a tracker that is away is tried one last time."""
        guards, self._guards = self._started(), []
        for guard in guards:
            guard.end_experiment(status)
        if not any(guard.is_away for guard in guards) and self._figures.is_dir():
            shutil.rmtree(self._figures)
            remove_empty(self._folder, self._backlog_dir)
        return self._run_id

    @property
    def _figures(self) -> Path:
        return self._folder / "figures"

    def _started(self) -> list[GuardedTracker]:
        if self.trackers and not self._guards:
            raise TrackingError("the trackers have no run: call start_experiment first")
        return self._guards


def build_tracker(tracking: TrackingSection, is_main: bool = True) -> CompositeTracker:
    """All trackers of a configuration behind one; none on the processes that are not the main one.

    Raises:
        ConfigError: an unknown name, one named twice, or a class that cannot be imported.
    """
    twice = {name for name in tracking.trackers if tracking.trackers.count(name) > 1}
    if twice:
        raise ConfigError(f"tracking.trackers: {', '.join(sorted(twice))} is named twice; name it once")
    return guarded([_build(name, tracking) for name in tracking.trackers] if is_main else [], tracking)


def _build(name: str, tracking: TrackingSection) -> ExperimentTracker:
    kind = tracker_class(name)
    try:
        return kind.from_config(tracking)
    except TypeError as error:  # abstract methods, or a constructor that from_config does not fit
        raise ConfigError(f"tracking.trackers: {name} cannot be built: {error}; see ExperimentTracker") from None


def guarded(trackers: list[ExperimentTracker], tracking: TrackingSection) -> CompositeTracker:
    """Trackers that cannot stop the training."""
    return CompositeTracker(trackers, Path(tracking.folder) / "backlog", tracking.retry_seconds, tracking.required)
