"""The commands of the base framework's document: each example runs by its printed name and does what it prints."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from support import forks

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "scripts/examples/test_base_framework.py"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    answer = forks.run([sys.executable, RUNNER, "--output", folder / "out"], cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert [path.name for path in folder.iterdir()] == ["out"], "nothing beside --output"
    return answer.stdout, folder / "out"


@pytest.mark.printed("000", 208, "python scripts/examples/test_base_framework.py")
def test_all_four_examples_run(everything):
    printed, folder = everything
    assert re.findall(r"=== Example (\d)", printed) == ["1", "2", "3", "4"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapted",
        "base",
        "basic",
        "experiments",
        "registry",
        "run_1",
        "run_2",
    ]


def test_a_loaded_model_forecasts_the_same(everything):
    assert "the loaded model forecasts the same: True" in everything[0]
    assert "as arrays: forecasts (2, 12, 1) of north, south" in everything[0]


def test_the_adapter_learns_a_part(everything):
    learned, total = re.search(r"([\d,]+) of ([\d,]+) parameters learned", everything[0]).groups()
    environment = json.loads((everything[1] / "adapted/environment.json").read_text())
    counted = environment["parameters"]
    assert (f"{counted['trainable']:,}", f"{counted['total']:,}") == (learned, total)
    assert 0 < counted["trainable"] < counted["total"]
    assert "adapter of rank 4 on attn_layer, base_forecast_block, fc1, fc2" in everything[0]


def test_a_wrong_number_of_processes_is_refused(everything):
    assert "distributed.world_size=4 but 1 process(es) are running" in everything[0]


def test_runs_are_tracked_and_registered(everything):
    printed, folder = everything
    runs = dict(re.findall(r"(daily:\d): RMSE [\d.]+, tracked as (\S+)", printed))
    assert list(runs) == ["daily:1", "daily:2"]
    for number, (_, run_id) in enumerate(runs.items(), start=1):
        summary = json.loads((folder / "experiments/tstune" / run_id / "summary.json").read_text())
        rmse = json.loads((folder / f"run_{number}/metrics.json").read_text())["test"]["fine_tuned"]["rmse"]
        assert summary["status"] == "FINISHED"
        assert summary["metrics"]["test/fine_tuned/rmse"] == rmse
    better = min((1, 2), key=lambda number: float(re.search(rf"daily:{number}: RMSE ([\d.]+)", printed)[1]))
    assert f"champion is daily:{better}" in printed


@pytest.mark.printed("000", 196, "python scripts/examples/test_base_framework.py --example 1")
@pytest.mark.printed("000", 199, "python scripts/examples/test_base_framework.py --example 2")
@pytest.mark.printed("000", 202, "python scripts/examples/test_base_framework.py --example 3")
@pytest.mark.printed("000", 205, "python scripts/examples/test_base_framework.py --example 4")
@pytest.mark.parametrize("number", ["1", *(pytest.param(number, marks=pytest.mark.slow) for number in "234")])
def test_one_example_alone(number, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path, "--example", number) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"=== Example (\d)", printed) == [number]
    assert len(printed.splitlines()) > 5
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_example_is_refused(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path, "--example", "5") == 2
    assert "invalid choice: 5" in capsys.readouterr().err


def test_pytest_finds_no_test_in_it():
    listed = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", RUNNER]
    answer = forks.run(listed, cwd=ROOT)
    assert "no tests collected" in answer.stdout


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """The exit code of ``python scripts/examples/test_base_framework.py …``, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(RUNNER), *arguments])
    monkeypatch.syspath_prepend(str(RUNNER.parent))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(RUNNER), run_name="__main__")
    return end.value.code
