"""Scores of a series do not depend on its level, nor do its forecasts but for the level itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import tiny

from tstune.config.schema import DataSection, EvaluationSection
from tstune.config.validation import validate
from tstune.data.prepared import prepare_data
from tstune.evaluation.backtest import Backtest
from tstune.models.registry import load_model, model_class
from tstune.runtime.distributed import DistributedManager

STEPS = np.random.default_rng(0).integers(-12, 14, 400).cumsum() + np.round(30 * np.sin(np.arange(400) * np.pi / 12))


def judged(folder: Path, level: float) -> tuple[dict, pd.DataFrame]:
    """Metrics of a run on the series at a level, and the forecast of its saved model, without the level."""
    stamps = pd.date_range("2024-01-01", periods=len(STEPS), freq="h")
    path, run = folder / f"{level:g}.csv", folder / f"run-{level:g}"
    pd.DataFrame({"timestamp": stamps, "load": (STEPS + level).astype(np.int64)}).to_csv(path, index=False)
    evaluation = {"baselines": ["persistence", "ridge"], "metrics": ["mape"]}
    recipe = tiny.recipe(path, run, data={"item_id_column": None}, evaluation=evaluation)
    results = model_class("ttm")(validate(recipe, "test")).fit(output_dir=run)
    forecast = load_model(run).predict(path)
    return results["metrics"], forecast["load"].astype(np.float64) - level


def test_scores_and_forecasts_do_not_depend_on_the_level(tmp_path: Path):
    level = 1e12
    (low, low_forecast), (high, high_forecast) = judged(tmp_path, 1e2), judged(tmp_path, level)
    assert {"fine_tuned", "persistence", "ridge"} <= set(low)
    for row, scores in low.items():
        for name in ("rmse", "mae", "mase", "rmse@8h"):
            assert high[row][name] == pytest.approx(scores[name], rel=2e-5), (row, name)
        assert high[row]["mape"] == pytest.approx(100 * high[row]["mae"] / level, rel=1e-4)  # of the whole value
    np.testing.assert_allclose(high_forecast, low_forecast, atol=1e-3)


def test_what_a_stored_panel_is_counted_from(tmp_path: Path):
    frame = pd.concat([tiny.series(items=("a",)).assign(load=lambda t: t["load"] + 1e9), tiny.series(items=("b",))])
    frame.to_parquet(tmp_path / "x.parquet")
    data = {"path": str(tmp_path / "x.parquet"), "item_id_column": "item_id", "target_columns": ["load"]}
    section = DataSection(source="csv", cache=str(tmp_path / "cache"), **data)
    stored = prepare_data(section, 32, 8)
    plain = prepare_data(section.model_copy(update={"cache": None}), 32, 8)
    np.testing.assert_array_equal(stored.panel.level, plain.panel.level)
    np.testing.assert_array_equal(stored.panel.values, plain.panel.values)
    assert stored.panel.fingerprint() == plain.panel.fingerprint()
    assert set(stored.preprocessor.levels) == {"a"}
    happened = Backtest(stored, EvaluationSection(horizons=[]), DistributedManager()).happened.counted_from_zero()
    assert happened.truth.dtype == np.float64
    assert happened.truth[happened.item == 0].min() > 1e9 - 1
    assert happened.truth[happened.item == 1].max() < 1e3
