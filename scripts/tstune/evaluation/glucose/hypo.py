"""Hypoglycaemia in a run: by window, and as events that an alarm announces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tstune.evaluation.glucose.points import has_times
from tstune.evaluation.glucose_units import GlucoseUnit, limit
from tstune.evaluation.hypo_alarms import AlarmWindows, alarm_report, alarm_windows, choose_alarm_threshold
from tstune.evaluation.hypo_events import Events, events_by_item, readings_by_item
from tstune.evaluation.hypoglycaemia import (
    distance_score,
    judged_windows,
    low_windows,
    probability_score,
    window_scores,
)
from tstune.evaluation.scored_windows import ScoredWindows
from tstune.evaluation.strata import sensor_steps

FALSE_ALARMS_PER_DAY = 1.0
"""Burden at which models are compared: one needless alarm a day. Our choice, there is no standard for it."""

ALARM_HORIZON = np.timedelta64(60, "m")
"""How far ahead an alarm looks: long enough to eat and to see it work, short enough for a forecast to know."""


def hypo_section(
    test: Mapping[str, ScoredWindows],
    validation: Mapping[str, ScoredWindows],
    name: str,
    horizons: Mapping[str, int],
    unit: GlucoseUnit,
    step: np.timedelta64,
) -> dict:
    """Scores by window over the whole path and up to each horizon, and events with an alarm set on validation windows.

    Windows whose last known reading is below the limit are left out. The score of a window is the probability of a low
    reading where there are quantiles, else how far the lowest forecast lies below the limit.

    Args:
        test: model -> test windows of one target.
        validation: model -> validation windows; a model without them has no events.
        name: `low` or `very_low`.
        horizons: label -> step.
        unit: of the windows.
        step: of the grid.
    """
    below = limit(name, unit)
    up_to = {
        label: {m: _window_scores(w.steps(slice(at)), below) for m, w in test.items()} for label, at in horizons.items()
    }
    return {
        "limit": below,
        "windows": {model: _window_scores(windows, below) for model, windows in test.items()},
        "windows_up_to": up_to,
        "events": _events(test, validation, below, step),
        "events_horizon_minutes": _alarm_steps(next(iter(test.values())), step) * (step / np.timedelta64(1, "m")),
    }


def _window_scores(windows: ScoredWindows, below: float) -> dict[str, float]:
    chosen = windows.select(judged_windows(windows.observed, below, windows.last_reading))
    score = _score(chosen, below, chosen.quantiles is not None)
    probability = score if chosen.quantiles is not None else None
    found = window_scores(low_windows(chosen.truth, chosen.observed, below), score, probability)
    if not np.isfinite(score).all():
        found["brier"] = float("nan")  # a forecast that is not a number is no forecast without a warning
    return found


def _score(windows: ScoredWindows, below: float, by_probability: bool) -> np.ndarray:
    if by_probability:
        return probability_score(windows.quantiles, windows.levels, below)
    return distance_score(windows.forecast, below)


def _alarm_steps(windows: ScoredWindows, step: np.timedelta64) -> int:
    return min(max(int(ALARM_HORIZON / step), 1), windows.truth.shape[1])


def _events(
    test: Mapping[str, ScoredWindows], validation: Mapping[str, ScoredWindows], below: float, step: np.timedelta64
) -> dict[str, dict | None] | None:
    """Model -> what its alarm does on the test windows, or None; None where no model has an alarm."""
    pairs = {name: (validation[name], windows) for name, windows in test.items() if name in validation}
    if not all(has_times(windows) for pair in pairs.values() for windows in pair) or not pairs:
        return None
    tuning, scored = (origins_of(windows, below, step) for windows in next(iter(pairs.values())))
    if not any(len(events) for events in tuning.events.values()):
        return None
    every = min(max(tuning.spacing(), scored.spacing()), tuning.horizon)
    tuning, scored = tuning.thinned(every), scored.thinned(every)
    found = {name: _alarm(*pair, tuning, scored, below) for name, pair in pairs.items()}
    return {name: found.get(name) for name in test} if any(found.values()) else None


def _alarm(
    validation: ScoredWindows, test: ScoredWindows, tuning: Origins, scored: Origins, below: float
) -> dict[str, object] | None:
    by_probability = validation.quantiles is not None and test.quantiles is not None
    tuned = tuning.alarms(validation, below, by_probability)
    report_on = scored.alarms(test, below, by_probability)
    if tuned is None or report_on is None or not alarm_report(tuned, -np.inf).num_events:
        return None
    threshold = choose_alarm_threshold(tuned, FALSE_ALARMS_PER_DAY)
    report = alarm_report(report_on, threshold)
    return {
        "threshold_from": "validation",
        "threshold": threshold,
        "false_alarms_per_day": FALSE_ALARMS_PER_DAY,
        "num_events": report.num_events,
        "detected": report.num_detected,
        "sensitivity": report.sensitivity,
        "precision": report.precision,
        "median_lead_minutes": report.median_lead_minutes,
        "false_alarms_per_day_found": report.false_alarms_per_day,
    }


@dataclass(frozen=True)
class Origins:
    """What the alarms of all models share on one set of windows.

    Attributes:
        item, time: [windows] item and time of the last context reading.
        judged: [windows] bool, may raise an alarm.
        events: item -> its events.
        horizon: how far ahead an alarm looks.
        steps: the same in steps.
    """

    item: np.ndarray
    time: np.ndarray
    judged: np.ndarray
    events: Mapping[int, Events]
    horizon: np.timedelta64
    steps: int

    def spacing(self) -> np.timedelta64:
        """Usual time between neighbouring windows of an item."""
        order = np.lexsort((self.time, self.item))
        item, time = self.item[order], self.time[order]
        distance = np.diff(time)[item[1:] == item[:-1]]
        return np.sort(distance)[len(distance) // 2] if len(distance) else self.horizon

    def thinned(self, every: np.timedelta64) -> Origins:
        """Judge only origins that lie at least so far behind the last one of their item.

        An alarm that may ring every five minutes rings more often than one that may ring once an hour: a threshold
        holds only for origins as close together as those it was chosen on. From one horizon on it is all the same.
        """
        kept = np.zeros(len(self.item), dtype=bool)
        for item in np.unique(self.item):
            mine = np.flatnonzero(self.item == item)
            mine = mine[np.argsort(self.time[mine], kind="stable")]
            until = None
            for window, time in zip(mine.tolist(), self.time[mine], strict=True):
                if until is None or time >= until:
                    kept[window], until = True, time + every
        return Origins(self.item, self.time, self.judged & kept, self.events, self.horizon, self.steps)

    def alarms(self, windows: ScoredWindows, below: float, by_probability: bool) -> AlarmWindows | None:
        """Origins with the scores of one model; None if it forecast something that is not a number."""
        score = _score(windows.steps(slice(self.steps)), below, by_probability)
        if not np.isfinite(score[self.judged]).all():
            return None
        found = alarm_windows(score, self.time, self.item, self.judged, self.events, self.horizon)
        return on_one_axis(found)


def origins_of(windows: ScoredWindows, below: float, step: np.timedelta64) -> Origins:
    """Origins, and events of all readings that the windows hold together."""
    steps = _alarm_steps(windows, step)
    readings = readings_by_item(windows.truth, windows.observed, windows.timestamps, windows.item)
    sensors = sensor_steps(windows.observed, windows.item, step)
    judged = judged_windows(windows.observed[:, :steps], below, windows.last_reading)
    time = (windows.timestamps[:, 0] - step).astype("datetime64[ms]")  # nanoseconds would not hold many items in a row
    events = {
        item: Events(found.start.astype("datetime64[ms]"), found.end.astype("datetime64[ms]"), found.lowest)
        for item, found in events_by_item(readings, below, sensors).items()
    }
    return Origins(np.asarray(windows.item), time, judged, events, (steps * step).astype("timedelta64[ms]"), steps)


def on_one_axis(windows: AlarmWindows) -> AlarmWindows:
    """The same with all items one after another, too far apart to meet: many thresholds are tried, items are not."""
    items = np.unique(windows.item)
    if len(items) < 2:
        return windows
    events = [windows.events[int(item)] for item in items]
    times = np.concatenate([windows.origin, *(part for found in events for part in (found.start, found.end))])
    apart = times.max() - times.min() + 2 * windows.horizon
    place = np.searchsorted(items, windows.item)
    together = Events(
        np.concatenate([found.start + i * apart for i, found in enumerate(events)]),
        np.concatenate([found.end + i * apart for i, found in enumerate(events)]),
        np.concatenate([found.lowest for found in events]),
    )
    return AlarmWindows(
        np.zeros_like(place), windows.origin + place * apart, windows.score, {0: together}, windows.horizon
    )
