"""What cleaning knows of glucose: its unit by name and values, what sensors write, and readings that are doubtful."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tstune.data.cleaning import MINUTE, Column
from tstune.data.cleaning.rules import CleaningReport, CleaningRules
from tstune.errors import DataError
from tstune.glucose.units import MG_DL, MGDL_PER_MMOL_CONVERTED, MMOL_L, unit_of

VALID_RANGE = {MG_DL: (20.0, 600.0), MMOL_L: (1.1, 33.3)}
"""Sensors end at 40 or 39 and at 400 or 500 mg/dL; a reading outside these wider limits is no measurement."""
SENSOR_LIMITS = {MG_DL: (40.0, 400.0, 500.0), MMOL_L: (2.2, 22.2, 27.8)}
"""Where sensors end: what lies beyond is written down as the limit."""
SENSOR_WORDS = dict.fromkeys(("low", "lo", "niedrig", "bas", "bajo", "basso", "laag", "låg", "lav", "baixo"), 0) | (
    dict.fromkeys(("high", "hi", "hoch", "haut", "alto", "hoog", "hög", "høj", "høy", "élevé", "elevado"), 1)
)
"""What sensors write instead of a reading beyond their range, and which of `SENSOR_LIMITS` it means."""

# medians that only one of the two units can explain; between them lies no-man's-land
_PLAUSIBLE_MEDIAN = {MMOL_L: (1.5, 27.0), MG_DL: (36.0, 500.0)}
_MIXED_SHARE = 0.05

# Physiology in mg/dL: glucose hardly moves faster than 4 mg/dL a minute; two sensors on one arm differ by some 10 %.
_CONFLICT_DIFFERENCE = 20.0
_CONFLICT_RATE = 6.0
_SPIKE_RATE = 10.0


def valid_range(unit: str) -> tuple[float, float]:
    """`VALID_RANGE`, as a hook."""
    return VALID_RANGE[unit]


# Sensor words


def words_as_limits(column: str, cells: pd.Series) -> tuple[pd.Series, np.ndarray, str] | None:
    """Replace Low and High by the sensor's limits in the unit of the other readings.

    Returns:
        the cells, [rows] True where there was a word, and what was done; None without any.
    """
    limit = cells.astype(str).str.strip().str.lower().map(SENSOR_WORDS)
    worded = limit.notna().to_numpy()
    if not worded.any():
        return None
    unit = unit_of(column) or unit_of_values(pd.to_numeric(cells, errors="coerce").to_numpy(np.float64))
    if unit is None:
        raise DataError(f"column {column!r} holds Low or High, and nothing tells its unit; write numbers instead")
    limits = limit.map(dict(enumerate(SENSOR_LIMITS[unit])))
    return cells.where(limits.isna(), limits), worded, f"read as the sensor's limits in {unit}"


# The unit


def unit_of_values(values: np.ndarray) -> str | None:
    """Unit that the median of the readings fits; None if neither or there are none."""
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    median = float(np.median(values))
    return next((unit for unit, (low, high) in _PLAUSIBLE_MEDIAN.items() if low <= median < high), None)


def find_unit(column: Column, declared: str | None, rules: CleaningRules, report: CleaningReport) -> str | None:
    """Unit of a column; what the configuration says is believed, and contradictions are written down."""
    if rules.unit is not None:
        seen = unit_of_values(column.values)
        if seen and seen != declared:
            examples = [f"median {np.median(column.values):.4g}"]
            report.add("unit_contradicts_values", 1, f"data.unit={declared} believed", examples=examples)
        report.add("unit", 0, "set by data.unit", unit=declared)
        return declared
    stated, seen = declared or unit_of(column.name), _unit_of_all(column)
    if stated and seen and stated != seen:
        of_model = rules.expected_unit is not None
        who = "the model was trained on" if of_model else "its source says" if declared else "its name says"
        advice = f"set data.unit={seen} or {stated}, whichever is right"
        if of_model:
            advice = f"convert them to {stated}, or add data.unit={seen}"
        raise DataError(
            f"column {column.name!r}: {who} {stated}, but the median of {np.median(column.values):.4g} fits {seen}; "
            f"{advice}"
        )
    unit = stated or seen
    if unit:
        _refuse_mixture(column, unit)
        report.add("unit", 0, "declared by the source" if declared else "read from name and values", unit=unit)
    return unit


def _unit_of_all(column: Column) -> str | None:
    """Unit that the readings of every series fit, as far as they fit any; refuses series of different units."""
    first: dict[str, tuple[int, slice]] = {}
    for code, own in enumerate(column.series()):
        unit = unit_of_values(column.values[own])
        if unit and unit not in first:
            first[unit] = code, own
    if len(first) > 1:
        shown = ", ".join(
            f"series {column.items[code]!r} looks like {unit} (median {np.median(column.values[own]):.4g})"
            for unit, (code, own) in sorted(first.items())
        )
        raise DataError(
            f"column {column.name!r} mixes units: {shown}; convert one, or set data.unit to read all as one"
        )
    return next(iter(first), None)


def _refuse_mixture(column: Column, unit: str) -> None:
    """Stop where a good share of one series' readings only makes sense in the other unit."""
    other = MMOL_L if unit == MG_DL else MG_DL
    low, high = _PLAUSIBLE_MEDIAN[other]
    alien = (column.values >= low) & (column.values < high)
    totals = np.bincount(column.codes, minlength=len(column.items))
    counts = np.bincount(column.codes[alien], minlength=len(column.items))
    mixed = np.flatnonzero((counts > _MIXED_SHARE * totals) & (counts >= 3))
    if mixed.size:
        item = int(mixed[0])
        raise DataError(
            f"column {column.name!r}: series {column.items[item]!r} is in {unit}, but {counts[item]} of its "
            f"{totals[item]} readings look like {other}; convert them, or set data.unit={unit} to read all as they are"
        )


# Readings


def doubtful(column: Column, unit: str, rules: CleaningRules, report: CleaningReport) -> np.ndarray:
    """Count what is doubtful about readings of glucose; return [readings] True for what the rules drop."""
    mask, runs, longest = clipped(column, unit)
    column.note(report, "at_sensor_limit", mask, "kept", runs=runs, longest_run_minutes=round(longest, 1))
    column.note(report, "spikes", spikes(column, unit), "kept")
    mask, drops = conflicting(column, unit), rules.conflicting_readings == "drop"
    column.note(report, "conflicting_readings", mask, "dropped" if drops else "kept")
    return mask if drops else np.zeros_like(mask)


def clipped(column: Column, unit: str) -> tuple[np.ndarray, int, float]:
    """Readings that stand at an end of the sensor's range.

    Returns:
        [readings] mask, number of runs (neighbouring readings at one limit), minutes of the longest run.
    """
    tolerance = 0.5 / _mgdl_per(unit)
    limits = np.array(SENSOR_LIMITS[unit])
    at = np.zeros(len(column.values), np.int8)  # which limit, 0 for none
    for number, limit in enumerate(limits, start=1):
        at[np.abs(column.values - limit) <= tolerance] = number
    if not at.any():
        return at > 0, 0, 0.0
    _, same = column.steps()
    joined = same & (at[1:] == at[:-1])
    starts = np.flatnonzero((at > 0) & ~np.concatenate([[False], joined]))
    ends = np.flatnonzero((at > 0) & ~np.concatenate([joined, [False]]))
    longest = ((column.stamps[ends] - column.stamps[starts]) / MINUTE).max()
    return at > 0, len(starts), float(longest)


def conflicting(column: Column, unit: str) -> np.ndarray:
    """[readings] True where a neighbour in time is too near to differ so much: two sensors, or two people, in one file.

    Both of a pair are marked, since nothing tells which one is right.
    """
    if len(column.values) < 2:
        return np.zeros(len(column.values), bool)
    minutes, same = column.steps()
    typical = np.median(minutes[same]) if same.any() else np.inf
    difference = np.abs(np.diff(column.values)) * _mgdl_per(unit)
    near = same & ((minutes < 0.8 * typical) | (minutes <= 3))
    pair = near & (difference >= _CONFLICT_DIFFERENCE) & (difference > _CONFLICT_RATE * minutes)
    return np.concatenate([pair, [False]]) | np.concatenate([[False], pair])


def spikes(column: Column, unit: str) -> np.ndarray:
    """[readings] True for a reading that leaps away from both neighbours, faster than glucose can."""
    mask = np.zeros(len(column.values), bool)
    if len(mask) < 3:
        return mask
    minutes, same = column.steps()
    change = np.diff(column.values) * _mgdl_per(unit)
    fast = same & (np.abs(change) > _SPIKE_RATE * np.maximum(minutes, 1.0)) & (minutes <= 15)
    mask[1:-1] = fast[:-1] & fast[1:] & (change[:-1] * change[1:] < 0)
    return mask


def _mgdl_per(unit: str) -> float:
    return 1.0 if unit == MG_DL else MGDL_PER_MMOL_CONVERTED
