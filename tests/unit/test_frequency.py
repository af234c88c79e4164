"""Grid steps and lengths of time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tstune.data.frequency import default_seasonality, fixed_step, infer_frequency, parse_frequency, to_steps, with_unit
from tstune.errors import ConfigError, DataError


def infer(*items: pd.DatetimeIndex) -> str:
    stamps = np.concatenate([item.to_numpy("datetime64[ns]") for item in items])
    starts = np.cumsum([0, *(len(item) for item in items[:-1])])
    return infer_frequency(stamps, starts)


@pytest.mark.parametrize(("text", "step"), [("5min", "5min"), ("h", "1h"), ("2D", "2D"), ("W", "7D"), ("MS", None)])
def test_fixed_steps(text: str, step: str | None):
    assert fixed_step(parse_frequency(text)) == (None if step is None else pd.Timedelta(step))


@pytest.mark.parametrize("text", ["foo", "often", "5 x", "-5min", "0min", "-1MS"])
def test_a_text_that_is_no_grid_step(text: str):
    with pytest.raises(ConfigError, match=r"data\.frequency=.* is not a frequency; examples: 5min, 15min, h, D, W, MS"):
        parse_frequency(text)


@pytest.mark.parametrize("frequency", ["5min", "15min", "h", "D", "7D", "MS", "ME", "QS-OCT", "YS-JAN"])
def test_a_regular_series_tells_its_frequency(frequency: str):
    stamps = pd.date_range("2023-01-01", periods=40, freq=frequency)
    found = parse_frequency(infer(stamps))
    assert pd.date_range(stamps[0], periods=40, freq=found).equals(stamps)


def test_the_most_common_step_wins():
    jumpy = pd.DatetimeIndex(np.delete(pd.date_range("2024-01-01", periods=100, freq="5min"), [5, 6, 7, 40, 60]))
    assert parse_frequency(infer(jumpy)) == parse_frequency("5min")


def test_steps_between_series_do_not_count():
    # every step within a series is an hour; from one series to the next it is a day, three times
    items = [pd.date_range(f"2024-01-0{day}", periods=2, freq="h") + pd.Timedelta("23h") for day in (1, 2, 3, 4)]
    assert parse_frequency(infer(*items)) == parse_frequency("h")


def test_no_series_with_two_rows():
    with pytest.raises(DataError, match=r"set data\.frequency"):
        infer(*[pd.DatetimeIndex([f"2024-01-0{day}"]) for day in (1, 2, 3)])


@pytest.mark.parametrize("months", [["2024-01-01", "2024-02-01"], ["2024-01-01", "2024-02-03", "2024-03-05"]])
def test_months_that_cannot_be_told_apart_are_a_user_error(months: list[str]):
    with pytest.raises(DataError, match=r"set data\.frequency"):
        infer(pd.DatetimeIndex(months))


def test_durations_in_steps():
    assert to_steps("45min", "5min", "key") == 9
    assert to_steps("2h", "15min", "key") == 8
    assert to_steps("1D", "h", "key") == 24
    assert to_steps("2W", "W", "key") == 2
    assert to_steps(7, "5min", "key") == to_steps("7", "5min", "key") == 7
    assert to_steps(0, "MS", "key") == to_steps("0", "MS", "key") == 0
    assert to_steps(3, "MS", "key") == 3


@pytest.mark.parametrize(
    ("duration", "frequency", "reason"),
    [
        ("soon", "5min", "is not a duration; examples: 45min, 2h, or a number of steps"),
        ("1.5", "5min", "is not a duration"),
        ("7min", "5min", "is no multiple of the sampling step 5min"),
        ("30min", "h", "is no multiple of the sampling step h"),
        ("30D", "MS", "steps of 'MS' vary in length; give a number of steps"),
        (-1, "5min", "is negative"),
        ("-10min", "5min", "is not a positive duration"),
        ("NaT", "5min", "is not a positive duration"),
    ],
)
def test_durations_that_are_no_number_of_steps(duration: str | int, frequency: str, reason: str):
    with pytest.raises(ConfigError) as caught:
        to_steps(duration, frequency, "data.max_gap")
    assert str(caught.value).startswith("data.max_gap=")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("frequency", "steps"),
    [
        *[("5min", 288), ("15min", 96), ("h", 24), ("2h", 12), ("D", 7), ("MS", 12), ("ME", 12), ("QS", 4), ("W", 52)],
        *[("YS", 1), ("7min", 1), ("B", 5)],  # 7min: no whole number of steps in a day; business days: a week
    ],
)
def test_default_season(frequency: str, steps: int):
    assert default_seasonality(frequency) == steps


@pytest.mark.parametrize(
    ("duration", "frequency", "said"),
    [
        (9, "5min", "9 steps (45min)"),
        ("9", "5min", "9 steps (45min)"),
        (1, "h", "1 step (1h)"),
        (36, "h", "36 steps (36h)"),
        (48, "h", "48 steps (2d)"),
        (3, "MS", "3 steps"),
        (0, "h", "0 steps"),
        ("45min", "5min", "45min"),
    ],
)
def test_a_duration_is_said_with_its_unit(duration: str | int, frequency: str, said: str):
    assert with_unit(duration, frequency) == said
