"""The readings of one column of a table, and which of them are doubtful whatever they measure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.data.cleaning.rules import NUM_EXAMPLES, CleaningReport

LARGEST = 1e15
"""Squares of what is larger, summed up, leave single precision: no model computes with it, and no sensor means it."""
_FAR = 10.0
_FEWEST_TO_JUDGE = 50
_KTH = (2, 3, 4, 5, 6, 10, 12, 15, 30)
_STRAIGHT, _BENT = 0.9, 0.3
"""Share of steps without a bend between the measured ones, and how much smaller it is at those."""
MINUTE = np.timedelta64(60_000_000_000, "ns")


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
        minutes = np.diff(self.stamps) / MINUTE
        return minutes, self.codes[1:] == self.codes[:-1]


def outside(column: Column, valid_range: tuple[float, float]) -> np.ndarray:
    """[readings] True outside the range of possible readings."""
    return (column.values < valid_range[0]) | (column.values > valid_range[1])


def interpolated(column: Column) -> np.ndarray:
    """[readings] True for those on lines that were drawn, before a series was published, between every k-th of them.

    Such a series bends at every k-th step and hardly elsewhere; what a sensor measured bends anywhere.
    """
    mask = np.zeros(len(column.values), bool)
    bounds = np.searchsorted(column.codes, np.arange(len(column.items) + 1))
    for first, last in itertools.pairwise(bounds):
        if last - first >= _FEWEST_TO_JUDGE:
            mask[first:last] = _between_bends(column.values[first:last], column.stamps[first:last])
    return mask


def _between_bends(values: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    gaps = np.diff(stamps).astype(np.int64)
    step = max(1, int(np.median(gaps)))
    place = np.round((stamps - stamps[0]).astype(np.int64) / step).astype(np.int64)
    inner = np.flatnonzero((gaps[1:] == gaps[:-1]) & (gaps[1:] == step)) + 1
    curve = np.abs(values[inner + 1] - 2 * values[inner] + values[inner - 1])
    moving = (values[inner + 1] != values[inner]) | (values[inner] != values[inner - 1])
    inner, curve = inner[moving], curve[moving]
    if len(inner) < _FEWEST_TO_JUDGE:
        return np.zeros(len(values), bool)
    decimals = next((d for d in range(4) if np.abs(values - np.round(values, d)).max() < 1e-4), None)
    straight = curve <= (1e-6 * np.abs(values).max() if decimals is None else 1.01 * 10.0**-decimals)
    for every in _KTH:
        phase = place[inner] % every
        counts = np.bincount(phase, minlength=every)
        shares = np.bincount(phase, straight, every) / np.maximum(counts, 1)
        bend = int(shares.argmin())
        elsewhere = np.delete(shares, bend)
        if counts.min() > 0 and elsewhere.min() >= _STRAIGHT and elsewhere.min() - shares[bend] >= _BENT:
            return place % every != bend
    return np.zeros(len(values), bool)


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
