"""Several trackers at once, none of which can stop the training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import TrackingError
from tstune.runtime.logs import logger
from tstune.tracking.backlog import Backlog
from tstune.tracking.interfaces import ExperimentTracker, RunStatus, new_run_id, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


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
        self._lines: list[_Line] = []
        self._run_id = ""

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Start all, with one run id.

        Raises:
            TrackingError: a tracker cannot start, and `required`; those before it are ended as FAILED.
        """
        self._run_id = run_id or new_run_id()
        folder = self._backlog_dir / experiment_name / self._run_id
        self._lines = [
            _Line(tracker, folder / f"{number}-{tracker.name}.jsonl", self._retry_seconds)
            for number, tracker in enumerate(self.trackers)
        ]
        keywords = {"experiment_name": experiment_name, "config": config, "run_id": self._run_id}
        for number, line in enumerate(self._lines):
            if not self._required:
                line.send("start_experiment", **keywords)
                continue
            try:
                line.tracker.start_experiment(**keywords)
            except Exception as error:
                for started in self._lines[:number]:
                    started.send("end_experiment", status="FAILED")
                if isinstance(error, TrackingError):
                    raise
                raise TrackingError(
                    f"tracker {line.tracker.name} cannot start: {first_line(error)}; mend it, take it out of "
                    "tracking.trackers, or set tracking.required=false to train without it"
                ) from error
        return self._run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Pass on."""
        self._send("log_params", params=dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass on."""
        self._send("log_metrics", metrics=dict(metrics), step=step)

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Pass on."""
        self._send("log_model", model_path=Path(model_path), model_name=model_name)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Pass on."""
        self._send("log_artifact", path=Path(path), name=name)

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Pass on as a file, so that a tracker that is away can have it later."""
        if self._lines:
            file = write_figure(figure, self._lines[0].backlog.path.parent / "figures" / name)
            self._send("log_figure", figure=file, name=name)

    def watch_model(self, module: nn.Module) -> None:
        """Pass on; a network cannot be kept for later."""
        for line in self._lines:
            line.watch(module)

    def child(self, name: str) -> CompositeTracker:
        """The children of all, as guarded as their parents."""
        children = [tracker.child(name) for tracker in self.trackers]
        return CompositeTracker(children, self._backlog_dir, self._retry_seconds, required=False)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """End all; a tracker that is away is tried one last time."""
        for line in self._lines:
            line.send("end_experiment", status=status, now=True)
            if len(line.backlog):
                logger.warning(
                    "tracker %s missed %d calls of this run: %s; send them with scripts/replay_tracking.py",
                    line.tracker.name,
                    len(line.backlog),
                    line.backlog.path,
                )
        return self._run_id

    def _send(self, method: str, **keywords: object) -> None:
        for line in self._lines:
            line.send(method, **keywords)


class _Line:
    """The connection to one tracker: up, or down with a backlog."""

    def __init__(self, tracker: ExperimentTracker, backlog: Path, retry_seconds: float) -> None:
        self.tracker, self.backlog = tracker, Backlog(backlog)
        self._retry_seconds = retry_seconds
        self._failed_at: float | None = None
        self._told_about_disk = False

    def send(self, method: str, now: bool = False, **keywords: object) -> None:
        """Call the tracker, or keep the call for later."""
        waited = self._failed_at is None or time.monotonic() - self._failed_at >= self._retry_seconds
        if len(self.backlog):
            self._keep(method, keywords)
            if now or waited:
                self._replay()
            return
        try:
            getattr(self.tracker, method)(**keywords)
        except Exception as error:
            self._report(error)
            self._keep(method, keywords)

    def _keep(self, method: str, keywords: dict[str, object]) -> None:
        try:
            self.backlog.add(method, keywords)
        except OSError as error:
            if not self._told_about_disk:
                logger.warning("%s cannot be written (%s): kept in memory", self.backlog.path, error.strerror)
            self._told_about_disk = True

    def watch(self, module: nn.Module) -> None:
        try:
            self.tracker.watch_model(module)
        except Exception as error:
            self._report(error)

    def _replay(self) -> None:
        waiting = len(self.backlog)
        try:
            self.backlog.replay(lambda method, **keywords: getattr(self.tracker, method)(**keywords))
        except Exception as error:
            self._failed_at = time.monotonic()
            logger.debug("tracker %s is still away: %s", self.tracker.name, first_line(error))
        else:
            logger.info("tracker %s is back and got the %d calls it had missed", self.tracker.name, waiting)

    def _report(self, error: Exception) -> None:
        if self._failed_at is None:
            logger.warning(
                "tracker %s failed (%s); training goes on, what it misses is kept",
                self.tracker.name,
                first_line(error),
            )
        self._failed_at = time.monotonic()


def first_line(error: Exception) -> str:
    """The first line of a message, short enough for a log."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
