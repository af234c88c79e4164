"""A whole run from the shell, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support import forks, tiny

import finetune_ttm

SCRIPT = Path(finetune_ttm.__file__)
ROOT = SCRIPT.parent.parent

RUN_FOLDER = {
    "README.md",
    "checksums.json",
    "cohort.csv",
    "cohort.md",
    "config.yaml",
    "environment.json",
    "evaluation.json",
    "history.jsonl",
    "manifest.json",
    "metrics.json",
    "model/config.json",
    "model/model.safetensors",
    "plots/forecasts.png",
    "plots/loss.png",
    "plots/rmse_by_horizon.png",
    "preprocessor.json",
    "report.html",
    "report.md",
    "training_metadata.json",
    "verdict.json",
    "windows.parquet",
}
METRICS = ["rmse", "mae", "rmse@1h", "mae@1h", "rmse@8h", "mae@8h", "mse_scaled", "mae_scaled", "mase", "num_windows"]
BASELINES = ["persistence", "seasonal_naive", "context_mean", "ridge"]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def history(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def shell(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess:
    """`python scripts/finetune_ttm.py` from a folder that is not the checkout; `args[-1]` is that folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "series.csv").write_bytes((stock / "series.csv").read_bytes())
    values = tiny.recipe(Path("series.csv"), Path("runs/first"), stock / "checkpoint", evaluation={"num_plots": 4})
    tiny.write_recipe(folder / "recipe.yaml", values)
    command = [sys.executable, SCRIPT, "--config", "recipe.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as many as here, so that results are the same bit for bit
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done.args.append(folder)
    return done


@pytest.fixture(scope="module")
def run(shell: subprocess.CompletedProcess) -> Path:
    return shell.args[-1] / "runs" / "first"


@pytest.fixture
def rerun(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Run this process's `main` where the run was made."""
    monkeypatch.chdir(run.parent.parent)
    return lambda *arguments: finetune_ttm.main(["--config", *map(str, arguments)])


class TestFromAnotherFolder:
    def test_the_scoreboard_is_the_only_output(self, shell: subprocess.CompletedProcess) -> None:
        lines = shell.stdout.strip().splitlines()
        assert lines[0].startswith("| model "), "nothing comes before the scoreboard"
        assert len([line for line in lines if line.startswith("|")]) == 2 + 3 + len(BASELINES)
        assert lines[-1] == "run folder: runs/first"
        assert "82 test windows, the same for every model." in lines

    def test_the_log_is_ours_alone(self, shell: subprocess.CompletedProcess) -> None:
        assert "412 trainable" in shell.stderr
        assert [word for word in ("Warning", "WARNING", "INFO", "Failed") if word in shell.stderr] == []

    def test_nothing_else_was_written(self, shell: subprocess.CompletedProcess, run: Path) -> None:
        top = {name.split("/")[0] for name in tiny.snapshot(shell.args[-1])}
        assert top == {"series.csv", "recipe.yaml", "runs"}
        assert [path.name for path in run.parent.iterdir()] == ["first"], "no partial folder stays"

    def test_run_folder(self, run: Path) -> None:
        assert files_in(run) == RUN_FOLDER

    def test_plots_are_pictures(self, run: Path) -> None:
        plots = sorted((run / "plots").iterdir())
        assert len(plots) == 3
        assert all(plot.read_bytes()[:4] == b"\x89PNG" and plot.stat().st_size > 5000 for plot in plots)

    def test_metrics(self, run: Path) -> None:
        metrics = tiny.read_json(run / "metrics.json")
        assert list(metrics) == ["test"]
        assert list(metrics["test"]) == ["zero_shot", "fine_tuned", "average", *BASELINES]
        assert all(list(values) == METRICS for values in metrics["test"].values())
        assert {values["num_windows"] for values in metrics["test"].values()} == {82}
        assert metrics["test"]["fine_tuned"]["rmse"] < metrics["test"]["zero_shot"]["rmse"]

    def test_environment(self, run: Path) -> None:
        environment = tiny.read_json(run / "environment.json")
        assert environment["num_processes"] == 1
        assert environment["device"] == "cpu"
        assert environment["packages"]["torch"]
        assert environment["seconds"] > 0
        assert environment["peak_memory_mb"]["host"] > 100
        assert environment["command"] == "finetune_ttm.py --config recipe.yaml"
        assert {"git_commit", "python", "num_threads"} <= set(environment)
        assert (environment["parameters"]["total"], environment["parameters"]["trainable"]) == (2796, 412)
        assert environment["training"]["num_steps"] == 6

    def test_history_counts_every_step(self, run: Path) -> None:
        rows = history(run)
        assert [row["step"] for row in rows if "train_loss" in row] == [1, 2, 3, 4, 5, 6]
        assert [row["step"] for row in rows if "validation_loss" in row] == [0, 3, 6]
        assert len(rows) == 9

    def test_manifest(self, run: Path) -> None:
        manifest = tiny.read_json(run / "manifest.json")
        assert manifest["windows"] == {"train": 402, "validation": 82, "test": 82}
        assert [item["borders"] for item in manifest["items"]] == [[240, 320, 400]] * 2
        (file,) = manifest["files"]
        assert file["path"] == "series.csv"
        assert len(file["sha256"]) == 64

    def test_no_pickle(self, run: Path) -> None:
        assert {Path(name).suffix for name in files_in(run)} == {
            ".md",
            ".yaml",
            ".csv",
            ".json",
            ".jsonl",
            ".safetensors",
            ".png",
            ".html",
            ".parquet",
        }


class TestRerun:
    def test_the_saved_config_reruns_the_run_unchanged(self, run: Path, tmp_path: Path, rerun) -> None:
        again = tmp_path / "again"
        assert rerun(run / "config.yaml", f"output_dir={again}") == 0
        assert weights(again) == weights(run)
        assert history(again) == history(run)
        for name in ("metrics.json", "manifest.json", "preprocessor.json", "model/config.json"):
            assert (again / name).read_text() == (run / name).read_text(), name
        saved, first = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (again, run))
        assert saved == first | {"output_dir": str(again)}

    def test_another_seed_gives_other_weights(self, run: Path, tmp_path: Path, rerun) -> None:
        assert rerun(run / "config.yaml", f"output_dir={tmp_path / 'seed'}", "seed=8") == 0
        assert weights(tmp_path / "seed") != weights(run)

    def test_overwrite_leaves_no_old_file(self, tmp_path: Path, run: Path, rerun) -> None:
        target = tmp_path / "run"
        arguments = (run / "config.yaml", f"output_dir={target}", "training.max_steps=1", "evaluation.num_plots=1")
        assert rerun(*arguments) == 0
        assert files_in(target) == RUN_FOLDER
        assert rerun(*arguments, "overwrite=true", "evaluation.num_plots=0") == 0
        assert files_in(target) == {name for name in RUN_FOLDER if not name.startswith("plots/")}
        assert [path.name for path in tmp_path.iterdir()] == ["run"]

    def test_from_scratch_twice(self, tmp_path: Path, run: Path, rerun) -> None:
        recipe = tiny.write_recipe(tmp_path / "scratch.yaml", tiny.recipe(Path("series.csv"), tmp_path / "one"))
        assert rerun(recipe) == 0
        assert rerun(recipe, f"output_dir={tmp_path / 'two'}") == 0
        assert weights(tmp_path / "one") == weights(tmp_path / "two")
        assert weights(tmp_path / "one") != weights(run)
        metrics = tiny.read_json(tmp_path / "one" / "metrics.json")["test"]
        assert list(metrics) == ["fine_tuned", *BASELINES], "random weights have no zero-shot score"

    def test_zero_shot(self, tmp_path: Path, run: Path, rerun, stock: Path) -> None:
        assert rerun(run / "config.yaml", f"output_dir={tmp_path / 'zero'}", "tuning.mode=zero_shot") == 0
        assert files_in(tmp_path / "zero") == RUN_FOLDER - {"plots/loss.png"}
        assert history(tmp_path / "zero") == []
        metrics, first = (tiny.read_json(folder / "metrics.json")["test"] for folder in (tmp_path / "zero", run))
        assert list(metrics) == ["zero_shot", *BASELINES]
        for name, values in metrics.items():  # torch picks another kernel for frozen weights: same to rounding
            assert values == pytest.approx(first[name], rel=1e-6), name

    def test_european_dates_are_read_as_they_are(self, tmp_path: Path, run: Path, rerun) -> None:
        table = pd.read_csv("series.csv")
        table["timestamp"] = pd.to_datetime(table["timestamp"]).dt.strftime("%d/%m/%Y %H:%M")
        table.to_csv(tmp_path / "european.csv", index=False)
        arguments = (run / "config.yaml", f"output_dir={tmp_path / 'run'}", f"data.path={tmp_path / 'european.csv'}")
        assert rerun(*arguments) == 0
        assert weights(tmp_path / "run") == weights(run)


@pytest.mark.parametrize(
    ("settings", "steps", "epochs"),
    [
        ({"max_steps": 5}, 5, 1),
        ({"max_steps": 13}, 13, 1),  # 402 windows are 13 batches of 32
        ({"max_steps": 14}, 14, 2),
        ({"max_steps": None, "num_epochs": 2}, 26, 2),
        ({"max_steps": None, "num_epochs": 2, "gradient_accumulation_steps": 4}, 8, 2),
        ({"max_steps": 3, "gradient_accumulation_steps": 5}, 3, 1),
        ({"max_steps": None, "num_epochs": 1, "per_device_batch_size": 402}, 1, 1),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value),
)
def test_steps_are_counted_exactly(settings: dict, steps: int, epochs: int, workspace: Path) -> None:
    values = yaml.safe_load((workspace / "recipe.yaml").read_text())
    settings = {"eval_every_steps": None, **settings}
    recipe = tiny.write_recipe(workspace / "counted.yaml", tiny.merged(values, {"training": settings}))
    assert finetune_ttm.main(["--config", str(recipe), "evaluation.baselines=[]"]) == 0
    rows = history(workspace / "run")
    training = tiny.read_json(workspace / "run" / "environment.json")["training"]
    assert (training["num_steps"], training["num_epochs"]) == (steps, epochs)
    assert [row["step"] for row in rows if "train_loss" in row] == list(range(1, steps + 1))
    steps_per_epoch = -(-steps // epochs) if settings.get("max_steps") is None else 13
    validated = {0, *range(steps_per_epoch, steps + 1, steps_per_epoch), steps}
    assert [row["step"] for row in rows if "validation_loss" in row] == sorted(validated)


def test_accelerate_launch_from_the_checkout(stock: Path, tmp_path: Path) -> None:
    values = tiny.recipe(stock / "series.csv", tmp_path / "run")
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", values)
    command = [forks.ACCELERATE, "launch", "--config_file", "accelerate_configs/cpu.yaml", "scripts/finetune_ttm.py"]
    done = forks.run([*command, "--config", recipe, "evaluation.num_plots=1"], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"run folder: {tmp_path / 'run'}" in done.stdout
    assert files_in(tmp_path / "run") == RUN_FOLDER
    environment = tiny.read_json(tmp_path / "run" / "environment.json")
    assert environment["num_processes"] == 1
    assert environment["parameters"]["trainable"] == environment["parameters"]["total"] == 2796
    rows = history(tmp_path / "run")
    assert [row["step"] for row in rows if "validation_loss" in row] == [3, 6], "random weights are not validated"
    assert len(rows) == 8


class TestReadme:
    def test_its_python_runs_as_it_stands(self, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        text = (run / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
        assert '"path/to/this/folder"' in code
        monkeypatch.chdir(tmp_path)
        tiny.write_series(tmp_path / "input.csv")
        names: dict = {}
        exec(code.replace("path/to/this/folder", str(run)), names)
        forecast = names["forecast"]
        assert list(forecast.columns) == ["item_id", "timestamp", "load"]
        assert len(forecast) == len(tiny.ITEMS) * tiny.PREDICTION

    def test_its_command_is_the_script(self, run: Path) -> None:
        text = (run / "README.md").read_text()
        (command,) = re.findall(r"```\n(python scripts/.*?)\n```", text)
        assert command.split() == [
            *("python", "scripts/predict_forecast.py"),
            *("--model", "path/to/this/folder", "--input", "input.csv", "--output", "forecast.csv"),
        ]

    def test_it_names_every_file(self, run: Path) -> None:
        text = (run / "README.md").read_text()
        listed = set(re.findall(r"^\| `([\w./]+)` \|", text, flags=re.M))
        there = {name if "/" not in name else f"{name.split('/')[0]}/" for name in files_in(run)}
        assert listed == there - {"README.md"}

    def test_it_holds_the_scoreboard(self, shell: subprocess.CompletedProcess, run: Path) -> None:
        text = (run / "README.md").read_text()
        rows = [line for line in shell.stdout.splitlines() if line.startswith("| ")]
        assert len(rows) == 8
        assert all(row in text for row in rows)
