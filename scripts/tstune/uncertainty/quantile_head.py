"""Quantiles of the network itself, as they are or conformalised (CQR)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.quantile_order import sort_quantiles
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.uncertainty.conformal_quantile import conformal_quantiles
from tstune.uncertainty.interface import UncertaintyMethod
from tstune.uncertainty.offsets import OffsetMethod


class QuantileHead(UncertaintyMethod):
    """The network's quantiles in ascending order, nothing else."""

    name: ClassVar[str] = "quantile_head"
    uses_native: ClassVar[bool] = True

    def fit(self, windows: ScoredWindows) -> UncertaintyMethod:
        """There is nothing to fit."""
        return self

    def quantiles(self, point: np.ndarray, spread: np.ndarray, native: np.ndarray | None = None) -> np.ndarray:
        """[windows, steps, targets, levels] float32; see `UncertaintyMethod.quantiles`."""
        return sort_quantiles(_given(native)).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Nothing."""


class QuantileHeadConformal(OffsetMethod):
    """Each level's quantile moved so far that it held on the validation part, in units of the context's spread.

    Conformalised quantile regression, each side for itself (Romano, Patterson & Candès 2019, arXiv:1905.03222, Thm 2).
    The head says when a forecast is unsure; the offset of each step says by how much it was wrong in that.
    """

    name: ClassVar[str] = "quantile_head_conformal"
    uses_native: ClassVar[bool] = True

    def fit(self, windows: ScoredWindows) -> UncertaintyMethod:
        """Scores against the network's own quantiles; see `UncertaintyMethod.fit`."""
        _given(windows.quantiles)
        return super().fit(windows)

    def _offsets(self, scores: np.ndarray, windows: ScoredWindows) -> np.ndarray:
        own = [conformal_quantiles(scores[..., k], [level])[..., 0] for k, level in enumerate(self.levels)]
        return np.stack(own, axis=-1)


def _given(native: np.ndarray | None) -> np.ndarray:
    if native is None:
        raise DataError("uncertainty: this method corrects quantiles of the network, and the network gave none")
    return native
