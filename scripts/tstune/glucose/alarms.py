"""Alarms over time: how many events a score announces, how early, and how often it cries wolf.

An event begins with at least 15 minutes below the limit in a row and ends before at least 15 minutes at or above it in
a row (Danne et al. 2017, doi:10.2337/dc17-1600; Battelino et al. 2023, doi:10.1016/S2213-8587(22)00319-9). A reading
stands for the time until the next one, so that is three readings of a 5-minute sensor and one of a 15-minute sensor.

An alarm is raised at a forecast origin whose score reaches a threshold, then silent for one horizon: a forecast that
is always low is not one long alarm but one per horizon. It is true if an event begins within the horizon. A dip of
less than 15 minutes is no event, so an alarm before it is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tstune.errors import DataError
from tstune.evaluation.scored_windows import ScoredWindows, observed_like
from tstune.glucose.hypoglycaemia import judged_windows, score_of
from tstune.glucose.published import sensor_steps

MIN_DURATION = np.timedelta64(15, "m")
MAX_GAP = np.timedelta64(45, "m")
"""After a longer gap nothing is known: an event ends with the last reading before it."""

FALSE_ALARMS_PER_DAY = 1.0
"""Burden at which models are compared: one needless alarm a day. Our choice, there is no standard for it."""
ALARM_HORIZON = np.timedelta64(60, "m")
"""How far ahead an alarm looks: long enough to eat and to see it work, short enough for a forecast to know."""

_DAY, _MINUTE = np.timedelta64(1, "D"), np.timedelta64(1, "m")
_CANDIDATES = 200


# Events


def readings_by_item(
    truth: np.ndarray, observed: np.ndarray, timestamps: np.ndarray, item: np.ndarray
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Item -> times and values of all its observed readings, put together from windows, which may overlap.

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
        found[int(which)] = times, np.asarray(truth, dtype=np.float64)[chosen][first]
    return found


def low_events(times: np.ndarray, values: np.ndarray, limit: float, step: np.timedelta64) -> np.ndarray:
    """[events, 2] datetime64: first reading below the limit, and first one that begins the end.

    After a gap or at the end of the data the end is one sampling step behind the last reading.

    Args:
        times: [readings] datetime64 of one item, ascending, each once.
        values: [readings].
        limit: in the unit of the readings.
        step: sampling step of the sensor; the last reading before a gap stands for this long.
    """
    if not len(times):
        return times.reshape(0, 2)
    below = values < limit
    cut = np.diff(times) > MAX_GAP
    first = np.concatenate([[0], np.flatnonzero((below[1:] != below[:-1]) | cut) + 1])
    stop = np.concatenate([first[1:], [len(times)]])
    after_gap = np.concatenate([[True], cut[first[1:] - 1]])
    open_end = np.concatenate([after_gap[1:], [True]])
    until = np.where(open_end, times[stop - 1] + step, times[np.minimum(stop, len(times) - 1)])
    long = until - times[first] >= MIN_DURATION
    events, running = [], False
    for run in range(len(first)):
        running = running and not after_gap[run]
        if not below[first[run]]:
            running = running and not long[run]
        elif running:
            events[-1][1] = until[run]
        elif long[run]:
            events.append([times[first[run]], until[run]])
            running = True
    return np.array(events, times.dtype).reshape(-1, 2)


# Alarms


@dataclass(frozen=True)
class AlarmWindows:
    """Forecast origins that may raise an alarm, and the events they are about.

    Items come one after another on one axis of time, too far apart to meet: many thresholds are tried, items are not.

    Attributes:
        origin: [windows] datetime64 of the last context reading, ascending.
        score: [windows] higher is a stronger warning.
        start: [events] datetime64, ascending.
        horizon: how far ahead an alarm looks.
    """

    origin: np.ndarray
    score: np.ndarray
    start: np.ndarray
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
    events: Mapping[int, np.ndarray],
    horizon: np.timedelta64,
) -> AlarmWindows:
    """Origins that count: judged, and not within an event.

    Args:
        score, origin, item: [windows].
        judged: [windows] bool, from `hypoglycaemia.judged_windows`.
        events: item -> [events, 2] from `low_events`.
        horizon: of the forecast that the score was made from.

    Raises:
        DataError: a score that is not a number.
    """
    judged = np.asarray(judged, dtype=bool)
    score, origin, item = np.asarray(score, np.float64)[judged], np.asarray(origin)[judged], np.asarray(item)[judged]
    items = np.unique(item)
    known = [events.get(int(which), origin[:0].reshape(0, 2)) for which in items]
    times = np.concatenate([origin, *(found.ravel() for found in known)])
    apart = times.max() - times.min() + 2 * horizon if len(times) else horizon
    origin = origin + np.searchsorted(items, item) * apart
    together = np.concatenate([origin[:0].reshape(0, 2), *(found + at * apart for at, found in enumerate(known))])
    start, end = together.T
    before = np.searchsorted(start, origin, side="right")
    within = (before > 0) & (origin < _at(end, before - 1))
    order = np.argsort(origin, kind="stable")
    order = order[~within[order]]
    if not np.isfinite(score[order]).all():
        raise DataError("an alarm score is not a number: the forecast diverged")
    return AlarmWindows(origin[order], score[order], start, horizon)


def alarm_report(windows: AlarmWindows, alarm_from: float) -> AlarmReport:
    """Events announced and false alarms at `score >= alarm_from`."""
    origin, start, horizon = windows.origin, windows.start, windows.horizon
    raised = _raised(origin[windows.score >= alarm_from], horizon)
    following = np.searchsorted(start, raised, side="right")
    false = (following == len(start)) | (_at(start, following) > raised + horizon)
    scorable = _first_within(origin, start, horizon) >= 0
    first = _first_within(raised, start, horizon)
    detected = first >= 0
    return AlarmReport(
        float(alarm_from),
        int(scorable.sum()),
        int(detected.sum()),
        len(raised),
        int(false.sum()),
        float(_covered(origin, horizon) / _DAY),
        (start[detected] - raised[first[detected]]) / _MINUTE,
    )


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


# The alarms of a run


@dataclass(frozen=True)
class Origins:
    """What the alarms of all models share on one set of windows.

    Attributes:
        item, time: [windows] item and time of the last context reading.
        judged: [windows] bool, may raise an alarm.
        events: item -> [events, 2] from `low_events`.
        horizon: how far ahead an alarm looks.
        steps: the same in steps.
    """

    item: np.ndarray
    time: np.ndarray
    judged: np.ndarray
    events: Mapping[int, np.ndarray]
    horizon: np.timedelta64
    steps: int

    @classmethod
    def of(cls, windows: ScoredWindows, below: float, step: np.timedelta64) -> Origins:
        """Origins, and events of all readings that the windows hold together."""
        steps = alarm_steps(windows, step)
        sensors = sensor_steps(windows.observed, windows.item, step)
        judged = judged_windows(windows.observed[:, :steps], below, windows.last_reading)
        readings = readings_by_item(windows.truth, windows.observed, windows.timestamps, windows.item)
        events = {
            item: low_events(times, values, below, sensors[item]).astype("datetime64[ms]")
            for item, (times, values) in readings.items()
        }
        time = (windows.timestamps[:, 0] - step).astype("datetime64[ms]")  # in nanoseconds few items fit on one axis
        return cls(np.asarray(windows.item), time, judged, events, (steps * step).astype("timedelta64[ms]"), steps)

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
        return replace(self, judged=self.judged & kept)

    def alarms(self, windows: ScoredWindows, below: float, by_probability: bool) -> AlarmWindows | None:
        """Origins with the scores of one model; None if it forecast something that is not a number."""
        score = score_of(windows.steps(slice(self.steps)), below, by_probability)
        if not np.isfinite(score[self.judged]).all():
            return None
        return alarm_windows(score, self.time, self.item, self.judged, self.events, self.horizon)


def alarm_steps(windows: ScoredWindows, step: np.timedelta64) -> int:
    """`ALARM_HORIZON` in steps, or the whole forecast if that is shorter."""
    return min(max(int(ALARM_HORIZON / step), 1), windows.truth.shape[1])


def has_times(windows: ScoredWindows) -> bool:
    """True if the grid is one of time, not of mere numbers."""
    return windows.timestamps is not None and np.issubdtype(np.asarray(windows.timestamps).dtype, np.datetime64)


def alarms_of_models(
    test: Mapping[str, ScoredWindows], validation: Mapping[str, ScoredWindows], below: float, step: np.timedelta64
) -> dict[str, dict | None] | None:
    """Model -> what its alarm does on the test windows, or None; None where no model has an alarm."""
    pairs = {name: (validation[name], windows) for name, windows in test.items() if name in validation}
    if not all(has_times(windows) for pair in pairs.values() for windows in pair) or not pairs:
        return None
    tuning, scored = (Origins.of(windows, below, step) for windows in next(iter(pairs.values())))
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
