"""The files of a run folder that a report is drawn from."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from tstune.errors import ReportError

_JSON_FILES = ("metrics.json", "verdict.json", "manifest.json", "environment.json", "evaluation.json")
_KEYS = {
    "metrics.json": ("test",),
    "verdict.json": ("model", "sentence", "kept", "comparisons"),
    "manifest.json": ("source", "items", "leak_check"),
    "environment.json": ("packages",),
    "evaluation.json": ("judged", "models", "rmse_by_step", "per_item", "examples", "prediction_length"),
}
_GLUCOSE_UNITS = ("mg/dl", "mmol/l")


@dataclass(frozen=True)
class RunFiles:
    """Everything a report is drawn from.

    Attributes:
        metrics: model -> metric -> value, on the test windows.
        verdict, manifest, environment, evaluation, config: the files.
        cohort: rows of `cohort.csv`.
        history: lines of `history.jsonl`; none if nothing was trained.
        config_text: `config.yaml` as it is.
    """

    metrics: dict[str, dict[str, float | None]]
    verdict: dict
    manifest: dict
    environment: dict
    evaluation: dict
    cohort: list[dict[str, str]]
    history: list[dict]
    config: dict
    config_text: str

    @property
    def unit(self) -> str:
        """Unit of the readings, or words in its place."""
        return self.evaluation.get("unit") or "unit of the data"

    @property
    def is_glucose(self) -> bool:
        """True if the readings are glucose."""
        return bool(self.evaluation.get("glucose")) or self.unit.lower() in _GLUCOSE_UNITS

    @property
    def judged(self) -> str:
        """The model the report is about."""
        return self.evaluation["judged"]

    @property
    def models(self) -> list[str]:
        """Rows of the scoreboard, in its order."""
        return list(self.evaluation["models"])

    @property
    def reference(self) -> str | None:
        """What the judged model is compared with: the zero-shot model, else the best baseline."""
        others = [model for model in self.models if model != self.judged and model in self.metrics]
        if "zero_shot" in others:
            return "zero_shot"
        scored = [model for model in others if self.metrics[model].get("rmse") is not None]
        return min(scored, key=lambda model: self.metrics[model]["rmse"], default=None)

    @property
    def step_seconds(self) -> float | None:
        """Length of a step; None where steps differ, such as months."""
        return self.evaluation.get("step_seconds")


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        ReportError: a file is missing, damaged, or of a run that was made before there were reports.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} is no folder; give the output_dir of a finished run")
    if not (folder / "evaluation.json").is_file():
        raise ReportError(
            f"{folder} holds no evaluation.json, which a report is drawn from: the run is older than the report or not "
            "finished; run its config.yaml again with another output_dir"
        )
    found = {name: _read_json(folder / name) for name in _JSON_FILES}
    config_text = _read_text(folder / "config.yaml")
    try:
        config = yaml.safe_load(config_text) or {}
    except yaml.YAMLError as error:
        raise ReportError(f"{folder / 'config.yaml'} cannot be read: {' '.join(str(error).split())}") from None
    return RunFiles(
        metrics=found["metrics.json"]["test"],
        verdict=found["verdict.json"],
        manifest=found["manifest.json"],
        environment=found["environment.json"],
        evaluation=found["evaluation.json"],
        cohort=list(csv.DictReader(io.StringIO(_read_text(folder / "cohort.csv")))),
        history=_read_history(folder / "history.jsonl"),
        config=config,
        config_text=config_text,
    )


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(_read_text(path))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        missing = [key for key in _KEYS[path.name] if key not in content]
        if missing:
            raise ValueError(f"the key {missing[0]!r} is missing")
    except ValueError as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{path} cannot be read: {error}") from None
    return content


def _read_history(path: Path) -> list[dict]:
    lines = [line for line in _read_text(path).splitlines() if line.strip()]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ReportError(f"{path} cannot be read: {error}") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{path} is missing; give the output_dir of a finished run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{path} cannot be read: {error}") from None
