"""Score models on exactly the same windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from tstune.config.schema import EvaluationSection
from tstune.data.frequency import default_seasonality, to_steps
from tstune.data.pipeline import PreparedData
from tstune.data.windows import Batch, WindowDataset, evaluation_batch_size, window_loader
from tstune.errors import ConfigError
from tstune.evaluation.metrics import ErrorSums, Scores, seasonal_scale
from tstune.runtime.distributed import DistributedManager


class Forecaster(Protocol):
    """Anything that forecasts a batch of windows."""

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] float32 in original units."""


class Backtest:
    """A fixed set of windows with its metrics, ready to score one model after another.

    Args:
        data: panel, split and windows.
        config: horizons, seasonality and batch size.
        manager: process group; N ranks give the numbers of one.
        part: which windows, ``test`` or ``validation``.
    """

    def __init__(
        self, data: PreparedData, config: EvaluationSection, manager: DistributedManager, part: str = "test"
    ) -> None:
        self.windows: WindowDataset = data.windows[part]
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
            sums.add(*(tensor.cpu().numpy() for tensor in gathered))
        return sums.scores(self.horizons)

    def _forecasts(self, model: Forecaster) -> Iterator[tuple[Batch, torch.Tensor]]:
        with torch.inference_mode():
            for batch in self._loader:
                yield batch, model.forecast(batch)


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
