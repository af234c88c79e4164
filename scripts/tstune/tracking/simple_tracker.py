"""Tracking to plain files: no server, no package, readable with any tool."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tstune.errors import TrackingError
from tstune.foreign_files import read_object
from tstune.tracking.interfaces import (
    RunStatus,
    RunTracker,
    check_run_id,
    copy,
    copy_model,
    inside,
    numbers,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tstune.config.schema import TrackingSection


class SimpleExperimentTracker(RunTracker):
    """One folder per run: ``<base_dir>/<experiment>/<run_id>/``.

    It holds `config.json`, `params.json`, `metrics.jsonl` (one line per call: ``time``, ``step``, the metrics; on
    disk when `log_metrics` returns), `summary.json` (status, times, tags, the last value of each metric;
    `run_summary.json` is short), `artifacts/`, `models/` and `model_info.json`. A run that is gone on with keeps its
    lines; those of steps that are done again come twice.

    Args:
        base_dir: where experiments lie.
        run_name, parent_run: see `RunTracker`.
    """

    name = "file"

    def __init__(
        self, base_dir: str | Path = "experiments", run_name: str | None = None, parent_run: str | None = None
    ) -> None:
        super().__init__(run_name, parent_run)
        self.base_dir = Path(base_dir)
        self._summary: dict = {}
        self._params: dict[str, object] = {}

    @classmethod
    def from_config(cls, tracking: TrackingSection) -> SimpleExperimentTracker:
        """Files under `tracking.folder`."""
        return cls(Path(tracking.folder) / f"{cls.name}s", tracking.run_name, tracking.parent_run)

    @property
    def run_folder(self) -> Path | None:
        """Where the run is written, once begun."""
        return self._run

    current_run_dir = run_folder

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Make the run's folder, or go on in it."""
        self.run_id = check_run_id(run_id)
        folder = self._run = inside(self.base_dir, experiment_name, "experiment") / self.run_id
        folder.mkdir(parents=True, exist_ok=True)
        self._summary = {
            "run_id": self.run_id,
            "run_name": self._shown_name(config),
            "experiment": experiment_name,
            "parent_run": self.parent_run,
            "started_at": _now(),
            "metrics": {},
        }
        self._params = _read_json(folder / "params.json")
        if earlier := _read_json(folder / "summary.json"):
            self._summary |= earlier | {"resumed_at": _now()}
            self._summary.pop("ended_at", None)
        self._write("config.json", config)
        self._write("summary.json", self._summary | {"status": "RUNNING"})
        return self.run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Rewrite `params.json` with these on top."""
        self._params |= params
        self._write("params.json", self._params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line to `metrics.jsonl`."""
        values = {name: value if math.isfinite(value) else None for name, value in numbers(metrics).items()}
        with (self._started / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": _now(), "step": step} | values, allow_nan=False) + "\n")
        self._summary["metrics"] |= values

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Keep them for `summary.json`."""
        self._summary["tags"] = self._summary.get("tags", {}) | dict(tags)

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Copy what `load` needs to ``models/<model_name>/``."""
        target = inside(self._started / "models", model_name)
        aside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        copy_model(Path(model_path), aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        logged = {"model_name": model_name, "model_path": str(model_path), "logged_at": _now()}
        self._write("model_info.json", logged)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Copy a file or folder to ``artifacts/``."""
        copy(Path(path), inside(self._started / "artifacts", name or path.name))

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Write a picture to ``artifacts/``."""
        target = inside(self._started / "artifacts", name)
        source = write_figure(figure, target)
        if source != target:
            copy(source, target)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Write `summary.json`."""
        self._summary["ended_at"] = _now()
        self._write("summary.json", self._summary | {"status": status})
        said = {"FINISHED": "completed"}.get(status, status.lower())
        self._write("run_summary.json", {"run_id": self.run_id, "ended_at": self._summary["ended_at"], "status": said})
        return str(self.run_id)

    def _write(self, name: str, content: object) -> None:
        aside = self._started / f".{name}.partial"
        aside.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        aside.replace(self._started / name)


class SimpleExperimentLogger(SimpleExperimentTracker):
    """A file tracker whose one run begins with it; `log_metric` and `log_params` write, `end_experiment` ends it."""

    def __init__(self, experiment_dir: str | Path) -> None:
        super().__init__(experiment_dir)
        self.experiment_dir = self.base_dir
        self.start_experiment("default", {})


def _read_json(path: Path) -> dict:
    return read_object(path, TrackingError) if path.is_file() else {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
