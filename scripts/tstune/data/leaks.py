"""The leak checker: every split is taken apart again, and a run whose parts are not apart does not start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tstune.data.fingerprints import STRETCH, Stretches
from tstune.data.panel import (
    BLOCK_ROWS,
    INTERPOLATED,
    MISSING,
    OBSERVED,
    Panel,
    item_id_of,
    position_of,
    row_blocks,
    rows_between,
    segment_of,
    time_of,
)
from tstune.data.scaler import Scaler
from tstune.data.splits import PARTS, Split
from tstune.data.windows import WindowDataset
from tstune.errors import LeakError

CHECKS = (
    "held_out_item",
    "window_over_gap",
    "window_over_border",
    "repeated_time",
    "target_in_earlier_part",
    "context_in_earlier_part",
    "purge",
    "scaler",
    "imputation",
    "duplicate_series",
)
"""Names of the checks, in the order they are made; `trained_on` comes later, where weights are loaded."""

_LATER = (("train", "validation"), ("train", "test"), ("validation", "test"))
FEWEST_MATCHES = 3
"""Stretches that must agree before two series are called the same."""
SHORTEST_COPY = 3 * STRETCH // 2
"""Grid steps they must reach over: two smooth curves, as after a meal, may agree for the length of one stretch."""
_MOST_WINDOWS = 128
"""Windows of each part that are fetched to see how their context ends."""


@dataclass(frozen=True)
class Spans:
    """Stretches of panel rows that the windows of one part cover."""

    # first, last: [spans] panel rows, both included
    first: np.ndarray
    last: np.ndarray
    item: np.ndarray  # [spans] index into `panel.item_ids`


def check_leaks(
    panel: Panel,
    split: Split,
    windows: dict[str, WindowDataset],
    scaler: Scaler,
    scaling: str,
    stretches: Stretches,
    allow_overlap: bool = False,
) -> list[str]:
    """Check one split from what came out of it: panel, windows and scaler, not from how they were made.

    Args:
        scaler, scaling: the fitted scaler and what it should be, ``standard`` or ``none``.
        allow_overlap: report series that two items share instead of stopping.

    Raises:
        LeakError: naming the check, the series, the time and the fix.
    """
    whole = {part: spans(windows[part]) for part in PARTS}
    _check_held_out(panel, split, whole)
    for part in PARTS:
        _check_gaps(panel, whole[part], part)
        _check_borders(panel, split, windows[part], whole[part], part)
    _check_times(panel)
    targets = {part: spans(windows[part], targets_only=True) for part in PARTS}
    for earlier, later in _LATER:
        # A window of the earlier part is left whole: its targets taught the model, its contexts let it see the values.
        _check_apart(panel, whole[earlier], targets[later], earlier, later, "target")
        if split.mode == "strict":
            _check_apart(panel, whole[earlier], whole[later], earlier, later, "context")
        _check_purge(panel, split, whole[earlier], targets[later], earlier, later)
    _check_scaler(panel, split, scaler, scaling)
    _check_imputation(panel, windows)
    allowed = _find_duplicates(panel, extents(panel, windows), stretches)
    if allowed and not allow_overlap:
        raise LeakError(
            "duplicate_series",
            f"{allowed[0]}{more_findings(allowed)}; remove one of the two, hold out both (data.split.test_items), or "
            "set data.split.allow_overlap=true",
        )
    return allowed


def spans(windows: WindowDataset, targets_only: bool = False) -> Spans:
    """Rows from the first to the last of each range of windows, with or without the first context."""
    ranges, segment = windows.ranges, windows.segment_of(windows.ranges.first)
    begin = windows.panel.segment_start[segment]
    padded = (ranges.first < begin) & (ranges.first >= begin - windows.padding)  # nothing is read there
    first = np.where(padded, begin, ranges.first)
    if targets_only:
        first = ranges.first + windows.context_length
    last = ranges.first + (ranges.count - 1) * ranges.stride + windows.context_length + windows.prediction_length - 1
    return Spans(first, last, windows.panel.segment_item[segment])


def extents(panel: Panel, windows: dict[str, WindowDataset]) -> dict[str, np.ndarray]:
    """Part -> [items, 2] first and last row a model learns from (train), or is chosen and scored on (the others).

    An item without a window in the part has an empty extent, ``last < first``.
    """
    found = {}
    for part in PARTS:
        rows = np.tile(np.array([panel.num_rows, -1]), (len(panel.item_ids), 1))
        covered = spans(windows[part], targets_only=part != "train")
        np.minimum.at(rows[:, 0], covered.item, covered.first)
        np.maximum.at(rows[:, 1], covered.item, covered.last)
        found[part] = rows
    return found


def more_findings(findings: list[str]) -> str:
    """How many there are besides the first, for an error that shows only that one."""
    return f" (and {len(findings) - 1} more such findings)" if len(findings) > 1 else ""


def _check_held_out(panel: Panel, split: Split, whole: dict[str, Spans]) -> None:
    trained = np.isin(np.arange(len(panel.item_ids)), whole["train"].item)
    begin, end = split.bounds("train")
    leaked = np.flatnonzero(split.held_out & (trained | (end > begin)))
    if leaked.size:
        raise LeakError(
            "held_out_item",
            f"series {panel.item_ids[leaked[0]]!r} is held out, but has {'windows' if trained[leaked[0]] else 'steps'} "
            "in train; rebuild the split with split_panel",
        )


def _check_gaps(panel: Panel, whole: Spans, part: str) -> None:
    beyond = (whole.first < 0) | (whole.last >= panel.num_rows)
    last = np.clip(whole.last, 0, panel.num_rows - 1)
    over = np.flatnonzero(beyond | (segment_of(panel, whole.first) != segment_of(panel, last)))
    if over.size:
        k = int(over[0])
        raise LeakError(
            "window_over_gap",
            f"windows of {part} that begin at {time_of(panel, whole.first[k])} in series "
            f"{panel.item_ids[whole.item[k]]!r} run over the end of its segment into other readings; "
            "rebuild the windows with window_ranges",
        )


def _check_borders(panel: Panel, split: Split, windows: WindowDataset, whole: Spans, part: str) -> None:
    begin, end = (bound[whole.item] for bound in split.bounds(part))
    looks_back = split.mode == "deployment" and part != "train"
    first = position_of(panel, whole.first) + (windows.context_length if looks_back else 0)
    over = np.flatnonzero((first < begin) | (position_of(panel, whole.last) >= end))
    if over.size:
        k = int(over[0])
        raise LeakError(
            "window_over_border",
            f"windows of {part} in series {panel.item_ids[whole.item[k]]!r}, {time_of(panel, whole.first[k])} to "
            f"{time_of(panel, whole.last[k])}, lie over a border of that part; rebuild the windows with window_ranges",
        )


def _check_times(panel: Panel) -> None:
    """Times of an item must grow, else one reading could lie in two parts as two rows."""
    first_of_item = panel.segment_start[np.flatnonzero(np.diff(panel.segment_item)) + 1]
    for block in row_blocks(panel):
        stamps = panel.timestamps[block.start : block.stop + 1]
        rows = block.start + 1 + np.flatnonzero(stamps[1:] <= stamps[:-1])
        rows = rows[~np.isin(rows, first_of_item)]
        if not rows.size:
            continue
        row = int(rows[0])
        raise LeakError(
            "repeated_time",
            f"series {item_id_of(panel, row)!r} holds {time_of(panel, row)} after {time_of(panel, row - 1)}: the same "
            "time can lie in two parts; build the panel with build_panel",
        )


def _check_apart(panel: Panel, seen: Spans, later: Spans, earlier_part: str, later_part: str, what: str) -> None:
    """No row of `later` may lie in a span of `seen`."""
    order = np.argsort(seen.first)
    reach = np.maximum.accumulate(seen.last[order]) if order.size else seen.last
    before = np.searchsorted(seen.first[order], later.last, side="right") - 1
    over = np.flatnonzero((before >= 0) & (reach[np.maximum(before, 0)] >= later.first)) if order.size else order
    if over.size:
        k = int(over[0])
        inside = (seen.first <= later.last[k]) & (seen.last >= later.first[k])
        begin = max(int(seen.first[inside].min()), int(later.first[k]))
        end = min(int(seen.last[inside].max()), int(later.last[k]))
        raise LeakError(
            f"{what}_in_earlier_part",
            f"{end - begin + 1} {what} steps of {later_part} in series {panel.item_ids[later.item[k]]!r}, "
            f"{time_of(panel, begin)} to {time_of(panel, end)}, lie in windows of {earlier_part}; "
            "rebuild split and windows with split_panel and window_ranges",
        )


def _check_purge(panel: Panel, split: Split, earlier: Spans, later: Spans, earlier_part: str, later_part: str) -> None:
    items = len(panel.item_ids)
    last, first = np.full(items, -1), np.full(items, np.iinfo(np.int64).max)
    np.maximum.at(last, earlier.item, position_of(panel, earlier.last))
    np.minimum.at(first, later.item, position_of(panel, later.first))
    close = np.flatnonzero((last >= 0) & (first > last) & (first - 1 - last < split.purge))  # or it lies before
    if close.size:
        item = int(close[0])
        raise LeakError(
            "purge",
            f"{later_part} begins {first[item] - 1 - last[item]} steps after {earlier_part} in series "
            f"{panel.item_ids[item]!r}, but data.split.purge asks for {split.purge}; rebuild it with split_panel",
        )


def _check_scaler(panel: Panel, split: Split, scaler: Scaler, scaling: str) -> None:
    """Mean and deviation must be those of the readings of the training part."""
    for channel, name in enumerate(panel.roles.channels):
        found = float(scaler.mean[channel]), float(scaler.std[channel])
        mean, std = (0.0, 1.0) if scaling == "none" else _statistics(panel, split, channel, found[0])
        close = abs(found[0] - mean) <= 1e-6 * std + 1e-9 * abs(mean), abs(found[1] - std) <= 1e-6 * std
        if not all(close):
            raise LeakError(
                "scaler",
                f"channel {name!r} is scaled by mean {found[0]:.6g} and deviation {found[1]:.6g}, the training part "
                f"has {mean:.6g} and {std:.6g}; fit the scaler on the training part with fit_scaler",
            )


def _check_imputation(panel: Panel, windows: dict[str, WindowDataset]) -> None:
    """Interpolated values must come from the readings on either side, and no context may end in one from its future."""
    for channel in range(len(panel.roles.channels)):
        begin = 0
        while begin < panel.num_rows - 1:
            end = min(begin + BLOCK_ROWS, panel.num_rows - 1)
            while end < panel.num_rows - 1 and panel.status[end, channel] == INTERPOLATED:
                end += 1  # a run is not cut in two
            _check_lines(panel, channel, begin, end + 1)
            begin = end
    for part in PARTS:
        _check_context_ends(windows[part], part)


def _statistics(panel: Panel, split: Split, channel: int, near: float) -> tuple[float, float]:
    """Mean and deviation, summed around a value near the mean so that large values keep their precision."""
    count, total, square = 0, 0.0, 0.0
    for block in row_blocks(panel):
        seen = rows_between(panel, *split.bounds(split.fitted_on), block) & (panel.status[block, channel] == OBSERVED)
        away = panel.values[block, channel][seen].astype(np.float64) - near
        count, total, square = count + len(away), total + float(away.sum()), square + float(away @ away)
    if not count:
        return 0.0, 1.0
    variance = max(square / count - (total / count) ** 2, 0.0)
    flat = variance <= 1e-24 * near**2  # what summing leaves of a channel that does not vary
    return near + total / count, 1.0 if flat else variance**0.5


def _check_lines(panel: Panel, channel: int, begin: int, end: int) -> None:
    """Each run of interpolated values lies on the line between its neighbours, or holds the one before."""
    status, values = panel.status[:, channel], panel.values[:, channel]
    rows = begin + np.flatnonzero(status[begin:end] == INTERPOLATED)
    if not rows.size:
        return
    new_run = np.concatenate([[True], np.diff(rows) != 1])
    run = np.cumsum(new_run) - 1
    before = rows[new_run] - 1
    after = np.append(rows[np.flatnonzero(new_run)[1:] - 1], rows[-1]) + 1
    segment = segment_of(panel, rows[new_run])
    # A run at the edge of a segment has its neighbour in the gap that cut it; no context goes on after such a run.
    inside = (before >= panel.segment_start[segment]) & (after < panel.segment_start[segment + 1])
    before, after = np.where(inside, before, 0), np.where(inside, after, 0)
    inside &= (status[before] == OBSERVED) & (status[after] == OBSERVED)
    left, right = values[before].astype(np.float64), values[after].astype(np.float64)
    steps = np.where(inside, after - before, 1)
    found = values[rows]
    line = left[run] + (right - left)[run] * (rows - before[run]) / steps[run]
    slack = 1e-6 * np.maximum(np.abs(left), np.abs(right))[run] + 1e-12
    wrong = inside[run] & (np.abs(found - line) > slack) & (np.abs(found - left[run]) > slack)
    if wrong.any():
        k = int(wrong.argmax())
        raise LeakError(
            "imputation",
            f"channel {panel.roles.channels[channel]!r} of series {item_id_of(panel, rows[k])!r} is filled with "
            f"{found[k]:.6g} at {time_of(panel, rows[k])}, its neighbours give {line[k]:.6g}: the value knows other "
            "readings; fill gaps with build_panel",
        )


def _check_context_ends(windows: WindowDataset, part: str) -> None:
    """Windows whose context ends inside a gap hold the last reading: a line would lead to a reading of the future."""
    panel, ranges, context = windows.panel, windows.ranges, windows.context_length
    last_ones = ranges.first + (ranges.count - 1) * ranges.stride  # nearest to the border
    spread = windows.starts(np.unique(np.linspace(0, len(windows) - 1, min(4096, len(windows))).astype(np.int64)))
    for starts in (last_ones, spread):
        stale = starts[(panel.status[starts + context - 1] == INTERPOLATED).any(axis=1)]
        stale = stale[:: max(1, -(-len(stale) // _MOST_WINDOWS))]
        if not stale.size:
            continue
        rows = stale[:, None] + np.arange(context)
        begin = panel.segment_start[windows.segment_of(stale)][:, None]
        status = np.where((rows >= begin)[..., None], panel.status[np.maximum(rows, begin)], MISSING)
        given = windows.gather(stale)["past_values"].numpy()
        for channel in range(status.shape[2]):
            seen = status[:, :, channel] == OBSERVED
            last = np.where(seen.any(axis=1), context - 1 - seen[:, ::-1].argmax(axis=1), context)
            tail = (np.arange(context) > last[:, None]) & (status[:, :, channel] == INTERPOLATED)
            held = panel.values[stale + np.minimum(last, context - 1), channel]
            wrong = tail & (given[:, :, channel] != held[:, None])
            if wrong.any():
                window = int(wrong.any(axis=1).argmax())
                end = int(stale[window]) + context - 1
                raise LeakError(
                    "imputation",
                    f"a context of {part} in series {item_id_of(panel, end)!r} ends at {time_of(panel, end)} in a gap "
                    f"of channel {panel.roles.channels[channel]!r}, filled with a line to a later reading; hold the "
                    "last reading instead, as WindowDataset does",
                )


def _find_duplicates(panel: Panel, extents: dict[str, np.ndarray], stretches: Stretches) -> list[str]:
    """Series of a later part that hold readings of another one of an earlier part, at other times, rounded or not."""
    if len(panel.item_ids) < 2 or not len(stretches):
        return []
    group = np.cumsum(np.append(True, stretches.hashes[1:] != stretches.hashes[:-1])[: len(stretches)])
    shared = np.flatnonzero(np.bincount(group)[group] > 1)
    stretches, group = stretches.select(shared), group[shared]
    findings = []
    for earlier, later in _LATER:
        source, copy = (np.flatnonzero(stretches.within(extents[part])) for part in (earlier, later))
        for first, second in _same_readings(panel, stretches, group, source, copy):
            item, other = (panel.item_ids[stretches.item[which[0]]] for which in (first, second))
            findings.append(
                f"readings of {later} in series {other!r} ({_when(panel, stretches, second)}) are those of {earlier} "
                f"in series {item!r} ({_when(panel, stretches, first)}), {len(first)} stretches of them"
            )
    return findings


def _same_readings(
    panel: Panel, stretches: Stretches, group: np.ndarray, source: np.ndarray, copy: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of matching stretches, one (source, copy) for every two items that agree often and at one distance."""
    if not source.size or not copy.size:
        return []
    # items ascend within a group, so if another item than the copy's is there, it is the first or the last
    begin = np.searchsorted(group[source], group[copy], side="left")
    end = np.searchsorted(group[source], group[copy], side="right")
    pairs = []
    for at in (begin, end - 1):
        partner = source[np.clip(at, 0, len(source) - 1)]
        pairs.append(np.stack([partner, copy])[:, (begin < end) & (stretches.item[partner] != stretches.item[copy])])
    first, second = np.unique(np.concatenate(pairs, axis=1), axis=1)
    if not first.size:
        return []
    distance = position_of(panel, stretches.first_row[second]) - position_of(panel, stretches.first_row[first])
    both = stretches.item[first] * len(panel.item_ids) + stretches.item[second]
    found = []
    order = np.argsort(both, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(both[order])) + 1):
        values, counts = np.unique(distance[mine], return_counts=True)
        # readings between two grid steps may be rounded either way
        near = mine[np.abs(distance[mine] - values[counts.argmax()]) <= 1]
        reach = stretches.last_row[second[near]].max() - stretches.first_row[second[near]].min() + 1
        if len(near) >= FEWEST_MATCHES and reach >= SHORTEST_COPY:
            found.append((first[near], second[near]))
    return found


def _when(panel: Panel, stretches: Stretches, which: np.ndarray) -> str:
    rows = stretches.first_row[which].min(), stretches.last_row[which].max()
    return " to ".join(time_of(panel, int(row)) for row in rows)
