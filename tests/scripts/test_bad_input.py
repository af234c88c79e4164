"""Every bad input ends with exit code 2, one line that names the thing and the fix, and an untouched disk."""

from __future__ import annotations

import importlib
import re
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


OUTPUTS = {
    "autotune": ["--data", "gone.csv"],
    "cold_start": ["gone"],
    "eval_benchmark": ["--tasks", "gone.yaml", "--model", "ridge"],
    "eval_forecast": ["--model", "gone", "--config", "recipe.yaml"],
    "monitor_model": ["gone", "--input", "gone.csv", "--future", "gone.csv"],
    "run_recipes": ["gone.yaml"],
    "retune": ["registry:gone@champion", "--input", "gone.csv"],
    "sweep_hparams": ["--config", "gone.yaml", "--sampler", "grid", "tuning.mode=lora,full"],
}


@pytest.mark.parametrize("script", OUTPUTS)
@pytest.mark.parametrize(("place", "told"), [("", "taken is a file; "), ("/a/b", "taken/a/b cannot be written: ")])
def test_a_file_where_a_folder_must_be_is_refused_before_anything_is_read(
    script: str, place: str, told: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "taken").touch()
    before = tiny.snapshot(workspace)
    assert importlib.import_module(script).main([*OUTPUTS[script], "--output", f"taken{place}"]) == 2
    (error,) = errors_in(capsys.readouterr().err)
    assert error.startswith(f"error: --output {told}")
    assert error.endswith("taken is a file; choose another --output")
    assert tiny.snapshot(workspace) == before


def test_every_script_with_an_output_folder_is_among_them() -> None:
    takes_one = {
        path.stem
        for path in Path(finetune_ttm.__file__).parent.glob("*.py")
        if re.search(r'"--output", .*metavar="folder"', path.read_text(), re.IGNORECASE)
    }
    assert takes_one == set(OUTPUTS)


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
