"""From overlapping rows without dates back to one series per participant, as far as the rows prove it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tstune.data.sources.kaggle_brist1d_files import (
    CHANNELS,
    NUM_LAGS,
    NUMBERS,
    STEP_MINUTES,
    STEPS_AHEAD,
    STEPS_PER_DAY,
    Rows,
)

SEGMENT_GAP = STEPS_PER_DAY
"""Steps without a reading that are left, at least, between two segments of one participant."""

_TOLERANCE = 0.05
"""Cells that may differ in an overlap, as a share of those that agree: the file has a few conflicts of its own."""
_JUMP_READINGS, _JUMP_RANGE = 8, 0.5
"""A clock that was set is believed from this many equal readings that span this much glucose (mmol/L)."""
_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class Series:
    """What was known of one participant, one entry per five-minute instant that any row speaks of.

    Attributes:
        participant: `p_num`.
        step: [instants] five-minute steps on a calendar that is made up: the time of day is real, the day is not.
        segment: [instants] number of the segment.
        first_id: id of the first row of each segment.
        values: [channels, instants] float64, NaN where there is no value; an activity is an index into
            `activity_names`.
        in_lags: [instants] the instant lies in the six hours of a row, so an empty cell was really seen to be empty.
        activity_names: names of the activities.
        conflicts: channel -> instants for which rows gave different values; the earliest row counts.
        partly_empty: channel -> instants that are empty in one row and not in another; the value counts.
        num_rows: rows it was built from.
        clock_jumps: pairs of rows whose clock was set in between (travel, daylight saving).
        sampling_minutes: most common time between two glucose readings; None with fewer than two.
    """

    participant: str
    step: np.ndarray
    segment: np.ndarray
    first_id: list[str]
    values: np.ndarray
    in_lags: np.ndarray
    activity_names: list[str]
    conflicts: dict[str, int]
    partly_empty: dict[str, int]
    num_rows: int
    clock_jumps: int
    sampling_minutes: int | None


def rebuild(rows: Rows, isolated: bool) -> Series:
    """Put all lags and targets of a participant's rows on a time axis.

    Args:
        rows: in the order of their ids.
        isolated: rows have nothing to do with each other (test.csv): each is a segment of its own.
    """
    alone = np.arange(len(rows)), np.zeros(len(rows), np.int64), 0
    segment, position, clock_jumps = alone if isolated else place_rows(rows)
    step = _calendar(rows.clock, segment, position)
    first = int(step[0]) - NUM_LAGS + 1
    return _scatter(rows, segment, step - first, first, clock_jumps)


def place_rows(rows: Rows) -> tuple[np.ndarray, np.ndarray, int]:
    """Follow the rows through time by what they have in common.

    The clock says how far the next row is ahead, up to whole days. Less than six hours ahead, the next row repeats
    the lags of this one, shifted: if it does not, at least a day lies between them, nobody knows how many, and a new
    segment begins. So it does from six hours on, where the rows have nothing in common.

    Returns:
        [rows] number of the row's segment, [rows] five-minute steps from its first row, clocks that were set.
    """
    ahead = np.diff(rows.clock) % STEPS_PER_DAY
    agrees = np.zeros(len(ahead), bool)
    proven = np.zeros(len(ahead), bool)  # by glucose, not only by other channels or by both being empty
    for step in np.unique(ahead[ahead < NUM_LAGS]):
        pairs = np.flatnonzero(ahead == step)
        same, differ = _compare(rows, pairs, int(step))
        agrees[pairs] = _believed(same, differ)
        proven[pairs] = same[0] > 0
        if step == 0:  # the same moment twice, or a day later
            twin = (same[0] > 0) & (rows.target[pairs] == rows.target[pairs + 1])
            agrees[pairs] &= twin
    clock_jumps = _follow_set_clocks(rows, ahead, agrees, proven)
    _cut_unproven(rows, ahead, agrees, proven)
    segment = np.concatenate([[0], np.cumsum(~agrees)])
    travelled = np.concatenate([[0], np.cumsum(np.where(agrees, ahead, 0))])
    begins = np.flatnonzero(np.diff(segment, prepend=-1))
    return segment, travelled - travelled[begins][segment], clock_jumps


def _believed(same: np.ndarray, differ: np.ndarray) -> np.ndarray:
    """[pairs] glucose alone, and all channels together, agree but for a few cells."""
    few = differ[0] <= _TOLERANCE * same[0]
    return few & (differ.sum(axis=0) <= _TOLERANCE * same.sum(axis=0))


def _compare(rows: Rows, pairs: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells that two neighbouring rows have in common if the second is `step` steps later.

    Returns:
        ([numbers, pairs], [numbers, pairs]) cells that hold the same value, cells that do not (one may be empty).
    """
    same = np.zeros((len(NUMBERS), len(pairs)), np.int64)
    differ = np.zeros_like(same)
    for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
        block = slice(begin, begin + _PAIRS_AT_ONCE)
        left, right = pairs[block], pairs[block] + 1
        for channel, values in enumerate(rows.values[: len(NUMBERS)]):
            earlier, later = values[step:, left], values[: NUM_LAGS - step, right]
            equal = earlier == later
            same[channel, block] = equal.sum(axis=0)
            differ[channel, block] = (~equal & ~(np.isnan(earlier) & np.isnan(later))).sum(axis=0)
        if step >= STEPS_AHEAD:  # the target of the earlier row is a lag of the later one
            lag = NUM_LAGS - 1 - step + STEPS_AHEAD
            target, later = rows.target[left], rows.values[0, lag, right]
            same[0, block] += target == later
            differ[0, block] += (target != later) & ~np.isnan(target)
    return same, differ


def _follow_set_clocks(rows: Rows, ahead: np.ndarray, agrees: np.ndarray, proven: np.ndarray) -> int:
    """Where a clock was set between two rows their lags still agree, at another shift: take that one."""
    open_pairs = np.flatnonzero(~agrees)
    if not open_pairs.size:
        return 0
    found = np.zeros(len(open_pairs), np.int64)
    shift = np.zeros(len(open_pairs), np.int64)
    for step in range(1, NUM_LAGS):
        same, differ = _compare(rows, open_pairs, step)
        glucose = rows.values[0, step:, open_pairs]  # [pairs, lags]
        lowest = np.where(np.isnan(glucose), np.inf, glucose).min(axis=1)
        highest = np.where(np.isnan(glucose), -np.inf, glucose).max(axis=1)
        certain = (same[0] >= _JUMP_READINGS) & (differ[0] == 0) & _believed(same, differ)
        certain &= highest - lowest >= _JUMP_RANGE
        found += certain
        shift[certain] = step
    jumped = open_pairs[found == 1]
    ahead[jumped], agrees[jumped], proven[jumped] = shift[found == 1], True, True
    return len(jumped)


def _cut_unproven(rows: Rows, ahead: np.ndarray, agrees: np.ndarray, proven: np.ndarray) -> None:
    """After an outage the lags of two rows may both be empty: then a target, which is never empty, has to agree.

    The target of the earlier row is a lag of every row that comes an hour to seven hours later.
    """
    segment = np.concatenate([[0], np.cumsum(~agrees)])
    travelled = np.concatenate([[0], np.cumsum(np.where(agrees, ahead, 0))])
    for pair in np.flatnonzero(agrees & ~proven):
        due = travelled[pair] + STEPS_AHEAD
        stop = int(np.searchsorted(segment, segment[pair], side="right"))
        later = pair + 1 + int(np.searchsorted(travelled[pair + 1 : stop], due))
        if later < stop and travelled[later] - due < NUM_LAGS:
            agrees[pair] = rows.values[0, NUM_LAGS - 1 - (travelled[later] - due), later] == rows.target[pair]
        else:  # no witness left but the other channels
            same, _ = _compare(rows, np.array([pair]), int(ahead[pair]))
            agrees[pair] = same.sum() > 0


def _calendar(clock: np.ndarray, segment: np.ndarray, position: np.ndarray) -> np.ndarray:
    """[rows] steps on the made-up calendar: within a segment true, between segments at least `SEGMENT_GAP` apart.

    The first row of a segment keeps its time of day.
    """
    begins = np.flatnonzero(np.diff(segment, prepend=-1))
    ends = np.append(begins[1:], len(clock)) - 1
    origin = np.empty(len(begins), np.int64)
    earliest = NUM_LAGS - 1
    for number, (first, last) in enumerate(zip(begins, ends, strict=True)):
        origin[number] = earliest + (clock[first] - earliest) % STEPS_PER_DAY
        earliest = origin[number] + position[last] + STEPS_AHEAD + SEGMENT_GAP + NUM_LAGS
    return origin[segment] + position


def _scatter(rows: Rows, segment_of: np.ndarray, place: np.ndarray, first: int, clock_jumps: int) -> Series:
    """Write every cell to its instant, [rows] `place` on an axis from step `first` on; the earliest row counts."""
    length = int(place[-1]) + STEPS_AHEAD + 1
    values = np.full((len(CHANNELS), length), np.nan)
    in_lags = np.zeros(length, bool)
    segment = np.zeros(length, np.int64)
    segment[place + STEPS_AHEAD] = segment_of
    values[0, place + STEPS_AHEAD] = rows.target  # an hour before any lag speaks of that instant
    for lag in range(NUM_LAGS - 1, -1, -1):  # the newest lag is in the earliest row
        at = place - (NUM_LAGS - 1 - lag)
        in_lags[at] = True
        segment[at] = segment_of
        for channel in range(len(CHANNELS)):
            kept = values[channel, at]
            values[channel, at] = np.where(np.isnan(kept), rows.values[channel, lag], kept)
    conflicts, partly_empty = _disagreements(rows, place, values)
    known = np.flatnonzero(in_lags | ~np.isnan(values[0]))
    begins = np.flatnonzero(np.diff(segment_of, prepend=-1))
    return Series(
        participant=rows.participant,
        step=known + first,
        segment=segment[known],
        first_id=rows.ids[begins].tolist(),
        values=values[:, known],
        in_lags=in_lags[known],
        activity_names=rows.activity_names,
        conflicts=conflicts,
        partly_empty=partly_empty,
        num_rows=len(rows),
        clock_jumps=clock_jumps,
        sampling_minutes=_sampling(values[0]),
    )


def _disagreements(rows: Rows, place: np.ndarray, values: np.ndarray) -> tuple[dict[str, int], dict[str, int]]:
    """Instants per channel at which any row holds another value than what was kept, or none."""
    wrong, empty = (np.zeros(values.shape, bool) for _ in range(2))
    at = place + STEPS_AHEAD
    wrong[0, at[(rows.target != values[0, at]) & ~np.isnan(rows.target)]] = True
    for lag in range(NUM_LAGS):
        at = place - (NUM_LAGS - 1 - lag)
        for channel in range(len(CHANNELS)):
            cell = rows.values[channel, lag]
            missing = np.isnan(cell)
            wrong[channel, at[(cell != values[channel, at]) & ~missing]] = True
            empty[channel, at[missing]] = True
    counts = (marks.sum(axis=1).tolist() for marks in (wrong, empty & ~np.isnan(values)))
    return tuple(dict(zip(CHANNELS, count, strict=True)) for count in counts)


def _sampling(glucose: np.ndarray) -> int | None:
    apart = np.diff(np.flatnonzero(~np.isnan(glucose)))
    return int(np.bincount(apart[apart < STEPS_PER_DAY]).argmax()) * STEP_MINUTES if apart.size else None
