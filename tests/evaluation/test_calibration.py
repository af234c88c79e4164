"""Coverage, its confidence interval, PIT and reliability against SciPy, utilsforecast, simulation and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import utilsforecast.losses as theirs
from evaluation.forecasts import LEVELS, WINDOWS, quantile_windows
from scipy.stats import binomtest, norm
from sklearn.metrics import mean_pinball_loss

from tstune.errors import DataError
from tstune.evaluation.metrics import (
    available_intervals,
    calibration_error,
    central_interval,
    interval_coverage,
    pit_histogram,
    reliability_table,
)


def covered(truth, quantiles, observed, nominal=0.8, **more):
    return interval_coverage(truth, *central_interval(quantiles, LEVELS, nominal), observed, nominal, **more)


@pytest.mark.parametrize("nominal", [0.5, 0.8, 0.95])
def test_coverage_against_utilsforecast(nominal):
    truth, quantiles, observed = quantile_windows()
    lower, upper = central_interval(quantiles, LEVELS, nominal)
    found = covered(truth, quantiles, observed, nominal)
    frame = pd.DataFrame({"unique_id": "a", "ds": range(observed.sum()), "y": truth[observed]})
    frame["model-lo-9"], frame["model-hi-9"] = lower[observed], upper[observed]
    assert found.coverage == pytest.approx(theirs.coverage(frame, ["model"], 9)["model"].item(), rel=1e-12)
    assert found.width == pytest.approx(2 * 30 * norm.ppf((1 + nominal) / 2))
    assert found.coverage == pytest.approx(nominal, abs=0.05)
    assert (found.num_readings, found.num_blocks) == (observed.sum(), WINDOWS)
    assert found.low < found.coverage < found.high


def test_coverage_by_hand():
    truth, seen = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]]), np.array([[True] * 3, [True, True, False]])
    lower, upper = np.full((2, 3), 2.0), np.array([[4.0, 4.0, 4.0], [4.0, 4.0, 100.0]])
    found = interval_coverage(truth, lower, upper, seen, 0.5)
    assert found.coverage == 3 / 5, "the borders belong to the interval, an unobserved reading does not count"
    assert found.width == 2


def test_central_interval_finds_its_levels():
    quantiles = np.arange(7.0)[None, None]
    lower, upper = central_interval(quantiles, LEVELS, 0.95)
    assert (lower.item(), upper.item()) == (0, 6)
    assert available_intervals(LEVELS) == (0.5, 0.8, 0.95)
    assert available_intervals(np.arange(1, 10) / 10) == (0.8,)
    with pytest.raises(
        DataError, match=r"the 90% interval needs the quantiles 0.05 and 0.95, forecast were 0.025, 0.1"
    ):
        central_interval(quantiles, LEVELS, 0.9)


# How sure the coverage is


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_is_clopper_pearson_of_the_blocks(share):
    truth, seen, blocks = np.full((40, 6), 5.0 - 5 * share), np.ones((40, 6), bool), np.arange(40) // 4
    found = interval_coverage(truth, np.full((40, 6), -1.0), np.full((40, 6), 1.0), seen, 0.8, blocks)
    expected = binomtest(int(10 * share), 10).proportion_ci(0.95, "exact")
    assert found.coverage == share
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_block_says_nothing_about_others():
    truth, quantiles, observed = quantile_windows()
    found = covered(truth, quantiles, observed, blocks=np.zeros(WINDOWS, int))
    assert np.isfinite(found.coverage)
    assert np.isnan([found.low, found.high]).all()
    assert found.num_blocks == 1


def test_the_interval_holds_the_true_coverage_as_often_as_it_says():
    """Twelve people whose coverage differs: blocks by person are right, windows for themselves are far too sure."""
    random = np.random.default_rng(0)
    person = np.repeat(np.arange(12), 30)
    hits = {"person": 0, "window": 0}
    repeats = 400
    for _ in range(repeats):
        own = random.beta(8, 2, 12)[person]  # mean 0.8
        inside = random.random((360, 4)) < own[:, None]
        for name, blocks in (("person", person), ("window", None)):
            found = interval_coverage(
                np.where(inside, 0.0, 2.0), -np.ones((360, 4)), np.ones((360, 4)), np.ones((360, 4), bool), 0.8, blocks
            )
            hits[name] += found.low <= 0.8 <= found.high
    assert 0.92 <= hits["person"] / repeats <= 0.985
    assert hits["window"] / repeats < 0.6


def test_a_block_without_a_reading_is_none():
    truth, quantiles, observed = quantile_windows()
    item = np.arange(WINDOWS) % 5
    before = covered(truth[item != 0], quantiles[item != 0], observed[item != 0], blocks=item[item != 0])
    after = covered(truth, quantiles, observed & (item != 0)[:, None], blocks=item)
    assert after == before
    assert after.num_blocks == 4


def test_nothing_observed_has_no_coverage():
    truth, quantiles, observed = quantile_windows()
    found = covered(truth, quantiles, np.zeros_like(observed))
    assert np.isnan([found.coverage, found.low, found.high, found.width]).all()
    assert (found.num_readings, found.num_blocks) == (0, 0)


def test_blocks_of_the_wrong_length():
    with pytest.raises(DataError, match=r"blocks have shape \(3,\): give one whole number for each of 60 windows"):
        covered(*quantile_windows(), blocks=np.arange(3))


# PIT and reliability


def test_pit_histogram_by_hand():
    quantiles = np.tile([1.0, 2.0, 3.0], (1, 6, 1))
    truth = np.array([[0.5, 1.0, 1.5, 2.5, 9.0, 7.0]])
    found = pit_histogram(truth, quantiles, [0.2, 0.5, 0.8], np.array([[True] * 5 + [False]]))
    np.testing.assert_allclose(found["edges"], [0, 0.2, 0.5, 0.8, 1])
    np.testing.assert_allclose(found["share"], [2 / 5, 1 / 5, 1 / 5, 1 / 5])
    np.testing.assert_allclose(found["expected"], [0.2, 0.3, 0.3, 0.2])


def test_pit_shows_forecasts_that_are_too_sure_and_too_shy():
    share = {}
    for spread in (15.0, 30.0, 60.0):
        truth, quantiles, observed = quantile_windows(spread=spread)
        found = pit_histogram(truth, quantiles, LEVELS, observed)
        assert found["share"].sum() == pytest.approx(1)
        share[spread] = found["share"] / found["expected"]
    assert share[15.0][[0, -1]].min() > 3
    assert share[60.0][[0, -1]].max() < 0.2
    np.testing.assert_allclose(share[30.0], 1, atol=0.45)


def test_reliability_by_numpy_and_scikit_learn():
    truth, quantiles, observed = quantile_windows(spread=20.0)
    found = reliability_table(truth, quantiles, LEVELS, observed)
    expected = [(truth[observed] <= quantiles[..., i][observed]).mean() for i in range(len(LEVELS))]
    np.testing.assert_allclose(found["observed"], expected)
    error = calibration_error(truth, quantiles, LEVELS, observed)
    assert error == pytest.approx(np.abs(np.array(expected) - LEVELS).mean())
    loss = [mean_pinball_loss(truth[observed], quantiles[..., i][observed], alpha=q) for i, q in enumerate(LEVELS)]
    np.testing.assert_allclose(found["pinball"], loss)
    assert error > calibration_error(*_calibrated())


def _calibrated():
    truth, quantiles, observed = quantile_windows(spread=30.0)
    return truth, quantiles, LEVELS, observed


def test_reliability_adds_up_to_the_pit_histogram():
    truth, quantiles, observed = quantile_windows(spread=20.0)
    table = reliability_table(truth, quantiles, LEVELS, observed)
    histogram = pit_histogram(truth, quantiles, LEVELS, observed)
    np.testing.assert_allclose(np.cumsum(histogram["share"])[:-1], table["observed"])
