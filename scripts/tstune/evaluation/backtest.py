"""Score models on exactly the same windows.

Errors are summed up batch by batch, so that memory does not grow with windows. Only observed targets count. With
e = forecast - target over all observed (window, step, channel): rmse = sqrt(mean e²) and mae = mean |e| in original
units; mse_scaled and mae_scaled the same on values divided by the training deviation of each channel, with
data.columns_as=items of each item; mase = mean |e| / scale, where scale is the mean absolute seasonal difference of the
item's training part (Hyndman & Koehler 2006).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from tstune.config.schema import EvaluationSection
from tstune.config.section import AUTO
from tstune.data.defaults import default_horizons, season_of
from tstune.data.frequency import to_steps
from tstune.data.panel import Panel, row_blocks, segment_of
from tstune.data.prepared import PreparedData
from tstune.data.scaler import item_deviation, training_readings
from tstune.data.splits import Split
from tstune.data.windows import Batch, WindowDataset, evaluation_batch_size, window_loader
from tstune.errors import ConfigError
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.models.contract import Forecaster, require_numbers
from tstune.runtime.distributed import DistributedManager

ALWAYS_SCORED = ("rmse", "mae", "mse_scaled", "mae_scaled", "mase")


def scored_columns(horizons: Iterable[str]) -> list[str]:
    """What a scoreboard has, whatever further metrics are asked for, beside the number of windows."""
    return [*ALWAYS_SCORED, *(f"{name}@{label}" for label in horizons for name in ("rmse", "mae"))]


def seasonal_scale(panel: Panel, split: Split, seasonality: int) -> np.ndarray:
    """[items, targets] mean |y_t - y_(t-m)| over observed training pairs; the pooled mean where there is none."""
    targets, items = panel.roles.num_targets, len(panel.item_ids)
    totals, counts = np.zeros((2, targets, items))
    for block in row_blocks(panel):
        rows = np.arange(max(block.start, seasonality), block.stop)
        if not rows.size:
            continue
        segment = segment_of(panel, rows)
        together = rows - panel.segment_start[segment] >= seasonality
        now, before = (slice(rows[0] - lag, rows[-1] + 1 - lag) for lag in (0, seasonality))
        pairs = training_readings(panel, split, now) & training_readings(panel, split, before) & together[:, None]
        difference = np.abs(panel.values[now, :targets] - panel.values[before, :targets])
        for target in range(targets):
            seen = pairs[:, target]
            item = panel.segment_item[segment[seen]]
            np.add.at(totals[target], item, difference[seen, target].astype(np.float64))
            counts[target] += np.bincount(item, minlength=items)
    total, count = np.stack(totals, axis=1), np.stack(counts, axis=1)
    pooled = total.sum(axis=0) / np.maximum(count.sum(axis=0), 1)
    scale = np.where(count > 0, total / np.maximum(count, 1), pooled)
    return np.where(scale > 0, scale, np.nan)


@dataclass(frozen=True)
class Scores:
    """What one model scored on one set of windows."""

    metrics: dict[str, float]
    rmse_by_step: np.ndarray  # [prediction] RMSE at each step, original units
    window_start: np.ndarray  # [windows] panel row of each window, ascending on any number of ranks
    window_item: np.ndarray  # [windows] item of each window
    window_square: np.ndarray  # [windows] sum of squared errors over the observed targets of each window's path
    window_absolute: np.ndarray  # [windows] sum of absolute errors over the same
    window_count: np.ndarray  # [windows] how many targets of the path were observed
    num_items: int  # items of the panel, with windows or without
    # the forecasts with what happened, for metrics that need more than sums; None if they are too large
    windows: ScoredWindows | None = None

    @property
    def window_rmse(self) -> np.ndarray:
        """[windows] RMSE of each window, NaN where nothing was observed."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(self.window_square / self.window_count)

    @property
    def windows_by_item(self) -> np.ndarray:
        """[items] number of windows of each item."""
        return np.bincount(self.window_item, minlength=self.num_items)

    @property
    def rmse_by_item(self) -> np.ndarray:
        """[items] RMSE of each item, NaN where nothing was observed."""
        return np.sqrt(self._mean_by_item(self.window_square))

    @property
    def mae_by_item(self) -> np.ndarray:
        """[items] MAE of each item, NaN where nothing was observed."""
        return self._mean_by_item(self.window_absolute)

    def _mean_by_item(self, sums: np.ndarray) -> np.ndarray:
        weights = sums, self.window_count
        totals, counts = (np.bincount(self.window_item, weights=one, minlength=self.num_items) for one in weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            return totals / counts


class ErrorSums:
    """Collects errors of batches; `scores` turns them into metrics.

    Args:
        target_std: [targets] training deviation of each target, or [items, targets].
        mase_scale: [items, targets] from `seasonal_scale`.
    """

    def __init__(self, num_steps: int, target_std: np.ndarray, mase_scale: np.ndarray) -> None:
        shape = (num_steps, target_std.shape[-1])
        self._std = target_std
        self._mase_scale = mase_scale
        self._square, self._absolute, self._count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._scaled_square = self._scaled_absolute = self._mase_total = self._mase_count = 0.0
        self._windows: list[tuple[np.ndarray, ...]] = []  # start, item, square, absolute, count of each batch

    def add(
        self, forecast: np.ndarray, target: np.ndarray, observed: np.ndarray, item: np.ndarray, start: np.ndarray
    ) -> None:
        """Add a batch: forecast, target, observed [batch, steps, targets]; item, start [batch]."""
        error = np.where(observed, forecast.astype(np.float64) - target, 0.0)
        square, absolute = error**2, np.abs(error)
        self._square += square.sum(axis=0)
        self._absolute += absolute.sum(axis=0)
        self._count += observed.sum(axis=0)
        if self._std.ndim == 2:
            std = self._std[item][:, None]
            self._scaled_square += (square / std**2).sum()
            self._scaled_absolute += (absolute / std).sum()
        scale = self._mase_scale[item]  # [batch, targets]
        known = np.isfinite(scale)
        per_window = np.where(known, absolute.sum(axis=1) / np.where(known, scale, 1.0), 0.0)
        self._mase_total += per_window.sum()
        self._mase_count += (observed.sum(axis=1) * known).sum()
        seen = observed.sum(axis=(1, 2))
        self._windows.append((start, item, square.sum(axis=(1, 2)), absolute.sum(axis=(1, 2)), seen))

    def scores(self, horizons: Mapping[str, int]) -> Scores:
        """Metrics over everything added, and at each horizon: label -> step, 1 is the first forecast step."""
        count = self._count.sum()
        metrics = {"rmse": _ratio(self._square.sum(), count) ** 0.5, "mae": _ratio(self._absolute.sum(), count)}
        by_step = np.array([_ratio(s, n) ** 0.5 for s, n in zip(self._square.sum(1), self._count.sum(1), strict=True)])
        for label, step in horizons.items():
            metrics[f"rmse@{label}"] = float(by_step[step - 1])
            metrics[f"mae@{label}"] = _ratio(self._absolute[step - 1].sum(), self._count[step - 1].sum())
        scaled = self._scaled_square, self._scaled_absolute
        if self._std.ndim == 1:
            scaled = (self._square / self._std**2).sum(), (self._absolute / self._std).sum()
        metrics["mse_scaled"], metrics["mae_scaled"] = (_ratio(total, count) for total in scaled)
        metrics["mase"] = _ratio(self._mase_total, self._mase_count)
        windows = [np.concatenate(column) for column in zip(*self._windows, strict=True)]
        order = np.argsort(windows[0], kind="stable")  # ranks hand in their batches by turns
        metrics["num_windows"] = len(order)
        return Scores(metrics, by_step, *(column[order] for column in windows), len(self._mase_scale))


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else float("nan")


KEPT_BYTES = 256e6
"""Forecasts of one model are kept in memory up to this size; a run scores about eight models."""


class Backtest:
    """A fixed set of windows with its metrics, ready to score one model after another.

    Args:
        manager: process group; N ranks give the numbers of one.
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
        self.target_std = data.preprocessor.scaler.std[: self._num_targets]
        if data.preprocessor.columns_as == "items" and data.config.scaling == "standard":
            self.target_std = item_deviation(data.panel, data.split, self.target_std)
        seasonality = season_of(config.seasonality, data.panel.frequency)
        self._mase_scale = seasonal_scale(data.panel, data.split, seasonality)
        batch_size = evaluation_batch_size(config.batch_size, len(data.panel.roles.channels), manager.device)
        self.windows_at_once = batch_size * manager.num_processes
        self._loader = manager.accelerator.prepare_data_loader(window_loader(self.windows, batch_size))

    def score(self, model: Forecaster, name: str = "") -> Scores:
        """Forecast every window once and return the metrics; every rank gets the same result.

        Raises:
            DataError: a forecast that is not a number.
        """
        sums = ErrorSums(self.windows.prediction_length, self.target_std, self._mase_scale)
        kept: list[tuple[np.ndarray, np.ndarray]] = []  # start and forecast of each batch
        panel, context = self.windows.panel, self.windows.context_length
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
            origins = panel.timestamps[arrays[4] + context]  # a padded window may begin before the panel
            require_numbers(arrays[0], [panel.item_ids[number] for number in arrays[3]], origins, name)
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
        for begin in range(0, len(starts), self.windows_at_once):
            batch = windows.gather(starts[begin : begin + self.windows_at_once])
            past, observed = (batch[name][:, -1, 0] for name in ("past_values", "past_observed_mask"))
            last = torch.where(observed, past, torch.nan)
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
            level=None if windows.panel.level is None else windows.panel.level_of(item, targets),
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
    """Label -> step of each horizon, for example ``{"30min": 6}``; a bare number is labelled ``6steps``."""
    steps = {}
    shown = config.horizons
    for horizon in default_horizons(frequency, prediction_length) if shown == AUTO else shown:
        step = to_steps(horizon, frequency, "evaluation.horizons")
        label = f"{step}steps" if isinstance(horizon, int) or horizon.isdigit() else horizon
        if not 1 <= step <= prediction_length:
            raise ConfigError(
                f"evaluation.horizons: {label} is step {step}, but the forecast has {prediction_length} steps "
                "(model.prediction_length)"
            )
        steps[label] = step
    return steps
