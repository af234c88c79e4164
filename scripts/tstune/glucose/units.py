"""Is it glucose, in which of its two units, and what consensus statements say in each."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from tstune.errors import ConfigError

GlucoseUnit = Literal["mg/dL", "mmol/L"]
MG_DL: GlucoseUnit = "mg/dL"
MMOL_L: GlucoseUnit = "mmol/L"
UNITS: tuple[GlucoseUnit, ...] = (MG_DL, MMOL_L)

MGDL_PER_MMOL = 18.016
"""mg/dL in one mmol/L, from the molar mass of glucose, 180.16 g/mol: of every error, limit and forecast."""
MGDL_PER_MMOL_CONVERTED = 18.0156
"""What `data.convert_to` multiplies by, from 180.156 g/mol. It stays, so that a saved model reads what it has learned
from and its run folder is rebuilt to the last digit."""
MGDL_PER_MMOL_COPIED = 18.0
"""What files and packages mostly take: copies of a reading in the other unit are recognised under it."""

LIMITS: dict[str, dict[GlucoseUnit, float]] = {
    "very_low": {MG_DL: 54.0, MMOL_L: 3.0},
    "low": {MG_DL: 70.0, MMOL_L: 3.9},
    "high": {MG_DL: 180.0, MMOL_L: 10.0},
    "very_high": {MG_DL: 250.0, MMOL_L: 13.9},
}
"""Limits as published in each unit (Battelino et al. 2019, doi:10.2337/dci19-0028): 3.9 mmol/L is *not* computed from
70 mg/dL, so a reading keeps its side in the unit it was taken in."""

_WORDS = {"bg", "bgl", "cgm", "sgv", "gl", "bloodsugar"}


def unit_of(text: str | None) -> GlucoseUnit | None:
    """The unit of glucose that `data.unit` or a column's name states, however it is written; None for others."""
    letters = re.sub(r"[^a-z]", "", (text or "").lower())
    return MG_DL if "mgdl" in letters else MMOL_L if "mmol" in letters else None


def is_glucose_column(name: str) -> bool:
    """True for names such as ``glucose_value_mg_dl``, ``bg(mmol/L)`` or ``Sensor Glucose``."""
    lower = name.lower()
    return "glucose" in lower or not _WORDS.isdisjoint(re.findall(r"[a-z]+", lower))


def glucose_unit(text: str | None) -> GlucoseUnit:
    """`unit_of`, where nothing else will do."""
    unit = unit_of(text)
    if unit is None:
        raise ConfigError(f"data.unit: {text!r} is no unit of glucose; use one of {', '.join(UNITS)}")
    return unit


def unit_factor(old: str | None, new: str | None, per_mmol: float = MGDL_PER_MMOL) -> float:
    """Factor from one glucose unit to the other."""
    old, new = glucose_unit(old), glucose_unit(new)
    if old == new:
        return 1.0
    return per_mmol if new == MG_DL else 1 / per_mmol


def limit(name: str, unit: str | None) -> float:
    """A limit of `LIMITS` in the unit of the data."""
    return LIMITS[name][glucose_unit(unit)]


def to_mgdl(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Values in mg/dL as float64."""
    values = np.asarray(values, dtype=np.float64)
    return values * MGDL_PER_MMOL if glucose_unit(unit) == MMOL_L else values


def from_mgdl(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Values given in mg/dL in the unit of the data, as float64."""
    values = np.asarray(values, dtype=np.float64)
    return values / MGDL_PER_MMOL if glucose_unit(unit) == MMOL_L else values
