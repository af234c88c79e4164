"""The files of a run folder that a report is drawn from."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from tstune.domains import Domain, domain_of
from tstune.errors import ReportError
from tstune.runs.folder import COHORT, CONFIG, ENVIRONMENT, EVALUATION, MANIFEST, METRICS, VERDICT, RunFolder
from tstune.runs.report.words import duration
from tstune.runtime.files import as_read


@dataclass(frozen=True)
class RunFiles:
    """Everything a report is drawn from."""

    metrics: dict[str, dict[str, float | None]]  # model -> metric -> value, on the test windows
    # the files
    verdict: dict
    manifest: dict
    environment: dict
    evaluation: dict
    cohort: list[dict[str, str]]  # rows of `cohort.csv`
    history: list[dict]  # lines of `history.jsonl`; none if nothing was trained
    config: dict
    config_text: str  # `config.yaml` as it is

    @property
    def title(self) -> str:
        """Model, data and tuning mode; of a comparison the number of models."""
        if listed := self.environment.get("members"):
            return f"{len(listed)} models on {self.manifest['source']}"
        model = (self.config.get("model") or {}).get("type") or "model"
        mode = (self.config.get("tuning") or {}).get("mode")
        return f"{model} on {self.manifest['source']}{f', {mode}' if mode else ''}"

    @property
    def unit(self) -> str:
        """Unit of the readings, or words in its place."""
        return self.evaluation.get("unit") or "unit of the data"

    @property
    def domain(self) -> Domain | None:
        """What the readings are of, by their unit."""
        return domain_of(self.evaluation.get("unit"))

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

    @property
    def path_length(self) -> str:
        """The forecast's length, in time if its steps have one length."""
        return self.time_of(self.evaluation["prediction_length"])

    @property
    def lead_times(self) -> list[str]:
        """Lead time of each forecast step in words."""
        steps = range(1, self.evaluation["prediction_length"] + 1)
        return [duration(step * self.step_seconds) if self.step_seconds else f"step {step}" for step in steps]

    @property
    def lead_axis(self) -> tuple[list[float], str]:
        """Position of each forecast step on an axis, and the title of that axis."""
        steps = range(1, self.evaluation["prediction_length"] + 1)
        if not self.step_seconds:
            return [float(step) for step in steps], "lead time (steps)"
        return [step * self.step_seconds / 3600 for step in steps], "lead time (h)"

    @property
    def horizon_rows(self) -> list[int]:
        """Rows of the configured horizons in a table with a row per forecast step, and the last one."""
        steps = self.evaluation["prediction_length"]
        return sorted({step - 1 for step in (self.evaluation.get("horizons") or {}).values()} | {steps - 1})

    def time_of(self, steps: int) -> str:
        """So many steps in words."""
        return duration(steps * self.step_seconds) if self.step_seconds else f"{steps} steps"


def read_run(path: Path) -> RunFiles:
    """Read a run folder; one that was made before there were reports is a `ReportError`."""
    folder = RunFolder(path)
    if folder.path.is_dir() and not folder.has(EVALUATION):
        raise ReportError(
            f"{path} holds no evaluation.json, which a report is drawn from: the run is older than the report or not "
            "finished; run its config.yaml again with another output_dir"
        )
    folder.require(EVALUATION)
    return RunFiles(
        metrics=folder.read_json(METRICS, "test")["test"],
        verdict=folder.read_json(VERDICT, "sentence", "kept", "comparisons"),
        manifest=folder.read_json(MANIFEST, "items", "leak_check"),
        environment=folder.read_json(ENVIRONMENT, "packages"),
        evaluation=folder.read_json(
            EVALUATION, "judged", "models", "rmse_by_step", "per_item", "examples", "prediction_length"
        ),
        cohort=[
            {name: as_read(text) for name, text in row.items()}
            for row in csv.DictReader(io.StringIO(folder.read_text(COHORT)))
        ],
        history=folder.history,
        config=folder.read_yaml(CONFIG),
        config_text=folder.read_text(CONFIG),
    )
