"""The mean of two models' forecasts, from forecasts that were made anyway."""

from __future__ import annotations

import tempfile

import numpy as np
import torch

from tstune.data.windows import Batch, WindowDataset
from tstune.errors import DataError
from tstune.evaluation.backtest import Forecaster


class RememberedForecasts:
    """Forecasts with a model and remembers what it said, so that it can change or be lost afterwards.

    Each rank remembers the windows it was given. Memory is only taken for those.

    Args:
        model: who forecasts.
        windows: the windows that will be asked for.
        budget_bytes: beyond this size forecasts lie in a memory-mapped temporary file.
    """

    def __init__(self, model: Forecaster, windows: WindowDataset, budget_bytes: float) -> None:
        self._model = model
        self._starts = torch.from_numpy(np.sort(windows.starts(np.arange(len(windows)))))
        self._known = torch.zeros(len(windows), dtype=torch.bool)
        shape = (len(windows), windows.prediction_length, windows.panel.roles.num_targets)
        self._file = None
        if 4 * np.prod(shape) <= budget_bytes:
            self._values = torch.empty(shape, dtype=torch.float32)
        else:
            self._file = tempfile.TemporaryFile(prefix="forecasts-")  # noqa: SIM115 lives as long as the forecasts
            self._values = torch.from_numpy(np.memmap(self._file, dtype=np.float32, mode="w+", shape=shape))

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units, by the model as it is now."""
        forecast, rows = self._model.forecast(batch), self._rows(batch)
        self._values[rows] = forecast.detach().cpu()
        self._known[rows] = True
        return forecast

    def recall(self, batch: Batch) -> torch.Tensor:
        """The same as it was then.

        Raises:
            DataError: a window that was not asked for before.
        """
        rows = self._rows(batch)
        if not self._known[rows].all():
            raise DataError("a window is asked for that was not forecast on this process before: score the model first")
        return self._values[rows].to(batch["start"].device)

    def _rows(self, batch: Batch) -> torch.Tensor:
        start = batch["start"].cpu()
        rows = torch.searchsorted(self._starts, start).clamp_max(len(self._starts) - 1)
        if not torch.equal(self._starts[rows], start):
            raise DataError("a window is asked for that is not among those of this part")
        return rows


class AveragedForecasts:
    """The mean of two models' forecasts of the same windows.

    Tuned weights have often drifted further than the data warrants, and what they and the old ones get wrong is not
    the same: half-way between is a strong forecast that costs nothing more to judge.
    """

    def __init__(self, first: RememberedForecasts, second: RememberedForecasts) -> None:
        self._first, self._second = first, second

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units."""
        return (self._first.recall(batch) + self._second.recall(batch)) / 2
