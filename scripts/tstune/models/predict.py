"""From a table to a table of forecasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tstune.data.frequency import encode_times, fixed_step, parse_frequency
from tstune.data.panel import MISSING, OBSERVED, Panel
from tstune.data.prepared import context_windows
from tstune.data.scaler import category_codes
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.data.windows import Batch, padded_context, seconds
from tstune.errors import ConfigError, DataError
from tstune.models.contract import ForecastModel, require_numbers
from tstune.runtime.logs import logger

Forward = Callable[[Batch, Sequence[str]], tuple[torch.Tensor, torch.Tensor | None]]
"""Windows and the names that their ``item`` counts in -> [windows, steps, targets] forecasts and, if there are levels,
[windows, steps, targets, levels] quantiles, in original units."""


def forecast_batch(
    model: ForecastModel, batch: Batch, item_ids: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A model as `Forward`."""
    with torch.inference_mode():
        point, quantiles = model.forecast_both(batch, item_ids)
        return point.cpu(), None if quantiles is None else quantiles.cpu()


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of several series, in original units."""

    forecasts: np.ndarray  # [items, steps, targets]
    timestamps: np.ndarray  # [items, steps] datetime64, in UTC where there is a zone
    timezone: str | None  # of the readings; None where they have none
    item_ids: tuple[str, ...]  # [items] names
    targets: tuple[str, ...]  # names of the columns
    quantiles: np.ndarray | None  # [items, steps, targets, levels], ascending; None where there are none
    quantile_levels: tuple[float, ...]  # [levels]

    def columns(self) -> dict[str, np.ndarray | pd.DatetimeIndex]:
        """Name -> [items * steps] of the columns of `to_frame`."""
        num_rows, num_steps = self.timestamps.size, self.timestamps.shape[1]
        table = {ITEM: np.repeat(self.item_ids, num_steps)}
        table[TIMESTAMP] = in_zone(self.timestamps.reshape(-1), self.timezone)
        table |= zip(self.targets, self.forecasts.reshape(num_rows, -1).T, strict=True)
        if self.quantiles is not None:
            names = [f"{name}_q{level:g}" for name in self.targets for level in self.quantile_levels]
            table |= zip(names, self.quantiles.reshape(num_rows, -1).T, strict=True)
        return table

    def to_frame(self) -> pd.DataFrame:
        """One row per series and step; see `BaseTimeSeriesFoundationModel.predict`."""
        return pd.DataFrame(self.columns())


def in_zone(stamps: np.ndarray, zone: str | None) -> pd.DatetimeIndex:
    """Times of a panel on the clock of the readings."""
    times = pd.DatetimeIndex(stamps)
    return times if zone is None else times.tz_localize("UTC").tz_convert(zone)


def forecast_table(
    model: ForecastModel,
    frame: pd.DataFrame | str | Path,
    future: pd.DataFrame | None,
    forward: Forward | None = None,
    batch_size: int | None = None,
) -> Forecasts:
    """Forecast each series of a table, by `forward` or the model; see `BaseTimeSeriesFoundationModel.predict`."""
    model.require_built()
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ConfigError("batch_size must be a whole number from 1 on; the known future goes to future=…")
    preprocessor, config = model.preprocessor, model.config
    length = config.model.context_length
    table = preprocessor.read_new(frame)
    zone = table.zone
    _require_readings(table)
    panel, starts = context_windows(table, preprocessor, length)
    _warn_about_gaps(panel, starts, length)
    stamps = future_timestamps(panel, config.model.prediction_length)
    known = known_future(model, future, panel, stamps)
    categories = category_codes(table, preprocessor.roles, panel.item_ids)

    forward, forecasts, quantiles = forward or partial(forecast_batch, model), [], []
    batch_size = batch_size or model.evaluation_batch_size(torch.device("cpu"))
    for begin in range(0, len(starts), batch_size):
        rows = starts[begin : begin + batch_size]
        values, status = padded_context(panel, rows, length)
        batch = {
            "past_values": torch.from_numpy(values),
            "past_observed_mask": torch.from_numpy(status != MISSING),
            "past_read_mask": torch.from_numpy(status == OBSERVED),
            "future_values": torch.from_numpy(known[begin : begin + len(rows)]),
            "item": torch.arange(begin, begin + len(rows)),
            "origin": torch.from_numpy(seconds(stamps[begin : begin + len(rows), 0])),
        }
        if categories is not None:
            batch["static"] = torch.from_numpy(categories[begin : begin + len(rows)])
        point, levels = forward(batch, panel.item_ids)
        for found, kept in ((point, forecasts), (levels, quantiles)):
            if found is not None:
                where = slice(begin, begin + len(rows))
                require_numbers(found.numpy(), panel.item_ids[where], stamps[where, 0])
                kept.append(found.numpy())
    found = None
    if quantiles:
        found = np.moveaxis(_with_level(np.moveaxis(np.concatenate(quantiles), -1, 0), panel), 0, -1)
    return Forecasts(
        forecasts=_with_level(np.concatenate(forecasts), panel),
        timestamps=stamps,
        timezone=zone,
        item_ids=panel.item_ids,
        targets=preprocessor.roles.target,
        quantiles=found,
        quantile_levels=tuple(model.quantile_levels) if quantiles else (),
    )


def _with_level(values: np.ndarray, panel: Panel) -> np.ndarray:
    """[…, items, steps, targets] forecasts counted from 0, in double precision where the panel's are not."""
    return values if panel.level is None else values + panel.level[:, None, : panel.roles.num_targets]


def _require_readings(table: SourceTable) -> None:
    held = ~np.isnan(table.numbers(table.roles.target)).all(axis=1)
    if held.all():  # the usual case, told in no time
        return
    items = table.frame[ITEM]
    empty = sorted(set(items) - set(items[held]))
    if empty:
        raise DataError(f"series {empty[0]!r} holds no value to forecast from; leave it out")


def future_timestamps(panel: Panel, num_steps: int) -> np.ndarray:
    """[items, steps] times that follow each item's last row."""
    offset = parse_frequency(panel.frequency)
    last = panel.timestamps[panel.segment_start[1:] - 1]
    step = fixed_step(offset)
    if step is not None:  # date_range would first move to an anchor, e.g. from a Wednesday to a Sunday
        return last[:, None] + np.arange(1, num_steps + 1)[None, :] * step.to_timedelta64()
    return np.stack(
        [pd.date_range(stamp, periods=num_steps + 1, freq=offset)[1:].to_numpy("datetime64[ns]") for stamp in last]
    )


def known_future(model: ForecastModel, future: pd.DataFrame | None, panel: Panel, stamps: np.ndarray) -> np.ndarray:
    """[items, steps, channels] values of the channels that are known in the future, 0 elsewhere."""
    roles, preprocessor = panel.roles, model.preprocessor
    known = np.zeros((*stamps.shape, len(roles.channels)), np.float32)
    constants = slice(len(roles.columns), len(roles.columns) + len(roles.static_real))
    known[..., constants] = panel.values[panel.segment_start[1:] - 1, None, constants]
    known[..., constants.stop :] = encode_times(stamps.reshape(-1), roles.time_features).reshape(*stamps.shape, -1)
    if not roles.control:
        if future is not None:
            logger.warning("the known future is not read: this model was trained without data.control_columns")
        return known
    if future is None:
        raise DataError(
            f"this model uses known-future column(s) {', '.join(roles.control)}: pass their values as future"
        )
    future = future.copy()
    for column in (*roles.target, *roles.conditional):
        future[column] = 0.0  # not known, and not read
    table = preprocessor.read_frame(future, "future", is_future=True).frame.set_index([ITEM, TIMESTAMP])
    for item, item_id in enumerate(panel.item_ids):
        names = pd.MultiIndex.from_product([[item_id], stamps[item]])
        rows = table[list(roles.control)].reindex(names)
        if rows.isna().any(axis=None):
            raise DataError(
                f"future: series {item_id!r} needs {', '.join(roles.control)} at every step from "
                f"{pd.Timestamp(stamps[item][0])} to {pd.Timestamp(stamps[item][-1])}"
            )
        channels = slice(len(roles.columns) - len(roles.control), len(roles.columns))
        known[item][:, channels] = rows.to_numpy(np.float64) - panel.level_of(item, channels)
    return known


def _warn_about_gaps(panel: Panel, starts: np.ndarray, length: int) -> None:
    targets = panel.status[:, : panel.roles.num_targets]
    begins = np.maximum(starts, panel.segment_start[:-1])  # what lies before a short history is no gap
    shares = np.array(
        [(targets[first : start + length] == MISSING).mean() for first, start in zip(begins, starts, strict=True)]
    )
    if (shares > 0).any():
        worst = int(shares.argmax())
        logger.warning(
            "%d of %d series have long gaps in their context, which are masked; worst: %s, %.0f %% missing",
            (shares > 0).sum(),
            len(shares),
            panel.item_ids[worst],
            100 * shares[worst],
        )
