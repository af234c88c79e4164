"""Forecasts that every model must beat, behind the same interface and on the same windows."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tstune.config.section import BaselineSection, RidgeSection
from tstune.data.frequency import default_seasonality
from tstune.data.prepared import PreparedData
from tstune.data.preprocess import Preprocessor
from tstune.data.windows import Batch
from tstune.errors import ConfigError
from tstune.foreign_files import damage, read_tensors
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.models.contract import MODEL_FOLDER, context_spread
from tstune.named_code import optional_module
from tstune.training.losses import window_losses

MAX_RIDGE_ROWS = 200_000
"""Ridge sees at most this many (window, target) rows, evenly spaced; more changes nothing but the time."""


class WithoutNetwork(BaseTimeSeriesFoundationModel):
    """A forecaster that our loop does not train: fitted in closed form, by a service, or not at all."""

    def build(self, preprocessor: Preprocessor) -> None:
        """Remember the channels, and whether each window has a scale of its own."""
        self.preprocessor = preprocessor
        self.by_window = preprocessor.columns_as == "items"

    def train_on(self, data: PreparedData, *_: object) -> None:
        """Nothing to learn; there are no steps to watch or to go on from."""

    @property
    def learns(self) -> bool:
        """True if it is fitted; the tuning mode says so for services only."""
        return type(self).train_on is not WithoutNetwork.train_on and (self.is_baseline or super().learns)

    def window_losses(self, module: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean squared error of the forecast, per window, in scaled units."""
        targets = slice(0, self.preprocessor.roles.num_targets)
        std = torch.as_tensor(self.preprocessor.scaler.std[targets], dtype=torch.float32)
        observed = batch["future_observed_mask"][..., targets]
        return window_losses(self.forecast(batch) / std, batch["future_values"][..., targets] / std, observed, "mse")

    def save_weights(self, folder: Path) -> None:
        """Write the family's name; there is nothing else to keep."""
        self._write_config(folder)

    def load_weights(self, folder: Path) -> None:
        """There is nothing to read."""
        self.build(self.preprocessor)

    def _write_config(self, folder: Path, **values: object) -> None:
        """Write the family's name and what else there is to keep as config.json of `model/`."""
        (folder / MODEL_FOLDER).mkdir(parents=True, exist_ok=True)
        text = json.dumps({"model_type": self.model_type} | values, indent=2) + "\n"
        (folder / MODEL_FOLDER / "config.json").write_text(text, encoding="utf-8")

    def _training_mean(self, past: torch.Tensor) -> torch.Tensor:
        """[targets] what to say where nothing is known."""
        mean = self.preprocessor.scaler.mean[: self.preprocessor.roles.num_targets]
        return torch.as_tensor(mean, dtype=past.dtype, device=past.device)

    def _last_reading(self, past: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """[batch, 1, targets]."""
        steps = torch.arange(past.shape[1], device=past.device)[None, :, None]
        last = torch.where(observed, steps, 0).amax(dim=1, keepdim=True)
        return torch.where(observed.any(dim=1, keepdim=True), past.gather(1, last), self._training_mean(past))

    def _own_deviation(self, batch: Batch) -> torch.Tensor:
        """[batch, 1, targets] deviation of each context; 1 where it does not vary."""
        spread = context_spread(batch, self.preprocessor.roles.num_targets)[:, None]
        return torch.where(spread > 0, spread, 1.0)

    def _target_context(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Past values and mask of the targets, [batch, context, targets]."""
        targets = slice(0, self.preprocessor.roles.num_targets)
        return batch["past_values"][..., targets], batch["past_observed_mask"][..., targets]

    @property
    def _num_steps(self) -> int:
        return self.config.model.prediction_length


class Baseline(WithoutNetwork):
    """What every model must beat: it needs the context only, or learns in a minute."""

    is_baseline = True
    section = BaselineSection


class Persistence(Baseline):
    """The last value stays."""

    model_type = "persistence"

    def forecast(self, batch: Batch) -> torch.Tensor:
        return self._last_reading(*self._target_context(batch)).expand(-1, self._num_steps, -1)


class SeasonalNaive(Baseline):
    """The last season repeats; a step of it that no season of the context holds is the last reading."""

    model_type = "seasonal_naive"

    def build(self, preprocessor: Preprocessor) -> None:
        """Fix the season (`ConfigError`: the season does not fit into the context)."""
        super().build(preprocessor)
        self.seasonality = self.config.evaluation.seasonality or default_seasonality(preprocessor.frequency)
        if self.seasonality > self.config.model.context_length:
            raise ConfigError(
                f"seasonal_naive: a season of {self.seasonality} steps is longer than "
                f"model.context_length={self.config.model.context_length}"
            )

    def forecast(self, batch: Batch) -> torch.Tensor:
        past, observed = self._target_context(batch)
        season = past[:, -self.seasonality :].clone()
        found = observed[:, -self.seasonality :].clone()
        for end in range(past.shape[1] - self.seasonality, 0, -self.seasonality):  # else the season before
            begin = max(0, end - self.seasonality)
            steps = slice(self.seasonality - (end - begin), None)
            older = ~found[:, steps] & observed[:, begin:end]
            season[:, steps] = torch.where(older, past[:, begin:end], season[:, steps])
            found[:, steps] |= older
        season = torch.where(found, season, self._last_reading(past, observed))
        steps = torch.arange(self._num_steps, device=past.device) % self.seasonality
        return season[:, steps]


class ContextMean(Baseline):
    """The mean of the context."""

    model_type = "context_mean"

    def forecast(self, batch: Batch) -> torch.Tensor:
        past, observed = self._target_context(batch)
        mean = (past * observed).sum(dim=1, keepdim=True) / observed.sum(dim=1, keepdim=True).clamp_min(1)
        mean = torch.where(observed.any(dim=1, keepdim=True), mean, self._training_mean(past))
        return mean.expand(-1, self._num_steps, -1)


class Ridge(Baseline):
    """Linear regression with L2 penalty from the whole context to the whole forecast.

    All targets share it, unless `model.ridge_per_channel` gives each its own.

    It works on globally scaled values, is fitted on gap-filled training windows and, like all models,
    scored on observed targets only. Columns that are a series each (`data.columns_as=items`) may differ a thousandfold:
    there each window is counted from its last reading, in its own deviation.
    """

    model_type, section = "ridge", RidgeSection

    def train_on(self, data: PreparedData, *_: object) -> None:
        """Fit in closed form with scikit-learn."""
        from sklearn.linear_model import Ridge as RidgeRegression

        targets = data.panel.roles.num_targets
        num_windows = min(len(data.train), max(1, MAX_RIDGE_ROWS // targets))
        chosen = np.linspace(0, len(data.train) - 1, num_windows).astype(np.int64)
        batch = data.train.__getitems__(chosen)
        past, mean, std = self._scaled_context(batch)
        future = (batch["future_values"][..., :targets] - mean) / std
        keys, found = self._keys, []
        for part in range(targets) if keys.ridge_per_channel else [slice(None)]:
            regression = RidgeRegression(alpha=keys.ridge_alpha, copy_X=False)
            regression.fit(_rows(past, part), _rows(future, part))
            found.append((regression.coef_, regression.intercept_))
        weight, bias = (torch.tensor(np.stack(parts), dtype=torch.float32) for parts in zip(*found, strict=True))
        self.weight, self.bias = (weight, bias) if keys.ridge_per_channel else (weight[0], bias[0])

    def forecast(self, batch: Batch) -> torch.Tensor:
        past, mean, std = self._scaled_context(batch)
        weight, bias = self.weight.to(past.device), self.bias.to(past.device)
        rows = past.transpose(1, 2)
        mapped = rows @ weight.T if weight.ndim == 2 else torch.einsum("bci,csi->bcs", rows, weight)
        return (mapped + bias).transpose(1, 2) * std + mean

    def save_weights(self, folder: Path) -> None:
        """Write the map as safetensors."""
        super().save_weights(folder)
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias}  # scikit-learn's is transposed
        if self.by_window:
            tensors["by_window"] = torch.ones(1)
        save_file(tensors, folder / MODEL_FOLDER / "model.safetensors")

    def load_weights(self, folder: Path) -> None:
        """Read the map."""
        path = folder / MODEL_FOLDER / "model.safetensors"
        tensors = read_tensors(path)
        with damage(path):
            self.weight, self.bias, self.by_window = tensors["weight"], tensors["bias"], "by_window" in tensors
            maps = (self.preprocessor.roles.num_targets,) if self._keys.ridge_per_channel else ()
            bias, weight = (*maps, self._num_steps), (*maps, self._num_steps, self._num_inputs)
            if self.bias.shape != bias or self.weight.shape != weight:
                raise ValueError(f"its map is not from {self._num_inputs} values to {self._num_steps} steps")

    @property
    def _keys(self) -> RidgeSection:
        """`model.ridge_*`; the defaults beside another model, and for a class of one's own, which takes no keys."""
        section = self.config.model
        return section if isinstance(section, RidgeSection) else RidgeSection(type=self.model_type)

    @property
    def _num_inputs(self) -> int:
        return self.config.model.context_length

    def _scaled_context(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[batch, context, targets] scaled values, and the mean and deviation that they were scaled by."""
        past, observed = self._target_context(batch)
        if self.by_window:
            mean, std = self._last_reading(past, observed), self._own_deviation(batch)
        else:
            scaler, targets = self.preprocessor.scaler, slice(0, past.shape[2])
            mean, std = (
                torch.as_tensor(values[targets], dtype=torch.float32, device=past.device)
                for values in (scaler.mean, scaler.std)
            )
        return torch.where(observed, (past - mean) / std, 0.0), mean, std


def _rows(values: torch.Tensor, part: int | slice) -> np.ndarray:
    """Some targets of [batch, steps, targets] -> [batch * targets, steps], double as the normal equations need."""
    return values.transpose(1, 2)[:, part].reshape(-1, values.shape[1]).double().numpy()


MAX_SERIES = 2_000
"""Test windows times targets that are fitted at most; with more the baseline is left out of a run."""
FEWEST_READINGS = 8
"""A context with fewer readings is forecast by its last one: there is nothing to choose a model from."""


class Statistical(Baseline):
    """The model of statsforecast that has the name of the class, chosen and fitted on the context of each window alone.

    Nothing is learned from the training part. Gaps inside a context are bridged by straight lines and what lies before
    its first reading is left out, because these models know no missing values. The season is that of
    `evaluation.seasonality`, and none where the context does not hold two of them.
    """

    longest_season: ClassVar[int | None] = None
    """Steps; a longer season is left out. None: any."""

    @classmethod
    def require_packages(cls) -> None:
        _models(cls.model_type)

    @classmethod
    def most_windows(cls, num_targets: int) -> int:
        """Windows it is fitted to at most."""
        return MAX_SERIES // num_targets

    def build(self, preprocessor: Preprocessor) -> None:
        """Fix the season (`MissingDependencyError`: statsforecast is not installed)."""
        super().build(preprocessor)
        season = self.config.evaluation.seasonality or default_seasonality(preprocessor.frequency)
        self.seasonality = 1 if self.longest_season is not None and season > self.longest_season else season
        self._library = _models(self.model_type)

    def forecast(self, batch: Batch) -> torch.Tensor:
        past, observed = self._target_context(batch)
        last = self._last_reading(past, observed)[:, 0].cpu().numpy()
        values, seen = past.cpu().numpy().astype(np.float64), observed.cpu().numpy()
        found = np.empty((len(values), self._num_steps, values.shape[2]), np.float32)
        for window in range(len(values)):
            for target in range(values.shape[2]):
                series = bridged(values[window, :, target], seen[window, :, target])
                found[window, :, target] = self._series_forecast(series, last[window, target])
        return torch.from_numpy(found).to(past.device)

    def _series_forecast(self, series: np.ndarray, last: float) -> np.ndarray:
        """[steps] forecast; the last reading where the series is too short, flat, or the library gives no number."""
        if len(series) < FEWEST_READINGS or np.ptp(series) == 0:
            return np.full(self._num_steps, last)
        season = self.seasonality if len(series) >= 2 * self.seasonality else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its numerics, once per window
            model = getattr(self._library, type(self).__name__)(season_length=season)
            found = model.forecast(y=series, h=self._num_steps)["mean"]
        return np.where(np.isfinite(found), found, last)


class AutoETS(Statistical):
    """Exponential smoothing; error, trend and season chosen by the corrected Akaike criterion."""

    model_type = "auto_ets"
    longest_season = 24  # as in R's ets: each step of a season is a state, a day of five-minute readings takes seconds


class AutoTheta(Statistical):
    """The best of the four Theta models by mean squared error in the context."""

    model_type = "auto_theta"


def bridged(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """[steps] of one series from its first reading on, gaps bridged by lines; the end goes on as the last reading."""
    where = np.flatnonzero(observed)
    if not len(where):
        return values[:0]
    return np.interp(np.arange(where[0], len(values)), where, values[where])


def _models(name: str) -> ModuleType:
    return optional_module("statsforecast.models", f"the baseline {name}", "statsforecast>=2.1,<3")
