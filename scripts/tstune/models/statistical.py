"""AutoETS and AutoTheta of statsforecast, fitted to every window anew, behind the common interface."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch

from tstune.data.frequency import default_seasonality
from tstune.data.prepared import Preprocessor
from tstune.data.windows import Batch
from tstune.models.baselines import Baseline
from tstune.models.contract import optional_module

MAX_SERIES = 2_000
"""Test windows times targets that are fitted at most; with more the baseline is left out of a run."""
FEWEST_READINGS = 8
"""A context with fewer readings is forecast by its last one: there is nothing to choose a model from."""


class Statistical(Baseline):
    """A statistical model of statsforecast, chosen and fitted on the context of each window alone.

    Nothing is learned from the training part. Gaps inside a context are bridged by straight lines and what lies before
    its first reading is left out, because these models know no missing values. The season is that of
    `evaluation.seasonality`, and none where the context does not hold two of them.
    """

    longest_season: ClassVar[int | None] = None
    """Steps; a longer season is left out. None: any."""

    @classmethod
    def require_packages(cls) -> None:
        """Stop if statsforecast is not installed."""
        _models(cls.model_type)

    @classmethod
    def most_windows(cls, num_targets: int) -> int:
        """Windows it is fitted to at most."""
        return MAX_SERIES // num_targets

    def build(self, preprocessor: Preprocessor) -> None:
        """Fix the season.

        Raises:
            MissingDependencyError: statsforecast is not installed.
        """
        super().build(preprocessor)
        season = self.config.evaluation.seasonality or default_seasonality(preprocessor.frequency)
        self.seasonality = 1 if self.longest_season is not None and season > self.longest_season else season
        self._library = _models(self.model_type)

    def load_weights(self, folder: object) -> None:
        """Fix the season again."""
        self.build(self.preprocessor)

    def forecast(self, batch: Batch) -> torch.Tensor:
        """[batch, prediction, targets] in original units."""
        past, observed = self._target_context(batch)
        last = self._last_reading(past, observed)[:, 0].cpu().numpy()
        values, seen = past.cpu().numpy().astype(np.float64), observed.cpu().numpy()
        found = np.empty((len(values), self._num_steps, values.shape[2]), np.float32)
        for window in range(len(values)):
            for target in range(values.shape[2]):
                series = bridged(values[window, :, target], seen[window, :, target])
                found[window, :, target] = self._series_forecast(series, last[window, target])
        return torch.from_numpy(found).to(past.device)

    @abstractmethod
    def _model(self, library: ModuleType, season: int) -> object:
        """A model of the library that has not seen anything."""

    def _series_forecast(self, series: np.ndarray, last: float) -> np.ndarray:
        """[steps] forecast; the last reading where the series is too short, flat, or the library gives no number."""
        if len(series) < FEWEST_READINGS or np.ptp(series) == 0:
            return np.full(self._num_steps, last)
        season = self.seasonality if len(series) >= 2 * self.seasonality else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its numerics, once per window
            found = self._model(self._library, season).forecast(y=series, h=self._num_steps)["mean"]
        return np.where(np.isfinite(found), found, last)


class AutoETS(Statistical):
    """Exponential smoothing; error, trend and season chosen by the corrected Akaike criterion."""

    model_type = "auto_ets"
    longest_season = 24  # as in R's ets: each step of a season is a state, a day of five-minute readings takes seconds

    def _model(self, library: ModuleType, season: int) -> object:
        return library.AutoETS(season_length=season)


class AutoTheta(Statistical):
    """The best of the four Theta models by mean squared error in the context."""

    model_type = "auto_theta"

    def _model(self, library: ModuleType, season: int) -> object:
        return library.AutoTheta(season_length=season)


def bridged(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """[steps] of one series from its first reading on, gaps bridged by lines; the end goes on as the last reading."""
    where = np.flatnonzero(observed)
    if not len(where):
        return values[:0]
    return np.interp(np.arange(where[0], len(values)), where, values[where])


def _models(name: str) -> ModuleType:
    return optional_module("statsforecast.models", f"the baseline {name}", "statsforecast>=2.1,<3")
