"""Readings that are no measurement, or not one of this person: what is doubtful in one column of a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.data.cleaning.report import NUM_EXAMPLES, CleaningReport
from tstune.data.cleaning.units import MG_DL, MG_DL_PER_MMOL_L, MMOL_L

SENSOR_LIMITS = {MG_DL: (40.0, 400.0, 500.0), MMOL_L: (2.2, 22.2, 27.8)}
"""Where sensors end: what lies beyond is written down as the limit."""

# Physiology in mg/dL: glucose hardly moves faster than 4 mg/dL a minute; two sensors on one arm differ by some 10 %.
_CONFLICT_DIFFERENCE = 20.0
_CONFLICT_RATE = 6.0
_SPIKE_RATE = 10.0
_FAR = 10.0
_MINUTE = np.timedelta64(60_000_000_000, "ns")


@dataclass(frozen=True)
class Column:
    """The readings of one column, without missing ones, sorted by series and time.

    Attributes:
        name: of the column.
        values: [readings].
        stamps: [readings] datetime64[ns].
        codes: [readings] series of each reading, ascending.
        items: names of the series.
        rows: [readings] where each one stands in the table.
    """

    name: str
    values: np.ndarray
    stamps: np.ndarray
    codes: np.ndarray
    items: Sequence[str]
    rows: np.ndarray

    def note(
        self, report: CleaningReport, what: str, mask: np.ndarray, action: str, count: int | None = None, **more: object
    ) -> None:
        """Report the readings of a mask; `count`, if given, is counted instead of them."""
        places = np.flatnonzero(mask)
        numbers = np.bincount(self.codes[places], minlength=len(self.items))
        report.add(
            what,
            len(places) if count is None else count,
            action,
            {self.items[item]: int(numbers[item]) for item in np.flatnonzero(numbers)},
            [
                f"{self.items[self.codes[place]]} {pd.Timestamp(self.stamps[place])}: {self.values[place]:g}"
                for place in places[:NUM_EXAMPLES]
            ],
            **more,
        )

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """([readings - 1], [readings - 1]) minutes to the next reading, and is it of the same series."""
        minutes = np.diff(self.stamps) / _MINUTE
        return minutes, self.codes[1:] == self.codes[:-1]


def outside(column: Column, valid_range: tuple[float, float]) -> np.ndarray:
    """[readings] True outside the range of possible readings."""
    return (column.values < valid_range[0]) | (column.values > valid_range[1])


def clipped(column: Column, unit: str) -> tuple[np.ndarray, int, float]:
    """Readings that stand at an end of the sensor's range.

    Returns:
        [readings] mask, number of runs (neighbouring readings at one limit), minutes of the longest run.
    """
    tolerance = 0.5 if unit == MG_DL else 0.5 / MG_DL_PER_MMOL_L
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
    longest = ((column.stamps[ends] - column.stamps[starts]) / _MINUTE).max()
    return at > 0, len(starts), float(longest)


def conflicting(column: Column, unit: str) -> np.ndarray:
    """[readings] True where a neighbour in time is too near to differ so much: two sensors, or two people, in one file.

    Both of a pair are marked, since nothing tells which one is right.
    """
    if len(column.values) < 2:
        return np.zeros(len(column.values), bool)
    minutes, same = column.steps()
    typical = np.median(minutes[same]) if same.any() else np.inf
    difference = np.abs(np.diff(column.values)) * (1 if unit == MG_DL else MG_DL_PER_MMOL_L)
    near = same & ((minutes < 0.8 * typical) | (minutes <= 3))
    pair = near & (difference >= _CONFLICT_DIFFERENCE) & (difference > _CONFLICT_RATE * minutes)
    return np.concatenate([pair, [False]]) | np.concatenate([[False], pair])


def spikes(column: Column, unit: str) -> np.ndarray:
    """[readings] True for a reading that leaps away from both neighbours, faster than glucose can."""
    mask = np.zeros(len(column.values), bool)
    if len(mask) < 3:
        return mask
    minutes, same = column.steps()
    change = np.diff(column.values) * (1 if unit == MG_DL else MG_DL_PER_MMOL_L)
    fast = same & (np.abs(change) > _SPIKE_RATE * np.maximum(minutes, 1.0)) & (minutes <= 15)
    mask[1:-1] = fast[:-1] & fast[1:] & (change[:-1] * change[1:] < 0)
    return mask


def far_from_the_rest(column: Column) -> np.ndarray:
    """[readings] True beyond ten interquartile ranges from the median of their series."""
    mask = np.zeros(len(column.values), bool)
    bounds = np.searchsorted(column.codes, np.arange(len(column.items) + 1))
    for first, last in itertools.pairwise(bounds):
        if last - first < 20:
            continue
        own = column.values[first:last]
        low, middle, high = np.percentile(own, [25, 50, 75])
        if high > low:
            mask[first:last] = np.abs(own - middle) > _FAR * (high - low)
    return mask
