"""Sources of people with diabetes: their files, the channels that a run uses, and doses on a five-minute grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tstune.config.schema import DataSection
from tstune.data.sources import SourceInfo
from tstune.data.table import ITEM, TIMESTAMP, Roles
from tstune.errors import ConfigError, DataError

STEP = pd.Timedelta("5min")
SILENCE = pd.Timedelta("36h")
"""A log of doses or meals without an entry for a day and a half was put down: what follows is unknown, not zero."""
LONGEST_RATE = pd.Timedelta("24h")
"""Profiles of pumps change every day: a rate without a later entry for longer is not known to hold."""


def choose_channels(config: DataSection, source: str, target: str, others: Sequence[str]) -> Roles:
    """Roles of a source that has one target and optional channels, which `data.conditional_columns` names."""
    if config.target_columns not in (None, [target]):
        raise ConfigError(f"data.target_columns={config.target_columns}: source {source} forecasts {target}")
    for column in config.conditional_columns:
        if column not in others:
            raise ConfigError(
                f"data.conditional_columns: source {source} has no channel {column!r}; "
                f"choose from {', '.join(others) or 'none'}"
            )
        if config.conditional_columns.count(column) > 1:
            raise ConfigError(f"data.conditional_columns names {column!r} twice; name it once")
    return Roles((target,), tuple(config.conditional_columns))


def find_people(
    info: SourceInfo, config: DataSection, pattern: re.Pattern, kind: str, wanted: Sequence[str], example: str
) -> dict[str, dict[str, Path]]:
    """Person -> kind -> file of ``data.path``, for those who have a file of one kind and are wanted (all if empty).

    Args:
        pattern: of file names, with the group `person` and perhaps `kind`.
        kind: that everybody has to have; of a pattern without the group, all files are of this kind.
        example: what a file of that kind is called.
    """
    folder = info.need_path(config)
    if not folder.is_dir():
        raise info.missing(folder, "is not a folder" if folder.exists() else "does not exist")
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.csv*")):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        own = match.groupdict().get("kind", kind).lower()
        before = found.setdefault(match["person"], {}).setdefault(own, path)
        if before != path:
            raise DataError(f"source {info.name}: {before} and {path} hold the same thing; keep one")
    people = {person: own for person, own in sorted(found.items()) if kind in own}
    if not people:
        raise info.missing(folder, f"holds no {example}")
    if unknown := [person for person in wanted if person not in people]:
        raise ConfigError(f"data.source_options.participants: {unknown[0]} is not among {', '.join(people)}")
    return {person: own for person, own in people.items() if not wanted or person in wanted}


def fill_of(amounts: Sequence[str]) -> dict[str, str]:
    """`SourceTable.fill` for amounts (doses, meals, steps): one that is not known is not half of its neighbours."""
    return dict.fromkeys(amounts, "none")


def grid_between(first: pd.Timestamp, last: pd.Timestamp, step: pd.Timedelta = STEP) -> pd.DatetimeIndex:
    """Grid that covers two times."""
    return pd.date_range(first.floor(step), last.ceil(step), freq=step)


def doses_on_grid(
    stamps: pd.Series, amounts: pd.Series, grid: pd.DatetimeIndex, silence: pd.Timedelta | None = SILENCE
) -> np.ndarray:
    """[steps] amount from the step before up to each step, so that no dose is seen before it was given.

    No entry is 0 where the log covers the time: between its first and last entry, and not inside a stretch longer
    than `silence` without any. Elsewhere it is NaN, unknown. `silence=None` leaves only entries, and NaN between.
    """
    present = stamps.notna() & amounts.notna()
    stamps, amounts = stamps[present], amounts[present]
    result = np.full(len(grid), np.nan)
    if stamps.empty:
        return result
    when = np.sort(stamps.to_numpy("datetime64[ns]"))
    if silence is not None:
        result[_covered(grid, when, silence)] = 0.0
    step = np.searchsorted(grid, stamps.to_numpy("datetime64[ns]"), side="left")
    before = grid[0] - (grid[1] - grid[0] if len(grid) > 1 else STEP)
    inside = (step < len(grid)) & (stamps.to_numpy("datetime64[ns]") > before.to_datetime64())
    total = np.bincount(step[inside], amounts.to_numpy(np.float64)[inside], len(grid))
    has_entry = np.bincount(step[inside], minlength=len(grid)) > 0
    result[has_entry] = total[has_entry]
    return result


def mean_on_grid(stamps: pd.Series, values: pd.Series, grid: pd.DatetimeIndex) -> np.ndarray:
    """[steps] mean of the five minutes up to each step, NaN where nothing was measured."""
    number = doses_on_grid(stamps, values.notna().astype("float64").where(values.notna()), grid, silence=None)
    return doses_on_grid(stamps, values, grid, silence=None) / number


def rate_on_grid(
    stamps: pd.Series, per_hour: pd.Series, grid: pd.DatetimeIndex, longest: pd.Timedelta = LONGEST_RATE
) -> np.ndarray:
    """[steps] amount delivered in the five minutes up to each step by a rate that holds until its next entry.

    NaN before the first entry, after the last, and where no entry was made for `longest`. Of several entries at one
    time the last one counts.
    """
    entries = pd.Series(per_hour.to_numpy(np.float64), index=pd.DatetimeIndex(stamps)).dropna()
    entries = entries[entries.index.notna()].sort_index(kind="stable")
    entries = entries[~entries.index.duplicated(keep="last")]
    if len(entries) < 2:
        return np.full(len(grid), np.nan)
    when = entries.index.to_numpy("datetime64[ns]").astype(np.int64)
    hours = np.diff(when) / pd.Timedelta("1h").value
    delivered = np.concatenate([[0.0], np.cumsum(entries.to_numpy()[:-1] * hours)])
    ends = grid.to_numpy("datetime64[ns]").astype(np.int64)
    begins = ends - STEP.value
    amount = np.interp(ends, when, delivered) - np.interp(begins, when, delivered)
    known = _covered(grid, when.astype("datetime64[ns]"), longest) & (begins >= when[0])
    return np.where(known, amount, np.nan)


def _covered(grid: pd.DatetimeIndex, when: np.ndarray, silence: pd.Timedelta) -> np.ndarray:
    """[steps] True between two entries that are at most `silence` apart."""
    after = np.searchsorted(when, grid.to_numpy("datetime64[ns]"), side="left")
    covered = (after > 0) & (after < len(when))
    inner = np.clip(after, 1, max(len(when) - 1, 1))
    if len(when) > 1:
        covered &= (when[inner] - when[inner - 1]) <= silence.to_timedelta64()
    return covered


def join_channels(
    item: str, readings: pd.DataFrame, grid: pd.DatetimeIndex, channels: dict[str, np.ndarray]
) -> pd.DataFrame:
    """Rows of one person: readings at their own times, and [steps] of channels at the steps of the grid."""
    target = readings.assign(**{ITEM: item})
    if not channels:
        return target[[ITEM, *readings.columns]]
    doses = pd.DataFrame({ITEM: item, TIMESTAMP: grid, **channels}).dropna(subset=list(channels), how="all")
    joined = pd.concat([target, doses], ignore_index=True)
    return joined[[ITEM, *readings.columns, *channels]]
