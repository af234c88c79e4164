"""What a backtest keeps of every window, which weights a run keeps, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support import tiny
from unit.builders import grid_table, prepared, random_grids

from tstune.config.schema import EvaluationSection
from tstune.config.validation import validate
from tstune.data.prepared import PreparedData
from tstune.data.table import Roles
from tstune.data.windows import Batch
from tstune.errors import ConfigError, DataError
from tstune.evaluation import backtest as backtest_module
from tstune.evaluation.backtest import Backtest, ErrorSums, Scores, scored_columns, thinned
from tstune.evaluation.bootstrap import Blocks, rmse_band
from tstune.evaluation.metrics import mase, rmse
from tstune.evaluation.verdict import format_comparisons
from tstune.models.combined import AveragedForecasts, RememberedForecasts
from tstune.models.ttm import TTMForecaster
from tstune.runs.report.run_files import read_run
from tstune.runs.report.section_scores import scoreboard
from tstune.runtime.distributed import DistributedManager

CONTEXT, PREDICTION = 16, 6
ROLES = Roles(("x", "y"), ("dose",))
SCORES = ("window_rmse", "window_start", "window_item", "window_square", "window_absolute", "window_count")


class Held:
    """The last value of the context, times a factor that may change later."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor
        self.calls = 0

    def forecast(self, batch: Batch) -> torch.Tensor:
        self.calls += 1
        return (self.factor * batch["past_values"][:, -1:, :2]).expand(-1, PREDICTION, -1)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    """Three items with gaps, two targets and a covariate."""
    return prepared(grid_table(random_grids(ROLES, (300, 200, 250)), ROLES, max_gap=7), CONTEXT, PREDICTION)


def backtest_of(data: PreparedData, **options: object) -> Backtest:
    return Backtest(data, EvaluationSection(batch_size=13, seasonality=4), DistributedManager(), **options)


@pytest.fixture(scope="module")
def backtest(data: PreparedData) -> Backtest:
    return backtest_of(data)


@pytest.fixture(scope="module")
def scores(backtest: Backtest) -> Scores:
    return backtest.score(Held(1.1))


def same(one: Scores, other: Scores) -> None:
    assert one.metrics == other.metrics
    for name in (*SCORES, "rmse_by_step", "rmse_by_item", "windows_by_item"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


# Every window


def test_sums_of_every_window_by_hand(data: PreparedData, scores: Scores):
    panel, windows = data.panel, data.test
    starts = windows.starts(np.arange(len(windows)))
    assert scores.window_start.tolist() == starts.tolist() == sorted(starts)
    assert len(starts) > 50
    for index, start in enumerate(starts):
        origin = start + CONTEXT
        observed = panel.status[origin : origin + PREDICTION, :2] == 2
        held = np.float32(1.1) * windows[index]["past_values"][-1, :2].numpy()
        error = (held.astype(np.float64) - panel.values[origin : origin + PREDICTION, :2])[observed]
        assert scores.window_count[index] == observed.sum()
        assert scores.window_square[index] == pytest.approx((error**2).sum(), rel=1e-6)
        assert scores.window_absolute[index] == pytest.approx(np.abs(error).sum(), rel=1e-6)
        segment = np.searchsorted(panel.segment_start, start, side="right") - 1
        assert scores.window_item[index] == panel.segment_item[segment]
    assert (scores.window_count < 2 * PREDICTION).any(), "no gap in any forecast, so nothing is proven about them"


def test_windows_add_up_to_the_metrics(scores: Scores):
    count = scores.window_count.sum()
    assert scores.metrics["rmse"] == pytest.approx(np.sqrt(scores.window_square.sum() / count), rel=1e-12)
    assert scores.metrics["mae"] == pytest.approx(scores.window_absolute.sum() / count, rel=1e-12)
    for item, found in enumerate(scores.rmse_by_item):
        mine = scores.window_item == item
        expected = np.sqrt(scores.window_square[mine].sum() / scores.window_count[mine].sum())
        assert found == pytest.approx(expected, rel=1e-12)
        assert scores.windows_by_item[item] == mine.sum()
    assert scores.window_square.dtype == scores.window_absolute.dtype == np.float64


def test_every_column_is_known_beforehand(backtest: Backtest, scores: Scores):
    assert {*scored_columns(backtest.horizons), "num_windows"} == scores.metrics.keys()


def test_every_model_has_the_same_windows(backtest: Backtest, scores: Scores):
    other = backtest.score(Held(0.9))
    for name in ("window_start", "window_item", "window_count"):
        np.testing.assert_array_equal(getattr(other, name), getattr(scores, name), err_msg=name)
    assert (other.window_square != scores.window_square).any()


def test_ranks_that_take_turns_give_the_windows_of_one():
    """Two ranks hand in batches 0 and 1 as one, then 2 and 3; the last is filled up and cut again."""
    random = np.random.default_rng(0)
    shape, items = (40, PREDICTION, 2), random.integers(0, 3, 40)
    batch = {
        "forecast": random.normal(size=shape).astype(np.float32),
        "target": random.normal(size=shape).astype(np.float32),
        "observed": random.random(shape) < 0.8,
        "item": items,
        "start": np.arange(40) * 7,
    }
    whole, turns = (ErrorSums(PREDICTION, np.ones(2), np.ones((3, 2))) for _ in range(2))
    whole.add(**batch)
    for rows in (np.r_[0:8, 16:24], np.r_[8:16, 32:40], np.r_[24:32]):
        turns.add(**{name: values[rows] for name, values in batch.items()})
    one, two = whole.scores({}), turns.scores({})
    assert two.metrics == pytest.approx(one.metrics, rel=1e-12)
    for name in SCORES:
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name), err_msg=name)


# Forecasts that stay in memory


def test_kept_windows_are_those_of_the_sums(data: PreparedData, scores: Scores):
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


def test_the_last_reading_is_held_not_interpolated(data: PreparedData, scores: Scores):
    windows = scores.windows
    batch = data.test.gather(windows.start)
    known = batch["past_observed_mask"][:, -1, 0].numpy()
    np.testing.assert_array_equal(np.isnan(windows.last_reading), ~known)
    np.testing.assert_array_equal(windows.last_reading[known], batch["past_values"][:, -1, 0].numpy()[known])
    between = data.panel.status[windows.start + CONTEXT - 1, 0] == 1
    line = data.panel.values[windows.start + CONTEXT - 1, 0]
    assert (windows.last_reading[between] != line[between]).any(), "no window ends in a gap: nothing is proven"


def test_too_large_to_keep(data: PreparedData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backtest_module, "KEPT_BYTES", 100)
    small = backtest_of(data)
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
    scores = backtest_of(data, every=every, max_windows=most).score(Held())
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


# The mean of two forecasts


@pytest.mark.parametrize("budget", [1e9, 0.0], ids=["memory", "file"])
def test_remembering_changes_no_score_and_costs_no_forecast(
    data: PreparedData, backtest: Backtest, scores: Scores, budget: float
):
    model, late = Held(1.1), Held(0.7)
    before = RememberedForecasts(model, data.test, budget)
    same(backtest.score(before), scores)
    calls = model.calls
    model.factor = -5.0  # as training changes a model
    after = RememberedForecasts(late, data.test, budget)
    same(backtest.score(after), backtest.score(late))
    average = backtest.score(AveragedForecasts(before, after))
    assert model.calls == calls
    expected = backtest.score(Held(0.9)).metrics
    assert average.metrics == pytest.approx(expected, rel=1e-6)


def test_a_window_that_was_not_forecast_is_refused(data: PreparedData):
    remembered = RememberedForecasts(Held(1.0), data.test, 1e9)
    first, other = data.test.__getitems__([0, 1, 2]), data.test.__getitems__([1, 2, 3])
    forecast = remembered.forecast(first)
    assert torch.equal(remembered.recall(data.test.__getitems__([2, 0])), forecast[[2, 0]])
    with pytest.raises(DataError, match="not forecast on this process before"):
        remembered.recall(other)
    with pytest.raises(DataError, match="not among those of this part"):
        remembered.forecast(data.train.__getitems__([0]))


# Which weights a run keeps

HARMFUL = {"learning_rate": 50.0, "max_steps": 3, "eval_every_steps": 1, "scheduler": "constant"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_desk(tmp_path_factory.mktemp("keep"))


def run(desk: Path, output: Path, **sections: object) -> dict:
    values = tiny.recipe(desk / "series.csv", output, desk / "checkpoint", **sections)
    return TTMForecaster(validate(values, "test")).fit(output_dir=output)


@pytest.mark.parametrize("keep_best", [True, False])
def test_tuning_that_only_harms(desk: Path, tmp_path: Path, keep_best: bool):
    evaluation = {"keep_best": keep_best, "baselines": []}
    results = run(desk, tmp_path / "run", training=HARMFUL, evaluation=evaluation)
    written, text = tiny.read_json(tmp_path / "run/verdict.json"), (tmp_path / "run/README.md").read_text()
    before, after = (load_file(path / "model.safetensors") for path in (desk / "checkpoint", tmp_path / "run/model"))
    unchanged = all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert unchanged is keep_best
    assert results["kept"] == written["kept"] == ("zero_shot" if keep_best else "fine_tuned")
    if keep_best:
        assert results["verdict"].effect is None, "three blocks are too few for a verdict"
        assert "so the saved model is the zero-shot model" in results["scoreboard"]
        assert "The saved model is the zero-shot one: no step lowered the validation loss" in text
        assert results["metrics"]["average"] == pytest.approx(results["metrics"]["zero_shot"], rel=1e-6)
    else:
        assert results["training"].best_step > 0
        assert results["metrics"]["fine_tuned"]["rmse"] > 2 * results["metrics"]["zero_shot"]["rmse"]
        assert f"The saved model is the fine-tuned one: step {results['training'].best_step} had" in text


# In the run folder


@pytest.fixture(scope="module")
def finished(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("record")
    (folder / "metrics_of_the_backtest.py").write_text(
        "def worst(windows):\n    return float(abs(windows.forecast).max())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        results = run(
            desk, folder / "run", evaluation={"metrics": ["bias", "smape", "rmse", "metrics_of_the_backtest:worst"]}
        )
    return folder / "run", results


def test_the_time_of_each_model_is_shown(finished: tuple[Path, dict]):
    folder, results = finished
    models = tiny.read_json(folder / "environment.json")["models"]
    assert [name for name in results["metrics"] if name != "average"] == list(models)
    assert all(one["forecast_seconds"] > 0 for one in models.values())
    assert {name for name, one in models.items() if one.get("fit_seconds")} >= {"fine_tuned", "ridge"}
    assert "fit_seconds" not in models["zero_shot"]
    run = replace(read_run(folder), environment={"models": {"ridge": {"fit_seconds": 61.0, "validation_rmse": 0.5}}})
    shown = {column.header: column.cells for column in scoreboard(run).blocks[0].columns}
    place = run.models.index("ridge")
    assert shown["RMSE, validation (unit of the data)"][place] == "0.5000"
    assert shown["Time to fit"][place] == "1\u00a0min 1\u00a0s"
    assert shown["Time to fit"].count("–") == len(run.models) - 1


def test_fault_14_a_configured_metric_is_a_column_of_the_printed_scoreboard(finished: tuple[Path, dict]):
    folder, results = finished
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table_of(results["scoreboard"]))
    assert {"bias", "smape", "worst"} <= set(head)
    metrics = tiny.read_json(folder / "metrics.json")["test"]
    assert {row[0] for row in rows} == set(metrics)
    for row in rows:
        shown = dict(zip(head, row, strict=True))
        for name in ("bias", "smape", "worst"):
            assert float(shown[name]) == pytest.approx(metrics[row[0]][name], rel=1e-3)
    assert results["scoreboard"] in (folder / "README.md").read_text()


def table_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_a_run_says_whether_it_helped(finished: tuple[Path, dict]):
    folder, results = finished
    found, written = results["verdict"], tiny.read_json(folder / "verdict.json")
    names = ["zero_shot", "fine_tuned", "average", "persistence", "seasonal_naive", "context_mean", "ridge"]
    assert list(results["metrics"]) == names
    assert written == found.to_dict()
    assert results["scoreboard"].endswith(found.sentence)
    assert found.model == results["kept"] == "fine_tuned"
    assert [row["reference"] for row in written["comparisons"]] == [name for name in names if name != "fine_tuned"]
    assert (found.num_items, found.num_windows, found.block_days) == (2, 82, 1)
    for row in written["comparisons"]:
        ratio = results["metrics"]["fine_tuned"]["rmse"] / results["metrics"][row["reference"]]["rmse"]
        assert row["change"] == pytest.approx(ratio - 1, rel=1e-6)
    text = (folder / "README.md").read_text()
    assert "## Did it help" in text
    assert found.sentence in text
    assert format_comparisons(found) in text


def test_metrics_of_the_user(finished: tuple[Path, dict]):
    folder, results = finished
    written = tiny.read_json(folder / "metrics.json")["test"]
    assert written.keys() == results["metrics"].keys()
    for name, values in written.items():
        assert {"bias", "smape", "worst"} < values.keys(), name
    assert written["persistence"]["worst"] > 20
    assert len({values["worst"] for values in written.values()}) > 3


def test_windows_give_the_metrics_again(finished: tuple[Path, dict]):
    folder, results = finished
    table = pd.read_parquet(folder / "windows.parquet")
    assert len(table) == 82
    assert table[["item_id", "origin"]].duplicated().sum() == 0
    for name, metrics in results["metrics"].items():
        found = np.sqrt(table[f"square/{name}"].sum() / table["count"].sum())
        assert found == pytest.approx(metrics["rmse"], rel=1e-12)
        assert table[f"absolute/{name}"].sum() / table["count"].sum() == pytest.approx(metrics["mae"], rel=1e-12)


def test_the_record(finished: tuple[Path, dict]):
    folder, results = finished
    record = tiny.read_json(folder / "evaluation.json")
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
def test_a_wrong_metric_stops_before_training(desk: Path, tmp_path: Path, metric: str, said: str):
    with pytest.raises(ConfigError, match=said):
        run(desk, tmp_path / "run", evaluation={"metrics": [metric]})
    assert not (tmp_path / "run").exists()


def changed_loads(desk: Path, folder: Path, change: Callable[[pd.Series], pd.Series]) -> dict:
    """The data section of the desk's series with other values."""
    table = pd.read_csv(desk / "series.csv")
    table.assign(load=change(table["load"])).to_csv(folder / "series.csv", index=False)
    return {"path": str(folder / "series.csv")}


def test_glucose_in_the_wrong_unit_stops_before_training(desk: Path, tmp_path: Path):
    data = changed_loads(desk, tmp_path, lambda load: load * 10)  # 200 is glucose in mg/dL, not in mmol/L
    with pytest.raises(DataError, match=r"mmol/L cannot be glucose: is data\.unit right\?"):
        run(desk, tmp_path / "run", data=data | {"unit": "mmol/L", "valid_range": [0.0, 1e6]})
    assert not (tmp_path / "run").exists()


def test_a_run_on_glucose_has_its_section(desk: Path, tmp_path: Path):
    data = changed_loads(desk, tmp_path, lambda load: (load - 20) * 15 + 110) | {"unit": "mg/dL"}
    results = run(desk, tmp_path / "run", data=data, evaluation={"metrics": ["clarke", "hypo_low"]})
    assert sum(results["metrics"]["ridge"][f"clarke_{zone}"] for zone in "abcde") == pytest.approx(100)
    glucose = tiny.read_json(tmp_path / "run/evaluation.json")["glucose"]
    assert glucose["points"].keys() == results["metrics"].keys()
    mgdl, mmol = (glucose["points"]["fine_tuned"][unit]["rmse"] for unit in ("mg/dL", "mmol/L"))
    assert mgdl == pytest.approx(results["metrics"]["fine_tuned"]["rmse"], rel=1e-9)
    assert mmol == pytest.approx(mgdl / 18.016, rel=1e-9)
    assert "not for treatment decisions" in (tmp_path / "run/report.md").read_text()


def test_a_run_with_several_targets(desk: Path, tmp_path: Path):
    targets = {"target_columns": ["load", "dose"]}
    results = run(desk, tmp_path / "run", data=targets, evaluation={"baselines": ["ridge"]})
    record = tiny.read_json(tmp_path / "run/evaluation.json")
    assert record["targets"] == ["load", "dose"]
    assert len(record["examples"]) == 3
    assert {example["target"] for example in record["examples"]} == {"load"}
    assert record["rmse_by_step"]["ridge"]["values"][0] == results["metrics"]["ridge"]["rmse@1h"]
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
