"""What is learned from the training part: mean and deviation of each channel, and the values of static categories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from tstune.data.panel import OBSERVED, Panel, row_blocks, rows_between
from tstune.data.splits import Split
from tstune.data.table import Roles, SourceTable
from tstune.runtime.logs import logger

UNKNOWN = 0
"""Code of a value that no training item has, and of no value at all."""
_LEAF = 1 << 16
_OTHER_SIZE, _OTHER_SPREAD, _FEWEST = 7.0, 2.0, 20
"""Readings that differ so much from those of the training, in both, are in another unit; fewer of them say nothing."""
DROWNS = 20
"""A series with so much less deviation than all together counts for nothing in their scale."""


@dataclass(frozen=True)
class Scaler:
    """Per-channel mean and deviation in original units.

    One scaler serves all items, so that a forecast for an unseen item needs nothing but its history;
    the model itself normalises each window besides.
    """

    mean: np.ndarray  # [channels] float64
    std: np.ndarray  # [channels] float64, 1 where a channel does not vary
    by_window: bool = False  # series differ too much in size for one scale: networks read each window in its own

    def to_dict(self) -> dict[str, object]:
        """Values for JSON, exact to the last bit."""
        values = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return values | ({"by_window": True} if self.by_window else {})

    @classmethod
    def from_dict(cls, values: dict) -> Scaler:
        """Inverse of `to_dict`."""
        mean, std = (np.asarray(values[name], np.float64) for name in ("mean", "std"))
        return cls(mean, std, values.get("by_window") is True)

    def fits(self, num_channels: int) -> bool:
        """True if there is a mean and a positive deviation for each of so many channels."""
        shape = (num_channels,)
        if self.mean.shape != shape or self.std.shape != shape:
            return False
        return bool(np.isfinite(self.mean).all() and np.isfinite(self.std).all() and (self.std > 0).all())

    def times_as_large(self, readings: np.ndarray, channel: int, level: float = 0.0) -> float | None:
        """How many times as large as in training readings are that seem to be in another unit; None for any others.

        A unit multiplies size (root mean square) and spread alike; 0 are those that hardly move, as of a dead sensor. A
        few wild readings make neither. `level` is what the mean is counted from.
        """
        known, mean, std = readings[~np.isnan(readings)], self.mean[channel] + level, self.std[channel]
        if len(known) < _FEWEST or (mean, std) == (0.0, 1.0):
            return None
        both = known, np.clip(known, *np.quantile(known, [0.01, 0.99]))
        spreads = [values.std() / std for values in both]
        sizes = [np.hypot(values.mean(), values.std()) / np.hypot(mean, std) for values in both]
        if max(spreads) * DROWNS <= 1 < max(sizes) * _OTHER_SIZE:
            return 0.0
        grew = min(sizes) >= _OTHER_SIZE and min(spreads) >= _OTHER_SPREAD
        shrank = max(sizes) * _OTHER_SIZE <= 1 and max(spreads) * _OTHER_SPREAD <= 1
        return float(sizes[1]) if grew or shrank else None


def fit_scaler(panel: Panel, split: Split, scaling: str, unlike: bool = False) -> Scaler:
    """Fit on the readings of the training part.

    Args:
        scaling: ``standard`` or ``none``.
        unlike: items may be anything, as the columns of a wide table: look whether one scale does for all.
    """
    channels = len(panel.roles.channels)
    mean, std = np.zeros(channels), np.ones(channels)
    if scaling == "none":
        return Scaler(mean, std)
    for channel in range(channels):
        readings = partial(_readings, panel, split, channel)
        count = sum(map(len, readings()))
        if count:
            center = _pairwise_sum(count, readings()) / count
            mean[channel] = center
            squares = (np.square(values - center) for values in readings())
            std[channel] = math.sqrt(_pairwise_sum(count, squares) / count) or 1.0
    pooled = std[: panel.roles.num_targets]
    drowned = unlike and bool((DROWNS * item_deviation(panel, split, pooled) < pooled).any())
    if drowned:
        logger.info("series differ more than %d-fold in size: each window is scaled by itself", DROWNS)
    return Scaler(mean, std, drowned)


def item_deviation(panel: Panel, split: Split, pooled: np.ndarray) -> np.ndarray:
    """[items, targets] deviation of each item's training readings; the pooled one where they do not vary."""
    values = np.where(training_readings(panel, split, slice(0, panel.num_rows)), panel.values[:, : len(pooled)], np.nan)
    found = pd.DataFrame(values, dtype=np.float64).groupby(panel.row_item()).std(ddof=0).to_numpy()
    return np.where(found > 0, found, pooled)


def training_readings(panel: Panel, split: Split, rows: slice) -> np.ndarray:
    """[rows, targets] True for the readings of the training part."""
    in_train = rows_between(panel, *split.bounds(split.fitted_on), rows)
    return in_train[:, None] & (panel.status[rows, : panel.roles.num_targets] == OBSERVED)


def _readings(panel: Panel, split: Split, channel: int) -> Iterator[np.ndarray]:
    """Readings of the training part in float64, block by block."""
    begin, end = split.bounds(split.fitted_on)
    for rows in row_blocks(panel):
        seen = rows_between(panel, begin, end, rows) & (panel.status[rows, channel] == OBSERVED)
        yield panel.values[rows, channel][seen].astype(np.float64)


def _pairwise_sum(count: int, blocks: Iterator[np.ndarray]) -> float:
    """Sum of `count` float64 numbers that come in blocks of any length, to the last bit as numpy sums them whole.

    numpy halves an array, at a multiple of eight, and adds the sums of the halves; so does this until a part is small
    enough to leave it to numpy.
    """
    left = np.zeros(0)

    def take(number: int) -> np.ndarray:
        nonlocal left
        parts = [left]
        while sum(map(len, parts)) < number:
            parts.append(next(blocks))
        whole = np.concatenate(parts) if len(parts) > 1 else left
        left = whole[number:]
        return whole[:number]

    def total(number: int) -> float:
        if number <= _LEAF:
            return float(np.add.reduce(take(number)))
        half = number // 2 - number // 2 % 8
        first = total(half)
        return first + total(number - half)

    return total(count)


def learn_categories(table: SourceTable, panel: Panel, split: Split) -> tuple[Roles, np.ndarray | None]:
    """Roles with the values of the items that have a training part, and the codes of all items of the panel."""
    roles = table.roles
    if not roles.static_categorical:
        return roles, None
    begin, end = split.bounds("train")
    trained = [name for name, length in zip(panel.item_ids, end - begin, strict=True) if length > 0]
    values = table.statics.loc[trained, list(roles.static_categorical)]
    learned = tuple(tuple(sorted(values[column].dropna().unique())) for column in roles.static_categorical)
    roles = replace(roles, categories=learned)
    return roles, category_codes(table, roles, panel.item_ids)


def category_codes(table: SourceTable, roles: Roles, item_ids: Sequence[str]) -> np.ndarray | None:
    """[items, static categories] int64 codes, or None if the model has none."""
    if not roles.static_categorical:
        return None
    codes = np.zeros((len(item_ids), len(roles.static_categorical)), np.int64)
    for number, (column, values) in enumerate(zip(roles.static_categorical, roles.categories, strict=True)):
        known = {value: code for code, value in enumerate(values, start=UNKNOWN + 1)}
        codes[:, number] = [known.get(value, UNKNOWN) for value in table.statics.loc[list(item_ids), column]]
    return codes
