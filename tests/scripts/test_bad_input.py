"""Every bad input ends with exit code 2, one line that names the thing and the fix, and an untouched disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bad_config
import bad_data
import bad_run
import bad_weights
import pytest
from bad_input import Case, errors_in, names
from support import tiny

import finetune_ttm

CASES = (*bad_config.CASES, *bad_data.CASES, *bad_weights.CASES, *bad_run.CASES)

# What was promised; every one needs a case.
PROMISED = {
    "unknown key",
    "wrong type",
    "wrong value",
    "all errors at once",
    "missing file",
    "missing column",
    "unparsable timestamps",
    "duplicate timestamps",
    "text in a numeric column",
    "series shorter than context + prediction",
    "everything NaN",
    "zero windows in a split",
    "checkpoint of other shape or architecture",
    "existing non-empty output folder without overwrite",
    "output folder not writable",
    "Hub id while offline",
    "zero_shot without weights",
    "fp16 on CPU",
    "fewer processes than asked",
    "NaN loss",
}


def test_every_promise_has_a_case() -> None:
    assert {case.kind for case in CASES} == PROMISED
    assert len(CASES) == 114
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_unspoiled_workspace_runs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny.snapshot(workspace)
    assert finetune_ttm.main(["--config", str(workspace / "recipe.yaml")]) == 0
    captured = capsys.readouterr()
    assert errors_in(captured.err) == []
    assert f"run folder: {workspace / 'run'}" in captured.out
    after = tiny.snapshot(workspace)
    assert {name for name in after if not name.startswith("run")} == set(before), "only the run folder is new"


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_bad_input(case: Case, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.spoil(workspace)
    before = tiny.snapshot(workspace)

    code = finetune_ttm.main(["--config", str(workspace / "recipe.yaml"), *case.command_line(workspace)])

    captured = capsys.readouterr()
    assert code == 2
    errors = errors_in(captured.err)
    assert len(errors) == 1, captured.err
    assert captured.err.endswith(f"{errors[0]}\n"), "the error is the last word"
    assert [word for word in case.words if word not in errors[0]] == [], errors[0]
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert tiny.snapshot(workspace) == before


def test_from_the_shell(workspace: Path) -> None:
    before = tiny.snapshot(workspace)
    command = [sys.executable, finetune_ttm.__file__, "--config", "recipe.yaml", "training.max_step=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workspace, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: recipe.yaml: 1 problem: training.max_step: unknown key, did you mean training.max_steps?\n"
    )
    assert tiny.snapshot(workspace) == before
