"""Standard scaling, fitted on observed training values only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from tstune.data.pairwise import pairwise_sum
from tstune.data.panel import OBSERVED, Panel
from tstune.data.panel_rows import row_blocks, rows_between
from tstune.data.splits import Split


@dataclass(frozen=True)
class Scaler:
    """Per-channel mean and deviation in original units.

    One scaler serves all items, so that a forecast for an unseen item needs nothing but its history;
    the model itself normalises each window besides.

    Attributes:
        mean: [channels] float64.
        std: [channels] float64, 1 where a channel does not vary.
    """

    mean: np.ndarray
    std: np.ndarray

    def to_dict(self) -> dict[str, list[float]]:
        """Values for JSON, exact to the last bit."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> Scaler:
        """Inverse of `to_dict`."""
        return cls(np.asarray(values["mean"]), np.asarray(values["std"]))


def fit_scaler(panel: Panel, split: Split, scaling: str) -> Scaler:
    """Fit on the readings of the training part; `scaling` is ``standard`` or ``none``."""
    channels = len(panel.roles.channels)
    mean, std = np.zeros(channels), np.ones(channels)
    if scaling == "none":
        return Scaler(mean, std)
    for channel in range(channels):
        readings = partial(_readings, panel, split, channel)
        count = sum(map(len, readings()))
        if count:
            center = pairwise_sum(count, readings()) / count
            mean[channel] = center
            squares = (np.square(values - center) for values in readings())
            std[channel] = math.sqrt(pairwise_sum(count, squares) / count) or 1.0
    return Scaler(mean, std)


def _readings(panel: Panel, split: Split, channel: int) -> Iterator[np.ndarray]:
    """Readings of the training part in float64, block by block."""
    begin, end = np.zeros(len(panel.item_ids), np.int64), split.borders[:, 0]
    for rows in row_blocks(panel):
        seen = rows_between(panel, begin, end, rows) & (panel.status[rows, channel] == OBSERVED)
        yield panel.values[rows, channel][seen].astype(np.float64)
