"""Cut a panel into train, validation and test by time and by item, and list the windows of each part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tstune.config.schema import SplitSection
from tstune.data.frequency import to_steps
from tstune.data.panel import Panel
from tstune.data.split_borders import place_borders
from tstune.data.split_items import parts_of_items
from tstune.errors import DataError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class WindowRanges:
    """Windows as ranges of start rows, one range per segment, so that memory does not grow with windows.

    Attributes:
        first: [ranges] panel row at which the first window of the range starts.
        count: [ranges] number of windows in the range.
        stride: rows between two starts.
    """

    first: np.ndarray
    count: np.ndarray
    stride: int

    @property
    def num_windows(self) -> int:
        """Windows in all ranges."""
        return int(self.count.sum())


@dataclass(frozen=True)
class Split:
    """Where each part of each item begins and ends.

    Attributes:
        borders: [items, 3] steps from the item's first row to the end of train, validation, test.
        mode: ``strict`` or ``deployment``, see `SplitSection`.
        begins: [items, 3] the same to the beginning of each part; None: where the part before ends.
        takes_part: [items, 3] which parts an item was given; None: all.
        purge: steps left out between two parts of an item.
    """

    borders: np.ndarray
    mode: str
    begins: np.ndarray | None = None
    takes_part: np.ndarray | None = None
    purge: int = 0

    def bounds(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """([items], [items]) first step and end of a part."""
        index = PARTS.index(part)
        if self.begins is not None:
            return self.begins[:, index], self.borders[:, index]
        begin = self.borders[:, index - 1] if index else np.zeros(len(self.borders), dtype=np.int64)
        return begin, self.borders[:, index]

    @property
    def held_out(self) -> np.ndarray:
        """[items] True where nothing of the item may be trained on."""
        return np.zeros(len(self.borders), bool) if self.takes_part is None else ~self.takes_part[:, 0]


def split_panel(panel: Panel, config: SplitSection, standard_borders: tuple[int, int, int] | None) -> Split:
    """Say which steps of which items belong to train, validation and test.

    Raises:
        ConfigError: `standard` borders for a source that has none, or a purge that is no number of steps.
        DataError: borders beyond the end of the series, items that are not there.
    """
    takes_part = parts_of_items(panel.item_ids, config)
    purge = to_steps(config.purge, panel.frequency, "data.split.purge")
    if config.by == "item":
        begins = np.zeros(takes_part.shape, np.int64)
        ends = np.repeat(panel.item_length[:, None], 3, axis=1).astype(np.int64)
    else:
        ends = place_borders(panel, config, standard_borders)
        begins = np.pad(ends[:, :2], ((0, 0), (1, 0)))
        ends[:, :2] = np.maximum(ends[:, :2] - purge, begins[:, :2])
    for index in range(len(PARTS)):  # a part that an item has not been given is empty, and lies in order
        absent = ~takes_part[:, index]
        before = ends[absent, index - 1] if index else 0
        begins[absent, index] = ends[absent, index] = before
    return Split(ends, config.mode, begins, takes_part, purge)


def window_ranges(
    panel: Panel,
    split: Split,
    part: str,
    context_length: int,
    prediction_length: int,
    stride: int,
    fraction: float = 1.0,
    fraction_from: str = "first",
    padding: int = 0,
) -> WindowRanges:
    """List the windows of one part; none crosses a segment, no target leaves its part.

    Args:
        panel, split, part: what to cut, where, and which piece.
        context_length, prediction_length: steps of a window.
        stride: steps between two starts.
        fraction: share of each item's target steps that may be used. On ETTh1 5 % are 311 windows, as published.
        fraction_from: ``first`` or ``last`` steps of the part.
        padding: steps of a context that may lie before the segment, where it is padded.
    """
    length = context_length + prediction_length
    begin, end = split.bounds(part)
    if fraction < 1:
        span = context_length + np.floor(np.maximum(end - begin - context_length, 0) * fraction).astype(np.int64)
        begin, end = (begin, begin + span) if fraction_from == "first" else (end - span, end)
    begin, end = begin[panel.segment_item], end[panel.segment_item]
    segment_first = panel.segment_position
    segment_end = segment_first + panel.segment_length
    lookback = context_length if split.mode == "deployment" and part != "train" else 0
    first = np.where(begin - lookback > segment_first, begin - lookback, segment_first - padding)
    last = np.minimum(end, segment_end) - length
    count = np.maximum(0, (last - first) // stride + 1)
    kept = count > 0
    rows = panel.segment_start[:-1] + first - segment_first
    return WindowRanges(rows[kept], count[kept], stride)


def require_windows(ranges: WindowRanges, panel: Panel, split: Split, part: str, length: int, padding: int = 0) -> None:
    """Stop with the reason if a part has no window.

    Args:
        ranges, panel, split, part: what `window_ranges` found, and where.
        length: context plus prediction length in steps.
        padding: as in `window_ranges`.
    """
    if ranges.num_windows:
        return
    begin, end = split.bounds(part)
    longest = int((end - begin).max(initial=0))
    segment = int(panel.segment_length.max(initial=0))
    length -= padding
    context = "data.min_context" if padding else "model.context_length"
    needed = f"a window needs {length} steps ({context} + model.prediction_length)"
    if int(panel.item_length.max()) < length:
        raise DataError(
            f"series too short: {needed}, the longest series has {int(panel.item_length.max())}; shorten the lengths"
        )
    if segment < length:
        raise DataError(
            f"no window without a long gap: {needed}, the longest stretch has {segment}; raise data.max_gap "
            "or shorten the lengths"
        )
    raise DataError(
        f"the {part} part has no window: {needed}, the part spans {longest} steps at most; shorten the lengths, "
        f"enlarge data.split.{part}, or use data.split.mode=deployment"
        + (f", or lower data.split.purge (here {split.purge} steps)" if split.purge else "")
        + (", or hold out other series" if split.held_out.any() else "")
    )
