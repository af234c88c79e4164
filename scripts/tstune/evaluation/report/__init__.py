"""The report of a run: `report.html` and `report.md`, drawn from the files of its folder alone."""

from __future__ import annotations

import os
from pathlib import Path

from tstune.errors import OutputError
from tstune.evaluation.report.content import WARNING, contents, title
from tstune.evaluation.report.folder import read_run
from tstune.evaluation.report.markdown import as_markdown
from tstune.evaluation.report.page import as_html

HTML_FILE, MARKDOWN_FILE = "report.html", "report.md"


def write_report(folder: str | Path) -> None:
    """Draw the report of a run into its folder.

    Args:
        folder: run folder with `evaluation.json`; also one that is still being written.

    Raises:
        ReportError: the folder is not that of a finished run, or is older than the report.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    run = read_run(folder)
    name, sections, warning = title(run), contents(run), WARNING if run.is_glucose else None
    pages = {HTML_FILE: as_html(name, sections, warning), MARKDOWN_FILE: as_markdown(name, sections, warning)}
    for file, page in pages.items():
        aside = folder / f".{file}.partial"
        try:
            aside.write_text(page, encoding="utf-8")
            os.replace(aside, folder / file)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise OutputError(f"{folder / file} cannot be written: {error.strerror}") from None
