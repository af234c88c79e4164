"""Weighted conformal prediction: what was forecast badly lately counts more than what was long ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tstune.evaluation.scored_windows import ScoredWindows
from tstune.uncertainty.conformal_quantile import conformal_quantiles
from tstune.uncertainty.offsets import OffsetMethod


class WeightedConformal(OffsetMethod):
    """Weights halve with age, so that the loss of coverage under drift is bounded by what the weights still see.

    Barber, Candès, Ramdas & Tibshirani 2023, doi:10.1214/23-AOS2276.

    Args:
        levels: ascending, between 0 and 1.
        half_life: age at which a score weighs half, as a share of the time its item was calibrated on.
    """

    name: ClassVar[str] = "weighted_conformal"

    def __init__(self, levels: Sequence[float], half_life: float = 1.0) -> None:
        super().__init__(levels)
        self.half_life = half_life

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        weights = 0.5 ** (relative_age(windows.item, windows.timestamps[:, 0]) / self.half_life)
        return conformal_quantiles(scores[..., 0], self.levels, weights)

    def settings(self) -> dict[str, object]:
        """Constructor arguments."""
        return super().settings() | {"half_life": self.half_life}


def relative_age(item: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """[windows] time to the item's last window over the time from its first to its last; 0 for a window alone."""
    origin = origin.astype("datetime64[s]").astype(np.float64)
    which = np.unique(item, return_inverse=True)[1]
    first, last = np.full(which.max() + 1, np.inf), np.full(which.max() + 1, -np.inf)
    np.minimum.at(first, which, origin)
    np.maximum.at(last, which, origin)
    span = (last - first)[which]
    return (last[which] - origin) / np.where(span > 0, span, 1.0)
