"""Metrics by name and by dotted path, and the windows they are computed from."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation.forecasts import LEVELS, STEPS, WINDOWS, quantile_windows

from tstune.errors import ConfigError, DataError
from tstune.evaluation import metrics
from tstune.evaluation.metrics import builtin_metrics, compute_metrics, find_metric, missing_for
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.glucose.error_grids import CLARKE

OWN = """
FACTOR = 3
def worst_error(windows):
    return abs(windows.forecast - windows.truth)[windows.observed].max()
def two(windows):
    return {"first": 1, "second": 2.5}
def words(windows):
    return "good"
def rmse(windows):
    return 0
"""


@pytest.fixture(scope="module")
def windows() -> ScoredWindows:
    truth, quantiles, observed = quantile_windows()
    truth = np.where(observed, np.clip(truth, 40, None), 1e7)
    return ScoredWindows(
        truth,
        quantiles[..., 3],
        observed,
        item=np.arange(WINDOWS) % 4,
        timestamps=np.datetime64("2024-03-01", "ns") + np.arange(WINDOWS * STEPS).reshape(WINDOWS, STEPS),
        last_reading=np.full(WINDOWS, 120.0),
        quantiles=quantiles,
        levels=LEVELS,
        mase_scale=np.full(WINDOWS, 10.0),
        unit="mg/dL",
    )


@pytest.fixture
def own_metrics(tmp_path, monkeypatch):
    (tmp_path / "own_metrics.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def test_all_metrics_at_once(windows):
    found = compute_metrics(builtin_metrics(), windows)
    assert len(found) == 50
    assert {type(value) for value in found.values()} == {float}
    assert np.isfinite(list(found.values())).all()
    assert list(found)[:9] == ["rmse", "mae", "bias", "mape", "smape", "mard", "mase", "pinball", "wql"]


def test_columns_are_the_numbers_of_the_functions(windows):
    ours = (windows.truth, windows.forecast, windows.observed)
    found = compute_metrics(["mase", "mard", "clarke", "coverage"], windows)
    assert found["mard"] == metrics.mard(*ours)
    assert found["mase"] == metrics.mase(*ours, windows.mase_scale)
    zones = CLARKE.zones(windows.truth[windows.observed], windows.forecast[windows.observed], "mg/dL")
    assert [found[f"clarke_{zone}"] for zone in "abcde"] == pytest.approx([100 * (zones == i).mean() for i in range(5)])
    assert list(found)[-6:] == ["coverage_50", "width_50", "coverage_80", "width_80", "coverage_95", "width_95"]


def test_unobserved_readings_reach_no_metric(windows):
    truth = np.where(windows.observed, windows.truth, np.nan)
    changed = ScoredWindows(**{**vars(windows), "truth": truth})
    assert compute_metrics(builtin_metrics(), changed) == compute_metrics(builtin_metrics(), windows)


def test_hypo_uses_quantiles_where_there_are_some(windows):
    point = ScoredWindows(**{**vars(windows), "quantiles": None, "levels": None})
    with_quantiles, without = (compute_metrics(["hypo_low"], one) for one in (windows, point))
    assert list(without) == ["low_base_rate", "low_auroc", "low_auprc", "low_brier"]
    assert with_quantiles["low_base_rate"] == without["low_base_rate"] > 0.1
    assert with_quantiles["low_brier"] != without["low_brier"]


def test_own_metrics(own_metrics, windows):
    found = compute_metrics(["rmse", "own_metrics:worst_error", "own_metrics:two"], windows)
    error = np.abs(windows.forecast - windows.truth)[windows.observed]
    assert list(found) == ["rmse", "worst_error", "first", "second"]
    assert found["worst_error"] == error.max()
    assert (found["first"], found["second"]) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rsme", "unknown metric 'rsme'; use rmse, mae, .* or your own function as package.module:function"),
        ("own_metrics", "unknown metric 'own_metrics'"),
        (":two", "unknown metric ':two'"),
        (
            "own_metric:two",
            r"own_metric:two cannot be imported \(ModuleNotFoundError: .* 'own_metric'\); is its folder on",
        ),
        ("own_metrics:three", "own_metrics:three is not a function of own_metrics"),
        ("own_metrics:FACTOR", "own_metrics:FACTOR is not a function of own_metrics"),
    ],
)
def test_metrics_that_cannot_be_found(own_metrics, name, message):
    with pytest.raises(ConfigError, match=f"evaluation.metrics: {message}"):
        find_metric(name)


def test_metrics_that_give_no_numbers_or_the_same_column(own_metrics, windows):
    with pytest.raises(ConfigError, match="own_metrics:words gave str for 'words'; a metric returns a number"):
        compute_metrics(["own_metrics:words"], windows)
    with pytest.raises(ConfigError, match="'rmse' is computed twice, again by own_metrics:rmse"):
        compute_metrics(["rmse", "own_metrics:rmse"], windows)


@pytest.mark.parametrize(
    ("name", "needs"), [("wql", "quantiles, levels"), ("mase", "mase_scale"), ("clarke", "unit"), ("hypo_low", "unit")]
)
def test_what_a_metric_needs(windows, name, needs):
    bare = ScoredWindows(windows.truth, windows.forecast, windows.observed)
    assert ", ".join(missing_for(name, bare)) == needs
    assert missing_for(name, windows) == ()
    with pytest.raises(ConfigError, match=f"evaluation.metrics: {name} needs {needs}, which these windows do not have"):
        compute_metrics([name], bare)


# Windows


def test_selected_windows_and_steps(windows):
    chosen = windows.select(windows.item == 2).steps(slice(3, 5))
    assert chosen.truth.shape == chosen.observed.shape == chosen.timestamps.shape == (WINDOWS // 4, 2)
    assert chosen.quantiles.shape == (WINDOWS // 4, 2, len(LEVELS))
    assert set(chosen.item) == {2}
    np.testing.assert_array_equal(chosen.truth, windows.truth[2::4, 3:5])
    np.testing.assert_array_equal(chosen.levels, LEVELS)
    assert chosen.unit == "mg/dL"
    bare = ScoredWindows(windows.truth, windows.forecast, windows.observed).select(np.array([5, 1])).steps(slice(1))
    np.testing.assert_array_equal(bare.forecast, windows.forecast[[5, 1], :1])


def test_windows_that_do_not_belong_together(windows):
    with pytest.raises(DataError, match=r"the forecast has shape \(60, 11\), the truth \(60, 12\)"):
        ScoredWindows(windows.truth, windows.forecast[:, 1:], windows.observed)
    with pytest.raises(DataError, match="item has 3 entries for 60 windows"):
        ScoredWindows(windows.truth, windows.forecast, windows.observed, item=np.zeros(3))
