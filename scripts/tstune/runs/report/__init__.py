"""The report of a run: `report.html` and `report.md`, drawn from the files of its folder alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tstune.errors import FolderError, ReportError
from tstune.foreign_files import damage
from tstune.runs.report.blocks import Omitted, ReportSection
from tstune.runs.report.render import as_html, as_markdown, write_page
from tstune.runs.report.run_files import RunFiles, read_run
from tstune.runs.report.section_forecasts import calibration, forecasts
from tstune.runs.report.section_run import cohort, cost, members, provenance, training
from tstune.runs.report.section_scores import comparisons, horizons, items, scoreboard, summary
from tstune.runtime.logs import logger

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"

Part = Callable[[RunFiles], ReportSection | Omitted | None]
_SCORES: tuple[Part, ...] = (summary, scoreboard, comparisons, members, cohort, horizons, items, forecasts, calibration)
_RUN: tuple[Part, ...] = (training, cost, provenance)


def write_report(folder: str | Path) -> None:
    """Draw the report of a run into its folder, from `evaluation.json` and what lies beside it."""
    folder = Path(folder)
    run = read_run(folder)
    with damage(folder, ReportError):
        page = run.title, _contents(run), run.domain.warning if run.domain else None
        html, markdown = as_html(*page), as_markdown(*page)
    write_page(folder / HTML_FILE, html)
    write_page(folder / MARKDOWN_FILE, markdown)


def draw_report(folder: Path, final: Path) -> None:
    """The same of a run that will lie in `final`; it is not lost for a page that cannot be drawn."""
    try:
        write_report(folder)
    except (FolderError, ReportError) as error:
        logger.warning("no report: %s; scripts/write_report.py %s draws it later", error, final)


def _contents(run: RunFiles) -> list[ReportSection | Omitted]:
    """All sections in the order they are read, and a line in place of one that a reader would look for."""
    found = []
    for part in (*_SCORES, *(run.domain.report_parts() if run.domain else ()), *_RUN):
        try:
            section = part(run)
        except Exception as error:
            raise ValueError(
                f"the section {part.__name__} cannot be drawn: {type(error).__name__} {error}; is evaluation.json of "
                "this version of the project?"
            ) from error
        if section is not None:
            found.append(section)
    return found
