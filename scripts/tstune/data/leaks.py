"""The leak checker: every split is taken apart again, and a run whose parts are not apart does not start."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tstune.data.duplicates import find_duplicates
from tstune.data.fingerprints import Stretches
from tstune.data.leak_values import check_imputation, check_scaler
from tstune.data.panel import Panel
from tstune.data.panel_rows import item_id_of, position_of, row_blocks, segment_of, time_of
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


@dataclass(frozen=True)
class LeakReport:
    """What was checked, and what was found and allowed.

    Attributes:
        checks: names of the checks that were made.
        allowed: findings that `data.split.allow_overlap` let pass.
    """

    checks: tuple[str, ...]
    allowed: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Values for the manifest."""
        return {"checks": list(self.checks), "allowed": self.allowed}


@dataclass(frozen=True)
class Spans:
    """Stretches of panel rows that the windows of one part cover.

    Attributes:
        first, last: [spans] panel rows, both included.
        item: [spans] index into `panel.item_ids`.
    """

    first: np.ndarray
    last: np.ndarray
    item: np.ndarray


def check_leaks(
    panel: Panel,
    split: Split,
    windows: dict[str, WindowDataset],
    scaler: Scaler,
    scaling: str,
    stretches: Stretches,
    allow_overlap: bool = False,
) -> LeakReport:
    """Check one split from what came out of it: panel, windows and scaler, not from how they were made.

    Args:
        panel, split, windows: what is trained on and scored.
        scaler, scaling: the fitted scaler and what it should be, ``standard`` or ``none``.
        stretches: hashed readings of the panel, the identifying ones.
        allow_overlap: report series that two items share instead of stopping.

    Raises:
        LeakError: naming the check, the series, the time and the fix.
    """
    whole = {part: spans(windows[part]) for part in PARTS}
    _check_held_out(panel, split, whole)
    for part in PARTS:
        _check_gaps(panel, windows[part], whole[part], part)
        _check_borders(panel, split, windows[part], whole[part], part)
    _check_times(panel)
    targets = {part: spans(windows[part], targets_only=True) for part in PARTS}
    for earlier, later in _LATER:
        # A window of the earlier part is left whole: its targets taught the model, its contexts let it see the values.
        _check_apart(panel, whole[earlier], targets[later], earlier, later, "target")
        if split.mode == "strict":
            _check_apart(panel, whole[earlier], whole[later], earlier, later, "context")
        _check_purge(panel, split, whole[earlier], targets[later], earlier, later)
    check_scaler(panel, split, scaler, scaling)
    check_imputation(panel, windows)
    allowed = find_duplicates(panel, extents(panel, windows), stretches)
    if allowed and not allow_overlap:
        raise LeakError(
            "duplicate_series",
            f"{allowed[0]}{more_findings(allowed)}; remove one of the two, hold out both (data.split.test_items), or "
            "set data.split.allow_overlap=true",
        )
    return LeakReport(CHECKS, allowed)


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


def _check_gaps(panel: Panel, windows: WindowDataset, whole: Spans, part: str) -> None:
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
    close = np.flatnonzero((last >= 0) & (first - 1 - last < split.purge))
    if close.size:
        item = int(close[0])
        raise LeakError(
            "purge",
            f"{later_part} begins {first[item] - 1 - last[item]} steps after {earlier_part} in series "
            f"{panel.item_ids[item]!r}, but data.split.purge asks for {split.purge}; rebuild it with split_panel",
        )
