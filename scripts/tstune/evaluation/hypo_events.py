"""Hypoglycaemic events in a series of readings, by the consensus definition.

An event begins with at least 15 minutes below the limit in a row and ends before at least 15 minutes at or above it in
a row (Danne et al. 2017, doi:10.2337/dc17-1600; Battelino et al. 2023, doi:10.1016/S2213-8587(22)00319-9). A reading
stands for the time until the next one, so that is three readings of a 5-minute sensor and one of a 15-minute sensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.masking import observed_like

MIN_DURATION = np.timedelta64(15, "m")
MAX_GAP = np.timedelta64(45, "m")
"""After a longer gap nothing is known: an event ends with the last reading before it."""


@dataclass(frozen=True)
class Readings:
    """Observed readings of one item.

    Attributes:
        times: [readings] datetime64, ascending, each once.
        values: [readings] in original units.
    """

    times: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Events:
    """Events of one item.

    Attributes:
        start: [events] datetime64, first reading below the limit.
        end: [events] datetime64, first reading at or above it that begins the end; after a gap or at the end of the
            data one sampling step behind the last reading.
        lowest: [events] lowest reading.
    """

    start: np.ndarray
    end: np.ndarray
    lowest: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def readings_by_item(
    truth: np.ndarray, observed: np.ndarray, timestamps: np.ndarray, item: np.ndarray
) -> dict[int, Readings]:
    """Item -> all its observed readings, put together from windows, which may overlap.

    Args:
        truth, observed: [windows, steps].
        timestamps: [windows, steps] datetime64, local.
        item: [windows].
    """
    observed = observed_like(observed, truth)
    if np.shape(timestamps) != np.shape(truth) or np.shape(item) != np.shape(truth)[:1]:
        raise DataError(
            f"timestamps have shape {np.shape(timestamps)} and items {np.shape(item)}: readings of shape "
            f"{np.shape(truth)} need a time each, and an item for each window"
        )
    found = {}
    for which in np.unique(item):
        chosen = (np.asarray(item) == which)[:, None] & observed
        times, first = np.unique(timestamps[chosen], return_index=True)
        found[int(which)] = Readings(times, np.asarray(truth, dtype=np.float64)[chosen][first])
    return found


def low_events(
    readings: Readings,
    limit: float,
    step: np.timedelta64,
    min_duration: np.timedelta64 = MIN_DURATION,
    max_gap: np.timedelta64 = MAX_GAP,
) -> Events:
    """Events below the limit.

    Args:
        readings: of one item.
        limit: in the unit of the readings.
        step: sampling step of the sensor; the last reading before a gap stands for this long.
        min_duration: below the limit to begin an event, and at or above it to end one.
        max_gap: longest time between neighbouring readings.
    """
    times, values = readings.times, readings.values
    if not len(times):
        return Events(times, times, values)
    below = values < limit
    cut = np.diff(times) > max_gap
    first = np.concatenate([[0], np.flatnonzero((below[1:] != below[:-1]) | cut) + 1])
    stop = np.concatenate([first[1:], [len(times)]])
    after_gap = np.concatenate([[True], cut[first[1:] - 1]])
    open_end = np.concatenate([after_gap[1:], [True]])
    until = np.where(open_end, times[stop - 1] + step, times[np.minimum(stop, len(times) - 1)])
    long = until - times[first] >= min_duration
    events: list[list] = []
    running = False
    for run in range(len(first)):
        if after_gap[run]:
            running = False
        if below[first[run]]:
            lowest = values[first[run] : stop[run]].min()
            if running:
                events[-1][1:] = [until[run], min(events[-1][2], lowest)]
            elif long[run]:
                events.append([times[first[run]], until[run], lowest])
                running = True
        elif long[run]:
            running = False
    start, end, depth = zip(*events, strict=True) if events else ((), (), ())
    return Events(np.array(start, times.dtype), np.array(end, times.dtype), np.array(depth, np.float64))


def events_by_item(
    readings: Mapping[int, Readings], limit: float, steps: Mapping[int, np.timedelta64]
) -> dict[int, Events]:
    """Item -> its events.

    Args:
        readings: item -> readings.
        limit: in their unit.
        steps: item -> sampling step of its sensor, see `strata.sensor_steps`.
    """
    return {item: low_events(series, limit, steps[item]) for item, series in readings.items()}
