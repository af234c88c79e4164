"""A run folder of an earlier version of the project still does everything: `tests/support/old_run`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import eval_forecast
import manage_registry
import predict_forecast
import write_report
from tstune.models.ttm import TTMForecaster

OLD = Path(__file__).parents[1] / "support" / "old_run"


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with recipe.yaml, series.csv, checkpoint/ and run/, as they were."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / "forecast.csv").unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_forecasts_as_it_did(desk: Path) -> None:
    assert TTMForecaster.load("run").model_type == "ttm"
    assert predict_forecast.main(["--model", "run", "--input", "series.csv", "--output", "forecast.csv"]) == 0
    then, now = pd.read_csv(OLD / "forecast.csv"), pd.read_csv(desk / "forecast.csv")
    assert len(now) == 16
    assert now[["item_id", "timestamp"]].equals(then[["item_id", "timestamp"]])
    np.testing.assert_allclose(now["load"], then["load"], rtol=0, atol=2e-6)  # the file holds six decimals


def test_scoreboard_is_rebuilt_to_the_digit(capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_forecast.main(["--run", "run"]) == 0
    assert "identical to metrics.json: 5 models, 10 metrics" in capsys.readouterr().out


def test_report_is_drawn(desk: Path) -> None:
    assert write_report.main(["run"]) == 0
    page = (desk / "run" / "report.md").read_text()
    assert "ttm on csv, lora" in page
    assert all(name in page for name in ("persistence", "ridge", "zero-shot"))


def test_registers(desk: Path) -> None:
    registry = ["--registry", "models"]
    assert manage_registry.main([*registry, "register", "run", "--name", "load"]) == 0
    arguments = ["--model", "registry:load:1", "--registry", "models", "--input", "series.csv"]
    assert predict_forecast.main([*arguments, "--output", "forecast.csv"]) == 0
    assert len(pd.read_csv(desk / "forecast.csv")) == 16
