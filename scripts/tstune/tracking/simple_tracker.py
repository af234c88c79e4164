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
from tstune.tracking.interfaces import (
    ExperimentTracker,
    RunStatus,
    check_run_id,
    copy,
    copy_model,
    inside,
    new_run_id,
    run_name_of,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tstune.config.schema import TrackingSection


class SimpleExperimentTracker(ExperimentTracker):
    """One folder per run: ``<base_dir>/<experiment>/<run_id>/``.

    It holds `config.json`, `params.json`, `metrics.jsonl` (one line per call: ``time``, ``step``, the metrics; on
    disk when `log_metrics` returns), `summary.json` (status, times, the last value of each metric), `artifacts/`
    and `models/`. A run that is gone on with keeps its lines; those of steps that are done again come twice.

    Args:
        base_dir: where experiments lie.
        run_name: name people read; null takes that of the output folder.
        parent_run: run this one is a part of.
    """

    name = "file"

    def __init__(
        self, base_dir: str | Path = "experiments", run_name: str | None = None, parent_run: str | None = None
    ) -> None:
        self.base_dir = Path(base_dir)
        self.run_folder: Path | None = None
        self._run_name, self._parent_run = run_name, parent_run
        self._summary: dict = {}
        self._params: dict[str, object] = {}

    @classmethod
    def from_config(cls, tracking: TrackingSection) -> SimpleExperimentTracker:
        """Files under `tracking.folder`."""
        return cls(Path(tracking.folder) / f"{cls.name}s", tracking.run_name, tracking.parent_run)

    def settings(self) -> dict[str, object]:
        """See `ExperimentTracker.settings`."""
        return {
            "base_dir": str(self.base_dir.resolve()),
            "run_name": self._run_name,
            "parent_run": self._parent_run,
        }

    def start_experiment(self, experiment_name: str, config: dict, run_id: str | None = None) -> str:
        """Make the run's folder, or go on in it."""
        run_id = check_run_id(run_id or new_run_id())
        folder = inside(self.base_dir, experiment_name, "experiment") / run_id
        folder.mkdir(parents=True, exist_ok=True)
        self.run_folder = folder
        self._summary = {
            "run_id": run_id,
            "run_name": run_name_of(config, self._run_name, run_id),
            "experiment": experiment_name,
            "parent_run": self._parent_run,
            "started_at": _now(),
            "metrics": {},
        }
        self._params = _read_json(folder / "params.json")
        if earlier := _read_json(folder / "summary.json"):
            self._summary |= earlier | {"resumed_at": _now()}
            self._summary.pop("ended_at", None)
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
        aside = target.with_name(f".{target.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        copy_model(model_path, aside)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)

    def log_artifact(self, path: Path, name: str | None = None) -> None:
        """Copy a file or folder to ``artifacts/``."""
        copy(path, self._inside("artifacts", name or path.name))

    def log_figure(self, figure: Figure | Path, name: str) -> None:
        """Write a picture to ``artifacts/``."""
        target = self._inside("artifacts", name)
        source = write_figure(figure, target)
        if source != target:
            copy(source, target)

    def end_experiment(self, status: RunStatus = "FINISHED") -> str:
        """Write `summary.json`."""
        self._started()
        self._summary["ended_at"] = _now()
        self._write_summary(status)
        return self._summary["run_id"]

    def _started(self) -> Path:
        if self.run_folder is None:
            raise TrackingError("the file tracker has no run yet: call start_experiment first")
        return self.run_folder

    def _inside(self, kind: str, name: str) -> Path:
        """Place of a logged thing; its name may not lead out of the run's folder."""
        return inside(self._started() / kind, name, "the name")

    def _write_summary(self, status: str) -> None:
        self._write("summary.json", self._summary | {"status": status})

    def _write(self, name: str, content: object) -> None:
        folder = self._started()
        aside = folder / f".{name}.partial"
        aside.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        aside.replace(folder / name)


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _finite(value: float | None) -> float | None:
    """JSON has no NaN."""
    return float(value) if value is not None and math.isfinite(value) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
