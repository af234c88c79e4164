"""Put irregular readings on a grid, fill short gaps, cut at long ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tstune.data.defaults import default_max_gap
from tstune.data.frequency import encode_times, fixed_step, infer_frequency, parse_frequency, to_steps
from tstune.data.panel import INTERPOLATED, MISSING, OBSERVED, Panel
from tstune.data.table import ITEM, TIMESTAMP, SourceTable
from tstune.errors import ConfigError, DataError

# steps that vary in length and have a pandas period: months, calendar quarters and years, business days
_CALENDAR = tuple(
    pd.tseries.frequencies.to_offset(name)
    for name in (
        *("MS", "ME", "B", "YS", "YE"),
        *("QS-JAN", "QS-APR", "QS-JUL", "QS-OCT"),  # four names of one grid, and so are these
        *("QE-DEC", "QE-MAR", "QE-JUN", "QE-SEP"),
    )
)


def build_panel(table: SourceTable, frequency: str | None, max_gap: str | int | None, cut: bool = True) -> Panel:
    """Turn readings into a `Panel`.

    Readings that fall on one grid step are averaged. A gap of at most `max_gap` is interpolated
    linearly and marked; a longer gap in any target ends the segment. Covariates never end a segment:
    where they are missing for longer, they stay missing.

    `table.fill` names channels that are treated otherwise: ``hold`` repeats the last reading over such a gap, ``none``
    leaves every gap missing, and with ``zero`` no reading is a reading of 0, however long the gap is.

    Args:
        table: readings in any order.
        frequency: grid step; None takes the table's, else the most common one.
        max_gap: longest gap to fill, as a duration or in steps; None takes the table's, or what is usual.
        cut: False keeps each item in one piece and leaves long gaps missing (for forecasting).
    """
    frame = table.frame.sort_values([ITEM, TIMESTAMP], kind="stable")
    codes, item_ids = pd.factorize(frame[ITEM])
    item_starts = np.flatnonzero(np.diff(codes, prepend=-1))
    stamps = frame[TIMESTAMP].to_numpy("datetime64[ns]")
    readings = frame[list(table.roles.columns)].to_numpy(np.float64)
    frequency = frequency or table.frequency or infer_frequency(stamps, item_starts)
    gap_steps = to_steps(longest_gap(table, frequency, max_gap), frequency, "data.max_gap")
    if gap_steps < 0:
        raise ConfigError(f"data.max_gap={max_gap} is negative; 0 interpolates nothing")
    policies = np.array([table.fill.get(column, "interpolate") for column in table.roles.columns])
    gaps = np.where(policies == "none", 0, gap_steps)

    pieces: list[tuple[np.ndarray, ...]] = []
    segment_item, segment_position, segment_length, item_length, kept_ids = [], [], [], [], []
    for name, start, stop in zip(item_ids, item_starts, np.append(item_starts[1:], len(codes)), strict=True):
        values, grid = _to_grid(stamps[start:stop], readings[start:stop], frequency, name)
        targets = slice(0, table.roles.num_targets)
        values, grid = _trim(values, grid, targets)
        if not len(values):  # no reading of any target: not an item of this panel
            continue
        values[:, policies == "zero"] = np.nan_to_num(values[:, policies == "zero"])
        item = len(kept_ids)
        kept_ids.append(str(name))
        item_length.append(len(values))
        filled, status = _fill(values, gaps, policies == "hold", hold_end=not cut)
        filled, status = _with_known(filled, status, grid, table, name)
        broken = _long_gaps(values[:, targets], gaps[targets]) if cut else np.zeros(len(values), bool)
        for first, last in _runs(~broken):
            pieces.append((filled[first:last], status[first:last], grid[first:last]))
            segment_item.append(item)
            segment_position.append(first)
            segment_length.append(last - first)
    if not pieces:
        names = ", ".join(table.roles.target)
        raise DataError(f"no observed value in target column(s) {names} of any series")
    values, status, timestamps = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Panel(
        values=values,
        status=status,
        timestamps=timestamps,
        segment_start=np.concatenate([[0], np.cumsum(segment_length)]),
        segment_item=np.asarray(segment_item),
        segment_position=np.asarray(segment_position),
        item_ids=tuple(kept_ids),
        item_length=np.asarray(item_length),
        roles=table.roles,
        frequency=frequency,
    )


def longest_gap(table: SourceTable, frequency: str, max_gap: str | int | None) -> str | int:
    """What is interpolated at most: as configured, as the source advises, or what is usual for the frequency."""
    if max_gap is None:
        max_gap = table.max_gap
    return default_max_gap(frequency) if max_gap is None else max_gap


def _to_grid(stamps: np.ndarray, readings: np.ndarray, frequency: str, item: str) -> tuple[np.ndarray, np.ndarray]:
    """Average the readings of each grid step; steps without one are NaN."""
    step = fixed_step(parse_frequency(frequency))
    if step is None:
        offset = parse_frequency(frequency)
        if offset not in _CALENDAR:
            raise ConfigError(
                f"data.frequency={frequency!r} is not supported; calendar steps are MS, ME, QS, QE, YS, YE, B"
            )
        periods = pd.DatetimeIndex(stamps).to_period(offset.name[0])  # M, Q, Y or B
        bins = periods.asi8 - periods.asi8[0]
        every = pd.period_range(periods[0], periods=int(bins[-1]) + 1, freq=periods.freq)
        at_end = frequency.rstrip("0123456789").partition("-")[0].endswith("E")
        grid = every.to_timestamp(how="end" if at_end else "start").normalize().to_numpy("datetime64[ns]")
    else:
        nanos = stamps.astype(np.int64)
        # A series that is regular but not on whole steps (hourly at half past) keeps its own phase.
        anchor = int(nanos[0]) if not ((nanos - nanos[0]) % step.value).any() else 0
        bins = (nanos - anchor + step.value // 2) // step.value
        _refuse_huge_grid(int(bins[-1] - bins[0]) + 1, len(stamps), frequency, item)
        grid = ((np.arange(bins[0], bins[-1] + 1)) * step.value + anchor).astype("datetime64[ns]")
        bins = bins - bins[0]
    values = np.full((len(grid), readings.shape[1]), np.nan, dtype=np.float64)
    for channel in range(readings.shape[1]):
        seen = ~np.isnan(readings[:, channel])
        count = np.bincount(bins[seen], minlength=len(grid))
        total = np.bincount(bins[seen], weights=readings[seen, channel], minlength=len(grid))
        np.divide(total, count, out=values[:, channel], where=count > 0)
    return values, grid


def _refuse_huge_grid(num_steps: int, num_rows: int, frequency: str, item: str) -> None:
    if num_steps > 200 * num_rows + 10_000_000:
        raise DataError(
            f"series {item!r}: {num_rows} rows spread over {num_steps} steps of {frequency}; "
            "check its timestamps, or set data.frequency"
        )


def _trim(values: np.ndarray, grid: np.ndarray, targets: slice) -> tuple[np.ndarray, np.ndarray]:
    """Drop rows before the first and after the last moment at which a target was observed."""
    rows = np.flatnonzero(~np.isnan(values[:, targets]).all(axis=1))
    kept = slice(rows[0], rows[-1] + 1) if rows.size else slice(0, 0)
    return values[kept], grid[kept]


def _fill(values: np.ndarray, gaps: np.ndarray, holds: np.ndarray, hold_end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps of at most `gaps` rows between two readings of each channel; longer ones become 0, `MISSING`.

    A line is drawn between the two, or the first of them held where `holds`. With `hold_end` the last reading is held
    over a gap of that length at the end, as training windows do.
    """
    filled = np.zeros(values.shape, np.float32)
    status = np.full(values.shape, MISSING, np.uint8)
    rows = np.arange(len(values))
    for channel in range(values.shape[1]):
        seen = np.flatnonzero(~np.isnan(values[:, channel]))
        if not seen.size:
            continue
        if holds[channel]:
            line = values[seen[np.maximum(np.searchsorted(seen, rows, side="right") - 1, 0)], channel]
        else:
            line = np.interp(rows, seen, values[seen, channel])
        usable = ~_long_gaps(values[:, channel : channel + 1], gaps[channel : channel + 1])
        if hold_end and len(values) - 1 - seen[-1] <= gaps[channel]:
            usable[seen[-1] :] = True  # np.interp goes on with the last value
        filled[usable, channel] = line[usable]
        status[usable, channel] = INTERPOLATED
        status[seen, channel] = OBSERVED
    return filled, status


def _with_known(
    values: np.ndarray, status: np.ndarray, grid: np.ndarray, table: SourceTable, item: str
) -> tuple[np.ndarray, np.ndarray]:
    """Put the constants of the item and the features of its times beside its other channels."""
    roles = table.roles
    if not roles.static_real and not roles.time_features:
        return values, status
    known = encode_times(grid, roles.time_features)
    if roles.static_real:
        constants = table.statics.loc[str(item), list(roles.static_real)].to_numpy(np.float32)
        known = np.hstack([np.tile(constants, (len(grid), 1)), known])
    return np.hstack([values, known]), np.hstack([status, np.full(known.shape, OBSERVED, np.uint8)])


def _long_gaps(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """[rows] True where any column misses more than its `gaps` rows in a row, or has no reading on one side."""
    broken = np.zeros(len(values), bool)
    for column, gap_steps in zip(values.T, gaps, strict=True):
        for first, last in _runs(np.isnan(column)):
            if last - first > gap_steps or first == 0 or last == len(column):
                broken[first:last] = True
    return broken


def _runs(flags: np.ndarray) -> np.ndarray:
    """[runs, 2] start and stop of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)
