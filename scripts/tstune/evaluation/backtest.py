"""Score models on exactly the same windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from tstune.config.schema import EvaluationSection
from tstune.data.frequency import default_seasonality, to_steps
from tstune.data.prepared import PreparedData
from tstune.data.windows import Batch, WindowDataset, evaluation_batch_size, window_loader
from tstune.errors import ConfigError
from tstune.evaluation.metrics import ErrorSums, Scores, seasonal_scale
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.models.contract import Forecaster
from tstune.runtime.distributed import DistributedManager

KEPT_BYTES = 256e6
"""Forecasts of one model are kept in memory up to this size; a run scores about eight models."""

_ROWS_AT_ONCE = 4096  # windows gathered at once


class Backtest:
    """A fixed set of windows with its metrics, ready to score one model after another.

    Args:
        data: panel, split and windows.
        config: horizons, seasonality and batch size.
        manager: process group; N ranks give the numbers of one.
        part: which windows, ``test`` or ``validation``.
        every: score only every so many of the windows.
        max_windows: score at most so many, evenly spread; None scores all.
    """

    def __init__(
        self,
        data: PreparedData,
        config: EvaluationSection,
        manager: DistributedManager,
        part: str = "test",
        every: int = 1,
        max_windows: int | None = None,
    ) -> None:
        self.windows: WindowDataset = thinned(data.windows[part], every, max_windows)
        self._unit = data.preprocessor.unit
        self.horizons = horizon_steps(config, data.panel.frequency, self.windows.prediction_length)
        self._manager = manager
        self._num_targets = data.panel.roles.num_targets
        self._std = data.preprocessor.scaler.std[: self._num_targets]
        seasonality = config.seasonality or default_seasonality(data.panel.frequency)
        self._mase_scale = seasonal_scale(data.panel, data.split, seasonality)
        batch_size = evaluation_batch_size(config.batch_size, len(data.panel.roles.channels), manager.device)
        self._loader = manager.accelerator.prepare_data_loader(window_loader(self.windows, batch_size))

    def score(self, model: Forecaster) -> Scores:
        """Forecast every window once and return the metrics; every rank gets the same result."""
        sums = ErrorSums(self.windows.prediction_length, self._std, self._mase_scale)
        kept: list[tuple[np.ndarray, np.ndarray]] = []  # start and forecast of each batch
        for batch, forecast in self._forecasts(model):
            targets = slice(0, self._num_targets)
            gathered = self._manager.accelerator.gather_for_metrics(
                (
                    forecast.contiguous(),
                    batch["future_values"][..., targets].contiguous(),
                    batch["future_observed_mask"][..., targets].contiguous(),
                    batch["item"],
                    batch["start"],
                )
            )
            arrays = [tensor.cpu().numpy() for tensor in gathered]
            sums.add(*arrays)
            if self.keeps_forecasts:
                kept.append((arrays[-1], arrays[0]))
        scores = sums.scores(self.horizons)
        return replace(scores, windows=self._scored(kept)) if self.keeps_forecasts else scores

    @property
    def keeps_forecasts(self) -> bool:
        """True if the forecasts of every model stay in memory, for metrics that need more than sums."""
        size = 4 * len(self.windows) * self.windows.prediction_length * self._num_targets
        return size <= KEPT_BYTES

    def _scored(self, kept: list[tuple[np.ndarray, np.ndarray]]) -> ScoredWindows:
        start, forecast = (np.concatenate(column) for column in zip(*kept, strict=True))
        return replace(self.happened, forecast=forecast[np.argsort(start, kind="stable")])

    @cached_property
    def happened(self) -> ScoredWindows:
        """What is the same for every model; the forecast in it is the truth."""
        windows, targets = self.windows, slice(0, self._num_targets)
        starts = np.sort(windows.starts(np.arange(len(windows))))
        parts: list[tuple[np.ndarray, ...]] = []
        for begin in range(0, len(starts), _ROWS_AT_ONCE):
            batch = windows.gather(starts[begin : begin + _ROWS_AT_ONCE])
            last = torch.where(batch["past_observed_mask"], batch["past_values"], torch.nan)[:, -1, 0]
            happened = batch["future_values"][..., targets], batch["future_observed_mask"][..., targets]
            parts.append(tuple(tensor.clone().numpy() for tensor in (*happened, batch["item"], last)))
        truth, observed, item, last = (np.concatenate(column) for column in zip(*parts, strict=True))
        origin = starts + windows.context_length
        return ScoredWindows(
            truth=truth,
            forecast=truth,
            observed=observed,
            item=item,
            timestamps=windows.panel.timestamps[origin[:, None] + np.arange(windows.prediction_length)],
            last_reading=last,
            mase_scale=self._mase_scale[item],
            start=starts,
            unit=self._unit,
        )

    def _forecasts(self, model: Forecaster) -> Iterator[tuple[Batch, torch.Tensor]]:
        with torch.inference_mode():
            for batch in self._loader:
                yield batch, model.forecast(batch)


def thinned(windows: WindowDataset, every: int = 1, max_windows: int | None = None) -> WindowDataset:
    """Every so many of the windows, and of those at most so many, evenly spread; all of them is the same object."""
    chosen = np.arange(0, len(windows), every)
    if max_windows is not None and len(chosen) > max_windows:
        chosen = chosen[np.linspace(0, len(chosen) - 1, max_windows).round().astype(np.int64)]
    if len(chosen) == len(windows):
        return windows
    if windows.chosen is not None:
        chosen = windows.chosen[chosen]
    return windows.only(chosen)


def horizon_steps(config: EvaluationSection, frequency: str, prediction_length: int) -> dict[str, int]:
    """Label -> step of each horizon, for example ``{"30min": 6}``; a bare number is labelled ``6steps``.

    Raises:
        ConfigError: a horizon off the grid or beyond the forecast.
    """
    steps = {}
    for horizon in config.horizons:
        step = to_steps(horizon, frequency, "evaluation.horizons")
        label = f"{step}steps" if isinstance(horizon, int) or horizon.isdigit() else horizon
        if not 1 <= step <= prediction_length:
            raise ConfigError(
                f"evaluation.horizons: {label} is step {step}, but the forecast has {prediction_length} steps "
                "(model.prediction_length)"
            )
        steps[label] = step
    return steps
