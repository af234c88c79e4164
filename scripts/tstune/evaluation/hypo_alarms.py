"""Alarms over time: how many events a score announces, how early, and how often it cries wolf.

An alarm is raised at a forecast origin whose score reaches a threshold, then silent for one horizon: a forecast that
is always low is not one long alarm but one per horizon. It is true if an event begins within the horizon. A dip of
less than 15 minutes is no event, so an alarm before it is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.hypo_events import Events

_DAY = np.timedelta64(1, "D")
_CANDIDATES = 200


@dataclass(frozen=True)
class AlarmWindows:
    """Forecast origins that may raise an alarm, by item and then by time, and the events they are about.

    Attributes:
        item: [windows] item of each window.
        origin: [windows] datetime64 of the last context reading.
        score: [windows] higher is a stronger warning.
        events: item -> its events.
        horizon: how far ahead an alarm looks.
    """

    item: np.ndarray
    origin: np.ndarray
    score: np.ndarray
    events: Mapping[int, Events]
    horizon: np.timedelta64


@dataclass(frozen=True)
class AlarmReport:
    """What an alarm at one threshold does.

    Attributes:
        alarm_from: the threshold.
        num_events: events that some origin could have announced.
        num_detected: those announced.
        num_alarms, num_false: raised, and raised without an event within the horizon.
        days: time that lies within the horizon of an origin, in days over all items.
        lead_minutes: [detected events] from the first alarm to the event.
    """

    alarm_from: float
    num_events: int
    num_detected: int
    num_alarms: int
    num_false: int
    days: float
    lead_minutes: np.ndarray

    @property
    def sensitivity(self) -> float:
        """Share of events announced; NaN without events."""
        return self.num_detected / self.num_events if self.num_events else float("nan")

    @property
    def precision(self) -> float:
        """Share of alarms that are true; NaN without alarms."""
        return 1 - self.num_false / self.num_alarms if self.num_alarms else float("nan")

    @property
    def false_alarms_per_day(self) -> float:
        """False alarms per monitored day of one person."""
        return self.num_false / self.days if self.days else float("nan")

    @property
    def median_lead_minutes(self) -> float:
        """Median over detected events; NaN without."""
        return float(np.median(self.lead_minutes)) if len(self.lead_minutes) else float("nan")


def alarm_windows(
    score: np.ndarray,
    origin: np.ndarray,
    item: np.ndarray,
    judged: np.ndarray,
    events: Mapping[int, Events],
    horizon: np.timedelta64,
) -> AlarmWindows:
    """Origins that count: judged, and not within an event.

    Args:
        score, origin, item: [windows].
        judged: [windows] bool, from `hypoglycaemia.judged_windows`.
        events: item -> events, from `hypo_events.events_by_item`.
        horizon: of the forecast that the score was made from.

    Raises:
        DataError: a score that is not a number.
    """
    kept = np.asarray(judged, dtype=bool).copy()
    for which, found in events.items():
        mine = np.flatnonzero(np.asarray(item) == which)
        before = np.searchsorted(found.start, origin[mine], side="right")
        ends = found.end[np.maximum(before - 1, 0)] if len(found) else origin[mine]
        kept[mine[(before > 0) & (origin[mine] < ends)]] = False
    score = np.asarray(score, dtype=np.float64)
    if not np.isfinite(score[kept]).all():
        raise DataError("an alarm score is not a number: the forecast diverged")
    item, origin, score = np.asarray(item)[kept], np.asarray(origin)[kept], score[kept]
    order = np.lexsort((origin, item))
    return AlarmWindows(item[order], origin[order], score[order], events, horizon)


def alarm_report(windows: AlarmWindows, alarm_from: float) -> AlarmReport:
    """Events announced and false alarms at `score >= alarm_from`."""
    counts, lead, time = np.zeros(4, dtype=int), [], np.timedelta64(0, "s")
    for origin, score, start in _per_item(windows):
        raised = _raised(origin[score >= alarm_from], windows.horizon)
        following = np.searchsorted(start, raised, side="right")
        false = (following == len(start)) | (_at(start, following) > raised + windows.horizon)
        scorable = _first_within(origin, start, windows.horizon) >= 0
        first = _first_within(raised, start, windows.horizon)
        detected = first >= 0
        counts += (scorable.sum(), detected.sum(), len(raised), false.sum())
        lead.append((start[detected] - raised[first[detected]]) / np.timedelta64(1, "m"))
        time += _covered(origin, windows.horizon)
    minutes = np.concatenate(lead) if lead else np.zeros(0)
    return AlarmReport(float(alarm_from), *(int(count) for count in counts), float(time / _DAY), minutes)


def choose_alarm_threshold(validation: AlarmWindows, false_alarms_per_day: float) -> float:
    """The threshold that announces most events with at most so many false alarms per day, on *validation* data.

    Among equals the highest. Infinite, so that no alarm is ever raised, where every threshold that announces an event
    has too many false alarms. Apply it to the test data with `alarm_report(test, threshold)`.

    Raises:
        DataError: no event to choose by.
    """
    reports = [alarm_report(validation, candidate) for candidate in _candidates(validation.score)]
    if not any(report.num_events for report in reports):
        raise DataError("no hypoglycaemic event in the validation part: the alarm threshold cannot be chosen there")
    allowed = [r for r in reports if r.num_detected and r.false_alarms_per_day <= false_alarms_per_day]
    best = max(allowed, key=lambda report: (report.num_detected, report.alarm_from), default=None)
    return float("inf") if best is None else best.alarm_from


def _candidates(score: np.ndarray) -> np.ndarray:
    """Thresholds to try: every score, or if there are many, quantiles of them that lie closer the rarer the alarm."""
    distinct = np.unique(score)
    if len(distinct) <= _CANDIDATES:
        return distinct
    share = np.geomspace(1 / len(score), 1, _CANDIDATES)
    return np.unique(np.quantile(score, 1 - share, method="higher"))


def _per_item(windows: AlarmWindows) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Origins, their scores, and the starts of events of each item."""
    found = []
    items, first = np.unique(windows.item, return_index=True)
    for which, mine in zip(items, map(slice, first, [*first[1:], len(windows.item)]), strict=True):
        events = windows.events.get(int(which))
        start = windows.origin[:0] if events is None else events.start
        found.append((windows.origin[mine], windows.score[mine], start))
    return found


def _raised(origin: np.ndarray, silence: np.timedelta64) -> np.ndarray:
    until = origin + silence
    times = zip(origin.astype(until.dtype).astype(np.int64).tolist(), until.astype(np.int64).tolist(), strict=True)
    raised, quiet_until = [], None
    for at, (now, then) in enumerate(times):  # plain numbers: hundreds of thresholds are tried
        if quiet_until is None or now >= quiet_until:
            raised.append(at)
            quiet_until = then
    return origin[raised]


def _first_within(origin: np.ndarray, start: np.ndarray, horizon: np.timedelta64) -> np.ndarray:
    """[events] index of the first origin in [start - horizon, start), or -1."""
    first = np.searchsorted(origin, start - horizon, side="left")
    return np.where((first < len(origin)) & (_at(origin, first) < start), first, -1)


def _at(times: np.ndarray, index: np.ndarray) -> np.ndarray:
    """times[index], and any time where the index is past the end."""
    return times[np.minimum(index, len(times) - 1)] if len(times) else np.zeros(len(index), "datetime64[ns]")


def _covered(origin: np.ndarray, horizon: np.timedelta64) -> np.timedelta64:
    """Length of the union of [origin, origin + horizon)."""
    return np.minimum(np.diff(origin), horizon).sum() + horizon if len(origin) else np.timedelta64(0, "s")
