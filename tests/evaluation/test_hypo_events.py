"""Consensus events: by hand, and against a second implementation that counts readings."""

from __future__ import annotations

import numpy as np
import pytest

from tstune.errors import DataError
from tstune.evaluation.hypo_events import Readings, events_by_item, low_events, readings_by_item

NOON = np.datetime64("2024-03-01T12:00")
LOW, HIGH = 3.5, 6.0


def minutes(count: float) -> np.timedelta64:
    return np.timedelta64(round(60 * count), "s")


def series(pattern: str, step: float = 5) -> Readings:
    """`-` is low, `+` is not, `.` is missing."""
    places = [i for i, sign in enumerate(pattern) if sign != "."]
    values = np.array([LOW if pattern[i] == "-" else HIGH for i in places])
    return Readings(np.array([NOON + minutes(step * i) for i in places], dtype="datetime64[s]"), values)


def found(pattern: str, step: float = 5) -> list[tuple[float, float]]:
    events = low_events(series(pattern, step), 3.9, minutes(step))
    first = np.datetime64(NOON, "s")
    return [
        tuple(((moment - first) / minutes(step)).item() for moment in pair)
        for pair in zip(events.start, events.end, strict=True)
    ]


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
    assert found(pattern) == events


@pytest.mark.parametrize(
    ("pattern", "events"), [("++-++", [(2, 3)]), ("+-+-+", [(1, 2), (3, 4)]), ("+--.-+", [(1, 5)])]
)
def test_fifteen_minute_sensor_by_hand(pattern, events):
    assert found(pattern, 15) == events


def test_one_minute_sensor_needs_fifteen_readings():
    assert found("+" * 20 + "-" * 14 + "+" * 20, 1) == []
    assert found("+" * 20 + "-" * 15 + "+" * 14 + "--" + "+" * 20, 1) == [(20, 51)]


def test_the_lowest_reading_of_an_event():
    times = NOON + np.arange(12) * minutes(5)
    values = np.array([6, 3.5, 3.2, 3.4, 5.0, 2.9, 6, 6, 6, 6, 2.0, 6])
    events = low_events(Readings(times.astype("datetime64[s]"), values), 3.9, minutes(5))
    assert events.lowest.tolist() == [2.9]
    assert len(events) == 1


def test_the_limit_itself_is_not_low():
    times = (NOON + np.arange(5) * minutes(5)).astype("datetime64[s]")
    assert len(low_events(Readings(times, np.full(5, 3.9)), 3.9, minutes(5))) == 0
    assert len(low_events(Readings(times[:0], np.zeros(0)), 3.9, minutes(5))) == 0


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
        assert found("".join("-" if is_low else "+" for is_low in low), step) == expected
        total += len(expected)
    assert total > 200


# From windows


def test_readings_of_overlapping_windows_are_put_together_once():
    times = NOON + np.arange(8) * minutes(5)
    starts = np.array([0, 2, 4, 0])
    stamps = np.stack([times[s : s + 4] for s in starts])
    truth = np.stack([np.arange(8.0)[s : s + 4] for s in starts])
    truth[3] += 100
    observed = np.ones((4, 4), bool)
    observed[1, 3] = observed[2, 1] = False  # step 5 in both windows that hold it
    item = np.array([0, 0, 0, 7])
    readings = readings_by_item(truth, observed, stamps, item)
    assert list(readings) == [0, 7]
    assert readings[0].values.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert readings[0].times.tolist() == np.delete(times, 5).tolist()
    assert readings[7].values.tolist() == [100, 101, 102, 103]


def test_events_of_each_item_with_its_own_sensor():
    readings = {0: series("++-++", 15), 3: series("++-++", 5)}
    events = events_by_item(readings, 3.9, {0: minutes(15), 3: minutes(5)})
    assert {item: len(one) for item, one in events.items()} == {0: 1, 3: 0}


def test_times_that_do_not_belong_to_the_readings():
    with pytest.raises(DataError, match=r"timestamps have shape \(2, 3\) and items \(2,\): readings of shape \(2, 4\)"):
        readings_by_item(np.zeros((2, 4)), np.ones((2, 4), bool), np.zeros((2, 3)), np.zeros(2))
