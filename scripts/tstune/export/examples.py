"""Readings to export and to check with: made up, with gaps, and read the way a forecast reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from tstune.data.panel import MISSING
from tstune.data.preprocess import build_panel
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.data.windows import Batch, padded_context
from tstune.export.graph import FUTURE, PAST, STATIC
from tstune.models.contract import ForecastModel


@dataclass(frozen=True)
class Examples:
    """The same windows for the exported file and for PyTorch.

    Attributes:
        inputs: arguments of a `ForecastGraph` by name, gaps as NaN.
        batch: what the data pipeline makes of them, gaps filled and masked.
    """

    inputs: dict[str, torch.Tensor]
    batch: Batch


def make_examples(model: ForecastModel, num_windows: int, seed: int = 0) -> Examples:
    """Windows like the training data in level and spread; all but the first have short and long gaps."""
    preprocessor, section = model.preprocessor, model.config.model
    roles, length = preprocessor.roles, section.context_length
    random = np.random.default_rng(seed)
    columns = len(roles.columns)
    mean, std = preprocessor.scaler.mean[:columns], preprocessor.scaler.std[:columns]
    waves = np.sin(np.arange(length)[:, None] / random.uniform(3, 40, (num_windows, 1, columns)))
    past = (mean + std * (waves + 0.3 * random.standard_normal(waves.shape))).astype(np.float32)
    for window in range(1, num_windows):
        for channel in range(columns):
            _cut_gaps(past[window, :, channel], random)
    stamps = pd.date_range("2024-01-01", periods=length, freq=preprocessor.frequency)
    items = [f"{window:06d}" for window in range(num_windows)]
    frame = pd.DataFrame(past.reshape(-1, columns), columns=list(roles.columns))
    frame.insert(0, TIMESTAMP, np.tile(stamps.to_numpy(), num_windows))
    frame.insert(0, ITEM, np.repeat(items, length))
    constants = preprocessor.scaler.mean[columns : columns + len(roles.static_real)]
    noise = preprocessor.scaler.std[columns : columns + len(roles.static_real)] * random.standard_normal(
        (num_windows, len(roles.static_real))
    )
    statics = pd.DataFrame(constants + noise, index=items, columns=list(roles.static_real))
    table = SourceTable(frame, roles, statics=statics).with_settings(dict(preprocessor.fill), roles.time_features)
    panel = build_panel(table, preprocessor.frequency, preprocessor.max_gap, cut=False)
    values, status = padded_context(panel, panel.segment_start[1:] - length, length)
    future = np.zeros((num_windows, section.prediction_length, len(roles.channels)), np.float32)
    known = roles.control_indices
    scaler = preprocessor.scaler
    future[..., known] = scaler.mean[known] + scaler.std[known] * random.standard_normal(future[..., known].shape)
    batch = {
        "past_values": torch.from_numpy(values),
        "past_observed_mask": torch.from_numpy(status != MISSING),
        "future_values": torch.from_numpy(future),
    }
    inputs = {PAST: torch.from_numpy(np.concatenate([past, values[..., columns:]], axis=-1))}
    if known:
        inputs[FUTURE] = batch["future_values"][..., known].contiguous()
    if roles.static_categorical:
        codes = random.integers(0, roles.num_categories, (num_windows, len(roles.static_categorical)))
        inputs[STATIC] = batch["static"] = torch.from_numpy(codes)
    return Examples(inputs, batch)


def _cut_gaps(readings: np.ndarray, random: np.random.Generator) -> None:
    """A few gaps of one step to half of the context; the first and the last reading stay, they say where it lies."""
    longest = max(1, len(readings) // 2)
    for size in (1, 2, int(random.integers(1, min(12, longest) + 1)), int(random.integers(1, longest + 1))):
        begin = int(random.integers(1, max(2, len(readings) - 1 - size)))
        readings[begin : min(begin + size, len(readings) - 1)] = np.nan
