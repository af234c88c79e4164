"""mg/dL and mmol/L, and errors and time by glucose range: by hand, NumPy and a second count."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation.forecasts import point_windows

from tstune.errors import ConfigError
from tstune.evaluation.metrics import bias, rmse
from tstune.glucose.scores import (
    RANGES,
    by_range,
    glycaemic_profile,
    profile_of_forecast,
    range_number,
    readings_by_range,
)
from tstune.glucose.units import LIMITS, MGDL_PER_MMOL, from_mgdl, glucose_unit, limit, to_mgdl

# Units


def test_the_factor_is_the_molar_mass_of_glucose():
    carbon, hydrogen, oxygen = 12.011, 1.008, 15.999
    assert pytest.approx((6 * carbon + 12 * hydrogen + 6 * oxygen) / 10, abs=5e-4) == MGDL_PER_MMOL


def test_there_and_back():
    values = np.array([2.2, 3.9, 10.0, 27.8])
    np.testing.assert_allclose(to_mgdl(values, "mmol/L"), [39.6352, 70.2624, 180.16, 500.8448])
    np.testing.assert_allclose(from_mgdl(to_mgdl(values, "mmol/L"), "mmol/L"), values, rtol=1e-15)
    assert to_mgdl(values, "mg/dL").tolist() == from_mgdl(values, "mg/dL").tolist() == values.tolist()


def test_limits_of_both_units_mean_the_same_to_their_last_digit():
    for name, by_unit in LIMITS.items():
        assert round(by_unit["mg/dL"] / MGDL_PER_MMOL, 1) == by_unit["mmol/L"], name
    assert (limit("low", "mmol/L"), limit("low", "mg/dL")) == (3.9, 70)


@pytest.mark.parametrize("text", ["mmol/L", "mmol/l", "MMOL/L", " mmol / L"])
def test_capitals_do_not_matter(text):
    assert glucose_unit(text) == "mmol/L"


@pytest.mark.parametrize("text", ["g/L", "", None, "mg"])
def test_other_units_are_refused(text):
    with pytest.raises(ConfigError, match=r"data.unit: .* is no unit of glucose; use one of mg/dL, mmol/L"):
        glucose_unit(text)


# Ranges


@pytest.mark.parametrize(("unit", "values"), [("mmol/L", [3.89, 3.9, 10.0, 10.01]), ("mg/dL", [69.9, 70, 180, 180.1])])
def test_both_limits_belong_to_the_middle(unit, values):
    assert [RANGES[i] for i in range_number(np.array(values), unit)] == ["low", "in_range", "in_range", "high"]


def test_metrics_by_range_against_numpy():
    truth, forecast, observed = point_windows()
    found = by_range(rmse, truth, forecast, observed, "mg/dL")
    masks = {"low": truth < 70, "in_range": (truth >= 70) & (truth <= 180), "high": truth > 180}
    count = readings_by_range(truth, observed, "mg/dL")
    for name, mask in masks.items():
        chosen = mask & observed
        assert found[name] == pytest.approx(np.sqrt(np.mean((forecast - truth)[chosen] ** 2)), rel=1e-12)
        assert count[name] == chosen.sum() > 10
    assert by_range(bias, truth, forecast, observed, "mg/dL")["high"] < 1e5, "unobserved readings are far above"


def test_an_empty_range_has_no_score():
    found = by_range(rmse, np.full((1, 3), 5.0), np.full((1, 3), 6.0), np.ones((1, 3), bool), "mmol/L")
    assert found["in_range"] == 1
    assert np.isnan([found["low"], found["high"]]).all()


def test_profile_by_hand():
    values = np.array([[2.9, 3.0, 3.8, 3.9, 10.0], [10.1, 13.9, 14.0, 6.0, 99.0]])
    observed = np.ones((2, 5), bool)
    observed[1, 4] = False
    found = glycaemic_profile(values, observed, "mmol/L")
    expected = {"tbr2": 1, "tbr1": 2, "tir": 3, "tar1": 2, "tar2": 1}
    assert {name: found[name] for name in expected} == pytest.approx({n: 100 * c / 9 for n, c in expected.items()})
    readings = values[observed]
    assert found["mean"] == pytest.approx(readings.mean())
    assert found["sd"] == pytest.approx(np.sqrt(((readings - readings.mean()) ** 2).sum() / 8))
    assert found["cv"] == pytest.approx(100 * found["sd"] / found["mean"])
    assert found["gmi"] == pytest.approx(3.31 + 0.02392 * 18.016 * readings.mean())


def test_the_published_gmi():
    """Bergenstal 2018, table 1: a mean of 150 mg/dL is a GMI of 6.9 %."""
    for mean, gmi in {100: 5.7, 125: 6.3, 150: 6.9, 175: 7.5, 200: 8.1, 250: 9.3, 300: 10.5, 350: 11.7}.items():
        assert round(glycaemic_profile(np.full(3, float(mean)), np.ones(3, bool), "mg/dL")["gmi"], 1) == gmi


def test_a_flat_forecast_has_too_little_variability():
    truth, _, observed = point_windows()
    flat = np.full_like(truth, truth[observed].mean())
    found = profile_of_forecast(truth, flat, observed, "mg/dL")
    assert found["truth"] == glycaemic_profile(truth, observed, "mg/dL")
    assert found["forecast"]["tir"] == 100
    assert found["difference"]["cv"] == pytest.approx(-found["truth"]["cv"])
    assert found["difference"]["tir"] == pytest.approx(100 - found["truth"]["tir"])
    assert found["difference"]["mean"] == pytest.approx(0)


def test_nothing_observed_has_no_profile():
    truth, _, observed = point_windows()
    assert np.isnan(list(glycaemic_profile(truth, np.zeros_like(observed), "mg/dL").values())).all()
