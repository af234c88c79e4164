"""A part of a run, for trackers that have no runs inside runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.config.dotted import dotted
from tstune.tracking.interfaces import ExperimentTracker, RunStatus

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PrefixedTracker(ExperimentTracker):
    """Logs into another tracker's run, every name as ``prefix/name``.

    The configuration it is started with is taken to be the parent's: its values are not logged once more.
    """

    name = "part"

    def __init__(self, parent: ExperimentTracker, prefix: str) -> None:
        self._parent, self._prefix = parent, prefix
        self._known: dict[str, object] = {}
        self._run_id = ""

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Nothing begins: the parent's run goes on."""
        self._known = dict(dotted(config))
        self._run_id = run_id or self._prefix
        return self._run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log to the parent what is not its own configuration."""
        nothing = object()
        own = {name: value for name, value in params.items() if self._known.get(name, nothing) != value}
        if own:
            self._parent.log_params({f"{self._prefix}/{name}": value for name, value in own.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log to the parent."""
        self._parent.log_metrics({f"{self._prefix}/{name}": value for name, value in metrics.items()}, step)

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Log to the parent."""
        self._parent.log_model(model_path, f"{self._prefix}/{model_name}")

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Log to the parent."""
        self._parent.log_artifact(path, f"{self._prefix}/{name or path.name}")

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Log to the parent."""
        self._parent.log_figure(figure, f"{self._prefix}/{name}")

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Only the parent ends its run."""
        return self._run_id
