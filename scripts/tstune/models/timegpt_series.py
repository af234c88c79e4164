"""Windows and training readings as the series that TimeGPT takes: without gaps, one per target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tstune.data.frequency import fixed_step, parse_frequency
from tstune.data.panel import MISSING
from tstune.data.prepared import Preprocessor
from tstune.data.windows import Batch, WindowDataset

ID, TIME, TARGET = "unique_id", "ds", "y"
FEWEST_READINGS = 2
"""A context with fewer has nothing to forecast from, and is not sent."""


@dataclass(frozen=True)
class Series:
    """One target of one window.

    Attributes:
        y: [steps] readings, gaps filled; it begins at the first reading of the context.
        known: [columns, steps + prediction] values of the columns that are known in the future.
        past: [columns, steps] values of the columns that are known up to now.
        origin: time of the first forecast step, seconds since 1970.
    """

    y: np.ndarray
    known: np.ndarray
    past: np.ndarray
    origin: int

    def key(self) -> bytes:
        """The same for series that get the same forecast."""
        parts = (np.ascontiguousarray(part, np.float32).tobytes() for part in (self.y, self.known, self.past))
        return b"|".join(parts)


def window_series(batch: Batch, preprocessor: Preprocessor) -> list[Series | None]:
    """Each target of each window, in this order; None where there is too little to forecast from."""
    roles, mean = preprocessor.roles, preprocessor.scaler.mean
    arrays = {name: tensor.cpu().numpy() for name, tensor in batch.items()}
    values, observed, future = (arrays[name] for name in ("past_values", "past_observed_mask", "future_values"))
    usable = arrays.get("future_known_mask", np.ones(future.shape, bool))
    known = roles.control_indices
    past = range(roles.num_targets, roles.num_targets + len(roles.conditional))
    found: list[Series | None] = []
    for window in range(len(values)):
        ahead = [
            filled(
                np.concatenate([values[window, :, place], future[window, :, place]]),
                np.concatenate([observed[window, :, place], usable[window, :, place]]),
                mean[place],
            )
            for place in known
        ]
        behind = [filled(values[window, :, place], observed[window, :, place], mean[place]) for place in past]
        for target in range(roles.num_targets):
            mask = observed[window, :, target]
            if mask.sum() < FEWEST_READINGS:
                found.append(None)
                continue
            first = int(mask.argmax())
            y = filled(values[window, first:, target], mask[first:], mean[target])
            cut_ahead = np.array([row[first:] for row in ahead], np.float32).reshape(
                len(ahead), len(y) + future.shape[1]
            )
            cut_behind = np.array([row[first:] for row in behind], np.float32).reshape(len(behind), len(y))
            found.append(Series(y, cut_ahead, cut_behind, int(arrays["origin"][window])))
    return found


def filled(values: np.ndarray, observed: np.ndarray, default: float) -> np.ndarray:
    """[steps] straight lines over gaps, the nearest reading at the ends, `default` where there is no reading."""
    places = np.flatnonzero(observed)
    if not len(places):
        return np.full(len(values), default, np.float32)
    return np.interp(np.arange(len(values)), places, values[places]).astype(np.float32)


def training_series(windows: WindowDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """(times, readings) of every unbroken stretch of each target that the training windows cover, gaps filled."""
    panel, length = windows.panel, windows.context_length + windows.prediction_length
    starts = np.sort(windows.starts(np.arange(len(windows))))
    segment = windows.segment_of(starts)
    begin, reach = np.maximum(starts, panel.segment_start[segment]), np.maximum.accumulate(starts + length)
    fresh = np.r_[True, (begin[1:] > reach[:-1]) | (segment[1:] != segment[:-1])]
    firsts = np.flatnonzero(fresh)
    lasts = np.r_[firsts[1:], len(begin)] - 1
    found = []
    for first, end in zip(begin[firsts], reach[lasts], strict=True):
        for target in range(panel.roles.num_targets):
            usable = np.flatnonzero(panel.status[first:end, target] != MISSING)
            if len(usable) >= FEWEST_READINGS:
                rows = slice(first + usable[0], first + usable[-1] + 1)
                values = filled(panel.values[rows, target], panel.status[rows, target] != MISSING, 0.0)
                found.append((panel.timestamps[rows], values))
    return found


def training_frame(series: Sequence[tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    """The client's long form."""
    sizes = [len(values) for _, values in series]
    return pd.DataFrame(
        {
            ID: np.repeat(np.arange(len(series)), sizes),
            TIME: np.concatenate([times for times, _ in series]),
            TARGET: np.concatenate([values for _, values in series]),
        }
    )


def window_frames(
    series: Sequence[Series], frequency: str, num_steps: int
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """(past, future or None, names of the past-only columns) in the client's long form.

    Names of items and columns stay here: series are numbers, columns are known0, known1, …, past0, past1, …
    """
    pasts, futures = [], []
    for number, one in enumerate(series):
        stamps = _timestamps(one.origin, len(one.y), num_steps, frequency)
        known = {f"known{place}": row for place, row in enumerate(one.known)}
        past = {f"past{place}": row for place, row in enumerate(one.past)}
        steps = len(one.y)
        pasts.append(
            {ID: np.full(steps, number), TIME: stamps[:steps], TARGET: one.y}
            | {name: row[:steps] for name, row in known.items()}
            | past
        )
        futures.append(
            {ID: np.full(num_steps, number), TIME: stamps[steps:]} | {name: row[steps:] for name, row in known.items()}
        )
    future = _table(futures) if len(series[0].known) else None
    return _table(pasts), future, [f"past{place}" for place in range(len(series[0].past))]


def _table(parts: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _timestamps(origin: int, before: int, after: int, frequency: str) -> np.ndarray:
    """[before + after] datetime64[ns]; the origin is the first of the later ones."""
    first, offset = np.datetime64(origin, "s").astype("datetime64[ns]"), parse_frequency(frequency)
    step = fixed_step(offset)
    if step is not None:
        return first + np.arange(-before, after) * step.to_timedelta64().astype("timedelta64[ns]")
    earlier = pd.date_range(end=first, periods=before + 1, freq=offset)[:-1]
    return np.r_[earlier.to_numpy(), pd.date_range(first, periods=after, freq=offset).to_numpy()].astype(
        "datetime64[ns]"
    )
