"""Groups of windows: nights, sensors, participants."""

from __future__ import annotations

import numpy as np
import pytest

from tstune.errors import DataError
from tstune.glucose.published import midnight_windows, sensor_steps, strata

FIVE = np.timedelta64(5, "m")


def stamps(*firsts: str, steps: int = 6) -> np.ndarray:
    return np.array(firsts, dtype="datetime64[ns]")[:, None] + np.arange(steps) * FIVE


def test_forecasts_that_begin_at_midnight():
    times = stamps(
        "2024-03-01T00:00", "2024-03-01T00:04:59", "2024-03-01T00:05", "2024-03-01T23:55", "2024-03-01T12:00"
    )
    assert midnight_windows(times, FIVE).tolist() == [True, True, False, False, False]


def test_one_window_a_day_begins_at_midnight_on_any_grid():
    for shift in (0, 2, 4):
        every = np.datetime64("2024-03-01T00:00", "ns") + np.timedelta64(shift, "m") + np.arange(3 * 288) * FIVE
        chosen = midnight_windows(every[:, None], FIVE)
        assert np.flatnonzero(chosen).tolist() == [0, 288, 576]


def test_the_step_of_each_sensor():
    observed = np.zeros((6, 12), bool)
    observed[0], observed[1, ::3], observed[2, 1::3] = True, True, True
    observed[0, 4] = False  # one reading lost
    observed[3, ::3] = True
    observed[4, 5] = True  # one reading alone
    item = np.array([0, 1, 1, 1, 2, 3])
    found = {which: step / np.timedelta64(1, "m") for which, step in sensor_steps(observed, item, FIVE).items()}
    assert found == {0: 5, 1: 15, 2: 5, 3: 5}


def test_neighbours_in_different_windows_are_no_neighbours():
    observed = np.zeros((40, 12), bool)
    observed[:, 0] = observed[:, 9] = True
    assert sensor_steps(observed, np.zeros(40, int), FIVE) == {0: 9 * FIVE}


def test_all_strata_by_hand():
    item = np.array([0, 0, 1, 3])
    sensor = {0: FIVE, 1: 3 * FIVE, 3: FIVE}
    found = strata(item, ("P01", "P02", "P03", "P04"), seen={"P01", "P03"}, sensor=sensor)
    assert {name: mask.astype(int).tolist() for name, mask in found.items()} == {
        "all": [1, 1, 1, 1],
        "seen": [1, 1, 0, 0],
        "unseen": [0, 0, 1, 1],
        "sensor 5 min": [1, 1, 0, 1],
        "sensor 15 min": [0, 0, 1, 0],
        "participant P01": [1, 1, 0, 0],
        "participant P02": [0, 0, 1, 0],
        "participant P04": [0, 0, 0, 1],
    }


def test_groups_without_a_window_are_left_out():
    assert list(strata(np.array([0]), ("P01",), seen={"P01"})) == ["all", "seen", "participant P01"]
    assert list(strata(np.array([0]), ("P01",))) == ["all", "participant P01"]
    assert strata(np.zeros(0, int), ("P01",)) == {}


def test_items_that_do_not_exist():
    with pytest.raises(DataError, match="windows of item 2, but there are 2 names"):
        strata(np.array([0, 2]), ("P01", "P02"))
    with pytest.raises(DataError, match="seen item 'P09' is none of the 2 items"):
        strata(np.array([0]), ("P01", "P02"), seen={"P09"})
