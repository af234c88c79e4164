"""Is it glucose, and in mg/dL or mmol/L? By column name, by declared unit, and by the values themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from tstune.errors import DataError

MG_DL, MMOL_L = "mg/dL", "mmol/L"
MG_DL_PER_MMOL_L = 18.0156
"""Glucose has 180.156 g/mol."""

VALID_RANGE = {MG_DL: (20.0, 600.0), MMOL_L: (1.1, 33.3)}
"""Sensors end at 40 or 39 and at 400 or 500 mg/dL; a reading outside these wider limits is no measurement."""
TIME_IN_RANGE = {MG_DL: (70.0, 180.0), MMOL_L: (3.9, 10.0)}
"""The consensus target of continuous glucose monitoring."""

SENSOR_WORDS = {"low": 0, "lo": 0, "high": 1, "hi": 1}
"""What sensors write instead of a reading beyond their range, and which limit it means."""
SENSOR_WORD_LIMITS = {MG_DL: (40.0, 400.0), MMOL_L: (2.2, 22.2)}

# medians that only one of the two units can explain; between them lies no-man's-land
_PLAUSIBLE_MEDIAN = {MMOL_L: (1.5, 27.0), MG_DL: (36.0, 500.0)}
_WORDS = {"bg", "bgl", "cgm", "sgv", "gl", "bloodsugar"}
_MIXED_SHARE = 0.05


def is_glucose_name(column: str) -> bool:
    """True for names such as ``glucose_value_mg_dl``, ``bg(mmol/L)`` or ``Sensor Glucose``."""
    lower = column.lower()
    return "glucose" in lower or not _WORDS.isdisjoint(re.findall(r"[a-z]+", lower))


def unit_in_name(column: str) -> str | None:
    """Unit that a column name states, if any."""
    letters = re.sub(r"[^a-z]", "", column.lower())
    return MG_DL if "mgdl" in letters else MMOL_L if "mmol" in letters else None


def glucose_unit(text: str | None) -> str | None:
    """``mg/dL`` or ``mmol/L`` for any way to write them, None for other units."""
    return unit_in_name(text) if text else None


def conversion_factor(old: str, new: str) -> float:
    """Factor from one glucose unit to the other."""
    if old == new:
        return 1.0
    return MG_DL_PER_MMOL_L if new == MG_DL else 1 / MG_DL_PER_MMOL_L


def unit_of_values(values: np.ndarray) -> str | None:
    """Unit that the median of the readings fits; None if neither or there are none."""
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    median = float(np.median(values))
    return next((unit for unit, (low, high) in _PLAUSIBLE_MEDIAN.items() if low <= median < high), None)


def sensor_words_as_limits(column: str, cells: pd.Series, words: pd.Series) -> tuple[pd.Series, str]:
    """Replace Low and High by the sensor's limits in the unit of the other readings.

    Args:
        column: its name.
        cells: [rows] as read.
        words: [rows] the cells as lower-case text.

    Returns:
        the cells, and the unit.

    Raises:
        DataError: neither name nor readings tell the unit.
    """
    unit = unit_in_name(column) or unit_of_values(pd.to_numeric(cells, errors="coerce").to_numpy(np.float64))
    if unit is None:
        raise DataError(f"column {column!r} holds Low or High, and nothing tells its unit; write numbers instead")
    limits = words.map(SENSOR_WORDS).map(dict(enumerate(SENSOR_WORD_LIMITS[unit])))
    return cells.where(limits.isna(), limits), unit


def find_unit(
    column: str,
    values: np.ndarray,
    codes: np.ndarray,
    items: Sequence[str],
    declared: str | None,
    of_model: bool = False,
) -> str | None:
    """Unit of one glucose column.

    Args:
        column: its name.
        values: [rows] readings, NaN where there is none.
        codes: [rows] index of each row's series.
        items: names of the series.
        declared: unit that is declared, if any.
        of_model: a saved model declares it, for the error.

    Raises:
        DataError: name, declaration and values disagree, or two series have different units.
    """
    stated = declared or unit_in_name(column)
    by_item = _units_of_items(values, codes, len(items))
    kinds = {unit for unit in by_item.values() if unit}
    if len(kinds) > 1:
        first = {unit: next(code for code, found in by_item.items() if found == unit) for unit in kinds}
        shown = ", ".join(
            f"series {items[code]!r} looks like {unit} (median {_median(values, codes, code):.4g})"
            for unit, code in sorted(first.items())
        )
        raise DataError(f"column {column!r} mixes units: {shown}; convert one, or set data.unit to read all as one")
    seen = kinds.pop() if kinds else None
    if stated and seen and stated != seen:
        who = "the model was trained on" if of_model else "its source says" if declared else "its name says"
        advice = f"convert them to {stated}" if of_model else f"set data.unit={seen} or {stated}, whichever is right"
        raise DataError(
            f"column {column!r}: {who} {stated}, but the median of {np.nanmedian(values):.4g} fits {seen}; {advice}"
        )
    unit = stated or seen
    if unit:
        _refuse_mixture(column, values, codes, items, unit)
    return unit


def _units_of_items(values: np.ndarray, codes: np.ndarray, num_items: int) -> dict[int, str | None]:
    """Item -> unit its own median fits."""
    present = ~np.isnan(values)
    order = np.argsort(codes[present], kind="stable")
    ends = np.cumsum(np.bincount(codes[present], minlength=num_items))
    groups = np.split(values[present][order], ends[:-1])
    return {item: unit_of_values(group) for item, group in enumerate(groups) if group.size}


def _refuse_mixture(column: str, values: np.ndarray, codes: np.ndarray, items: Sequence[str], unit: str) -> None:
    """Stop where a good share of one series' readings only makes sense in the other unit."""
    other = MMOL_L if unit == MG_DL else MG_DL
    low, high = _PLAUSIBLE_MEDIAN[other]
    alien = (values >= low) & (values < high)
    present = ~np.isnan(values)
    totals = np.bincount(codes[present], minlength=len(items))
    counts = np.bincount(codes[alien], minlength=len(items))
    mixed = np.flatnonzero((counts > _MIXED_SHARE * totals) & (counts >= 3))
    if mixed.size:
        item = int(mixed[0])
        raise DataError(
            f"column {column!r}: series {items[item]!r} is in {unit}, but {counts[item]} of its {totals[item]} "
            f"readings look like {other}; convert them, or set data.unit={unit} to read all as they are"
        )


def _median(values: np.ndarray, codes: np.ndarray, code: int) -> float:
    return float(np.nanmedian(values[codes == code]))
