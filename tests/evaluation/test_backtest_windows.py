"""What a backtest keeps of every window, the mean of two forecasts, and which weights a run keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
from tstune.errors import DataError
from tstune.evaluation.backtest import Backtest
from tstune.evaluation.metrics import ErrorSums, Scores
from tstune.evaluation.verdict import format_comparisons
from tstune.models.combined import AveragedForecasts, RememberedForecasts
from tstune.models.ttm import TTMForecaster
from tstune.runtime.distributed import DistributedManager

CONTEXT, PREDICTION = 16, 6
ROLES = Roles(("x", "y"), ("dose",))
SCORES = ("window_rmse", "window_start", "window_item", "window_square", "window_absolute", "window_count")


class Held:
    """The last value of the context, times a factor that may change later."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.calls = 0

    def forecast(self, batch: Batch) -> torch.Tensor:
        self.calls += 1
        return (self.factor * batch["past_values"][:, -1:, :2]).expand(-1, PREDICTION, -1)


@pytest.fixture(scope="module")
def data() -> PreparedData:
    """Three items with gaps, two targets and a covariate."""
    return prepared(grid_table(random_grids(ROLES, (300, 200, 250)), ROLES, max_gap=7), CONTEXT, PREDICTION)


@pytest.fixture(scope="module")
def backtest(data: PreparedData) -> Backtest:
    return Backtest(data, EvaluationSection(batch_size=13, seasonality=4), DistributedManager())


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
    for item, rmse in enumerate(scores.rmse_by_item):
        mine = scores.window_item == item
        expected = np.sqrt(scores.window_square[mine].sum() / scores.window_count[mine].sum())
        assert rmse == pytest.approx(expected, rel=1e-12)
        assert scores.windows_by_item[item] == mine.sum()
    assert scores.window_square.dtype == scores.window_absolute.dtype == np.float64


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
        assert results["verdict"].effect == "no clear difference"
        assert "so the saved model is the zero-shot model" in results["scoreboard"]
        assert "The saved model is the zero-shot one: no step lowered the validation loss" in text
        assert results["metrics"]["average"] == pytest.approx(results["metrics"]["zero_shot"], rel=1e-6)
    else:
        assert results["training"].best_step > 0
        assert results["metrics"]["fine_tuned"]["rmse"] > 2 * results["metrics"]["zero_shot"]["rmse"]
        assert f"The saved model is the fine-tuned one: step {results['training'].best_step} had" in text


def test_a_run_says_whether_it_helped(desk: Path, tmp_path: Path):
    results = run(desk, tmp_path / "run")
    found, written = results["verdict"], tiny.read_json(tmp_path / "run/verdict.json")
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
    text = (tmp_path / "run/README.md").read_text()
    assert "## Did it help" in text
    assert found.sentence in text
    assert format_comparisons(found) in text
