"""Metrics against NumPy, scikit-learn and utilsforecast; what was not observed never counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from unit.builders import grid_table, prepared, random_grids, single_table
from utilsforecast.losses import mase, mse

from tstune.config.schema import SplitSection
from tstune.data.preprocess import build_panel
from tstune.data.splits import split_panel
from tstune.data.table import Roles
from tstune.evaluation.backtest import ErrorSums, Scores, seasonal_scale

NAN = np.nan
WINDOWS, STEPS, TARGETS = 40, 8, 3
STD = np.array([0.5, 2.0, 10.0])
MASE_SCALE = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
HORIZONS = {"30min": 2, "1h": 8}

Batch = dict[str, np.ndarray]


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(0)
    shape = (WINDOWS, STEPS, TARGETS)
    return {
        "forecast": random.normal(size=shape).astype(np.float32) * STD.astype(np.float32),
        "target": random.normal(size=shape).astype(np.float32) * STD.astype(np.float32),
        "observed": random.random(shape) < 0.8,
        "item": random.integers(0, 2, WINDOWS),
        "start": np.arange(WINDOWS) * 7,
    }


def score(*batches: Batch, mase_scale: np.ndarray = MASE_SCALE) -> Scores:
    sums = ErrorSums(STEPS, STD, mase_scale)
    for one in batches:
        sums.add(**one)
    return sums.scores(HORIZONS)


def observed_pairs(batch: Batch, step: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    chosen = slice(None) if step is None else slice(step - 1, step)
    mask = batch["observed"][:, chosen]
    return (batch[name][:, chosen][mask].astype(np.float64) for name in ("target", "forecast"))


# Against others


def test_whole_path_against_scikit_learn(batch: Batch):
    metrics = score(batch).metrics
    target, forecast = observed_pairs(batch)
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(target, forecast), rel=1e-12)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(target, forecast), rel=1e-12)


@pytest.mark.parametrize(("label", "step"), HORIZONS.items())
def test_one_horizon_against_scikit_learn(batch: Batch, label: str, step: int):
    scores = score(batch)
    target, forecast = observed_pairs(batch, step)
    rmse = root_mean_squared_error(target, forecast)
    assert scores.metrics[f"rmse@{label}"] == pytest.approx(rmse, rel=1e-12)
    assert scores.metrics[f"mae@{label}"] == pytest.approx(mean_absolute_error(target, forecast), rel=1e-12)
    assert scores.rmse_by_step[step - 1] == pytest.approx(rmse, rel=1e-12)


def test_every_step_every_window_and_every_item_against_numpy(batch: Batch):
    scores = score(batch)
    error = np.where(batch["observed"], batch["forecast"].astype(np.float64) - batch["target"], NAN)
    np.testing.assert_allclose(scores.rmse_by_step, np.sqrt(np.nanmean(error**2, axis=(0, 2))), rtol=1e-12)
    np.testing.assert_allclose(scores.window_rmse, np.sqrt(np.nanmean(error**2, axis=(1, 2))), rtol=1e-12)
    by_item = [np.sqrt(np.nanmean(error[batch["item"] == item] ** 2)) for item in range(2)]
    np.testing.assert_allclose(scores.rmse_by_item, by_item, rtol=1e-12)
    assert scores.windows_by_item.tolist() == np.bincount(batch["item"]).tolist()
    assert scores.window_start.tolist() == batch["start"].tolist()
    assert scores.metrics["num_windows"] == WINDOWS


def test_scaled_metrics_are_those_of_scaled_values(batch: Batch):
    metrics = score(batch).metrics
    scaled = {name: (batch[name] / STD)[batch["observed"]] for name in ("target", "forecast")}
    mean_square = root_mean_squared_error(scaled["target"], scaled["forecast"]) ** 2
    assert metrics["mse_scaled"] == pytest.approx(mean_square, rel=1e-6)
    assert metrics["mae_scaled"] == pytest.approx(mean_absolute_error(scaled["target"], scaled["forecast"]), rel=1e-6)


def test_mase_divides_each_error_by_the_scale_of_its_item_and_channel(batch: Batch):
    error = np.abs(batch["forecast"].astype(np.float64) - batch["target"])
    scaled = error / MASE_SCALE[batch["item"]][:, None, :]
    assert score(batch).metrics["mase"] == pytest.approx(scaled[batch["observed"]].mean(), rel=1e-12)


def test_mase_without_a_scale_leaves_the_channel_out(batch: Batch):
    scale = MASE_SCALE.copy()
    scale[1, 2] = NAN
    kept = batch["observed"] & np.isfinite(scale[batch["item"]])[:, None, :]
    error = np.abs(batch["forecast"].astype(np.float64) - batch["target"])
    scaled = (error / scale[batch["item"]][:, None, :])[kept]
    assert score(batch, mase_scale=scale).metrics["mase"] == pytest.approx(scaled.mean(), rel=1e-12)
    assert np.isnan(score(batch, mase_scale=np.full((2, 3), NAN)).metrics["mase"])


@pytest.mark.parametrize("seasonality", [1, 24])
def test_mase_of_one_series_against_utilsforecast(seasonality: int):
    random = np.random.default_rng(1)
    values = 50 + 10 * np.sin(np.arange(200) / 24 * 2 * np.pi) + random.normal(size=200)
    data = prepared(single_table(values), 12, STEPS)
    window = data.test[0]
    begin = 160 + 12
    truth = values[begin : begin + STEPS].astype(np.float32)
    assert window["future_values"][:, 0].tolist() == truth.tolist()
    forecast = truth + random.normal(size=STEPS).astype(np.float32)
    sums = ErrorSums(STEPS, data.preprocessor.scaler.std, seasonal_scale(data.panel, data.split, seasonality))
    ones = np.ones((1, STEPS, 1), bool)
    sums.add(forecast[None, :, None], truth[None, :, None], ones, np.array([0]), np.array([begin]))
    ours = sums.scores({}).metrics

    future = pd.DataFrame({"unique_id": "a", "ds": np.arange(STEPS) + begin, "y": truth, "model": forecast})
    train = pd.DataFrame({"unique_id": "a", "ds": np.arange(140), "y": values[:140].astype(np.float32)})
    theirs = mase(future, ["model"], seasonality, train)["model"].item()
    assert ours["mase"] == pytest.approx(theirs, rel=1e-5)
    assert ours["rmse"] == pytest.approx(mse(future, ["model"])["model"].item() ** 0.5, rel=1e-5)


# The scale of MASE


def test_seasonal_scale_by_hand():
    values = [1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 0, 0, 0, 0, 0]
    data = prepared(single_table(values), 1, 1, split={"borders": [5, 10, 15]})
    assert seasonal_scale(data.panel, data.split, 1).tolist() == [[(1 + 2 + 4 + 8) / 4]]
    assert seasonal_scale(data.panel, data.split, 3).tolist() == [[(7 + 14) / 2]]


def test_seasonal_scale_uses_observed_training_pairs_of_one_segment():
    values = np.array([1.0, 3, NAN, 4, NAN, NAN, NAN, 10, 20, 50] + [100.0] * 20)
    data = prepared(single_table(values), 2, 1, max_gap=1, split={"borders": [9, 20, 30]})
    # 1→3 and 10→20; 3→(gap)→4 are no neighbours, 4→10 lie in two segments, 20→50 leaves the training part
    assert seasonal_scale(data.panel, data.split, 1).tolist() == [[(2 + 10) / 2]]
    assert seasonal_scale(data.panel, data.split, 2).tolist() == [[abs(4 - 3)]]


def test_seasonal_scale_of_each_item_and_channel():
    roles = Roles(("x", "y"), ("dose",))
    grids = random_grids(roles, (300, 200))
    panel = build_panel(grid_table(grids, roles), None, 50)  # nothing is cut out
    found = seasonal_scale(panel, split_panel(panel, SplitSection(), None), 5)
    assert found.shape == (2, 2)
    for item, grid in enumerate(grids.values()):
        train = grid[: int(0.7 * len(grid)), :2]
        expected = np.nanmean(np.abs(train[5:] - train[:-5]), axis=0)
        np.testing.assert_allclose(found[item], expected, rtol=1e-5)


def test_an_item_without_pairs_takes_the_pooled_scale():
    roles = Roles(("y",))
    grids = {
        "a": np.tile([0.0, 2.0], 100)[:, None],
        "b": np.arange(30.0)[:, None],
        "c": np.tile([0.0, 4.0], 50)[:, None],
    }
    data = prepared(grid_table(grids, roles), 4, 2)
    found = seasonal_scale(data.panel, data.split, 25)  # b has 21 training steps
    pairs_of_a, pairs_of_c = 140 - 25, 70 - 25
    pooled = (2 * pairs_of_a + 4 * pairs_of_c) / (pairs_of_a + pairs_of_c)
    np.testing.assert_allclose(found[:, 0], [2, pooled, 4])


def test_a_constant_series_and_a_season_longer_than_the_series_have_no_scale():
    data = prepared(single_table(np.ones(100)), 4, 2)
    assert np.isnan(seasonal_scale(data.panel, data.split, 1)).all()
    data = prepared(single_table(np.arange(100.0)), 4, 2)
    for seasonality in (70, 100, 1000):
        assert np.isnan(seasonal_scale(data.panel, data.split, seasonality)).all()
    assert seasonal_scale(data.panel, data.split, 69).tolist() == [[69.0]]


# What must not matter


@pytest.mark.parametrize("garbage", [1e9, -1e30, np.inf, NAN])
def test_targets_that_were_not_observed_never_count(batch: Batch, garbage: float):
    before = score(batch)
    assert (~batch["observed"]).sum() > 100
    after = score(batch | {"target": np.where(batch["observed"], batch["target"], np.float32(garbage))})
    assert after.metrics == before.metrics
    for name in ("rmse_by_step", "window_rmse", "rmse_by_item"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)


def test_observed_targets_do_count(batch: Batch):
    target = batch["target"].copy()
    target[tuple(np.argwhere(batch["observed"])[0])] = 1e9
    assert score(batch | {"target": target}).metrics["rmse"] > 1e6


@pytest.mark.parametrize("size", [1, 7, 39, 40])
def test_batch_by_batch_is_all_at_once(batch: Batch, size: int):
    whole = score(batch)
    pieces = [{name: part[first : first + size] for name, part in batch.items()} for first in range(0, WINDOWS, size)]
    parts = score(*pieces)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-12)
    assert list(parts.metrics) == list(whole.metrics)
    for name in ("rmse_by_step", "window_rmse", "window_start", "rmse_by_item", "windows_by_item"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12, err_msg=name)


def test_a_window_without_a_reading_is_listed_but_costs_nothing(batch: Batch):
    observed = batch["observed"].copy()
    observed[3] = False
    scores = score(batch | {"observed": observed})
    without = score({name: np.delete(part, 3, axis=0) for name, part in batch.items()})
    assert np.flatnonzero(np.isnan(scores.window_rmse)).tolist() == [3]
    assert scores.metrics["num_windows"] == WINDOWS
    assert without.metrics["num_windows"] == WINDOWS - 1
    for name in ("rmse", "mae", "mase", "mse_scaled", "rmse@30min"):
        assert scores.metrics[name] == pytest.approx(without.metrics[name], rel=1e-12)


def test_a_step_that_was_never_observed_has_no_score(batch: Batch):
    observed = batch["observed"].copy()
    observed[:, 7] = False
    scores = score(batch | {"observed": observed})
    assert np.isnan(scores.metrics["rmse@1h"])
    assert np.isnan(scores.metrics["mae@1h"])
    assert np.isfinite([scores.metrics[name] for name in ("rmse", "mae", "rmse@30min", "mase")]).all()


def test_nothing_observed_has_no_score(batch: Batch):
    metrics = score(batch | {"observed": np.zeros_like(batch["observed"])}).metrics
    assert metrics.pop("num_windows") == WINDOWS
    assert np.isnan(list(metrics.values())).all()


def test_large_float32_values_are_summed_in_double_precision(batch: Batch):
    shifted = batch | {name: batch[name] + np.float32(2**20) for name in ("forecast", "target")}
    error = (shifted["forecast"].astype(np.float64) - shifted["target"])[batch["observed"]]
    assert score(shifted).metrics["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-12)


def test_metric_names_and_types(batch: Batch):
    metrics = score(batch).metrics
    assert list(metrics) == [
        *("rmse", "mae", "rmse@30min", "mae@30min", "rmse@1h", "mae@1h"),
        *("mse_scaled", "mae_scaled", "mase", "num_windows"),
    ]
    assert {type(value) for name, value in metrics.items() if name != "num_windows"} == {float}
    assert type(metrics["num_windows"]) is int
