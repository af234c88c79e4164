"""Forecasts from the shell: the right rows, and every bad input refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bad_forecast
import numpy as np
import pandas as pd
import pytest
from bad_input import Case, errors_in, names
from safetensors.torch import load_file, save_file
from support import forks, tiny

import eval_forecast
import finetune_ttm
import predict_forecast
from tstune.models.registry import load_model

STEPS = pd.date_range("2024-01-17 16:00", periods=tiny.PREDICTION, freq="h")  # 400 hours after the new year


@pytest.fixture(scope="module")
def trained(stock: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    values = tiny.recipe(stock / "series.csv", folder / "run", stock / "checkpoint", evaluation={"baselines": []})
    assert finetune_ttm.main(["--config", str(tiny.write_recipe(folder / "recipe.yaml", values))]) == 0
    return folder / "run"


@pytest.fixture
def desk(workspace: Path, trained: Path) -> Path:
    """Current folder with series.csv, checkpoint/ and run/."""
    shutil.copytree(trained, workspace / "run")
    return workspace


def predict(*arguments: str) -> int:
    return predict_forecast.main(["--model", "run", "--input", "series.csv", "--output", "forecast.csv", *arguments])


@pytest.mark.parametrize("name", ["forecast.csv", "forecast.csv.gz", "forecast.parquet"])
def test_rows(name: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny.snapshot(desk)
    assert predict("--output", name) == 0
    captured = capsys.readouterr()
    assert captured.out == f"16 forecast rows: {name}\n"
    assert errors_in(captured.err) == []
    after = tiny.snapshot(desk)
    assert after.pop(name)
    assert after == before, "one file is new and nothing else"

    read = pd.read_parquet if name.endswith("parquet") else pd.read_csv
    forecast = read(desk / name)
    assert list(forecast.columns) == ["item_id", "timestamp", "load"]
    assert forecast["item_id"].tolist() == ["a"] * 8 + ["b"] * 8
    assert pd.to_datetime(forecast["timestamp"]).tolist() == [*STEPS, *STEPS]
    assert forecast["load"].between(5, 40).all(), "original units"
    direct = load_model(desk / "run").predict(desk / "series.csv")
    np.testing.assert_array_equal(forecast["load"].to_numpy(np.float32), direct["load"].to_numpy())


def test_only_the_last_context_counts(desk: Path) -> None:
    assert predict() == 0
    table = pd.read_csv(desk / "series.csv")
    table.groupby("item_id").tail(tiny.CONTEXT).to_csv(desk / "short.csv", index=False)
    assert predict("--input", "short.csv", "--output", "short_forecast.csv") == 0
    assert (desk / "short_forecast.csv").read_text() == (desk / "forecast.csv").read_text()


def test_each_series_ends_at_its_own_time(desk: Path) -> None:
    table = pd.read_csv(desk / "series.csv")
    table = table[(table["item_id"] == "a") | (table.groupby("item_id").cumcount() < 300)]
    table.sample(frac=1.0, random_state=0).to_csv(desk / "uneven.csv", index=False)
    assert predict("--input", "uneven.csv") == 0
    first = pd.read_csv(desk / "forecast.csv").groupby("item_id")["timestamp"].first()
    assert first.to_dict() == {"a": "2024-01-17 16:00:00", "b": "2024-01-13 12:00:00"}


def test_unseen_series(desk: Path) -> None:
    tiny.series(rows=50, items=("new",), seed=5)[["timestamp", "item_id", "load"]].to_parquet(desk / "new.parquet")
    assert predict("--input", "new.parquet") == 0
    forecast = pd.read_csv(desk / "forecast.csv")
    assert forecast["item_id"].tolist() == ["new"] * 8


def test_overwrite(desk: Path) -> None:
    (desk / "forecast.csv").write_text("old")
    assert predict("--overwrite") == 0
    assert len(pd.read_csv(desk / "forecast.csv")) == 16


def test_every_bad_input_is_counted() -> None:
    cases = bad_forecast.CASES
    assert len(cases) == 25
    assert len({case.name for case in cases}) == 25
    assert {case.kind for case in cases} == {"model", "history", "output"}


@pytest.mark.parametrize("case", bad_forecast.CASES, ids=names(bad_forecast.CASES))
def test_bad_input(case: Case, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.spoil(desk)
    before = tiny.snapshot(desk)
    code = predict(*case.command_line(desk))
    captured = capsys.readouterr()
    assert code == 2
    errors = errors_in(captured.err)
    assert len(errors) == 1, captured.err
    assert captured.err.endswith(f"{errors[0]}\n")
    assert [word for word in case.words if word not in errors[0]] == [], errors[0]
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert tiny.snapshot(desk) == before


def test_from_the_shell(desk: Path) -> None:
    command = [sys.executable, predict_forecast.__file__, "--model", "run", "--input", "series.csv"]
    done = forks.run([*command, "--output", "forecast.csv"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "16 forecast rows: forecast.csv\n"
    assert done.stderr == ""
    again = forks.run([*command, "--output", "forecast.csv"])
    assert again.returncode == 2
    assert again.stderr == "error: --output forecast.csv exists; add --overwrite or choose another file\n"
    assert predict("--overwrite") == 0, "another process gives the same forecast"
    assert len(pd.read_csv(desk / "forecast.csv")) == 16


@pytest.mark.parametrize("script", ["predict", "evaluate"])
def test_fault_15_a_forecast_that_is_no_number_is_an_error_that_names_it(
    script: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was written into the file, and into the scoreboard as inf or nan."""
    weights = load_file("run/model/model.safetensors")
    save_file({name: values * float("inf") for name, values in weights.items()}, "run/model/model.safetensors")
    Path("run/checksums.json").unlink()
    if script == "predict":
        assert predict() == 2
        begin = "error: the forecast of series 'a' from 2024-01-17 16:00:00 on is "
    else:
        assert eval_forecast.main(["--config", "run/config.yaml", "--model", "run"]) == 2
        begin = "error: run: the forecast of series 'a' from 2024-01-1"
    (error,) = errors_in(capsys.readouterr().err)
    assert error.startswith(begin)
    assert "at step 1 of 8; look for readings before it that are far too large" in error
    assert not Path("forecast.csv").exists()


WITHOUT_TORCH = """
import importlib, io, json, sys
from contextlib import redirect_stderr
for script, arguments, said in json.loads(sys.argv[1]):
    with redirect_stderr(io.StringIO()) as err:
        code = importlib.import_module(script).main(arguments)
    lines = err.getvalue().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0], (script, lines)
    heavy = [name for name in ("torch", "transformers", "scipy", "mlflow", "matplotlib") if name in sys.modules]
    assert not heavy, (script, arguments, heavy)
"""


def test_what_is_wrong_with_paths_columns_and_keys_is_said_before_torch_is_loaded(desk: Path) -> None:
    (desk / "other.csv").write_text("item_id,timestamp,lod\na,2024-01-01,1\n")
    predicts = ["--model", "run", "--output", "forecast.csv", "--input"]
    column = "no column 'load'"
    cases = [
        *(
            (script, [*first, "--config", "recipe.yaml", *more], said)
            for script, first in (("finetune_ttm", []), ("eval_forecast", ["--model", "run"]))
            for more, said in (
                (["data.path=nope.csv"], "nope.csv does not exist"),
                (["data.path=other.csv"], column),
                (["data.pth=x"], "did you mean data.path?"),
                (["data.source=cvs"], "did you mean csv?"),
            )
        ),
        ("finetune_ttm", ["--config", "nope.yaml"], "nope.yaml does not exist"),
        ("eval_forecast", ["--run", "nope"], "nope is no folder"),
        ("eval_forecast", ["--forecasts", "nope"], "nope is no folder"),
        ("predict_forecast", [*predicts, "nope.csv"], "nope.csv does not exist"),
        ("predict_forecast", [*predicts, "other.csv"], column),
        ("predict_forecast", [*predicts, "other.csv", "--rename", "load=lodd"], "no column 'lodd' (--rename)"),
        ("predict_forecast", ["--model", "nope", *predicts[2:], "series.csv"], "nope is not a run folder"),
        ("describe_data", ["nope.csv"], "nope.csv does not exist"),
        ("describe_data", ["series.csv", "target_columns=[lod]"], "no column 'lod'"),
        ("describe_data", ["series.csv", "targt=x"], "data.targt"),
    ]
    found_in = os.environ | {"PYTHONPATH": str(Path(finetune_ttm.__file__).parent)}
    command = [sys.executable, "-c", WITHOUT_TORCH, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=desk, env=found_in, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        ("load=lodd", "series.csv: no column 'lodd' (--rename); the columns are: item_id, timestamp, load, dose, plan"),
        ("lode=dose", "--rename lode=…: the model knows no 'lode', but load, timestamp, item_id"),
    ],
)
def test_a_rename_that_names_nothing_is_refused_though_the_models_own_name_is_there(rename, said, desk, capsys):
    assert predict("--rename", rename) == 2
    assert errors_in(capsys.readouterr().err) == [f"error: {said}"]
    assert not (desk / "forecast.csv").exists()
    assert predict("--rename", "load=dose", "--overwrite") == 2, "two columns would be called load"
    assert "column 'load' occurs twice" in capsys.readouterr().err
