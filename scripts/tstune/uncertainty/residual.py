"""Baseline: the quantiles of the validation errors at each step, as they are."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tstune.evaluation.scored_windows import ScoredWindows
from tstune.uncertainty.offsets import OffsetMethod


class Residual(OffsetMethod):
    """Empirical quantiles of errors in original units, the same for every context."""

    name: ClassVar[str] = "residual"
    scaled: ClassVar[bool] = False

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        with np.errstate(all="ignore"):
            found = [_nanquantiles(column, self.levels) for column in scores.reshape(len(scores), -1).T]
        return np.stack(found).reshape(*scores.shape[1:3], len(self.levels))


def _nanquantiles(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    known = values[~np.isnan(values)]
    return np.quantile(known, levels) if len(known) else np.full(len(levels), np.nan)
