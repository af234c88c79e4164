"""Point metrics against scikit-learn, utilsforecast, the metrics of a run, and hand-worked cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import utilsforecast.losses as theirs
from evaluation.forecasts import STEPS, WINDOWS, point_windows
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error, root_mean_squared_error

from tstune.errors import DataError
from tstune.evaluation import metrics as ours
from tstune.evaluation.backtest import ErrorSums

ALL = (ours.rmse, ours.mae, ours.bias, ours.mape, ours.smape, ours.mard)
SKLEARN = {
    "rmse": root_mean_squared_error,
    "mae": mean_absolute_error,
    "mape": lambda truth, forecast: 100 * mean_absolute_percentage_error(truth, forecast),
    "mard": lambda truth, forecast: 100 * mean_absolute_percentage_error(truth, forecast),
    "bias": lambda truth, forecast: np.mean(forecast - truth),
    "smape": lambda truth, forecast: np.mean(200 * np.abs(forecast - truth) / (np.abs(forecast) + np.abs(truth))),
}


# Against others


@pytest.mark.parametrize("targets", [None, 2])
@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_path_and_every_step_against_scikit_learn(metric, targets):
    truth, forecast, observed = point_windows(targets=targets)
    reference = SKLEARN[metric.__name__]
    assert metric(truth, forecast, observed) == pytest.approx(reference(truth[observed], forecast[observed]), rel=1e-12)
    by_step = metric(truth, forecast, observed, axis=0 if targets is None else (0, 2))
    assert by_step.shape == (STEPS,)
    for step in range(STEPS):
        mask = observed[:, step]
        expected = reference(truth[:, step][mask], forecast[:, step][mask])
        assert by_step[step] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "factor"), [("rmse", 1), ("mae", 1), ("bias", 1), ("mape", 100), ("smape", 200)], ids=lambda v: str(v)
)
def test_every_window_against_utilsforecast(name, factor):
    truth, forecast, observed = point_windows()
    window, step = np.nonzero(observed)
    frame = pd.DataFrame({"unique_id": window, "ds": step, "y": truth[observed], "model": forecast[observed]})
    expected = factor * getattr(theirs, name)(frame, ["model"]).sort_values("unique_id")["model"].to_numpy()
    np.testing.assert_allclose(getattr(ours, name)(truth, forecast, observed, axis=1), expected, rtol=1e-10)


def test_mase_against_utilsforecast():
    random = np.random.default_rng(3)
    history = random.normal(100, 20, (4, 50))
    truth, forecast = random.normal(100, 20, (2, 4, STEPS))
    name = np.repeat(np.arange(4), 50)
    train = pd.DataFrame({"unique_id": name, "ds": np.tile(np.arange(50), 4), "y": history.ravel()})
    name = np.repeat(np.arange(4), STEPS)
    frame = pd.DataFrame({"unique_id": name, "ds": np.tile(np.arange(50, 50 + STEPS), 4), "y": truth.ravel()})
    expected = theirs.mase(frame.assign(model=forecast.ravel()), ["model"], 7, train)["model"].to_numpy()
    scale = np.abs(history[:, 7:] - history[:, :-7]).mean(axis=1)
    ones = np.ones_like(truth, bool)
    np.testing.assert_allclose(ours.mase(truth, forecast, ones, scale, axis=1), expected, rtol=1e-12)
    assert ours.mase(truth, forecast, ones, scale) == pytest.approx(expected.mean(), rel=1e-12)


def test_the_numbers_of_a_run():
    truth, forecast, observed = point_windows(targets=2)
    item = np.arange(WINDOWS) % 3
    scale = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 6.0]])
    sums = ErrorSums(STEPS, np.ones(2), scale)
    sums.add(forecast, truth, observed, item, np.arange(WINDOWS))
    run = sums.scores({"an hour": 12}).metrics
    assert ours.rmse(truth, forecast, observed) == pytest.approx(run["rmse"], rel=1e-12)
    assert ours.mae(truth, forecast, observed) == pytest.approx(run["mae"], rel=1e-12)
    assert ours.mase(truth, forecast, observed, scale[item]) == pytest.approx(run["mase"], rel=1e-12)
    at = ours.at_horizons(ours.rmse, truth, forecast, observed, {"an hour": 12})
    assert at["an hour"] == pytest.approx(run["rmse@an hour"], rel=1e-12)


# By hand

TRUTH = np.array([[100.0, 200.0], [50.0, 80.0]])
FORECAST = np.array([[110.0, 180.0], [60.0, 80.0]])
SEEN = np.array([[True, True], [True, False]])


def test_mase_by_hand_leaves_out_what_has_no_scale():
    assert ours.mase(TRUTH, FORECAST, SEEN, np.array([10.0, 5.0])) == pytest.approx((1 + 2 + 2) / 3)
    assert ours.mase(TRUTH, FORECAST, SEEN, np.array([10.0, np.nan])) == pytest.approx((1 + 2) / 2)
    assert np.isnan(ours.mase(TRUTH, FORECAST, SEEN, np.array([np.nan, np.nan])))


def test_at_a_horizon_by_hand():
    truth, forecast = np.zeros((2, 4)), np.tile([1.0, 2.0, 3.0, 4.0], (2, 1))
    seen, horizons = np.ones((2, 4), bool), {"15min": 3, "20min": 4}
    assert ours.at_horizons(ours.mae, truth, forecast, seen, horizons) == {"15min": 3.0, "20min": 4.0}
    scale = np.array([0.5, 0.5])
    assert ours.at_horizons(ours.mase, truth, forecast, seen, {"15min": 3}, scale=scale) == {"15min": 6.0}


def test_percentages_of_zero():
    zero, one, seen = np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1), bool)
    assert ours.smape(zero, zero, seen) == 0
    assert ours.smape(zero, one, seen) == 200
    assert np.isinf(ours.mape(zero, one, seen))
    with pytest.raises(DataError, match="readings above 0, found 0"):
        ours.mard(zero, one, seen)


# What must not matter, and what must


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1e30])
@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_what_was_not_observed_never_counts(metric, garbage):
    truth, forecast, observed = point_windows()
    before = metric(truth, forecast, observed, axis=0)
    truth, forecast = np.where(observed, truth, garbage), np.where(observed, forecast, garbage)
    np.testing.assert_array_equal(metric(truth, forecast, observed, axis=0), before)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_a_forecast_that_is_not_a_number_is_not_dropped(metric):
    truth, forecast, observed = point_windows()
    window, step = np.argwhere(observed)[0]
    forecast[window, step] = np.nan
    by_step = metric(truth, forecast, observed, axis=0)
    assert np.flatnonzero(np.isnan(by_step)).tolist() == [step]


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.__name__)
def test_nothing_observed_has_no_score(metric):
    truth, forecast, observed = point_windows()
    assert np.isnan(metric(truth, forecast, np.zeros_like(observed)))


def test_one_mask_for_all_targets():
    truth, forecast, observed = point_windows(targets=3)
    first = observed[..., 0]
    truth = np.where(first[..., None], np.abs(forecast) + 1, truth)
    each = [ours.rmse(truth[..., c], forecast[..., c], first) for c in range(3)]
    assert ours.rmse(truth, forecast, first) == pytest.approx(np.mean(np.square(each)) ** 0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forecast": np.zeros((2, 3))}, r"forecast has shape \(2, 3\), the truth \(2, 2\)"),
        ({"observed": np.ones((2, 3), bool)}, r"mask has shape \(2, 3\)"),
        ({"observed": np.ones(2, bool)}, "mask has shape"),
    ],
)
def test_arrays_that_do_not_belong_together(change, message):
    arrays = {"truth": TRUTH, "forecast": FORECAST, "observed": SEEN} | change
    with pytest.raises(DataError, match=message):
        ours.rmse(**arrays)


def test_a_horizon_beyond_the_forecast_and_a_scale_of_the_wrong_shape():
    with pytest.raises(DataError, match="horizon 2h is step 24, but the forecast has 2 steps"):
        ours.at_horizons(ours.mae, TRUTH, FORECAST, SEEN, {"2h": 24})
    with pytest.raises(DataError, match=r"the scale has shape \(3,\)"):
        ours.mase(TRUTH, FORECAST, SEEN, np.ones(3))
