"""What a run leaves behind for the report and for later comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny
from unit.builders import grid_table, prepared, random_grids

from tstune.config.schema import EvaluationSection
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError, DataError
from tstune.evaluation import backtest as backtest_module
from tstune.evaluation.backtest import Backtest, thinned
from tstune.evaluation.bootstrap import Blocks, rmse_band
from tstune.evaluation.point_metrics import mase, rmse
from tstune.models.ttm import TTMForecaster
from tstune.runtime.distributed import DistributedManager

CONTEXT, PREDICTION = 16, 6
ROLES = Roles(("x", "y"), ("dose",))


class Held:
    """The last value of the context."""

    def forecast(self, batch: Batch) -> torch.Tensor:
        return batch["past_values"][:, -1:, :2].expand(-1, PREDICTION, -1)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    """Three items with gaps, two targets and a covariate."""
    return prepared(grid_table(random_grids(ROLES, (300, 200, 250)), ROLES, max_gap=7), CONTEXT, PREDICTION)


def backtest(data: PreparedData, **options: object) -> Backtest:
    return Backtest(data, EvaluationSection(batch_size=13, seasonality=4), DistributedManager(), **options)


# Forecasts that stay in memory


def test_kept_windows_are_those_of_the_sums(data: PreparedData):
    scores = backtest(data).score(Held())
    windows = scores.windows
    np.testing.assert_array_equal(windows.start, scores.window_start)
    np.testing.assert_array_equal(windows.item, scores.window_item)
    np.testing.assert_array_equal(windows.observed.sum(axis=(1, 2)), scores.window_count)
    assert rmse(windows.truth, windows.forecast, windows.observed) == pytest.approx(scores.metrics["rmse"], rel=1e-6)
    found = mase(windows.truth, windows.forecast, windows.observed, windows.mase_scale)
    assert found == pytest.approx(scores.metrics["mase"], rel=1e-6)
    origin = windows.start + CONTEXT
    np.testing.assert_array_equal(windows.timestamps[:, 0], data.panel.timestamps[origin])
    np.testing.assert_array_equal(windows.timestamps[:, -1], data.panel.timestamps[origin + PREDICTION - 1])


def test_the_last_reading_is_held_not_interpolated(data: PreparedData):
    test = data.test
    windows = backtest(data).score(Held()).windows
    batch = test.gather(windows.start)
    known = batch["past_observed_mask"][:, -1, 0].numpy()
    np.testing.assert_array_equal(np.isnan(windows.last_reading), ~known)
    np.testing.assert_array_equal(windows.last_reading[known], batch["past_values"][:, -1, 0].numpy()[known])
    between = data.panel.status[windows.start + CONTEXT - 1, 0] == 1
    line = data.panel.values[windows.start + CONTEXT - 1, 0]
    assert (windows.last_reading[between] != line[between]).any(), "no window ends in a gap: nothing is proven"


def test_too_large_to_keep(data: PreparedData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backtest_module, "KEPT_BYTES", 100)
    small = backtest(data)
    assert not small.keeps_forecasts
    assert small.score(Held()).windows is None


@pytest.mark.parametrize(("every", "most", "count"), [(1, None, 87), (4, None, 22), (1, 10, 10), (4, 10, 10)])
def test_some_of_the_windows(data: PreparedData, every: int, most: int | None, count: int):
    whole = data.test.starts(np.arange(len(data.test)))
    assert len(whole) == 87
    some = thinned(data.test, every, most)
    starts = some.starts(np.arange(len(some)))
    assert len(starts) == count == len(np.unique(starts))
    assert set(starts) <= set(whole[::every])
    assert starts[0] == whole[0]
    scores = backtest(data, every=every, max_windows=most).score(Held())
    np.testing.assert_array_equal(scores.window_start, starts)


# Interval of the error at each step


def test_the_band_covers_the_truth_as_often_as_it_says():
    """Independent blocks with errors of deviation 2: 95 % of the bands hold 2."""
    inside = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        item = np.repeat(np.arange(40), 5)
        scale = np.repeat(random.normal(0, 0.2, 40), 5)[:, None]  # what the windows of an item share
        square = (2 * np.exp(scale) / np.exp(0.04) * random.normal(size=(200, 3))) ** 2
        blocks = Blocks(item, np.zeros(200, int), 1)
        low, high = rmse_band(square, np.ones((200, 3)), blocks, draws=300, seed=seed)
        inside.append((low <= 2) & (high >= 2))
    assert 0.88 <= np.mean(inside) <= 0.98


def test_no_band_from_a_few_blocks():
    blocks = Blocks(np.zeros(30, int), np.repeat(np.arange(3), 10), 1)
    assert rmse_band(np.ones((30, 2)), np.ones((30, 2)), blocks) is None


# In the run folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tiny.write_desk(tmp_path_factory.mktemp("record"))
    (folder / "my_metrics.py").write_text("def worst(windows):\n    return float(abs(windows.forecast).max())\n")
    evaluation = {"metrics": ["bias", "smape", "rmse", "my_metrics:worst"]}
    values = tiny.recipe(folder / "series.csv", folder / "run", folder / "checkpoint", evaluation=evaluation)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        results = TTMForecaster(validate(values, "test")).fit(output_dir=folder / "run")
    return folder / "run", results


def test_metrics_of_the_user(finished: tuple[Path, dict]):
    run, results = finished
    written = tiny.read_json(run / "metrics.json")["test"]
    assert written.keys() == results["metrics"].keys()
    for name, values in written.items():
        assert {"bias", "smape", "worst"} < values.keys(), name
    assert written["persistence"]["worst"] > 20
    assert len({values["worst"] for values in written.values()}) > 3


def test_windows_give_the_metrics_again(finished: tuple[Path, dict]):
    run, results = finished
    table = pd.read_parquet(run / "windows.parquet")
    assert len(table) == 82
    assert table[["item_id", "origin"]].duplicated().sum() == 0
    for name, metrics in results["metrics"].items():
        found = np.sqrt(table[f"square/{name}"].sum() / table["count"].sum())
        assert found == pytest.approx(metrics["rmse"], rel=1e-12)
        assert table[f"absolute/{name}"].sum() / table["count"].sum() == pytest.approx(metrics["mae"], rel=1e-12)


def test_the_record(finished: tuple[Path, dict]):
    run, results = finished
    record = tiny.read_json(run / "evaluation.json")
    assert record["judged"] == "fine_tuned"
    assert record["models"] == sorted(results["metrics"], key=lambda name: results["metrics"][name]["rmse"])
    assert record["horizons"] == {"1h": 1, "8h": 8}
    assert (record["glucose"], record["uncertainty"]) == (None, None)
    for name in record["models"]:
        by_step = record["rmse_by_step"][name]
        assert by_step["values"][0] == results["metrics"][name]["rmse@1h"]
        if by_step["low"] is not None:
            assert all(np.array(by_step["low"]) <= by_step["values"])
            assert all(np.array(by_step["high"]) >= by_step["values"])
    items = {row["item"]: row for row in record["per_item"]}
    assert items.keys() == {"a", "b"}
    assert sum(row["num_windows"] for row in items.values()) == 82
    assert all(row["seen"] for row in items.values())
    pooled = sum(row["rmse"]["ridge"] ** 2 * row["num_windows"] for row in items.values()) / 82
    assert np.sqrt(pooled) == pytest.approx(results["metrics"]["ridge"]["rmse"], rel=1e-9)
    assert {example["kind"] for example in record["examples"]} == {"best", "typical", "worst"}
    for example in record["examples"]:
        assert len(example["truth"]) == 8
        assert example["forecasts"].keys() == results["metrics"].keys()


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("mrad", "unknown metric 'mrad'"),
        ("clarke", "clarke is about glucose in mg/dL or mmol/L; data.unit is None"),
        ("wql", "wql is about quantiles; set forecast.quantiles"),
        ("nowhere:metric", "nowhere:metric cannot be imported"),
    ],
)
def test_a_wrong_metric_stops_before_training(tmp_path: Path, metric: str, said: str):
    desk = tiny.write_desk(tmp_path)
    values = tiny.recipe(desk / "series.csv", desk / "run", desk / "checkpoint", evaluation={"metrics": [metric]})
    with pytest.raises(ConfigError, match=said):
        TTMForecaster(validate(values, "test")).fit(output_dir=desk / "run")
    assert not (desk / "run").exists()


def test_glucose_in_the_wrong_unit_stops_before_training(tmp_path: Path):
    desk = tiny.write_desk(tmp_path)
    table = pd.read_csv(desk / "series.csv")
    table["load"] *= 10  # 200 is glucose in mg/dL, not in mmol/L
    table.to_csv(desk / "series.csv", index=False)
    changes = {"data": {"unit": "mmol/L", "valid_range": [0.0, 1e6]}}
    values = tiny.recipe(desk / "series.csv", desk / "run", desk / "checkpoint", **changes)
    with pytest.raises(DataError, match=r"mmol/L cannot be glucose: is data\.unit right\?"):
        TTMForecaster(validate(values, "test")).fit(output_dir=desk / "run")
    assert not (desk / "run").exists()


def test_a_run_on_glucose_has_its_section(tmp_path: Path):
    desk = tiny.write_desk(tmp_path)
    table = pd.read_csv(desk / "series.csv")
    table["load"] = (table["load"] - 20) * 15 + 110
    table.to_csv(desk / "series.csv", index=False)
    changes = {"data": {"unit": "mg/dL"}, "evaluation": {"metrics": ["clarke", "hypo_low"]}}
    values = tiny.recipe(desk / "series.csv", desk / "run", desk / "checkpoint", **changes)
    results = TTMForecaster(validate(values, "test")).fit(output_dir=desk / "run")
    assert sum(results["metrics"]["ridge"][f"clarke_{zone}"] for zone in "abcde") == pytest.approx(100)
    glucose = tiny.read_json(desk / "run/evaluation.json")["glucose"]
    assert glucose["points"].keys() == results["metrics"].keys()
    mgdl, mmol = (glucose["points"]["fine_tuned"][unit]["rmse"] for unit in ("mg/dL", "mmol/L"))
    assert mgdl == pytest.approx(results["metrics"]["fine_tuned"]["rmse"], rel=1e-9)
    assert mmol == pytest.approx(mgdl / 18.016, rel=1e-9)
    text = (desk / "run/report.md").read_text()
    assert "not for treatment decisions" in text


def test_a_run_with_several_targets(tmp_path: Path):
    desk = tiny.write_desk(tmp_path)
    changes = {"data": {"target_columns": ["load", "dose"]}, "evaluation": {"baselines": ["ridge"]}}
    values = tiny.recipe(desk / "series.csv", desk / "run", desk / "checkpoint", **changes)
    results = TTMForecaster(validate(values, "test")).fit(output_dir=desk / "run")
    record = tiny.read_json(desk / "run/evaluation.json")
    assert record["targets"] == ["load", "dose"]
    assert len(record["examples"]) == 3
    assert {example["target"] for example in record["examples"]} == {"load"}
    assert record["rmse_by_step"]["ridge"]["values"][0] == results["metrics"]["ridge"]["rmse@1h"]
    assert (desk / "run/report.html").stat().st_size > 10_000
