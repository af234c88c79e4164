"""Standard scaling, fitted on observed training values only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tstune.data.panel import OBSERVED, Panel
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
    in_train = panel.row_position() < split.borders[panel.row_item(), 0]
    for channel in range(channels):
        seen = in_train & (panel.status[:, channel] == OBSERVED)
        readings = panel.values[seen, channel].astype(np.float64)
        if readings.size:
            mean[channel] = readings.mean()
            std[channel] = readings.std() or 1.0
    return Scaler(mean, std)
