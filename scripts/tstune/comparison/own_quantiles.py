"""The quantiles that a saved model forecasts by itself, on windows that were cut for several models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tstune.comparison.fitting import FittedForecaster
from tstune.data.windows import WindowDataset
from tstune.evaluation.backtest import Forecaster
from tstune.evaluation.context_spread import context_spread
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.models.base import BaseTimeSeriesFoundationModel
from tstune.uncertainty.judge import details, scored


def with_own_quantiles(
    model: BaseTimeSeriesFoundationModel, forecaster: Forecaster, windows: ScoredWindows, dataset: WindowDataset
) -> ScoredWindows:
    """The windows with `quantiles` and `levels`; as they are if the model forecasts points only.

    Nothing is calibrated here: the intervals are those the model was saved with.

    Args:
        model: built or loaded.
        forecaster: the same model for these windows, see `fitted`.
        windows: [windows, steps, targets] with its point forecasts.
        dataset: where they come from.
    """
    if not model.quantile_levels:
        return windows
    method, steps, targets = model.uncertainty, windows.truth.shape[1], windows.truth.shape[2]
    adapted = forecaster if isinstance(forecaster, FittedForecaster) else None
    factor = 1.0 if adapted is None else adapted.factor
    spread, native = [], []
    for begin in range(0, len(windows.start), size := model.evaluation_batch_size(torch.device("cpu"))):
        batch = dataset.gather(windows.start[begin : begin + size])
        batch = batch if adapted is None else adapted.own(batch)
        spread.append(context_spread(batch, targets).numpy())
        if model.native_levels:
            with torch.inference_mode():
                native.append(model.native_quantiles(batch)[:, :steps].cpu().numpy())
    quantiles = np.concatenate(native) if native else None
    if method is not None:  # it was fitted in the model's unit
        evidence = replace(
            windows,
            truth=windows.truth * factor,
            forecast=windows.forecast * factor,
            spread=np.concatenate(spread),
            quantiles=quantiles,
            levels=np.asarray(model.native_levels) if native else None,
        )
        quantiles = method.backtest(evidence)
    return replace(windows, quantiles=quantiles / factor, levels=np.asarray(model.quantile_levels))


def describe_quantiles(model: BaseTimeSeriesFoundationModel, windows: ScoredWindows) -> dict | None:
    """The ``uncertainty`` object of `evaluation.json`; None without quantiles."""
    if windows.quantiles is None:
        return None
    levels = windows.levels.tolist()
    name = "quantile_head" if model.uncertainty is None else model.uncertainty.name
    row = scored(windows, windows.quantiles, levels)
    found = {"method": name, "levels": levels, "calibration": {"part": "validation", "num_windows": None}}
    return found | {"methods": {name: row}} | details(windows, windows.quantiles, levels)
