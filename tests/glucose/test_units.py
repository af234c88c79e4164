"""mg/dL and mmol/L: one factor, and limits as published in each."""

from __future__ import annotations

import numpy as np
import pytest

from tstune.errors import ConfigError
from tstune.glucose.units import LIMITS, MGDL_PER_MMOL, from_mgdl, glucose_unit, limit, to_mgdl


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
