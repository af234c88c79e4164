"""Recompute what preprocessing made of the readings: scaler statistics and interpolated values."""

from __future__ import annotations

import numpy as np

from tstune.data.panel import INTERPOLATED, MISSING, OBSERVED, Panel
from tstune.data.panel_rows import BLOCK_ROWS, item_id_of, row_blocks, rows_between, segment_of, time_of
from tstune.data.scaler import Scaler
from tstune.data.splits import PARTS, Split
from tstune.data.windows import WindowDataset
from tstune.errors import LeakError

_MOST_WINDOWS = 128
"""Windows of each part that are fetched to see how their context ends."""


def check_scaler(panel: Panel, split: Split, scaler: Scaler, scaling: str) -> None:
    """Mean and deviation must be those of the readings of the training part.

    Raises:
        LeakError: naming the channel and both values.
    """
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


def check_imputation(panel: Panel, windows: dict[str, WindowDataset]) -> None:
    """Interpolated values must come from the readings on either side, and no context may end in one from its future.

    Raises:
        LeakError: naming the series, the time and the channel.
    """
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
        seen = rows_between(panel, *split.bounds("train"), block) & (panel.status[block, channel] == OBSERVED)
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
    spread = windows.starts(np.unique(np.linspace(0, len(windows) - 1, 4096).astype(np.int64)))
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
