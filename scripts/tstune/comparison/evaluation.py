"""What came of scoring models on the same windows, and the folder it is written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.data.cohort import write_cohort
from tstune.errors import OutputError, ReportError
from tstune.evaluation.record import EVALUATION_FILE, WINDOWS_FILE, windows_table
from tstune.evaluation.scoreboard import format_scoreboard
from tstune.evaluation.verdict import Verdict
from tstune.runs.folder import RunFolder
from tstune.runs.judging import Judge
from tstune.runs.report import write_report
from tstune.runtime.logs import logger


@dataclass(frozen=True)
class Evaluation:
    """Models that were scored on one part of one data set.

    Attributes:
        judge: windows and scores.
        part: the windows, ``test``, ``validation`` or ``train``.
        verdict: the judged row against all others.
        environment: values for `environment.json`.
    """

    judge: Judge
    part: str
    verdict: Verdict
    environment: dict

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Row of the scoreboard -> metric -> value."""
        return {name: scores.metrics for name, scores in self.judge.scores.items()}

    def scoreboard(self) -> str:
        """Markdown table with the verdict beneath."""
        unit = self.judge.data.preprocessor.unit
        return format_scoreboard(self.judge.scores, unit, self.verdict.sentence, self.part)


def refuse_to_overwrite(output: Path | None, overwrite: bool) -> None:
    """Stop before anything is computed that could not be written.

    Raises:
        OutputError: the folder holds files already.
    """
    if output is not None and not overwrite and output.is_dir() and any(output.iterdir()):
        raise OutputError(f"--output {output} already holds files; add --overwrite or choose another folder")


def has_report(config: RunConfig, part: str) -> bool:
    """True if a report belongs into the folder: it speaks of test windows."""
    return config.evaluation.report and part == "test"


def write_evaluation(run: RunFolder, evaluation: Evaluation, config: RunConfig) -> None:
    """Write everything but the model, and put the folder in its place; nothing where `run` writes nothing.

    Args:
        run: entered, not committed yet.
        evaluation: what to write.
        config: data, lengths and metrics, for `config.yaml`.
    """
    if run.path is None:
        return
    judge = evaluation.judge
    (run.path / "history.jsonl").touch()
    run.write_json("metrics.json", {evaluation.part: evaluation.metrics})
    run.write_json("verdict.json", evaluation.verdict.to_dict())
    run.write_json("manifest.json", judge.data.manifest)
    write_cohort(judge.data, run.path)
    run.write_json(EVALUATION_FILE, judge.record(evaluation.verdict.model))
    windows_table(judge.scores, judge.data, judge.test).to_parquet(run.path / WINDOWS_FILE, index=False)
    run.write_json("environment.json", evaluation.environment)
    SimpleConfigManager().save_config(config, run.path / "config.yaml")
    if has_report(config, evaluation.part):
        try:
            write_report(run.path)
        except ReportError as error:  # what was computed is not lost for a page that cannot be drawn
            logger.warning("no report: %s; scripts/write_report.py %s draws it later", error, run.final)
    run.commit()
