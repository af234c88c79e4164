"""One run as the trackers see it: begun, observed while it trains, ended with what became of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tstune.config.names import dotted
from tstune.config.schema import RunConfig
from tstune.runtime.environment import code_commit
from tstune.tracking.composite import CompositeTracker
from tstune.tracking.interfaces import HEADLINE, RunStatus
from tstune.training.callbacks import Callback, TrainingState

_ARTIFACTS = (
    "config.yaml",
    "manifest.json",
    "metrics.json",
    "verdict.json",
    "cohort.csv",
    "per_item.json",
    "history.jsonl",
    "environment.json",
    "evaluation.json",
    "report.html",
    "report.md",
    "windows.parquet",
)
_PROFILE = ("source", "licence", "channels", "unit", "frequency", "num_items", "num_readings", "windows")
_NOT_A_METRIC = ("step", "epoch")


class TrackedRun(Callback):
    """Context manager and callback of the training loop: whatever happens inside, the run ends with the right status.

    `run_id` is that of a run to go on with; None begins one, whose id is known once entered.
    """

    def __init__(self, tracker: CompositeTracker, config: RunConfig, run_id: str | None = None) -> None:
        self.tracker, self._config, self.run_id = tracker, config, run_id

    @property
    def is_tracked(self) -> bool:
        """True if any tracker writes this run down, on this process."""
        return bool(self.tracker.trackers)

    def __enter__(self) -> TrackedRun:
        values = self._config.model_dump(mode="json")
        self.run_id = self.tracker.start_experiment(self._config.tracking.experiment, values, self.run_id)
        try:
            self.tracker.log_params(dict(dotted(values)))
            if self.is_tracked:
                self.tracker.log_tags(self._origin())
        except BaseException as error:  # a signal: nobody calls __exit__ yet
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        status: RunStatus = "FINISHED"
        if error_type is not None:
            status = "FAILED" if issubclass(error_type, Exception) else "KILLED"
        self.tracker.end_experiment(status)

    def on_train_begin(self, state: TrainingState) -> None:
        """Show the network to the trackers."""
        self.tracker.watch_model(state.module)

    def on_pre_optimizer_step(self, state: TrainingState) -> None:
        """Show gradients and gates to the trackers that look at them, where a row of the history follows."""
        step = state.step + 1
        if step % self._config.training.log_every_steps == 0 or step == state.total_steps:
            self.tracker.show("log_gradients", state.module)
            self.tracker.show("log_attention_weights", state.module)

    def on_log(self, _state: TrainingState, row: Mapping[str, float]) -> None:
        """A row of the history."""
        metrics = {name: value for name, value in row.items() if name not in _NOT_A_METRIC}
        self.tracker.log_metrics(metrics, step=row["step"])

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """How many parameters there are and how many learn."""
        self.tracker.log_params({f"parameters.{name}": value for name, value in parameters.items()})

    def log_scores(
        self, part: str, scores: Mapping[str, Mapping[str, float]], headline: Mapping[str, float] | None = None
    ) -> None:
        """Results of the whole run, as ``<part>/<model>/<metric>``; `headline` are the few to look at first."""
        metrics = {f"{HEADLINE}/{name}": value for name, value in (headline or {}).items()}
        metrics |= {f"{part}/{model}/{name}": value for model, row in scores.items() for name, value in row.items()}
        self.tracker.log_metrics(metrics)

    def log_folder(self, folder: Path) -> None:
        """The finished run folder: its files, its plots and its model."""
        for name in (*_ARTIFACTS, "README.md"):
            if (folder / name).is_file():
                self.tracker.log_artifact(folder / name, name)
        for plot in sorted((folder / "plots").glob("*.png")):
            self.tracker.log_figure(plot, f"plots/{plot.name}")
        if self._config.tracking.log_model:
            self.tracker.log_model(folder, "model")

    def _origin(self) -> dict[str, str]:
        """Tags that are known from the start."""
        config, commit = self._config, code_commit()
        tags = {"source": Path(sys.argv[0]).name, "model": config.model.type, "tuning": config.tuning.mode or "none"}
        return tags | {"data": config.data.source} | ({"commit": commit} if commit else {})

    def log_findings(self, manifest: Mapping[str, object], readme: str, verdict: Mapping[str, str | None]) -> None:
        """What a run learned from, and as tags the upper part of its README and its verdict, empty if there is none."""
        if not self.is_tracked:
            return
        files = {Path(file["path"]).name: file["sha256"] for file in manifest.get("files", ())}
        content = sorted(files.values()) or json.dumps(manifest, sort_keys=True)  # generated: by its settings
        digest = hashlib.sha256("".join(content).encode()).hexdigest()[:16]
        profile = {name: manifest[name] for name in _PROFILE if name in manifest} | {"files": files}
        self.tracker.log_dataset(self._config.data.source, digest, profile)
        tags = {"description": readme.partition("\n## Forecast with it")[0]}
        if verdict:
            tags |= {"verdict": verdict["sentence"], "effect": verdict["effect"] or "none"}
        self.tracker.log_tags(tags)

    def to_dict(self) -> dict[str, object]:
        """What a run folder keeps, to find the run in the trackers again."""
        tracking = self._config.tracking
        return {"run_id": self.run_id, "experiment": tracking.experiment, "trackers": list(tracking.trackers)}
