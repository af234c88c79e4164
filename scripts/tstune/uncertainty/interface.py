"""What every method answers: fit on validation windows, then quantiles for any forecast."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.scored_windows import ScoredWindows

_ROWS_AT_ONCE = 4096


class UncertaintyMethod(ABC):
    """Turns point forecasts, or quantiles of the network, into quantiles that hold what they promise.

    Args:
        levels: ascending, between 0 and 1.
    """

    name: ClassVar[str]
    uses_native: ClassVar[bool] = False
    """True if it corrects quantiles of the network, False if it needs the point forecast only."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(float(level) for level in levels)

    @abstractmethod
    def fit(self, windows: ScoredWindows) -> UncertaintyMethod:
        """Learn from windows that no weight was fitted on; returns itself.

        Args:
            windows: [windows, steps, targets] with `spread`; and with native `quantiles` if it uses them.

        Raises:
            DataError: nothing was observed, or something is missing.
        """

    @abstractmethod
    def quantiles(self, point: np.ndarray, spread: np.ndarray, native: np.ndarray | None = None) -> np.ndarray:
        """Ascending quantiles in original units.

        Args:
            point: [windows, steps, targets] forecasts in original units.
            spread: [windows, targets] standard deviation of the readings in each context.
            native: [windows, steps, targets, levels] from the network, for methods that use them.

        Returns:
            [windows, steps, targets, levels] float32.
        """

    def backtest(self, windows: ScoredWindows) -> np.ndarray:
        """Quantiles of windows whose truth is there: [windows, steps, targets, levels] float32.

        At each window only readings from before its first forecast step may be used; most methods use none.
        """
        found = np.empty((*windows.forecast.shape, len(self.levels)), np.float32)
        for begin in range(0, len(found), _ROWS_AT_ONCE):
            part = slice(begin, begin + _ROWS_AT_ONCE)
            native = windows.quantiles[part] if self.uses_native else None
            found[part] = self.quantiles(windows.forecast[part], required_spread(windows)[part], native)
        return found

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """What was fitted, for a file."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Inverse of `tensors`; KeyError if one is missing."""

    def settings(self) -> dict[str, object]:
        """Constructor arguments, for a file."""
        return {"levels": list(self.levels)}


def required_spread(windows: ScoredWindows) -> np.ndarray:
    """[windows, targets] spread of the contexts.

    Raises:
        DataError: it was not measured.
    """
    if windows.spread is None:
        raise DataError("uncertainty: the windows carry no spread of their contexts; see uncertainty.evidence")
    return windows.spread
