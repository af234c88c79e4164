"""What scored windows lack for intervals: the spread of their contexts, and the network's own quantiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from tstune.data.windows import Batch, WindowDataset
from tstune.errors import DataError
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.models.contract import context_spread


class QuantileForecaster(Protocol):
    """A model whose network may forecast quantiles."""

    native_levels: tuple[float, ...]

    def native_quantiles(self, batch: Batch) -> torch.Tensor:
        """[batch, steps, targets, levels] float32 in original units."""

    def evaluation_batch_size(self, device: torch.device) -> int:
        """Windows per forward pass."""


def with_evidence(windows: ScoredWindows, dataset: WindowDataset, model: QuantileForecaster) -> ScoredWindows:
    """The windows with `spread` and, where the network has a quantile head, its `quantiles` and `levels`.

    Args:
        windows: as `Backtest.score` leaves them: [windows, steps, targets] and `start`.
        dataset: any part of the same panel with the same lengths.
        model: the model that forecast them.

    Raises:
        DataError: the windows do not say where they begin.
    """
    if windows.start is None:
        raise DataError("uncertainty: the windows carry no start; take them from Backtest.score")
    num_targets, levels = windows.truth.shape[2], model.native_levels
    size = model.evaluation_batch_size(torch.device("cpu"))
    spread, quantiles = [], []
    for begin in range(0, len(windows.start), size):
        batch = dataset.gather(windows.start[begin : begin + size])
        spread.append(context_spread(batch, num_targets).numpy())
        if levels:
            with torch.inference_mode():
                quantiles.append(model.native_quantiles(batch).cpu().numpy())
    found = {"spread": np.concatenate(spread)}
    if levels:
        found |= {"quantiles": np.concatenate(quantiles), "levels": np.asarray(levels)}
    return replace(windows, **found)
