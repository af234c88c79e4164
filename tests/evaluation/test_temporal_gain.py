"""Temporal gain of forecasts whose delay is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from tstune.errors import DataError
from tstune.evaluation.metrics import lag_correlations, temporal_gain

STEPS = 12


def delayed_windows(delay: int, step: int = STEPS, every: int = 1, noise: float = 0.0):
    """Windows of a smooth random series; the forecast at `step` is the truth `delay` steps before it."""
    random = np.random.default_rng(0)
    series = np.convolve(random.normal(size=3000), np.hanning(25), mode="valid") + 8
    origin = np.arange(0, 2900, every)
    truth = series[origin[:, None] + 1 + np.arange(STEPS)]
    forecast = random.normal(8, 1, truth.shape)
    forecast[:, step - 1] = series[origin + step - delay] + random.normal(0, noise, len(origin))
    return truth, forecast, np.ones(truth.shape, bool), series[origin]


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("delay", [0, 1, 5, 11, 12])
def test_the_delay_is_found(delay, every):
    found = temporal_gain(*delayed_windows(delay, every=every, noise=0.1), STEPS, 5)
    assert found == 5 * (STEPS - delay)


def test_persistence_gains_nothing_and_a_perfect_forecast_the_horizon():
    truth, _, observed, last = delayed_windows(0)
    persistence = np.repeat(last[:, None], STEPS, axis=1)
    for step in (1, 6, 12):
        assert temporal_gain(truth, persistence, observed, last, step, 5) == 0
        assert temporal_gain(truth, truth, observed, last, step, 5) == 5 * step


def test_what_resembles_the_readings_at_no_delay_gains_nothing():
    """Yesterday's readings gained the whole horizon: their best correlation, a weak one, lay at delay 0."""
    truth, _, observed, last = delayed_windows(0)
    yesterday = np.roll(truth, 288, axis=0) + 0.01 * truth
    assert np.nanmax(lag_correlations(truth, yesterday, observed, last, 6)) > 0
    assert np.isnan(temporal_gain(truth, yesterday, observed, last, 6, 5))


def test_correlations_against_numpy():
    truth, forecast, observed, last = delayed_windows(3, step=6)
    found = lag_correlations(truth, forecast, observed, last, 6)
    assert found.shape == (7,)
    assert found[3] == pytest.approx(1)
    for lag in range(6):
        assert found[lag] == pytest.approx(np.corrcoef(forecast[:, 5], truth[:, 5 - lag])[0, 1])
    assert found[6] == pytest.approx(np.corrcoef(forecast[:, 5], last)[0, 1])


def test_a_fifteen_minute_sensor():
    truth, forecast, observed, last = delayed_windows(3, every=3)
    place = np.arange(len(truth))[:, None] * 3 + 1 + np.arange(STEPS)
    observed = place % 3 == 0  # the reading at the horizon and those 15, 30, 45 and 60 minutes before it
    truth = np.where(observed, truth, np.nan)
    correlation = lag_correlations(truth, forecast, observed, last, STEPS)
    assert np.flatnonzero(np.isfinite(correlation)).tolist() == [0, 3, 6, 9, 12]
    assert temporal_gain(truth, forecast, observed, last, STEPS, 5) == 45


def test_too_few_windows_and_a_flat_forecast_have_no_gain():
    arrays = delayed_windows(3)
    assert np.isnan(temporal_gain(*(part[:9] for part in arrays), STEPS, 5))
    truth, forecast, observed, last = arrays
    assert np.isnan(temporal_gain(truth, np.full_like(forecast, 8), observed, last, STEPS, 5))
    unknown = lag_correlations(truth, forecast, observed, np.full_like(last, np.nan), STEPS)
    assert np.flatnonzero(np.isnan(unknown)).tolist() == [STEPS]


@pytest.mark.parametrize("step", [0, 13])
def test_a_horizon_beyond_the_forecast(step):
    with pytest.raises(DataError, match=f"horizon step {step} is beyond the 12 steps"):
        temporal_gain(*delayed_windows(0), step, 5)
