"""Grid steps and lengths of time: parsing, inference, seasons, and where in the day, week or year a time lies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from tstune.errors import ConfigError, DataError
from tstune.runtime.logs import logger

_DAY = pd.Timedelta("1D")


class StepError(ConfigError):
    """A duration that is no number of steps."""

    def __init__(self, message: str, frequency: str) -> None:
        super().__init__(message)
        self.frequency = frequency


@lru_cache(64)
def parse_frequency(text: str, key: str = "data.frequency") -> pd.tseries.offsets.BaseOffset:
    """Return the pandas offset of a text such as ``5min``, ``h`` or ``MS``."""
    try:
        offset = pd.tseries.frequencies.to_offset(text)
    except ValueError:
        offset = None
    if offset is None or offset.n < 1:
        raise ConfigError(f"{key}={text!r} is not a frequency; examples: 5min, 15min, h, D, W, MS")
    return offset


def fixed_step(offset: pd.tseries.offsets.BaseOffset) -> pd.Timedelta | None:
    """Length of one step, or None where it varies (months, quarters, years)."""
    if isinstance(offset, pd.tseries.offsets.Tick):
        return pd.Timedelta(offset)
    if isinstance(offset, pd.tseries.offsets.Day | pd.tseries.offsets.Week):
        return pd.Timedelta(days=offset.n * (7 if isinstance(offset, pd.tseries.offsets.Week) else 1))
    return None


def infer_frequency(timestamps: np.ndarray, item_starts: np.ndarray) -> str:
    """Most common step between neighbouring [rows], sorted within each item; items begin at the rows `item_starts`."""
    steps = StepCounts()
    steps.add(timestamps, item_starts)
    return steps.most_common()


_ROUND = [
    *(pd.Timedelta(seconds=n) for n in (1, 2, 5, 10, 15, 20, 30)),
    *(pd.Timedelta(minutes=n) for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)),
    *(pd.Timedelta(hours=n) for n in (1, 2, 3, 4, 6, 8, 12)),
    *(pd.Timedelta(days=n) for n in (1, 7)),
]
_NEAR = 0.02
_MONTH = pd.Timedelta("28D")


class StepCounts:
    """How often neighbouring rows are how far apart, in one table or in pieces of whole items."""

    def __init__(self) -> None:
        self._steps, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._first_item: np.ndarray | None = None
        self._weekend = False

    def add(self, timestamps: np.ndarray, item_starts: np.ndarray) -> None:
        """Count the steps of a table, see `infer_frequency`."""
        if self._first_item is None:
            self._first_item = timestamps[: item_starts[1] if len(item_starts) > 1 else None].copy()
        days = timestamps.astype("datetime64[D]").astype(np.int64)
        self._weekend |= bool(((days + 3) % 7 >= 5).any())  # 1970 began on a Thursday
        steps = np.diff(timestamps).astype("timedelta64[ns]").astype(np.int64)
        steps, counts = np.unique(np.delete(steps, item_starts[1:] - 1), return_counts=True)
        self._steps, place = np.unique(np.concatenate([self._steps, steps]), return_inverse=True)
        total = np.zeros(len(self._steps), np.int64)
        np.add.at(total, place, np.concatenate([self._counts, counts]))
        self._counts = total

    def most_common(self) -> str:
        """The step as pandas text: round, where the most common one is a little off and others differ from it."""
        if self._steps.size == 0:
            raise DataError("no series has two rows, so the sampling step is unknown; set data.frequency")
        step = pd.Timedelta(int(self._steps[self._counts.argmax()]), unit="ns")
        if step >= _MONTH:  # a month is not a fixed number of days
            return _calendar_step(pd.DatetimeIndex(self._first_item), step)
        if step == _DAY and not self._weekend and self._counts.sum() >= 10:
            logger.info("daily rows without a weekend: the step is B, business days (data.frequency=D for all days)")
            return "B"
        near = min(_ROUND, key=lambda one: abs(one - step))
        if step != near and abs(step - near) <= _NEAR * near and len(self._steps) > 1:
            logger.info("the most common step is %s: the grid has %s (data.frequency)", _said(step), _said(near))
            step = near
        return pd.tseries.frequencies.to_offset(step).freqstr


def _said(step: pd.Timedelta) -> str:
    return pd.tseries.frequencies.to_offset(step).freqstr


def _calendar_step(stamps: pd.DatetimeIndex, step: pd.Timedelta) -> str:
    """Months, quarters or years, from their first or last day; a few may be missing."""
    name = pd.infer_freq(stamps) if len(stamps) > 2 else None
    if name is not None:
        return name
    months = np.unique(stamps.year * 12 + stamps.month)
    every = int(np.bincount(np.diff(months)).argmax()) if len(months) > 2 else 0
    begins, ends = (stamps.day == 1).all(), stamps.is_month_end.all()
    if every == 0 or not (begins or ends):
        raise DataError(f"the most common step is {step.days} days and irregular; set data.frequency, e.g. MS")
    sign, anchor = "S" if begins else "E", stamps[0].strftime("%b").upper()
    return {3: f"Q{sign}-{anchor}", 12: f"Y{sign}-{anchor}"}.get(every, f"{every if every > 1 else ''}M{sign}")


@lru_cache(64)
def to_steps(duration: str | int, frequency: str, key: str) -> int:
    """Whole number of grid steps in a duration.

    Raises:
        ConfigError: not a duration, or not a whole number of steps.
    """
    if isinstance(duration, int) or duration.isdigit():
        if int(duration) < 0:
            raise ConfigError(f"{key}={duration} is negative")
        return int(duration)
    step = fixed_step(parse_frequency(frequency))
    try:
        length = pd.Timedelta(duration)
    except ValueError:
        raise ConfigError(f"{key}={duration!r} is not a duration; examples: 45min, 2h, or a number of steps") from None
    if step is None:
        message = f"{key}={duration!r}: steps of {frequency!r} vary in length; give a number of steps"
        raise StepError(message, frequency)
    if length is pd.NaT or length < pd.Timedelta(0):
        raise ConfigError(f"{key}={duration!r} is not a positive duration; examples: 45min, 2h, or a number of steps")
    if length % step:
        raise StepError(f"{key}={duration!r} is no multiple of the sampling step {frequency}", frequency)
    return int(length // step)


def in_time(steps: int, frequency: str) -> str | None:
    """Steps in the largest unit that counts them, ``30min`` or ``2d``; None where steps have no one length."""
    length = fixed_step(parse_frequency(frequency))
    for unit in () if length is None else ("d", "h", "min", "s"):
        if not steps * length % pd.Timedelta(1, unit):
            return f"{steps * length // pd.Timedelta(1, unit)}{unit}"
    return None


def with_unit(duration: str | int, frequency: str) -> str:
    """A duration as people read it: ``9 steps (45min)``; a time stays as it was given."""
    if not str(duration).isdigit():
        return str(duration)
    time = int(duration) and in_time(int(duration), frequency)
    return f"{duration} step{'s' * (int(duration) != 1)}{f' ({time})' if time else ''}"


def default_seasonality(frequency: str) -> int:
    """Steps per day (sub-daily), per week (daily, business days), per year (weeks and longer); 1 where none fits."""
    offset = parse_frequency(frequency)
    step = fixed_step(offset)
    if step is None:
        unit = offset.name.partition("-")[0]
        per_season = 5 if unit == "B" else {"M": 12, "Q": 4}.get(unit.lstrip("B")[0], 1)
        return max(1, per_season // offset.n)
    if step < _DAY:
        return int(_DAY // step) if not _DAY % step else 1
    weeks, rest = divmod(step, 7 * _DAY)
    return 52 // weeks if weeks and not rest else 7 if step == _DAY else 1


def encode_times(stamps: np.ndarray, features: Sequence[str]) -> np.ndarray:
    """Sine and cosine of each feature, in the order of `Roles.channels`: 23:55 is next to 00:00.

    Args:
        stamps: [rows] datetime64.
        features: any of ``hour_of_day``, ``day_of_week``, ``day_of_year``.

    Returns:
        [rows, 2 * features] float32.
    """
    if not features:
        return np.zeros((len(stamps), 0), np.float32)
    times = pd.DatetimeIndex(stamps)
    turns = {  # [rows] share of the day that is over; whole days since Monday, since New Year
        "hour_of_day": lambda: (times - times.normalize()).total_seconds() / 86_400.0,
        "day_of_week": lambda: times.dayofweek / 7,
        "day_of_year": lambda: (times.dayofyear - 1) / 365.25,
    }
    angles = [2 * np.pi * turns[name]().to_numpy() for name in features]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.stack(waves, axis=1).astype(np.float32)
