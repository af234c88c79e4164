"""data.validation_path and data.test_path: files that are a part, instead of a share of data.path."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from support import tiny

import eval_forecast
import finetune_ttm
from tstune import TTMForecaster
from tstune.config.validation import validate
from tstune.errors import EXIT_OK, EXIT_USER_ERROR


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    tiny.write_desk(tmp_path, evaluation={"baselines": ["persistence", "ridge"], "report": False})
    tiny.series(items=("new", "newer"), rows=160, seed=3).to_csv(tmp_path / "others.csv", index=False)
    return tmp_path


def arguments(desk: Path, *settings: str) -> list[str]:
    return ["--config", str(desk / "recipe.yaml"), f"output_dir={desk / 'run'}", *settings]


def test_people_in_a_file_of_their_own_are_the_test(desk: Path, capsys: pytest.CaptureFixture[str]):
    assert finetune_ttm.main(arguments(desk, f"data.test_path={desk / 'others.csv'}")) == EXIT_OK
    manifest = tiny.read_json(desk / "run/manifest.json")
    assert sorted(manifest["unseen_items"]) == ["new", "newer"]
    metrics = tiny.read_json(desk / "run/metrics.json")["test"]
    expected = 2 * (160 - tiny.CONTEXT - tiny.PREDICTION + 1)
    assert {values["num_windows"] for values in metrics.values()} == {expected}
    capsys.readouterr()
    assert eval_forecast.main(["--run", str(desk / "run")]) == EXIT_OK, "the paths are in its configuration"
    assert "differ" not in capsys.readouterr().out


def test_the_parts_of_one_table_in_three_files_are_the_split(desk: Path):
    values = tiny.recipe(desk / "series.csv", desk / "run", desk / "checkpoint")
    whole = TTMForecaster(validate(values, origin="test")).prepare()
    table = pd.read_csv(desk / "series.csv")
    borders = {"train": (0, 240), "validation": (240, 320), "test": (320, 400)}
    number = table.groupby("item_id").cumcount()
    for part, (first, stop) in borders.items():
        table[(number >= first) & (number < stop)].to_csv(desk / f"{part}.csv", index=False)
    values["data"] |= {"path": str(desk / "train.csv")}
    values["data"] |= {f"{part}_path": str(desk / f"{part}.csv") for part in ("validation", "test")}
    parts = TTMForecaster(validate(values, origin="test")).prepare()
    assert {part: len(windows) for part, windows in parts.windows.items()} == {
        part: len(windows) for part, windows in whole.windows.items()
    }


def test_a_missing_file_is_named(desk: Path, capsys: pytest.CaptureFixture[str]):
    assert finetune_ttm.main(arguments(desk, "data.test_path=nowhere.csv")) == EXIT_USER_ERROR
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "nowhere.csv" in error
    assert not (desk / "run").exists()
