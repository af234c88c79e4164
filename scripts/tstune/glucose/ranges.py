"""Glucose ranges: errors within each, and time in range and variability of a forecast against the truth.

Ranges of Battelino et al. 2019, doi:10.2337/dci19-0028, with the limits of each unit (`units.LIMITS`).
"""

from __future__ import annotations

import numpy as np

from tstune.evaluation.metrics import PointMetric
from tstune.evaluation.scored_windows import observed_like, paired
from tstune.glucose.units import MG_DL, glucose_unit, limit, to_mgdl

RANGES = ("low", "in_range", "high")
"""Below 3.9, 3.9 to 10.0 and above 10.0 mmol/L; below 70, 70 to 180 and above 180 mg/dL."""


def range_number(values: np.ndarray, unit: str | None) -> np.ndarray:
    """Index into `RANGES` of each reading, both limits belonging to the middle."""
    values = np.asarray(values)
    return (values >= limit("low", unit)).astype(np.int8) + (values > limit("high", unit))


def by_range(
    metric: PointMetric,
    truth: np.ndarray,
    forecast: np.ndarray,
    observed: np.ndarray,
    unit: str | None,
) -> dict[str, float]:
    """A metric over the readings of each range; the *truth* says the range. NaN where a range is empty.

    Args:
        metric: of `metrics`, or one with the same arguments.
        truth, forecast, observed: [windows, steps] in `unit`.
    """
    truth, forecast, observed = paired(truth, forecast, observed)
    number = range_number(truth, unit)
    return {name: metric(truth, forecast, observed & (number == i)) for i, name in enumerate(RANGES)}


def readings_by_range(truth: np.ndarray, observed: np.ndarray, unit: str | None) -> dict[str, int]:
    """Observed readings in each range."""
    count = np.bincount(range_number(truth, unit)[observed_like(observed, truth)], minlength=len(RANGES))
    return dict(zip(RANGES, count.tolist(), strict=True))


def glycaemic_profile(values: np.ndarray, observed: np.ndarray, unit: str | None) -> dict[str, float]:
    """Time in ranges and variability of observed readings, or of a forecast at the same places.

    Args:
        values: any shape, in `unit`.
        observed: bool, which count.

    Returns:
        tbr2, tbr1, tir, tar1, tar2: percent below 3.0, 3.0 to 3.9, 3.9 to 10.0, 10.0 to 13.9 and above 13.9 mmol/L
        (54, 70, 180, 250 mg/dL), a limit itself belonging to the side of the middle; mean and sd (n - 1) in `unit`;
        cv in percent; gmi in percent, 3.31 + 0.02392 * mean in mg/dL (Bergenstal et al. 2018, doi:10.2337/dc18-1581).
        NaN where nothing was observed.
    """
    chosen = np.asarray(values, dtype=np.float64)[observed_like(observed, values)]
    count = len(chosen)

    def percent(inside: np.ndarray) -> float:
        return 100 * int(inside.sum()) / count if count else float("nan")

    very_low, low, high, very_high = (limit(name, unit) for name in ("very_low", "low", "high", "very_high"))
    mean = float(chosen.mean()) if count else float("nan")
    deviation = float(chosen.std(ddof=1)) if count > 1 else float("nan")
    return {
        "tbr2": percent(chosen < very_low),
        "tbr1": percent((chosen >= very_low) & (chosen < low)),
        "tir": percent((chosen >= low) & (chosen <= high)),
        "tar1": percent((chosen > high) & (chosen <= very_high)),
        "tar2": percent(chosen > very_high),
        "mean": mean,
        "sd": deviation,
        "cv": 100 * deviation / mean,
        "gmi": 3.31 + 0.02392 * float(to_mgdl(mean, unit)),
    }


def profile_of_forecast(
    truth: np.ndarray, forecast: np.ndarray, observed: np.ndarray, unit: str | None
) -> dict[str, dict[str, float]]:
    """`glycaemic_profile` of the truth, of the forecast at the same readings, and the difference, forecast - truth.

    A forecast that mean-reverts shows as a lower cv and less time outside the range.
    """
    truth, forecast, observed = paired(truth, forecast, observed)
    real, made = glycaemic_profile(truth, observed, unit), glycaemic_profile(forecast, observed, unit)
    return {"truth": real, "forecast": made, "difference": {name: made[name] - real[name] for name in real}}


def cohort_columns(values: np.ndarray, unit: str) -> dict[str, float]:
    """Percent of an item's readings in, below and above the range, of `cohort.csv`."""
    shown = np.round(values, 1 if glucose_unit(unit) == MG_DL else 2)  # 3.9 is in range, whatever float32 makes of it
    number = range_number(shown, unit)
    columns = {"time_in_range_%": "in_range", "time_below_%": "low", "time_above_%": "high"}
    return {column: round(100 * float(np.mean(number == RANGES.index(name))), 1) for column, name in columns.items()}
