"""Hypoglycaemia by window: does a forecast warn that a reading below the limit comes within the horizon. And over time:
how many events alarms announce, how early, and how often they cry wolf.

Truth, forecast and mask are [windows, steps]; quantiles [windows, steps, quantiles]; the limit is in their unit
(3.9 and 3.0 mmol/L, 70 and 54 mg/dL: `units.limit`).

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
from tstune.evaluation.metrics import Levels, checked_levels
from tstune.evaluation.scored_windows import ScoredWindows, observed_like
from tstune.glucose.published import sensor_steps
from tstune.glucose.units import limit


def low_windows(truth: np.ndarray, observed: np.ndarray, limit: float) -> np.ndarray:
    """[windows] bool: an observed reading lies below the limit."""
    if np.ndim(truth) != 2:
        raise DataError(f"hypoglycaemia is scored on one target, [windows, steps], not on shape {np.shape(truth)}")
    return (observed_like(observed, truth) & (np.asarray(truth) < limit)).any(axis=1)


def judged_windows(observed: np.ndarray, limit: float, last_reading: np.ndarray | None = None) -> np.ndarray:
    """[windows] bool: there is a reading to judge by, and the window does not begin below the limit.

    Whose last reading at the forecast origin is below the limit needs no warning. NaN, where none is known, does not
    count as below; a 15-minute sensor on a 5-minute grid has to bring the reading it holds, or two windows of three are
    never left out.
    """
    judged = np.asarray(observed, dtype=bool).any(axis=1)
    return judged if last_reading is None else judged & ~(np.asarray(last_reading) < limit)


def distance_score(forecast: np.ndarray, limit: float) -> np.ndarray:
    """[windows] how far the lowest forecast lies below the limit, in its unit; above 0 is a warning."""
    return limit - np.asarray(forecast, dtype=np.float64).min(axis=1)


def probability_below(quantiles: np.ndarray, levels: Levels, limit: float) -> np.ndarray:
    """[...] probability that a reading lies below the limit; quantiles [..., quantiles], ascending.

    Linear between the quantiles. Beyond the outermost ones an exponential tail goes on with the same slope, so that
    windows far above the limit still differ: with levels from 0.1 most would otherwise have the same probability.
    """
    levels = checked_levels(levels, quantiles)
    quantiles = np.asarray(quantiles, dtype=np.float64)
    number = (quantiles <= limit).sum(axis=-1)  # quantiles at or below the limit
    right = np.clip(number, 1, len(levels) - 1)
    if len(levels) == 1:
        return np.where(number > 0, levels[0], 0.0)
    at_left = np.take_along_axis(quantiles, right[..., None] - 1, axis=-1)[..., 0]
    at_right = np.take_along_axis(quantiles, right[..., None], axis=-1)[..., 0]
    low, high = levels[right - 1], levels[right]
    width = np.maximum(at_right - at_left, 1e-12)  # equal quantiles are a step
    slope = (high - low) / width
    with np.errstate(over="ignore", invalid="ignore"):
        inside = low + slope * (limit - at_left)
        lower_tail = levels[0] * np.exp(np.minimum(slope / levels[0] * (limit - at_left), 0.0))
        rest = 1 - levels[-1]
        upper_tail = 1 - rest * np.exp(np.minimum(slope / rest * (at_right - limit), 0.0))
    found = np.where(number == 0, lower_tail, np.where(number == len(levels), upper_tail, inside))
    return np.where(np.isfinite(quantiles).all(axis=-1), found, np.nan)


def probability_score(quantiles: np.ndarray, levels: Levels, limit: float) -> np.ndarray:
    """[windows] the highest probability, over the steps, that a reading lies below the limit.

    It is a lower bound of the probability that any reading does: steps are not independent, and quantiles per step do
    not say how much they hang together.
    """
    return probability_below(quantiles, levels, limit).max(axis=1)


def window_scores(low: np.ndarray, score: np.ndarray, probability: np.ndarray | None = None) -> dict[str, float]:
    """How well a score tells windows with a low reading from those without.

    Args:
        low: [windows] bool, from `low_windows`, judged windows only.
        score: [windows] higher is a stronger warning; `distance_score` or `probability_score`.
        probability: [windows] for the Brier score; None takes 1 for a score above 0, else 0, which is what a point
            forecast says.

    Returns:
        num_windows, num_low, base_rate; auroc; auprc as average precision (a score without skill has the base rate);
        brier, and brier_of_base_rate for comparison (Brier 1950). AUROC and AUPRC are NaN without both kinds.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    low, score = np.asarray(low, dtype=bool), np.asarray(score, dtype=np.float64)
    probability = (score > 0).astype(np.float64) if probability is None else np.asarray(probability, dtype=np.float64)
    rate = float(low.mean()) if len(low) else float("nan")
    usable = 0 < low.sum() < len(low) and bool(np.isfinite(score).all())
    return {
        "num_windows": len(low),
        "num_low": int(low.sum()),
        "base_rate": rate,
        "auroc": float(roc_auc_score(low, score)) if usable else float("nan"),
        "auprc": float(average_precision_score(low, score)) if usable else float("nan"),
        "brier": float(np.mean((probability - low) ** 2)) if len(low) else float("nan"),
        "brier_of_base_rate": rate * (1 - rate),
    }


def score_of(windows: ScoredWindows, below: float, by_probability: bool) -> np.ndarray:
    """[windows] `probability_score` or `distance_score`."""
    if by_probability:
        return probability_score(windows.quantiles, windows.levels, below)
    return distance_score(windows.forecast, below)


def scores_below(windows: ScoredWindows, below: float) -> dict[str, float]:
    """`window_scores` of the windows that do not begin below the limit.

    The score of a window is the probability of a low reading where there are quantiles, else how far the lowest
    forecast lies below the limit.
    """
    chosen = windows.select(judged_windows(windows.observed, below, windows.last_reading))
    by_probability = chosen.quantiles is not None
    score = score_of(chosen, below, by_probability)
    found = window_scores(low_windows(chosen.truth, chosen.observed, below), score, score if by_probability else None)
    if not np.isfinite(score).all():
        found["brier"] = float("nan")  # a forecast that is not a number is no forecast without a warning
    return found


def low_example(windows: ScoredWindows) -> tuple[str, np.ndarray]:
    """Kind of an example that the report shows, and [windows] bool of those it is chosen from."""
    return "hypo", low_windows(windows.truth, windows.observed, limit("low", windows.unit))


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
    """Item -> times and values of all its observed readings, put together from [windows, steps], which may overlap."""
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
    """[events, 2] datetime64: first of the [readings] below the limit, and first one that begins the end.

    After a gap or at the end of the data the end is one sampling step of the sensor behind the last reading.
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
    """

    origin: np.ndarray  # [windows] datetime64 of the last context reading, ascending
    score: np.ndarray  # [windows] higher is a stronger warning
    start: np.ndarray  # [events] datetime64, ascending
    horizon: np.timedelta64  # how far ahead an alarm looks


@dataclass(frozen=True)
class AlarmReport:
    """What an alarm at one threshold does."""

    alarm_from: float
    num_events: int  # events that some origin could have announced
    num_detected: int  # those announced
    # num_alarms, num_false: raised, and raised without an event within the horizon
    num_alarms: int
    num_false: int
    days: float  # time that lies within the horizon of an origin, in days over all items
    lead_minutes: np.ndarray  # [detected events] from the first alarm to the event

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
    """Origins of [windows] that count: judged, and not within an event of `low_events`; the score looks a horizon
    ahead.
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
    raised = origin[windows.score >= alarm_from]
    raised = raised[_apart(raised, horizon)]
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


def _apart(times: np.ndarray, distance: np.timedelta64) -> list[int]:
    """Of ascending times the first, then each that lies at least so far behind the last one chosen."""
    after = times + distance
    pairs = zip(times.astype(after.dtype).astype(np.int64).tolist(), after.astype(np.int64).tolist(), strict=True)
    chosen, until = [], None
    for at, (now, then) in enumerate(pairs):  # plain numbers: hundreds of thresholds are tried
        if until is None or now >= until:
            chosen.append(at)
            until = then
    return chosen


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
    """What the alarms of all models share on one set of windows."""

    # item, time: [windows] item and time of the last context reading
    item: np.ndarray
    time: np.ndarray
    judged: np.ndarray  # [windows] bool, may raise an alarm
    events: Mapping[int, np.ndarray]  # item -> [events, 2] from `low_events`
    horizon: np.timedelta64  # how far ahead an alarm looks
    steps: int  # the same in steps

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
            kept[mine[_apart(self.time[mine], every)]] = True
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
