"""What a sweep found: a table, two pictures, and the best recipe. Written anew after each trial."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from tstune.config.managers import SimpleConfigManager
from tstune.config.schema import RunConfig
from tstune.sweeps.attempts import Point, points
from tstune.sweeps.checks import METRIC
from tstune.sweeps.files import SweepFolder, aside
from tstune.sweeps.launch import Launch
from tstune.sweeps.plots import importances, plot_history, plot_importances
from tstune.sweeps.space import Dimension, as_text

FILES = ("trials.csv", "README.md", "importance.png", "history.png", "best.yaml")


@dataclass(frozen=True)
class Report:
    """Writes the files of `FILES`.

    Attributes:
        base: the recipe all trials share.
        total: points the study shall have.
    """

    folder: SweepFolder
    base: RunConfig
    space: Sequence[Dimension]
    launch: Launch
    sampler: str
    total: int

    def write(self, study: optuna.Study) -> Point | None:
        """Write all files and return the best point, None as long as no trial has finished."""
        found = points(study)
        best = best_point(found)
        self._write_csv(found)
        with aside(self.folder.path / "history.png") as file:
            plot_history(found).savefig(file, format="png", dpi=110)
        shares = importances(study, [point.loss for point in found if point.loss is not None], self.base.seed)
        if not isinstance(shares, str):
            with aside(self.folder.path / "importance.png") as file:
                plot_importances(shares).savefig(file, format="png", dpi=110)
        if best is not None:
            self.folder.save_recipe(self._best_recipe(best), self.folder.best_recipe)
        with aside(self.folder.path / "README.md") as file:
            file.write_text(self._readme(study.study_name, found, best, shares), encoding="utf-8")
        return best

    def table(self, found: Sequence[Point]) -> str:
        """All points as a Markdown table, the best first."""
        keys = [dimension.key for dimension in self.space]
        header = ["trial", "state", METRIC, *keys, "seconds", "what happened"]
        rows = [self._cells(point) for point in _ranked(found)]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [header, ["-" * width for width in widths], *rows]
        return "\n".join(
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        )

    def _cells(self, point: Point) -> list[str]:
        values = self._values(point)
        return [
            str(point.number),
            point.state,
            "" if point.loss is None else f"{point.loss:.6g}",
            *(_short(values[d.key]) if d.key in values else "" for d in self.space),
            "" if point.seconds is None else f"{point.seconds:.0f}",
            _what_happened(point).replace("|", "\\|"),
        ]

    def _values(self, point: Point) -> dict[str, object]:
        stored = point.last.params
        return {d.key: d.decode(stored[d.key]) for d in self.space if d.key in stored}

    def _write_csv(self, found: Sequence[Point]) -> None:
        keys = [dimension.key for dimension in self.space]
        with (
            aside(self.folder.path / "trials.csv") as file,
            file.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(["number", "state", METRIC, *keys, "seconds", "stopped_at_step", "attempts", "reason"])
            for point in found:
                values = self._values(point)
                told = [as_text(values[key]) if key in values else None for key in keys]
                seconds = None if point.seconds is None else round(point.seconds, 2)
                row = [point.number, point.state, point.loss, *told, seconds, point.stopped_at_step]
                writer.writerow([*row, len(point.attempts), point.reason])

    def _best_recipe(self, best: Point) -> RunConfig:
        """The run of the best trial, with a folder of its own and without the sweep around it."""
        ran = SimpleConfigManager().load_config(self.folder.run(best.number) / "config.yaml")
        training = ran.training.model_copy(update={"resume_from_checkpoint": None})
        return ran.model_copy(
            update={
                "training": training,
                "tracking": self.base.tracking.model_copy(update={"parent_run": None}),
                "output_dir": str(self.folder.path / "best"),
            }
        )

    def _readme(self, name: str, found: Sequence[Point], best: Point | None, shares: dict[str, float] | str) -> str:
        states = Counter(point.state for point in found)
        counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
        lines = [f"# Sweep {name}", ""]
        lines += [f"Sampler {self.sampler}, {self.total} trials planned: {counts or 'none begun'}.", ""]
        if best is None:
            lines += ["No trial has finished.", ""]
        else:
            lines += [
                f"Best: trial {best.number}, {METRIC} {best.loss:.6g}. `best.yaml` runs it again:",
                "",
                f"    {self.launch.shown(self.folder.best_recipe)}",
                "",
                "The validation part chose it. Its test scores, which had no say, are in "
                f"`trials/{best.number}/metrics.json`.",
                "",
            ]
        lines += [self.table(found), "", "## Search space", ""]
        lines += [f"- `{dimension.key}`: {dimension}" for dimension in self.space]
        lines += ["", "## History", "", "![history](history.png)", "", "## Importance", ""]
        if isinstance(shares, str):
            lines += [f"Not known: {shares}."]
        else:
            lines += [f"- `{key}`: {share:.0%}" for key, share in shares.items()]
            lines += ["", "![importance](importance.png)"]
        return "\n".join(lines) + "\n"


def best_point(found: Sequence[Point]) -> Point | None:
    """Lowest validation loss; the first of equal ones."""
    return min((point for point in found if point.loss is not None), key=lambda point: point.loss, default=None)


def written(folder: Path) -> list[Path]:
    """The files of a report that exist."""
    return [folder / name for name in FILES if (folder / name).is_file()]


def _ranked(found: Sequence[Point]) -> list[Point]:
    return sorted(found, key=lambda point: (point.loss is None, point.loss or 0.0, point.number))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else as_text(value).strip('"')


def _what_happened(point: Point) -> str:
    told = [] if point.reason is None else [point.reason]
    if point.stopped_at_step is not None:
        told.append(f"stopped at step {point.stopped_at_step}")
    if len(point.attempts) > 1:
        told.append(f"attempt {len(point.attempts)}")
    return "; ".join(told)
