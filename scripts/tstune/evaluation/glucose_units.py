"""The two units of glucose and the limits that consensus statements give in both."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tstune.errors import ConfigError

MGDL_PER_MMOL = 18.016
"""mg/dL in one mmol/L, from the molar mass of glucose, 180.16 g/mol. Some files and packages use 18."""

GlucoseUnit = Literal["mg/dL", "mmol/L"]
UNITS: tuple[GlucoseUnit, ...] = ("mg/dL", "mmol/L")

LIMITS: dict[str, dict[GlucoseUnit, float]] = {
    "very_low": {"mg/dL": 54.0, "mmol/L": 3.0},
    "low": {"mg/dL": 70.0, "mmol/L": 3.9},
    "high": {"mg/dL": 180.0, "mmol/L": 10.0},
    "very_high": {"mg/dL": 250.0, "mmol/L": 13.9},
}
"""Limits as published in each unit (Battelino et al. 2019, doi:10.2337/dci19-0028): 3.9 mmol/L is *not* computed from
70 mg/dL, so a reading keeps its side in the unit it was taken in."""


def glucose_unit(text: str | None) -> GlucoseUnit:
    """The unit that `data.unit` names, whatever its capitals.

    Raises:
        ConfigError: no unit of glucose.
    """
    for unit in UNITS:
        if text is not None and text.replace(" ", "").lower() == unit.lower():
            return unit
    raise ConfigError(f"data.unit: {text!r} is no unit of glucose; use one of {', '.join(UNITS)}")


def is_glucose(text: str | None) -> bool:
    """True if `data.unit` names a unit of glucose."""
    return text is not None and text.replace(" ", "").lower() in {unit.lower() for unit in UNITS}


def limit(name: str, unit: str | None) -> float:
    """A limit of `LIMITS` in the unit of the data."""
    return LIMITS[name][glucose_unit(unit)]


def to_mgdl(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Values in mg/dL as float64."""
    values = np.asarray(values, dtype=np.float64)
    return values * MGDL_PER_MMOL if glucose_unit(unit) == "mmol/L" else values


def from_mgdl(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Values given in mg/dL in the unit of the data, as float64."""
    values = np.asarray(values, dtype=np.float64)
    return values / MGDL_PER_MMOL if glucose_unit(unit) == "mmol/L" else values
