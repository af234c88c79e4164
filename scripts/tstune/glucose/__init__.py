"""All that the project knows about glucose. General code reaches it through `tstune.domains`, by the hooks below.

Nothing but the units is loaded until a hook needs more: a run on electricity never reads the rest.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from tstune.domains import Domain
from tstune.glucose.units import (
    MG_DL,
    MGDL_PER_MMOL_CONVERTED,
    MGDL_PER_MMOL_COPIED,
    MMOL_L,
    UNITS,
    glucose_unit,
    is_glucose_column,
    limit,
    unit_factor,
    unit_of,
)

RESEARCH_ONLY = "Research use only, not for treatment decisions."

_CARD_LIMITS = """- **It is not a medical device.** It was not validated for clinical use and must not decide about
  insulin doses, carbohydrates, alarms or any other treatment.
- Glucose after a meal or a bolus depends on things the model may not see; errors grow with the lead time and are
  largest where they matter most, in fast falls and rises. Scores of all readings say little about rare lows.
- Sensors, populations and therapies other than those of the training data need an evaluation of their own."""

_METRIC_KINDS = {
    "unit": r"(rmse|bias)_.*",
    "share": r".*_(base_rate|auroc|auprc|brier)",
    "%": r"(clarke|parkes|dts)_[a-e]|.*_difference",
}


def _hook(module: str, name: str) -> Callable:
    """A hook that is a function of one of our modules, which is loaded when it is called."""

    def call(self: Domain, *args: Any) -> Any:
        return getattr(importlib.import_module(f"tstune.glucose.{module}"), name)(*args)

    return call


class Glucose(Domain):
    """What each hook of `Domain` is for glucose."""

    name = "glucose"
    about = "glucose in mg/dL or mmol/L"
    units = UNITS
    words = ("Low", "High")
    warning = RESEARCH_ONLY
    tags = ("glucose", "diabetes")
    weights = MappingProxyType({"5min": "builtin:glucose"})
    limits = _CARD_LIMITS
    examples = MappingProxyType({"hypo": "With a low reading"})

    read_words = _hook("cleaning", "words_as_limits")
    find_unit = _hook("cleaning", "find_unit")
    valid_range = _hook("cleaning", "valid_range")
    doubtful = _hook("cleaning", "doubtful")
    cohort_columns = _hook("scores", "cohort_columns")
    published_splits = _hook("published", "presets")
    check_readings = _hook("error_grids", "check_glucose")
    part = _hook("scores", "glucose_section")
    example = _hook("hypoglycaemia", "low_example")
    metrics = _hook("scores", "metrics")
    report_parts = _hook("report", "parts")
    other_units = _hook("report", "other_units")

    unit_of, owns_column, factor = staticmethod(unit_of), staticmethod(is_glucose_column), staticmethod(unit_factor)

    def cleaning_factor(self, old: str, new: str) -> float:
        return unit_factor(old, new, MGDL_PER_MMOL_CONVERTED)

    def copy_factor(self, unit: str) -> float:
        return unit_factor(unit, MG_DL, MGDL_PER_MMOL_COPIED)

    def scores(self, num_targets: int) -> bool:
        return num_targets == 1

    def metric_kind(self, column: str) -> str | None:
        return next((kind for kind, pattern in _METRIC_KINDS.items() if re.fullmatch(pattern, column)), None)

    def band(self, unit: str) -> tuple[float, float]:
        return limit("low", unit), limit("high", unit)

    def typical(self, unit: str) -> tuple[float, float]:
        return {MG_DL: (120.0, 30.0), MMOL_L: (6.7, 1.7)}[glucose_unit(unit)]


DOMAIN: Domain = Glucose()
