"""The readings of one column of a table, and which of them are doubtful whatever they measure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.data.cleaning.report import NUM_EXAMPLES, CleaningReport

LARGEST = 1e15
"""Squares of what is larger, summed up, leave single precision: no model computes with it, and no sensor means it."""
_FAR = 10.0
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
