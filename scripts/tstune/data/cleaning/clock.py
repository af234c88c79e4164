"""Local clock times: the hour that autumn repeats, the hour that spring leaves out, and how to get UTC."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from tstune.data.cleaning.rules import CleaningReport
from tstune.errors import ConfigError

_HOUR = np.timedelta64(1, "h")
SKIPPED_TIMES = "times_that_spring_leaves_out"


def check_timezone(timezone: str) -> None:
    """Stop at a name that is no time zone."""
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"data.timezone={timezone!r} is not a time zone; examples: Europe/London, America/New_York, UTC"
        ) from None


def local_to_utc(stamps: pd.Series, items: pd.Series, timezone: str, report: CleaningReport) -> pd.Series:
    """Read naive local times as UTC, in the order of the rows.

    In the repeated hour of autumn the rows of a series belong to the second pass from where its clock goes back; in
    a sorted table, a time that occurs again does. A lone pass is taken for the first. Times that spring leaves out
    are moved on by an hour: their clock was not set.

    Args:
        stamps: [rows] local times without zone.
        items: [rows] series of each row.
        timezone: IANA name.
        report: gets the counts.
    """
    check_timezone(timezone)
    local = pd.DatetimeIndex(stamps)
    skipped = local.tz_localize(timezone, ambiguous=np.ones(len(local), bool), nonexistent="NaT").isna()
    ambiguous = local.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT").isna() & ~skipped
    summer = np.ones(len(local), bool)
    second_pass, assumed_first = Counter(), Counter()  # series -> its rows
    if ambiguous.any():
        doubtful = pd.DataFrame({"item": items.to_numpy()[ambiguous], "stamp": local[ambiguous]})
        doubtful["row"] = np.flatnonzero(ambiguous)
        for (item, _), group in doubtful.groupby(["item", doubtful["stamp"].dt.date], sort=False):
            second = _second_pass(group["stamp"].to_numpy())
            summer[group["row"].to_numpy()[second]] = False
            (second_pass if second.any() else assumed_first)[item] += int(second.sum()) or len(group)
    zoned = local.tz_localize(timezone, ambiguous=summer, nonexistent=pd.Timedelta("1h"))
    utc = zoned.tz_convert("UTC").tz_localize(None).as_unit("ns")
    report.add("local_times", len(local), f"read as {timezone}, now UTC")
    report.add("repeated_hour", second_pass.total(), "read as the second pass", second_pass)
    report.add("half_of_the_repeated_hour", assumed_first.total(), "read as summer", assumed_first)
    names = items.to_numpy()[skipped]
    report.add(
        SKIPPED_TIMES,
        int(skipped.sum()),
        "moved on by an hour",
        pd.Series(names).value_counts().to_dict(),
        [f"{item} {stamp}" for item, stamp in zip(names[:3], local[skipped][:3], strict=True)],
    )
    return pd.Series(utc, index=stamps.index, name=stamps.name)


def _second_pass(stamps: np.ndarray) -> np.ndarray:
    """[rows] True for the rows of one repeated hour, in file order, that belong to its second pass."""
    back = np.flatnonzero(np.diff(stamps) < np.timedelta64(0))
    if back.size == 1:  # more of them are shuffled rows, not a clock
        return np.arange(len(stamps)) > back[0]
    return pd.Series(stamps).duplicated().to_numpy()


def find_clock_changes(stamps: np.ndarray, codes: np.ndarray, items: list[str], report: CleaningReport) -> None:
    """Count hours that look repeated or left out on the Sundays on which clocks are changed, in sorted rows."""
    found = {"repeated_hour": Counter(), "missing_hour": Counter()}  # series -> its hours
    examples: dict[str, list[str]] = {name: [] for name in found}
    bounds = np.searchsorted(codes, np.arange(len(items) + 1))
    for item, first, last in zip(items, bounds[:-1], bounds[1:], strict=True):
        own = stamps[first:last]
        if len(own) < 2:
            continue
        steps = np.diff(own[:2000])
        step = np.median(steps[steps > np.timedelta64(0)]) if (steps > np.timedelta64(0)).any() else _HOUR
        full = _HOUR / step
        if full < 3:  # coarser than 20 minutes: one hour more or less is not to be seen
            continue
        for night in _nights_of_change(own[0], own[-1]):
            hours = night + np.arange(-2, 7) * _HOUR
            counts = np.diff(np.searchsorted(own, hours)) / full
            for place in range(1, len(counts) - 1):
                around = counts[place - 1], counts[place + 1]
                if counts[place] >= 1.5 and max(around) < 1.3:
                    name = "repeated_hour"
                elif counts[place] == 0 and min(around) >= 0.7:
                    name = "missing_hour"
                else:
                    continue
                found[name][item] += 1
                examples[name].append(f"{item} {pd.Timestamp(hours[place])}")
    for name, hours_of in found.items():
        report.add(name, hours_of.total(), "kept; set data.timezone", hours_of, examples[name])


def _nights_of_change(first: np.datetime64, last: np.datetime64) -> list[np.datetime64]:
    """Midnights of the Sundays on which clocks are changed somewhere, between two times.

    Last Sunday of March and October (Europe), second of March and first of November (North America), first of
    April and October, last of September (Australia, New Zealand).
    """
    days = np.arange(first.astype("datetime64[D]"), last.astype("datetime64[D]") + 1)
    sundays = days[(days.astype(np.int64) + 4) % 7 == 0]
    months = sundays.astype("datetime64[M]")
    month, week = months.astype(np.int64) % 12 + 1, (sundays - months).astype(np.int64) // 7
    is_last = (sundays + 7).astype("datetime64[M]") != months
    chosen = (
        (np.isin(month, [3, 9, 10]) & is_last)
        | ((month == 3) & (week == 1))
        | (np.isin(month, [4, 10, 11]) & (week == 0))
    )
    return list(sundays[chosen].astype("datetime64[ns]"))
