"""Several trackers at once, none of which can stop the training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import Preempted, TrackingError
from tstune.runtime.logs import logger
from tstune.tracking.files import remove_empty
from tstune.tracking.guard import GuardedTracker
from tstune.tracking.interfaces import ExperimentTracker, RunStatus, new_run_id, write_figure
from tstune.tracking.messages import first_line
from tstune.tracking.names import check_relative, check_run_id, inside

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
                is_signal = isinstance(error, Preempted) or not isinstance(error, Exception)
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
