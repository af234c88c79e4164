"""All parts of a report, in the order they are read."""

from __future__ import annotations

from collections.abc import Callable

from tstune.errors import ReportError
from tstune.evaluation.report.blocks import Omitted, Section
from tstune.evaluation.report.folder import RunFiles
from tstune.evaluation.report.section_calibration import calibration
from tstune.evaluation.report.section_data import cohort
from tstune.evaluation.report.section_errors import horizons, items
from tstune.evaluation.report.section_forecasts import forecasts
from tstune.evaluation.report.section_glucose import error_grids, glucose, profile, strata
from tstune.evaluation.report.section_hypo import hypo
from tstune.evaluation.report.section_members import members
from tstune.evaluation.report.section_run import cost, provenance, training
from tstune.evaluation.report.section_summary import comparisons, scoreboard, summary

WARNING = "Research use only, not for treatment decisions."

Part = Callable[[RunFiles], Section | Omitted | None]
_PARTS: tuple[Part, ...] = (
    summary,
    scoreboard,
    comparisons,
    members,
    cohort,
    horizons,
    items,
    forecasts,
    calibration,
    glucose,
    error_grids,
    hypo,
    profile,
    strata,
    training,
    cost,
    provenance,
)
_GLUCOSE_PARTS = (glucose, error_grids, hypo, profile, strata)


def contents(run: RunFiles) -> list[Section | Omitted]:
    """Sections, and a line in place of one that a reader would look for.

    Raises:
        ReportError: a file of the run lacks what a section needs.
    """
    found = []
    for part in _PARTS:
        if part in _GLUCOSE_PARTS and not run.is_glucose:
            continue
        try:
            section = part(run)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ReportError(
                f"the section {part.__name__} cannot be drawn: {type(error).__name__} {error}; is evaluation.json of "
                "this version of the project?"
            ) from error
        if section is not None:
            found.append(section)
    return found


def title(run: RunFiles) -> str:
    """Model, data and tuning mode; of a comparison the number of models."""
    if listed := run.environment.get("members"):
        return f"{len(listed)} models on {run.manifest['source']}"
    model = (run.config.get("model") or {}).get("type") or "model"
    mode = (run.config.get("tuning") or {}).get("mode")
    return f"{model} on {run.manifest['source']}{f', {mode}' if mode else ''}"
