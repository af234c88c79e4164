"""Cut a panel into train, validation and test by time, and list the windows of each part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tstune.config.schema import SplitSection
from tstune.data.panel import Panel
from tstune.errors import ConfigError, DataError

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
    """Ends of the parts per item.

    Attributes:
        borders: [items, 3] steps from the item's first row to the end of train, validation, test.
        mode: ``strict`` or ``deployment``, see `SplitSection`.
    """

    borders: np.ndarray
    mode: str

    def bounds(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """([items], [items]) first step and end of a part."""
        index = PARTS.index(part)
        begin = self.borders[:, index - 1] if index else np.zeros(len(self.borders), dtype=np.int64)
        return begin, self.borders[:, index]


def split_panel(panel: Panel, config: SplitSection, standard_borders: tuple[int, int, int] | None) -> Split:
    """Place the borders of every item.

    Raises:
        ConfigError: `standard` borders for a source that has none.
        DataError: borders beyond the end of the series.
    """
    borders = standard_borders if config.borders == "standard" else config.borders
    if config.borders == "standard" and borders is None:
        raise ConfigError("data.split.borders=standard: this source has no published borders; give three numbers")
    if borders is None:
        # rounding first keeps 0.7 * 90 = 62.999… from moving a border by one step
        ends = np.cumsum([config.train, config.validation, config.test])
        placed = np.floor(np.round(panel.item_length[:, None] * ends[None, :], 6)).astype(np.int64)
    else:
        placed = np.tile(np.asarray(borders, dtype=np.int64), (len(panel.item_ids), 1))
        short = np.flatnonzero(panel.item_length < borders[2])
        if short.size:
            item = int(short[0])
            raise DataError(
                f"data.split.borders end at step {borders[2]} but series {panel.item_ids[item]!r} "
                f"has {panel.item_length[item]} steps"
            )
    return Split(placed, config.mode)


def window_ranges(
    panel: Panel,
    split: Split,
    part: str,
    context_length: int,
    prediction_length: int,
    stride: int,
    fraction: float = 1.0,
    fraction_from: str = "first",
) -> WindowRanges:
    """List the windows of one part; none crosses a segment, no target leaves its part.

    Args:
        panel, split, part: what to cut, where, and which piece.
        context_length, prediction_length: steps of a window.
        stride: steps between two starts.
        fraction: share of each item's target steps that may be used. On ETTh1 5 % are 311 windows, as published.
        fraction_from: ``first`` or ``last`` steps of the part.
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
    first = np.maximum(begin - lookback, segment_first)
    last = np.minimum(end, segment_end) - length
    count = np.maximum(0, (last - first) // stride + 1)
    kept = count > 0
    rows = panel.segment_start[:-1] + first - segment_first
    return WindowRanges(rows[kept], count[kept], stride)


def require_windows(ranges: WindowRanges, panel: Panel, split: Split, part: str, length: int) -> None:
    """Stop with the reason if a part has no window.

    Args:
        length: context plus prediction length in steps.
    """
    if ranges.num_windows:
        return
    begin, end = split.bounds(part)
    longest = int((end - begin).max(initial=0))
    segment = int(panel.segment_length.max(initial=0))
    needed = f"a window needs {length} steps (model.context_length + model.prediction_length)"
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
    )
