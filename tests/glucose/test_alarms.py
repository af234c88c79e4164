"""Events and alarms over time: by hand, against slow second implementations, and thresholds from validation data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tstune.errors import DataError
from tstune.glucose.hypoglycaemia import (
    AlarmWindows,
    alarm_report,
    alarm_windows,
    choose_alarm_threshold,
    low_events,
    readings_by_item,
)

NOON = np.datetime64("2024-03-01T12:00:00")
LOW, HIGH = 3.5, 6.0


def at(*minutes: float) -> np.ndarray:
    return np.array([NOON + np.timedelta64(round(60 * m), "s") for m in minutes], dtype="datetime64[s]")


def span(minutes: float) -> np.timedelta64:
    return np.timedelta64(round(60 * minutes), "s")


def events(*pairs: tuple[float, float]) -> np.ndarray:
    return at(*(minute for pair in pairs for minute in pair)).reshape(-1, 2)


def windows(scores: dict[float, float], *pairs: tuple[float, float], horizon: int = 30) -> AlarmWindows:
    """Origin in minutes -> score, of one item, with its events."""
    item = np.zeros(len(scores), int)
    score = np.array(list(scores.values()))
    return alarm_windows(score, at(*scores), item, np.ones(len(item), bool), {0: events(*pairs)}, span(horizon))


# Events


def series(pattern: str, step: float = 5) -> tuple[np.ndarray, np.ndarray]:
    """`-` is low, `+` is not, `.` is missing."""
    places = [i for i, sign in enumerate(pattern) if sign != "."]
    values = np.array([LOW if pattern[i] == "-" else HIGH for i in places])
    return at(*(step * i for i in places)), values


def event_steps(pattern: str, step: float = 5) -> list[tuple[float, float]]:
    found = low_events(*series(pattern, step), 3.9, span(step))
    return [tuple(pair) for pair in ((found - NOON) / span(step)).tolist()]


@pytest.mark.parametrize(
    ("pattern", "events"),
    [
        ("+++++", []),
        ("++--+++", []),  # 10 minutes
        ("++---++++", [(2, 5)]),  # 15 minutes
        ("---", [(0, 3)]),  # the last reading stands for one step
        ("++---+---+++", [(2, 9)]),  # 5 minutes above do not end it
        ("++---++---+++", [(2, 10)]),
        ("++---+++---+++", [(2, 5), (8, 11)]),  # 15 minutes above do
        ("++---++-++++", [(2, 8)]),  # a short dip goes on with a running event
        ("++---+++-++++", [(2, 5)]),  # after the end it is none
        ("--+--+--+--", []),  # never 15 minutes in a row
        ("++-.-+++", [(2, 5)]),  # a missing reading does not cut
        ("++---..........+++", [(2, 5)]),  # a gap of 55 minutes does
        ("++--..........--+++", []),
        ("+---..........---+++", [(1, 4), (14, 17)]),
    ],
)
def test_five_minute_sensor_by_hand(pattern, events):
    assert event_steps(pattern) == events


@pytest.mark.parametrize(
    ("pattern", "events"), [("++-++", [(2, 3)]), ("+-+-+", [(1, 2), (3, 4)]), ("+--.-+", [(1, 5)])]
)
def test_fifteen_minute_sensor_by_hand(pattern, events):
    assert event_steps(pattern, 15) == events


def test_one_minute_sensor_needs_fifteen_readings():
    assert event_steps("+" * 20 + "-" * 14 + "+" * 20, 1) == []
    assert event_steps("+" * 20 + "-" * 15 + "+" * 14 + "--" + "+" * 20, 1) == [(20, 51)]


def test_the_limit_itself_is_not_low():
    assert len(low_events(at(0, 5, 10, 15, 20), np.full(5, 3.9), 3.9, span(5))) == 0
    assert len(low_events(at(), np.zeros(0), 3.9, span(5))) == 0


def counted(low: np.ndarray, needed: int) -> list[tuple[int, int]]:
    """Second implementation: a state machine over single readings of a full grid."""
    events, state, run, start = [], "above", 0, 0
    last_low = 0
    for place, is_low in enumerate(low):
        if state == "above":
            run = run + 1 if is_low else 0
            if run == needed:
                state, start, run = "event", place - needed + 1, 0
        else:
            run = 0 if is_low else run + 1
            if run == needed:
                events.append((start, last_low + 1))
                state, run = "above", 0
        if is_low:
            last_low = place
    if state == "event":
        events.append((start, last_low + 1))
    return events


@pytest.mark.parametrize("step", [5, 15])
def test_random_series_against_a_second_implementation(step):
    random = np.random.default_rng(step)
    total = 0
    for _ in range(200):
        low = np.cumsum(random.normal(size=120)) < -1
        low ^= random.random(120) < 0.1
        expected = counted(low, 15 // step)
        assert event_steps("".join("-" if is_low else "+" for is_low in low), step) == expected
        total += len(expected)
    assert total > 200


# From windows


def test_readings_of_overlapping_windows_are_put_together_once():
    times = NOON + np.arange(8) * span(5)
    starts = np.array([0, 2, 4, 0])
    stamps = np.stack([times[s : s + 4] for s in starts])
    truth = np.stack([np.arange(8.0)[s : s + 4] for s in starts])
    truth[3] += 100
    observed = np.ones((4, 4), bool)
    observed[1, 3] = observed[2, 1] = False  # step 5 in both windows that hold it
    item = np.array([0, 0, 0, 7])
    readings = readings_by_item(truth, observed, stamps, item)
    assert list(readings) == [0, 7]
    assert readings[0][1].tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert readings[0][0].tolist() == np.delete(times, 5).tolist()
    assert readings[7][1].tolist() == [100, 101, 102, 103]


def test_times_that_do_not_belong_to_the_readings():
    with pytest.raises(DataError, match=r"timestamps have shape \(2, 3\) and items \(2,\): readings of shape \(2, 4\)"):
        readings_by_item(np.zeros((2, 4)), np.ones((2, 4), bool), np.zeros((2, 3)), np.zeros(2))


# Alarms by hand


EVERY = dict.fromkeys(range(0, 120, 5), 0.0)
EVENT = [(80, 100)]


@pytest.mark.parametrize(
    ("scores", "pairs", "counts", "lead", "minutes"),
    [
        pytest.param(EVERY | {60: 1.0, 65: 1.0}, EVENT, (1, 1, 1, 0), [20], None, id="in time"),
        pytest.param(dict.fromkeys(EVERY, 1.0), [], (0, 0, 4, 4), [], 115 + 30, id="rings again after a horizon"),
        pytest.param(EVERY | {45: 1.0}, EVENT, (1, 0, 1, 1), [], None, id="too early"),
        pytest.param(EVERY | {50: 1.0}, EVENT, (1, 1, 1, 0), [30], None, id="just in time"),
        pytest.param(EVERY | {80: 1.0}, EVENT, (1, 0, 0, 0), [], None, id="during an event nothing is judged"),
        pytest.param({0: 0.0, 200: 1.0}, [(100, 120), (210, 230)], (1, 1, 1, 0), [10], 60, id="out of reach"),
        pytest.param(EVERY, EVENT, (1, 0, 0, 0), [], None, id="never"),
        pytest.param({}, EVENT, (0, 0, 0, 0), [], 0, id="no windows"),
    ],
)
def test_alarms_by_hand(scores, pairs, counts, lead, minutes):
    report = alarm_report(windows(scores, *pairs), 0.5)
    assert (report.num_events, report.num_detected, report.num_alarms, report.num_false) == counts
    assert report.lead_minutes.tolist() == lead
    if minutes is not None:
        assert report.days == pytest.approx(minutes / 1440)


def test_rates_of_a_report():
    found = alarm_report(windows(EVERY | {20: 1.0, 60: 1.0}, *EVENT), 0.5)
    assert (found.sensitivity, found.precision, found.median_lead_minutes) == (1, 0.5, 20)
    assert found.false_alarms_per_day == pytest.approx(1 / found.days)
    assert alarm_report(windows(EVERY, *EVENT), 0.5).false_alarms_per_day == 0
    nothing = alarm_report(windows({}), 0.5)
    undefined = ("sensitivity", "precision", "median_lead_minutes", "false_alarms_per_day")
    assert np.isnan([getattr(nothing, name) for name in undefined]).all()


def test_only_judged_windows_count():
    origin, item = at(0, 5, 10, 15), np.zeros(4, int)
    judged = np.array([True, False, True, True])
    kept = alarm_windows(np.array([1.0, np.nan, 2, 3]), origin, item, judged, {0: events((10, 15))}, span(30))
    assert kept.score.tolist() == [1, 3], "the second was not judged, the third lies in an event"
    with pytest.raises(DataError, match="an alarm score is not a number"):
        alarm_windows(np.array([1.0, np.nan, 2, 3]), origin, item, np.ones(4, bool), {}, span(30))


# Against a second implementation


Raw = tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, np.ndarray]]


def simulated(seed: int, items: int = 3) -> Raw:
    """Scores, origins and items of windows in any order, and the events of each item."""
    random = np.random.default_rng(seed)
    origin, item, score, found = [], [], [], {}
    for which in range(items):
        minutes = np.flatnonzero(random.random(600) < 0.8) * 5
        begin = np.cumsum(random.integers(60, 700, 8))
        pairs = [(5 * (b // 5), 5 * (b // 5) + 5 * int(random.integers(3, 9))) for b in begin]
        found[which] = events(*pairs)
        soon = np.array([any(0 < p[0] - m <= 60 for p in pairs) for m in minutes])
        origin.append(at(*minutes))
        item.append(np.full(len(minutes), which))
        score.append(random.normal(1.5 * soon, 1))
    shuffled = random.permutation(sum(map(len, item)))
    score, origin, item = (np.concatenate(part)[shuffled] for part in (score, origin, item))
    return score, origin, item, found


def joined(raw: Raw) -> AlarmWindows:
    return alarm_windows(*raw[:3], np.ones(len(raw[0]), bool), raw[3], span(60))


def slow_report(raw: Raw, alarm_from: float) -> tuple[int, int, int, int, int, list[float]]:
    """Item by item and minute by minute with plain loops."""
    num_events = detected = alarms = false = monitored = 0
    leads = []
    for which, found in raw[3].items():
        starts, ends = ((found - NOON) / span(1)).astype(int).T.tolist()
        score = {int((o - NOON) / span(1)): s for s, o, i in zip(*raw[:3], strict=True) if i == which}
        score = {o: s for o, s in score.items() if not any(a <= o < b for a, b in zip(starts, ends, strict=True))}
        raised, quiet_until = [], -1
        for minute in range(max(score) + 1):
            if minute in score and score[minute] >= alarm_from and minute >= quiet_until:
                raised.append(minute)
                quiet_until = minute + 60
        alarms += len(raised)
        false += sum(not any(r < s <= r + 60 for s in starts) for r in raised)
        for start in starts:
            num_events += any(start - 60 <= o < start for o in score)
            before = [r for r in raised if start - 60 <= r < start]
            detected += bool(before)
            leads += [start - before[0]] if before else []
        monitored += len({minute for o in score for minute in range(o, o + 60)})
    return num_events, detected, alarms, false, monitored, sorted(leads)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("items", [1, 5])
def test_random_alarms_against_a_second_implementation(seed, items):
    raw = simulated(seed, items)
    for alarm_from in (-1.0, 0.5, 2.0, 3.0):
        report = alarm_report(joined(raw), alarm_from)
        num_events, detected, alarms, false, monitored, leads = slow_report(raw, alarm_from)
        assert (report.num_events, report.num_detected) == (num_events, detected)
        assert (report.num_alarms, report.num_false) == (alarms, false)
        assert report.days == pytest.approx(monitored / 1440)
        assert sorted(report.lead_minutes.tolist()) == leads
    assert num_events > 3 * items


# The threshold


@pytest.mark.parametrize("budget", [0.5, 2.0, 5.0])
def test_the_threshold_is_the_best_that_validation_allows(budget):
    validation = joined(simulated(10))
    validation = replace(validation, score=validation.score.round(1))
    candidates = np.unique(validation.score)
    assert len(candidates) < 200, "then every score is tried"
    allowed = [
        (report.num_detected, report.alarm_from)
        for report in (alarm_report(validation, candidate) for candidate in candidates)
        if report.false_alarms_per_day <= budget
    ]
    assert 0 < len(allowed) < len(candidates)
    assert choose_alarm_threshold(validation, budget) == max(allowed)[1]


def test_of_many_scores_some_are_tried():
    validation = joined(simulated(10))
    assert len(np.unique(validation.score)) > 1000
    few = replace(validation, score=validation.score.round(1))
    reports = [alarm_report(data, choose_alarm_threshold(data, 2.0)) for data in (validation, few)]
    assert abs(reports[0].num_detected - reports[1].num_detected) <= 1
    assert reports[0].false_alarms_per_day <= 2


def test_more_false_alarms_allowed_announce_more():
    validation, test = joined(simulated(11)), joined(simulated(12))
    thresholds = [choose_alarm_threshold(validation, budget) for budget in (0.3, 1.5, 6.0)]
    assert thresholds[0] > thresholds[1] > thresholds[2]
    sensitivity = [alarm_report(test, threshold).sensitivity for threshold in thresholds]
    assert sensitivity[0] < sensitivity[2]
    assert alarm_report(test, thresholds[0]).false_alarms_per_day < 3


def test_a_score_without_skill_never_rings_when_no_false_alarm_is_allowed():
    every = dict.fromkeys(range(0, 600, 5), 1.0)
    validation = windows(every, (580, 600))
    assert choose_alarm_threshold(validation, 0.0) == np.inf


def test_no_event_to_choose_by():
    with pytest.raises(DataError, match="no hypoglycaemic event in the validation part"):
        choose_alarm_threshold(windows({0: 1.0, 5: 2.0}), 1.0)
