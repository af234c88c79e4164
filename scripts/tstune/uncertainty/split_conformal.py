"""Split conformal prediction: quantiles of scaled errors, corrected for how few windows there are."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tstune.evaluation.scored_windows import ScoredWindows
from tstune.uncertainty.conformal_quantile import conformal_quantiles
from tstune.uncertainty.offsets import OffsetMethod

# Why not a library: granite-tsfm's conformal tools take no masks, one series or one object per series, and keep every
# score in a JSON file; MAPIE 1.6 and crepes 0.9 are for one output at a time without masks, and are saved as pickles.
# The tests hold our quantiles against granite-tsfm's.


class SplitConformal(OffsetMethod):
    """All validation windows count alike; covers at least what it promises if test windows are like them."""

    name: ClassVar[str] = "split_conformal"

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        return conformal_quantiles(scores[..., 0], self.levels)
