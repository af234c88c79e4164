"""Adaptive conformal inference: levels that follow what was covered, window after window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.masking import observed_like
from tstune.evaluation.quantile_order import sort_quantiles
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.uncertainty.conformal_quantile import conformal_quantiles
from tstune.uncertainty.interface import required_spread
from tstune.uncertainty.offsets import OffsetMethod, over_steps

GRID = np.linspace(0.0025, 0.9975, 400)
"""Levels whose offsets are kept: the adapted level picks one, so the scores themselves need not be."""


class AdaptiveConformal(OffsetMethod):
    """Each item, step and level has a level of its own that moves with every reading, so coverage returns under drift.

    After a reading y, level += rate x (nominal - [y <= quantile]): too many readings below the 0.9 quantile lower it,
    too few raise it (Gibbs & Candès 2021, arXiv:2106.00170, for each quantile by itself). Only `backtest` adapts: a
    single forecast has no later readings to learn from and gets what split conformal gives.

    Args:
        levels: ascending, between 0 and 1.
        rate: how far one reading moves the level.
    """

    name: ClassVar[str] = "adaptive_conformal"
    table: np.ndarray

    def __init__(self, levels: Sequence[float], rate: float = 0.01) -> None:
        super().__init__(levels)
        self.rate = rate

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        found = conformal_quantiles(scores[..., 0], [*GRID, *self.levels])
        found = np.sort(found[..., : len(GRID)], axis=-1), found[..., len(GRID) :]
        self.table = over_steps(found[0])
        return found[1]

    def backtest(self, windows: ScoredWindows) -> np.ndarray:
        """Quantiles in order of time; see `UncertaintyMethod.backtest`.

        A reading moves the levels from the first window of its item on that begins after it: what a window forecast
        eight hours ahead is not held against the next one before those hours have passed.
        """
        if windows.item is None or windows.timestamps is None:
            raise DataError("uncertainty: adaptive_conformal needs the item and the time of every window")
        found = np.empty((*windows.forecast.shape, len(self.levels)), np.float32)
        for item in np.unique(windows.item):
            mine = np.flatnonzero(windows.item == item)
            mine = mine[np.argsort(windows.timestamps[mine, 0], kind="stable")]
            found[mine] = self._follow(windows.select(mine))
        return found

    def _follow(self, windows: ScoredWindows) -> np.ndarray:
        """Quantiles of one item's windows, which are in order of time."""
        nominal = np.asarray(self.levels)
        adapted = np.broadcast_to(nominal, (*windows.forecast.shape[1:], len(nominal))).copy()
        observed = observed_like(windows.observed, windows.truth)
        unit = self._unit(required_spread(windows))
        found = np.empty((*windows.forecast.shape, len(nominal)), np.float32)
        steps = np.arange(windows.forecast.shape[1])
        next_known = np.zeros(len(steps), dtype=np.int64)  # window whose reading at this step is the next to be known
        for number, origin in enumerate(windows.timestamps[:, 0]):
            while True:
                due = steps[
                    (next_known < number) & (windows.timestamps[np.minimum(next_known, number), steps] < origin)
                ]
                if not len(due):
                    break
                which = next_known[due]
                below = windows.truth[which, due, :, None] <= found[which, due]
                move = np.where(observed[which, due, :, None], self.rate * (nominal - below), 0.0)
                adapted[due] += move
                next_known[due] += 1
            offsets = np.where(adapted == nominal, self.offsets, self._looked_up(adapted))
            found[number] = sort_quantiles(windows.forecast[number][..., None] + unit[number] * offsets)
        return found

    def _looked_up(self, levels: np.ndarray) -> np.ndarray:
        """[steps, targets, levels] offsets of adapted levels, linear between those of the grid.

        A level beyond 0 and 1 asks for more than the largest error of the calibration. In theory that is an infinite
        interval; here it grows by the range of the errors per level, which is enough for the coverage to come back.
        """
        inside = np.clip(levels, GRID[0], GRID[-1])
        place = (inside - GRID[0]) / (GRID[1] - GRID[0])
        lower = np.clip(place.astype(np.int64), 0, len(GRID) - 2)
        left, right = (np.take_along_axis(self.table, index, axis=-1) for index in (lower, lower + 1))
        reach = self.table[..., -1:] - self.table[..., :1]
        return left + (place - lower) * (right - left) + (levels - inside) * reach

    def tensors(self) -> dict[str, np.ndarray]:
        """Offsets of the nominal levels and of the grid."""
        return super().tensors() | {"table": self.table}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Inverse of `tensors`."""
        super().restore(tensors)
        self.table = tensors["table"]

    def settings(self) -> dict[str, object]:
        """Constructor arguments."""
        return super().settings() | {"rate": self.rate}
