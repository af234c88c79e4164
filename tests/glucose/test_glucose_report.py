"""What the report says of glucose where there is nothing to draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report.sample_run import write_run

from tstune.runs.report import write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", items=2, num_examples=2)


def hypoglycaemia(folder: Path, change) -> str:
    """The section of the report after a change of its values."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    for below in evaluation["glucose"]["hypo"].values():
        change(below)
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    write_report(folder)
    return (folder / "report.md").read_text().partition("## Hypoglycaemia\n")[2].partition("\n## ")[0]


def without_lows(windows: dict) -> None:
    for found in windows.values():
        found |= {"num_low": 0, "base_rate": 0.0, "auroc": None, "auprc": None, "brier": 0.0}


def test_hypoglycaemia_without_lows_is_one_line(folder):
    def change(below: dict) -> None:
        below["events"] = None
        for windows in (below["windows"], *below["windows_up_to"].values()):
            without_lows(windows)

    text = hypoglycaemia(folder, change)
    line = "windows holds a reading below the limit: there is nothing to warn of."
    assert text.count(line) == 2, "once for each limit"
    assert "|" not in text
    assert (folder / "report.html").read_text().count("Average precision") == 0


def test_a_span_without_lows_has_no_table(folder):
    text = hypoglycaemia(folder, lambda below: without_lows(below["windows_up_to"]["30min"]))
    assert "0 of " in text
    assert "Warnings by window, next 30" not in text
    assert text.count("Warnings by window, whole 8") == 2
