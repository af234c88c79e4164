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
from tstune.tracking.interfaces import ExperimentTracker, RunStatus, new_run_id, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tstune.config.schema import TrackingSection

_MODEL_FILES = ("model", "adapter", "adapters", "preprocessor.json", "config.yaml")


class SimpleExperimentTracker(ExperimentTracker):
    """One folder per run: ``<base_dir>/<experiment>/<run_id>/``.

    It holds `config.json`, `params.json`, `metrics.jsonl` (one line per call: ``time``, ``step``, the metrics; on
    disk when `log_metrics` returns), `summary.json` (status, times, the last value of each metric), `artifacts/`
    and `models/`.

    Args:
        base_dir: where experiments lie.
    """

    name = "file"

    def __init__(self, base_dir: str | Path = "experiments") -> None:
        self.base_dir = Path(base_dir)
        self.run_folder: Path | None = None
        self._summary: dict = {}
        self._params: dict[str, object] = {}

    @classmethod
    def from_config(cls, tracking: TrackingSection) -> SimpleExperimentTracker:
        """Files under `tracking.folder`."""
        return cls(Path(tracking.folder) / "files")

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Make the run's folder, or go on in it."""
        run_id = run_id or new_run_id()
        folder = self.base_dir / experiment_name / run_id
        if not folder.resolve().is_relative_to(self.base_dir.resolve()):
            raise TrackingError(f"tracking: experiment {experiment_name!r} leads out of {self.base_dir}")
        folder.mkdir(parents=True, exist_ok=True)
        self.run_folder = folder
        summary, params = folder / "summary.json", folder / "params.json"
        self._summary = {"run_id": run_id, "experiment": experiment_name, "started_at": _now(), "metrics": {}}
        if summary.is_file():
            self._summary |= json.loads(summary.read_text(encoding="utf-8")) | {"resumed_at": _now()}
        self._params = json.loads(params.read_text(encoding="utf-8")) if params.is_file() else {}
        self._write("config.json", config)
        self._write_summary("RUNNING")
        return run_id

    def log_params(self, params: Mapping[str, object]) -> None:
        """Rewrite `params.json` with these on top."""
        self._params |= params
        self._write("params.json", self._params)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line to `metrics.jsonl`."""
        values = {name: _finite(value) for name, value in metrics.items()}
        row = {"time": _now(), "step": step} | values
        with (self._started() / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._summary["metrics"] |= values

    def log_model(self, model_path: Path, model_name: str) -> None:
        """Copy what `load` needs to ``models/<model_name>/``."""
        target = self._inside("models", model_name)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in _MODEL_FILES:
            if (model_path / name).exists():
                _copy(model_path / name, target / name)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Copy a file or folder to ``artifacts/``."""
        _copy(path, self._inside("artifacts", name or path.name))

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Write a picture to ``artifacts/``."""
        target = self._inside("artifacts", name)
        source = write_figure(figure, target)
        if source != target:
            _copy(source, target)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Write `summary.json`."""
        self._summary["ended_at"] = _now()
        self._write_summary(status)
        return self._summary["run_id"]

    def _started(self) -> Path:
        if self.run_folder is None:
            raise TrackingError("the file tracker has no run yet: call start_experiment first")
        return self.run_folder

    def _inside(self, kind: str, name: str) -> Path:
        """Place of a logged thing; its name may not lead out of the run's folder."""
        folder = self._started() / kind
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise TrackingError(f"tracking: the name {name!r} leads out of the run's folder")
        return target

    def _write_summary(self, status: str) -> None:
        self._write("summary.json", self._summary | {"status": status})

    def _write(self, name: str, content: object) -> None:
        folder = self._started()
        aside = folder / f".{name}.partial"
        aside.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        aside.replace(folder / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
